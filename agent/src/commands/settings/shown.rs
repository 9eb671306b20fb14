//! The settings and their history, for people and programs.

use consensus::SettingsFrom;
use consensus::records::ConfigRevision;
use serde_json::{Value, json};

use super::{change, effective, known};
use crate::cli::{DiffArgs, Exit, HistoryArgs, Output, ShowConfigArgs};
use crate::commands::screen::{answer, table, tell};
use crate::commands::words;
use crate::commands::world::Reach;
use crate::operate::settings::diff;

/// Longer changes are cut off in a table; `config diff` has them whole.
const CHANGE_CHARS_MAX: usize = 60;

/// The settings as they are, or as they were.
pub async fn show(arguments: &ShowConfigArgs) -> Result<Exit, Exit> {
    let reach = Reach::new(&arguments.config)?;
    if arguments.effective {
        return effective::show(&reach, arguments.output).await;
    }
    let shown = match arguments.revision {
        Some(number) => revision(&reach, number).await?,
        None => newest(&reach).await?,
    };
    match arguments.output {
        Output::Json => answer(&json(&shown).to_string()),
        Output::Table => {
            tell(&headline(&shown));
            answer(&pretty(&shown.config))
        }
    };
    Ok(Exit::Done)
}

/// Who changed them, when and why.
pub async fn history(arguments: &HistoryArgs) -> Result<Exit, Exit> {
    let reach = Reach::new(&arguments.config)?;
    let mut rows = change::history(&reach).await?;
    let now = newest(&reach).await?;
    if now.number == 0 && now.config != json!({}) {
        rows.push(now);
    }
    let changes = changes(&rows);
    let first = rows.len().saturating_sub(arguments.number);
    let (rows, changes) = (&rows[first..], &changes[first..]);
    if arguments.output == Output::Json {
        let lines: Vec<String> = rows.iter().map(|row| json(row).to_string()).collect();
        answer(&lines.join("\n"));
        return Ok(Exit::Done);
    }
    let line = |(row, change): (&ConfigRevision, &String)| {
        let number = if row.number == 0 { "–".to_owned() } else { row.number.to_string() };
        let by = row.by.clone().unwrap_or_else(|| "unknown".to_owned());
        vec![number, words::moment(&row.at), by, change.clone(), row.reason.clone().unwrap_or_default()]
    };
    let lines: Vec<_> = rows.iter().zip(changes).map(line).collect();
    answer(&table(&["REVISION", "AT", "BY", "CHANGE", "REASON"], &lines));
    Ok(Exit::Done)
}

/// What each state has changed of the one before, in short.
fn changes(rows: &[ConfigRevision]) -> Vec<String> {
    let nothing = json!({});
    let before = std::iter::once(&nothing).chain(rows.iter().map(|row| &row.config));
    let oldest = rows.first().is_some_and(|row| row.number > 1);
    let mut changes: Vec<String> = before.zip(rows).map(|(before, row)| change_of(before, &row.config)).collect();
    // What the oldest row that is kept has changed is not known any more.
    changes.iter_mut().take(usize::from(oldest)).for_each(String::clear);
    changes
}

/// `durability.mode: unset -> "strict"`, and how many others.
fn change_of(before: &Value, after: &Value) -> String {
    let lines = known::renamed(diff::lines(before, after));
    let Some(first) = lines.first() else { return String::new() };
    let more = if lines.len() > 1 { format!(" (and {} more)", lines.len() - 1) } else { String::new() };
    if first.chars().count() <= CHANGE_CHARS_MAX {
        return format!("{first}{more}");
    }
    let short: String = first.chars().take(CHANGE_CHARS_MAX - 1).collect();
    format!("{short}…{more}")
}

