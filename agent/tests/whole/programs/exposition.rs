//! The metrics that dashboards and alert rules made for Patroni read: each is there, with its labels and its type, and says what the API says.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http;
use crate::stage::Stage;

/// What a metric is worth, by the body of `/patroni`.
type Worth = fn(&Value) -> f64;

fn flag(value: &Value) -> f64 {
    f64::from(u8::from(value.as_bool() == Some(true)))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn is(value: &Value, word: &str) -> f64 {
    f64::from(u8::from(value == word))
}

fn time(value: &Value) -> f64 {
    let at = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    at.map_or(0.0, |at| at.as_duration().as_secs_f64())
}

/// All that Patroni 4.1.5 has, three that its next version has, and the old name that some alert rules still use.
pub const SERIES: &[(&str, Worth)] = &[
    ("patroni_version", |_| 40_105.0),
    ("patroni_postgres_running", |body| is(&body["state"], "running")),
    ("patroni_postmaster_start_time", |body| time(&body["postmaster_start_time"])),
    ("patroni_primary", |body| is(&body["role"], "primary")),
    ("patroni_master", |body| is(&body["role"], "primary")),
    ("patroni_xlog_location", |body| number(&body["xlog"]["location"])),
    ("patroni_standby_leader", |body| is(&body["role"], "standby_leader")),
    ("patroni_replica", |body| is(&body["role"], "replica")),
    ("patroni_sync_standby", |body| flag(&body["sync_standby"])),
    ("patroni_quorum_standby", |body| flag(&body["quorum_standby"])),
    ("patroni_xlog_received_location", |body| number(&body["xlog"]["received_location"])),
    ("patroni_xlog_replayed_location", |body| number(&body["xlog"]["replayed_location"])),
    ("patroni_xlog_replayed_timestamp", |body| time(&body["xlog"]["replayed_timestamp"])),
    ("patroni_xlog_paused", |body| flag(&body["xlog"]["paused"])),
    ("patroni_postgres_streaming", |body| is(&body["replication_state"], "streaming")),
    ("patroni_postgres_in_archive_recovery", |body| is(&body["replication_state"], "in archive recovery")),
    ("patroni_postgres_server_version", |body| number(&body["server_version"])),
    ("patroni_cluster_unlocked", |body| flag(&body["cluster_unlocked"])),
    ("patroni_failsafe_mode_is_active", |body| flag(&body["failsafe_mode_is_active"])),
    ("patroni_failsafe_mode_enabled", |_| 1.0),
    ("patroni_failsafe_member", |_| 1.0),
    ("patroni_postgres_timeline", |body| number(&body["timeline"])),
    ("patroni_dcs_last_seen", |body| number(&body["dcs_last_seen"])),
    ("patroni_pending_restart", |body| flag(&body["pending_restart"])),
    ("patroni_is_paused", |body| flag(&body["pause"])),
    ("patroni_postgres_state", |_| 5.0),
    ("patroni_failover_priority", |_| 1.0),
];
/// Counters with Patroni. In OpenMetrics a counter's name ends in `_total`, and these positions go back when a node is rewound.
const NO_COUNTERS: [&str; 3] =
    ["patroni_xlog_location", "patroni_xlog_received_location", "patroni_xlog_replayed_location"];

/// A series: its type, its labels, its value.
struct Sample<'a> {
    kind: &'a str,
    labels: &'a str,
    value: f64,
}

fn samples(page: &str) -> Result<BTreeMap<&str, Sample<'_>>> {
    let mut found = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for line in page.lines().filter(|line| line.contains(" patroni_") || line.starts_with("patroni_")) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(name, kind);
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_once('{').with_context(|| format!("no labels: {line}"))?;
            let (labels, value) = rest.split_once("} ").with_context(|| format!("no value: {line}"))?;
            let kind = kinds.get(name).copied().with_context(|| format!("{name} has no type"))?;
            ensure!(found.insert(name, Sample { kind, labels, value: value.parse()? }).is_none(), "{name} twice");
        }
    }
    Ok(found)
}

/// On every node. Patroni itself, where it is, says of which type its series are.
pub async fn says_what_the_api_says(stage: &Stage, programs: Option<&Path>) -> Result<()> {
    let patronis = programs.map(patronis_types).transpose()?.unwrap_or_default();
    for node in stage.cluster.nodes() {
        let said = async || {
            let before = stage.ask(node.name(), "/patroni").await?;
            let page = http::ask(node, "GET", "/metrics").await?.body;
            let after = stage.ask(node.name(), "/patroni").await?;
            let samples = samples(&page)?;
            for (name, worth) in SERIES {
                let sample = samples.get(name).with_context(|| format!("{name} is not there"))?;
                ensure!(sample.labels == format!("scope=\"demo\",name=\"{}\"", node.name()), "{}", sample.labels);
                ensure!(sample.kind == "gauge", "{name} is a {}", sample.kind);
                // Positions and times go on in between.
                let (least, most) = (worth(&before), worth(&after));
                ensure!((least..=most).contains(&sample.value), "{name} is {}: {before}", sample.value);
            }
            ensure!(samples.len() == SERIES.len(), "series that no test knows: {:?}", samples.keys());
            for (name, kind) in &patronis {
                let expected = if NO_COUNTERS.contains(&name.as_str()) { "counter" } else { "gauge" };
                ensure!(samples.contains_key(name.as_str()) && kind == expected, "Patroni has {name}, a {kind}");
            }
            Ok(true)
        };
        stage.eventually(&format!("the metrics of {}", node.name()), said).await?;
    }
    Ok(())
}

/// What Patroni's program says of its own series.
fn patronis_types(programs: &Path) -> Result<BTreeMap<String, String>> {
    let libraries = std::fs::read_dir(programs.join("venv/lib"))?.flatten();
    let api = libraries.map(|entry| entry.path().join("site-packages/patroni/api.py")).find(|path| path.is_file());
    let text = std::fs::read_to_string(api.context("there is no Patroni")?)?;
    let types = text.split("\"# TYPE ").skip(1).filter_map(|rest| rest.split('"').next()?.split_once(' '));
    let types: BTreeMap<_, _> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    ensure!(types.len() > 20, "Patroni's series are not where they were: {types:?}");
    Ok(types)
}
