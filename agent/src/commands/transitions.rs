//! `pgvigil transitions [ID]`: what happened, from the records that the agents wrote: a table of all, or one in full with its phases. From
//! etcd, or from an agent's memory where etcd is silent.

use consensus::records::{Phase, Transition};
use serde_json::{Value, json};

use super::postmortem;
use super::screen::{self, answer, tell};
use super::words;
use super::world::{AGENT_WITHIN, Reach};
use crate::cli::{ConfigArg, Exit, Output, TransitionsArgs};
use crate::slo::BUDGET_MS;
use crate::transitions::{REFUSED, WITHOUT_PRIMARY};

/// Prints the records, or one of them.
pub async fn run(arguments: &TransitionsArgs) -> Exit {
    let (reach, records) = match recorded(&arguments.config).await {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let (id, md) = match asked(arguments) {
        Ok(asked) => asked,
        Err(why) => {
            tell(&format!("error: {why}"));
            return Exit::Usage;
        }
    };
    match id {
        None => list(&records, arguments.output),
        Some(id) => match records.iter().find(|record| record.id == *id) {
            Some(record) if md => answer(&postmortem::stub(&reach.config.cluster, record)),
            Some(record) => one(record, arguments.output),
            None => {
                tell(&format!("error: there is no transition {id}; `pgvigil transitions` lists them"));
                return Exit::Usage;
            }
        },
    };
    Exit::Done
}

/// Which record is asked for, and whether as Markdown. `list`, `show ID` and `export ID` say the same in words.
fn asked(arguments: &TransitionsArgs) -> Result<(Option<&str>, bool), String> {
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let as_table = arguments.output == Output::Table;
    match words.as_slice() {
        [] | ["list"] if arguments.md => Err("--md is of one record: pgvigil transitions ID --md".to_owned()),
        [] | ["list"] => Ok((None, false)),
        ["export" | "show"] => Err(format!("{} which? pgvigil transitions {} ID", words[0], words[0])),
        ["export", id] => Ok((Some(*id), as_table)),
        [id] | ["show", id] => Ok((Some(*id), arguments.md)),
        _ => Err(format!("{} is none of list, show ID and export ID", words.join(" "))),
    }
}

/// All records, the oldest first, and from where they were asked for; what keeps anybody from that is told.
pub async fn recorded(config: &ConfigArg) -> Result<(Reach, Vec<Transition>), Exit> {
    let reach = Reach::new(config)?;
    let records = records(&reach).await?;
    Ok((reach, records))
}

async fn records(reach: &Reach) -> Result<Vec<Transition>, Exit> {
    let why = match reach.store.transitions().await {
        Ok((records, problems)) => {
            for problem in problems {
                tell(&format!("warning: {} cannot be understood: {}", problem.key, problem.why));
            }
            return Ok(records);
        }
        Err(why) => why,
    };
    let own = reach.own_api();
    match reach.peers.get(&own, "/transitions", AGENT_WITHIN).await {
        Ok(told) => {
            tell(&format!("note: etcd does not answer; these are the records that the agent at {own} remembers"));
            let records = told["transitions"].as_array().into_iter().flatten();
            Ok(records.filter_map(|record| serde_json::from_value(record.clone()).ok()).collect())
        }
        Err(error) => {
            tell(&format!("error: neither etcd nor the agent of this host answers: {why}; {error:#}"));
            Err(reach.silence())
        }
    }
}

fn list(records: &[Transition], output: Output) -> bool {
    match output {
        Output::Json => {
            let body = json!({"schema": "pgvigil.transitions/v1", "transitions": records});
            answer(&serde_json::to_string_pretty(&body).unwrap_or_default())
        }
        Output::Table if records.is_empty() => {
            tell("no transition has been recorded yet");
            true
        }
        Output::Table => {
            let rows: Vec<Vec<String>> = records.iter().map(row).collect();
            answer(&screen::table(&["ID", "WHEN", "KIND", "FROM -> TO", "OUTCOME", "OUTAGE", "LOST", "CAUSE"], &rows))
        }
    }
}

fn one(record: &Transition, output: Output) -> bool {
    match output {
        Output::Json => answer(&serde_json::to_string_pretty(record).unwrap_or_default()),
        Output::Table => answer(&render(record)),
    }
}

fn row(record: &Transition) -> Vec<String> {
    vec![
        record.id.clone(),
        words::moment(&record.started_at),
        record.kind.clone(),
        direction(record),
        record.outcome.clone(),
        words::outage_of(record).or_else(|| without_primary(record)).unwrap_or("-".to_owned()),
        if record.outcome == "done" { words::lost_or_discarded(record) } else { "-".to_owned() },
        if record.kind == REFUSED { format!("no failover: {}", record.cause) } else { record.cause.clone() },
    ]
}

/// For how long a refusal left the cluster without a primary. In brackets: the transition that followed counts it.
fn without_primary(record: &Transition) -> Option<String> {
    let phase = record.phases.iter().find(|phase| phase.name == WITHOUT_PRIMARY)?;
    Some(format!("({})", words::outage(phase.duration_ms)))
}

/// `pg1 -> pg2`
pub fn direction(record: &Transition) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    format!("{} -> {}", name(&record.from), name(&record.to))
}