/// What differs between two states: the newest two, one and the present, or any two.
pub async fn diff(arguments: &DiffArgs) -> Result<Exit, Exit> {
    let reach = Reach::new(&arguments.config)?;
    let (before, after) = match (arguments.from, arguments.to) {
        (Some(from), Some(to)) => (revision(&reach, from).await?.config, revision(&reach, to).await?.config),
        (Some(from), None) => (revision(&reach, from).await?.config, newest(&reach).await?.config),
        (None, _) => {
            let now = newest(&reach).await?.config;
            let before = change::history(&reach).await?.into_iter().rev().find(|row| row.config != now);
            (before.map_or(Value::Null, |row| row.config), now)
        }
    };
    let lines = known::renamed(diff::lines(&before, &after));
    answer(&if lines.is_empty() { "no difference".to_owned() } else { lines.join("\n") });
    Ok(Exit::Done)
}

/// The state of this number.
///
/// # Errors
/// There is none; told already.
pub async fn revision(reach: &Reach, number: u64) -> Result<ConfigRevision, Exit> {
    let rows = change::history(reach).await?;
    let (first, last) = (rows.first().map_or(0, |row| row.number), rows.last().map_or(0, |row| row.number));
    rows.into_iter().find(|row| row.number == number).ok_or_else(|| {
        tell(&match last {
            0 => "error: the settings have no history yet: nobody has changed them with pgvigil".to_owned(),
            last => format!("error: there is no revision {number}; known are {first} to {last}"),
        });
        Exit::Usage
    })
}

/// The settings as they are, with the row that tells of them; without a number where they were changed by other means.
async fn newest(reach: &Reach) -> Result<ConfigRevision, Exit> {
    let snapshot = change::read(reach).await?;
    if matches!(snapshot.settings_from, SettingsFrom::Before | SettingsFrom::Row(_)) {
        tell("warning: nobody can read the settings in etcd; this is what is in force (pgvigil status)");
    }
    let config = Value::Object(change::settings(reach, &snapshot)?);
    let newest = change::history(reach).await?.pop().filter(|row| row.config == config);
    Ok(newest.unwrap_or_else(|| ConfigRevision { config, ..ConfigRevision::default() }))
}

/// For people, and for an editor.
pub fn pretty(config: &Value) -> String {
    serde_json::to_string_pretty(config).unwrap_or_else(|_| config.to_string())
}

fn json(row: &ConfigRevision) -> Value {
    json!({
        "schema": "pgvigil.config/v1",
        "revision": (row.number > 0).then_some(row.number),
        "by": row.by,
        "reason": row.reason,
        "at": Some(&row.at).filter(|at| !at.is_empty()),
        "config": row.config,
    })
}

fn headline(row: &ConfigRevision) -> String {
    if row.number == 0 {
        return match row.config == json!({}) {
            true => "nothing is set for the whole cluster: each node goes by its own file".to_owned(),
            false => "set by other means than pgvigil: who and when is not known".to_owned(),
        };
    }
    let by = row.by.as_deref().unwrap_or("somebody, by other means than pgvigil");
    let reason = row.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("revision {}, {} by {by}{reason}", row.number, words::moment(&row.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_says_what_it_has_changed_in_short() {
        let row = |number, config| ConfigRevision { number, config, ..ConfigRevision::default() };
        let long = "x".repeat(80);
        let rows = [
            row(1, json!({"pgvigil": {"durability": {"mode": "strict"}}})),
            row(2, json!({"pause": true, "postgresql": {"parameters": {"work_mem": "8MB"}}})),
            row(3, json!({"postgresql": {"parameters": {"work_mem": long}}})),
        ];
        let told = changes(&rows);
        assert_eq!(told[..2], ["durability.mode: unset -> \"strict\"", "pause: unset -> true (and 2 more)"]);
        assert!(told[2].starts_with("pause: true -> unset (and 1 more)"), "{told:?}");
        assert_eq!(changes(&rows[1..])[0], "", "what came before is not kept");
        let cut = change_of(&json!({}), &json!({"postgresql": {"parameters": {"work_mem": long}}}));
        assert!(cut.starts_with("postgres.parameters.work_mem: unset -> \"xxx") && cut.ends_with('…'), "{cut}");
        assert_eq!(cut.chars().count(), CHANGE_CHARS_MAX);
    }
}
