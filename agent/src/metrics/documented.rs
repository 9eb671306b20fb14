//! docs/metrics.md is made from the registry: its rows say of each series what the registry says, and end with what to do with it, which
//! people write there. With `PGVIGIL_WRITE_DOCS=1` the test writes the rows anew; a series that nobody has written a word about fails it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use consensus::records::{Phase, Transition};

use super::*;

/// The last column of a row that nobody has written yet.
const UNWRITTEN: &str = "(unwritten)";

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")
}

/// The page of an agent on which everything has happened that can have a label.
fn page() -> String {
    let metrics = Metrics::new("orders", "pg1");
    metrics.decided("wait", "leading");
    metrics.acted("promote", "done");
    metrics.asked("POST /switchover", "done");
    metrics.refused_to_fail_over("not_proven");
    metrics.told("on_transition", "done");
    metrics.listener("health").connections.inc();
    metrics.told_pgbouncer("pause", "done");
    metrics.told_haproxy("done", std::time::Duration::from_millis(1));
    metrics.lease_renewed("leader", std::time::Duration::from_millis(1));
    metrics.lease_unanswered("leader", 1);
    metrics.write_probed(Some(std::time::Duration::from_millis(1)));
    let record = Transition {
        kind: "failover".into(),
        outcome: "done".into(),
        started_at: "2026-09-20T00:00:00Z".into(),
        write_outage_ms: Some(700.0),
        phases: vec![Phase { name: "promote".into(), duration_ms: 30.0, measured_on: "pg1".into() }],
        ..Transition::default()
    };
    metrics.finished(&record);
    metrics.recorded.set(&[record], jiff::Timestamp::now());
    let (gauges, standby) = (&metrics.gauges, "pg2".to_owned());
    gauges.slots.get_or_create(&SlotLabels { slot: "pg2".into(), active: "true".into() }).set(1.0);
    let certificate = CertificateLabels { of: "control", file: "/etc/pgvigil/tls/pg1.crt".into() };
    gauges.certificates_left.get_or_create(&certificate).set(1.0);
    gauges.certificates_lifetime.get_or_create(&certificate).set(1.0);
    gauges.mode.get_or_create(&ModeLabels { mode: "quorum".into() }).set(1.0);
    gauges.lag_seconds.get_or_create(&LagLabels { standby: standby.clone(), stage: "replay" }).set(1.0);
    gauges.lag.get_or_create(&MemberLabels { standby }).set(1.0);
    let mut page = String::new();
    encode(&mut page, &metrics.registry.lock().expect("nobody has panicked")).expect("writing to a string");
    page
}

/// What a sample line calls the series of the family `name`, and its labels; of a histogram only one line counts.
fn labels(page: &str, name: &str, kind: &str) -> BTreeSet<String> {
    let (sample, own) = match kind {
        "counter" => (format!("{name}_total"), ""),
        "histogram" => (format!("{name}_bucket"), "le"),
        _ => (name.to_owned(), ""),
    };
    let line = page.lines().find(|line| line.strip_prefix(&sample).is_some_and(|rest| rest.starts_with('{')));
    let inside = line.and_then(|line| line.split_once('{')?.1.rsplit_once('}')).map(|(inside, _)| inside);
    let names = inside.unwrap_or_default().split("\",").filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
    names.filter(|label| label != own).collect()
}

fn unit(name: &str) -> &'static str {
    match name {
        name if name.ends_with("_seconds") => "seconds",
        name if name.ends_with("_bytes") => "bytes",
        name if name.ends_with("_time") || name.ends_with("_timestamp") => "seconds",
        name if name.ends_with("_location") => "bytes",
        _ => "-",
    }
}

/// The rows, by the beginnings of names that share a table.
fn rows(page: &str, written: &BTreeMap<String, String>) -> Vec<String> {
    let mut help = BTreeMap::new();
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.insert(name, text.trim_end_matches('.'));
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else { continue };
        let labels: Vec<String> = labels(page, name, kind).iter().map(|label| format!("`{label}`")).collect();
        let series = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        let advice = written.get(&series).map_or(UNWRITTEN, String::as_str);
        let (unit, help) = (unit(name), help.get(name).copied().unwrap_or_default());
        rows.push(format!("| `{series}` | {kind} | {} | {unit} | {help} | {advice} |", labels.join(", ")));
    }
    rows
}

fn is_row(line: &str, of: &str) -> bool {
    line.strip_prefix("| `").is_some_and(|rest| rest.starts_with(of))
}

/// What people have written at the end of each row.
fn written(document: &str) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let name = line.split('`').nth(1)?.to_owned();
        let advice = line.trim_end().strip_suffix(" |")?.rsplit_once("| ")?.1.to_owned();
        Some((name, advice))
    };
    document.lines().filter(|line| line.starts_with("| `")).filter_map(row).collect()
}

/// The document with the rows in the place of those that it has.
fn with_rows(document: &str, rows: &[String]) -> String {
    let mut lines = Vec::new();
    let mut done = BTreeSet::new();
    for line in document.lines() {
        match ["pgvigil_", "patroni_"].into_iter().find(|of| is_row(line, of)) {
            None => lines.push(line),
            Some(of) if done.insert(of) => lines.extend(rows.iter().map(String::as_str).filter(|row| is_row(row, of))),
            Some(_) => {}
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_document_has_every_series_as_it_is() {
    let before = std::fs::read_to_string(document()).expect("docs/metrics.md");
    let rows = rows(&page(), &written(&before));
    assert!(rows.len() > 60, "the registry is empty: {rows:?}");
    let after = with_rows(&before, &rows);
    if std::env::var_os("PGVIGIL_WRITE_DOCS").is_some() {
        std::fs::write(document(), &after).expect("docs/metrics.md can be written");
    } else {
        let of_before: BTreeSet<&str> = before.lines().collect();
        let other: Vec<_> = after.lines().filter(|line| !of_before.contains(line)).collect();
        assert!(
            before == after,
            "docs/metrics.md is not what the registry says, PGVIGIL_WRITE_DOCS=1 makes it so: {other:#?}"
        );
    }
    let unwritten: Vec<_> = rows.iter().filter(|row| row.contains(UNWRITTEN)).collect();
    assert!(
        unwritten.is_empty(),
        "what are these for? Their last column in docs/metrics.md says nothing: {unwritten:#?}"
    );
}
