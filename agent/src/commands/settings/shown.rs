//! The settings and their history, for people and programs.

use consensus::SettingsFrom;
use consensus::records::ConfigRevision;
use serde_json::{Value, json};

use super::change;
use crate::cli::{DiffArgs, Exit, HistoryArgs, Output, ShowConfigArgs};
use crate::commands::screen::{answer, table, tell};
use crate::commands::words;
use crate::commands::world::Reach;
use crate::operate::settings::diff;

/// The settings as they are, or as they were.
pub async fn show(arguments: &ShowConfigArgs) -> Result<Exit, Exit> {
    let reach = Reach::new(&arguments.config)?;
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
    let rows = &rows[rows.len().saturating_sub(arguments.number)..];
    if arguments.output == Output::Json {
        let lines: Vec<String> = rows.iter().map(|row| json(row).to_string()).collect();
        answer(&lines.join("\n"));
        return Ok(Exit::Done);
    }
    let line = |row: &ConfigRevision| {
        let number = if row.number == 0 { "–".to_owned() } else { row.number.to_string() };
        let by = row.by.clone().unwrap_or_else(|| "unknown".to_owned());
        vec![number, words::moment(&row.at), by, row.reason.clone().unwrap_or_default()]
    };
    answer(&table(&["REVISION", "AT", "BY", "REASON"], &rows.iter().map(line).collect::<Vec<_>>()));
    Ok(Exit::Done)
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
    let lines = diff::lines(&before, &after);
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