/// One record in full.
fn render(record: &Transition) -> String {
    let mut heading = vec![format!("{} {}", record.kind.to_uppercase(), record.id), direction(record)];
    heading.push(record.outcome.replace('_', " "));
    if let (Some(before), Some(after)) = (record.timeline_before, record.timeline_after) {
        heading.push(format!("TL {before} -> {after}"));
    }
    if record.term_after != 0 {
        heading.push(format!("term {} -> {}", record.term_before, record.term_after));
    }
    if record.outcome == "done" {
        heading.push(format!("lost {}", words::lost(record)));
    }
    let by = if record.requested_by.is_empty() { "automatic" } else { &record.requested_by };
    heading.push(format!("by {by}"));
    let mut lines = vec![heading.join("  ")];
    lines.push(format!("  when      {}", words::moment(&record.started_at)));
    lines.extend(record.ended_at.as_ref().map(|at| format!("  until     {}", words::moment(at))));
    lines.extend((!record.told_by.is_empty()).then(|| format!("  told by   {}", record.told_by)));
    let cause = if record.cause_text.is_empty() { String::new() } else { format!(": {}", record.cause_text) };
    let what = if record.kind == REFUSED { "did not fail over because of " } else { "" };
    lines.push(format!("  cause     {what}{}{cause}", record.cause));
    if !record.reason.is_empty() {
        lines.push(format!("  reason    {}", record.reason));
    }
    lines.extend(record.discarded.iter().map(|one| format!("  discarded {}", words::discarded(one))));
    lines.extend(record.evidence.iter().map(|evidence| format!("  evidence  {evidence}")));
    lines.extend(record.notes.iter().map(|note| format!("  note      {note}")));
    lines.extend(phases(record));
    lines.join("\n")
}

/// Whether writes worked again by then.
pub fn is_afterwards(phase: &Phase) -> bool {
    matches!(phase.name.as_str(), "redundancy" | "rejoin" | "route")
}

/// The phases without writes first, their sum, and then what followed while writes worked again.
fn phases(record: &Transition) -> Vec<String> {
    if record.phases.is_empty() {
        return Vec::new();
    }
    let cells = |phase: &Phase| {
        vec![String::new(), phase.name.clone(), words::phase(phase.duration_ms), phase.measured_on.clone()]
    };
    let rows: Vec<Vec<String>> = record
        .phases
        .iter()
        .filter(|phase| !is_afterwards(phase))
        .chain(record.phases.iter().filter(|phase| is_afterwards(phase)))
        .map(cells)
        .collect();
    let during = record.phases.iter().filter(|phase| !is_afterwards(phase)).count();
    let mut lines: Vec<String> =
        screen::table(&["", "phase", "took", "on"], &rows).lines().map(str::to_owned).collect();
    if let Some(outage) = record.write_outage_ms {
        let share = outage / BUDGET_MS * 100.0;
        let sum = format!(
            "  -> WRITE OUTAGE {} ({share:.3} % of what 99.95 % allows in a month)",
            words::outage_of(record).unwrap_or_default()
        );
        lines.insert(during + 1, sum);
    }
    lines
}

/// A record as the last line of a command's answer, with the word of its exit code.
pub fn with_exit(record: &Transition, exit: Exit) -> Value {
    let mut body = json!(record);
    body["exit"] = json!(exit_word(exit));
    body
}

