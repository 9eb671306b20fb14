//! `pgvigil transitions ID --md`: what is known of a transition as the beginning of a post-mortem in Markdown. The facts are the record's; what only people
//! can know is left to them as questions.

use consensus::records::{Phase, Transition};

use super::transitions::{direction, is_afterwards};
use super::words;
use crate::transitions::{REFUSED, WITHOUT_PRIMARY};

/// What nobody but people can answer.
const QUESTIONS: [&str; 5] = [
    "What did users see, and from when to when by their own clocks?",
    "What was the first cause, below the one that the agents saw?",
    "What went well, and what was luck?",
    "What would have made it shorter, or not happen?",
    "Who does what until when?",
];

/// The document.
pub fn stub(cluster: &str, record: &Transition) -> String {
    let day = record.started_at.get(..10).unwrap_or("unknown day");
    let mut lines = vec![
        format!("# {} of {} on {day}: {}", capital(&record.kind), plain(cluster), plain(&direction(record))),
        String::new(),
        summary(record),
        String::new(),
    ];
    lines.extend(facts(record));
    lines.extend(timeline(record));
    lines.extend(listed("Evidence", &record.evidence));
    lines.extend(listed("Notes of the agents", &record.notes));
    lines.extend(["".to_owned(), "## Questions".to_owned()]);
    lines.extend(
        QUESTIONS.iter().flat_map(|question| [String::new(), format!("**{question}**"), String::new(), "…".to_owned()]),
    );
    lines.join("\n")
}

fn summary(record: &Transition) -> String {
    if record.kind == REFUSED {
        let phase = record.phases.iter().find(|phase| phase.name == WITHOUT_PRIMARY);
        let so_long = phase.map_or("a time that was not measured".to_owned(), |phase| words::phase(phase.duration_ms));
        return format!(
            "Nobody led for {so_long}, and nobody was promoted. It did not fail over because: {}",
            plain(&record.cause_text)
        );
    }
    let outage = match words::outage_of(record) {
        Some(outage) => format!("Nobody could write for {outage}"),
        None => "How long nobody could write is not known".to_owned(),
    };
    let lost = match record.outcome.as_str() {
        "done" => format!("; acknowledged writes lost: {}", plain(&words::lost_or_discarded(record))),
        outcome => format!("; it ended as {}", plain(outcome)),
    };
    format!("{outage}{lost}. {}", capital(&plain(&record.cause_text)))
}

fn facts(record: &Transition) -> Vec<String> {
    let by = if record.requested_by.is_empty() { "nobody: the agents did it" } else { &record.requested_by };
    let mut rows = vec![
        ("record", record.id.clone()),
        ("began", words::moment(&record.started_at)),
        ("cause", record.cause.clone()),
        ("asked for by", by.to_owned()),
        ("outcome", record.outcome.replace('_', " ")),
        ("term", format!("{} -> {}", record.term_before, record.term_after)),
    ];
    rows.extend(record.ended_at.as_ref().map(|at| ("ended", words::moment(at))));
    rows.extend((!record.told_by.is_empty()).then(|| ("told by", record.told_by.clone())));
    rows.extend((!record.reason.is_empty()).then(|| ("reason", record.reason.clone())));
    rows.extend(record.discarded.iter().map(|one| ("thrown away", words::discarded(one))));
    let rows = rows.into_iter().map(|(what, is)| format!("| {what} | {} |", plain(&is)));
    ["| | |", "|---|---|"].into_iter().map(str::to_owned).chain(rows).collect()
}

/// The phases without writes with what has passed until the end of each, and what followed.
fn timeline(record: &Transition) -> Vec<String> {
    if record.phases.is_empty() {
        return Vec::new();
    }
    let (after, during): (Vec<&Phase>, Vec<&Phase>) = record.phases.iter().partition(|phase| is_afterwards(phase));
    let mut lines =
        ["", "## What took how long", "", "| phase | took | until then | measured on |", "|---|---|---|---|"]
            .map(str::to_owned)
            .to_vec();
    let mut passed = 0.0;
    for phase in during {
        passed += phase.duration_ms;
        lines.push(row(phase, &words::phase(passed)));
    }
    lines.extend(after.into_iter().map(|phase| row(phase, "writes worked")));
    lines
}

fn row(phase: &Phase, until_then: &str) -> String {
    let (name, on) = (plain(&phase.name), plain(&phase.measured_on));
    format!("| {name} | {} | {until_then} | {on} |", words::phase(phase.duration_ms))
}

fn listed(heading: &str, told: &[String]) -> Vec<String> {
    if told.is_empty() {
        return Vec::new();
    }
    let head = [String::new(), format!("## {heading}"), String::new()];
    head.into_iter().chain(told.iter().map(|one| format!("- {}", plain(one)))).collect()
}

/// Text that people or servers have said means nothing to Markdown.
fn plain(text: &str) -> String {
    text.chars().fold(String::new(), |mut plain, letter| {
        match letter {
            '\n' | '\r' => plain.push(' '),
            '\\' | '`' | '*' | '_' | '|' | '<' | '[' | ']' | '#' => plain.extend(['\\', letter]),
            letter => plain.push(letter),
        }
        plain
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_stand_there_and_the_rest_is_asked() {
        let phase =
            |name: &str, duration_ms, on: &str| Phase { name: name.into(), duration_ms, measured_on: on.into() };
        let record = Transition {
            id: "t-8".into(),
            kind: "failover".into(),
            cause: "voters_deposed".into(),
            cause_text: "the voters had not heard pg1".into(),
            evidence: vec!["pg2 had received 0/3000148".into()],
            from: Some("pg1".into()),
            to: Some("pg2".into()),
            reason: "a|b\n<script>".into(),
            started_at: "2026-11-22T10:37:43.5Z".into(),
            outcome: "done".into(),
            lost: "none".into(),
            phases: vec![
                phase("detect", 480.0, "pg2"),
                phase("promote", 60.0, "pg2"),
                phase("redundancy", 75.0, "pg2"),
            ],
            write_outage_ms: Some(540.0),
            ..Transition::default()
        };
        let told = stub("orders", &record);
        for line in [
            "# Failover of orders on 2026-11-22: pg1 -> pg2",
            "Nobody could write for 0.54 s; acknowledged writes lost: nothing. The voters had not heard pg1",
            "| reason | a\\|b \\<script> |",
            "| detect | 480 ms | 480 ms | pg2 |",
            "| promote | 60 ms | 540 ms | pg2 |",
            "| redundancy | 75 ms | writes worked | pg2 |",
            "- pg2 had received 0/3000148",
            "**Who does what until when?**",
        ] {
            assert!(told.lines().any(|told| told == line), "{line:?} is missing in\n{told}");
        }
    }
}