/// The word of an exit code in JSON.
pub fn exit_word(exit: Exit) -> &'static str {
    match exit {
        Exit::Done => "done",
        Exit::Failed => "failed",
        Exit::Usage => "usage",
        Exit::Refused => "refused",
        Exit::StillRunning => "still_running",
        Exit::DoneOtherwise => "done_otherwise",
        Exit::Unreachable => "unreachable",
        Exit::Aborted => "aborted",
        Exit::Unauthorised => "unauthorised",
        Exit::Degraded => "degraded",
        Exit::NoPrimary => "no_primary",
        Exit::Command(_) => "command",
    }
}

#[cfg(test)]
mod tests {
    use consensus::records::Discarded;

    use super::*;

    fn record() -> Transition {
        let phase = |name: &str, duration_ms, on: &str| Phase {
            name: name.to_owned(),
            duration_ms,
            measured_on: on.to_owned(),
        };
        Transition {
            id: "t-8".to_owned(),
            kind: "failover".to_owned(),
            cause: "lease_expired".to_owned(),
            cause_text: "best of the ballots of pg2, pg3; nothing acknowledged is lost, proven".to_owned(),
            evidence: vec!["pg2 had received 0/3000148".to_owned()],
            from: Some("pg1".to_owned()),
            to: Some("pg2".to_owned()),
            term_before: 7,
            term_after: 8,
            timeline_before: Some(3),
            timeline_after: Some(4),
            started_at: "2026-11-22T10:37:43.5Z".to_owned(),
            outcome: "done".to_owned(),
            lost: "none".to_owned(),
            lost_bytes_bound: Some(0),
            phases: vec![
                phase("detect", 4100.0, "pg2"),
                phase("promote", 31.0, "pg2"),
                phase("redundancy", 900.0, "pg2"),
                phase("writable", 4.0, "pg2"),
            ],
            write_outage_ms: Some(4135.0),
            ..Transition::default()
        }
    }

    #[test]
    fn a_record_in_full_sums_the_phases_without_writes() {
        let expected = "\
FAILOVER t-8  pg1 -> pg2  done  TL 3 -> 4  term 7 -> 8  lost nothing  by automatic
  when      2026-11-22 10:37:43Z
  cause     lease_expired: best of the ballots of pg2, pg3; nothing acknowledged is lost, proven
  evidence  pg2 had received 0/3000148
  phase       took    on
  detect      4.10 s  pg2
  promote     31 ms   pg2
  writable    4 ms    pg2
  -> WRITE OUTAGE 4.13 s (0.319 % of what 99.95 % allows in a month)
  redundancy  900 ms  pg2";
        assert_eq!(render(&record()), expected);
    }

    #[test]
    fn a_row_tells_what_matters() {
        let told =
            ["t-8", "2026-11-22 10:37:43Z", "failover", "pg1 -> pg2", "done", "4.13 s", "nothing", "lease_expired"];
        assert_eq!(row(&record()), told);
        let failed = Transition { outcome: "failed".to_owned(), write_outage_ms: None, from: None, ..record() };
        assert_eq!(row(&failed)[3..7], ["- -> pg2", "failed", "-", "-"]);
    }

    #[test]
    fn what_a_returning_member_threw_away_is_told_in_the_list_and_in_full() {
        let gone = Discarded { member: "pg3".to_owned(), bytes: 5_951_904, transactions: 67 };
        let bound = (Some(5_872_026), "bounded".to_owned());
        let lossy = Transition { discarded: vec![gone], lost_bytes_bound: bound.0, lost: bound.1, ..record() };
        assert_eq!(row(&lossy)[6], "67 transactions, 5.7 MB");
        assert!(render(&lossy).contains("\n  discarded 67 transactions, 5.7 MB on pg3\n"), "{}", render(&lossy));
        let proven = Transition { discarded: lossy.discarded, ..record() };
        assert_eq!(row(&proven)[6], "nothing", "nobody had been told that it was committed");
    }

    #[test]
    fn the_last_line_of_a_command_carries_its_exit() {
        let body = with_exit(&record(), Exit::DoneOtherwise);
        assert_eq!(
            (body["exit"].as_str(), body["schema"].as_str()),
            (Some("done_otherwise"), Some("pgvigil.transition/v1"))
        );
    }
}
