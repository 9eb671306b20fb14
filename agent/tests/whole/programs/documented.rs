//! The tables of docs/compatibility.md against what is there: every path, every field and every series is in them, and what they say is always
//! there is there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::exposition::SERIES;
use crate::etcdctl;
use crate::http;
use crate::stage::Stage;

/// The rows of the table under a heading: the words in backticks of the first column, and the second column.
fn table(heading: &str) -> Result<Vec<(Vec<String>, String)>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md");
    let text = std::fs::read_to_string(file)?;
    let section = text.split_once(&format!("\n{heading}\n")).with_context(|| format!("there is no {heading}"))?.1;
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let mut columns = line.split(" | ");
        let names = columns.next().unwrap_or_default().split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (names, columns.next().unwrap_or_default().to_owned())
    });
    Ok(rows.collect())
}

fn names(rows: &[(Vec<String>, String)], counts: impl Fn(&str) -> bool) -> BTreeSet<&str> {
    rows.iter().filter(|(_, there)| counts(there)).flat_map(|(names, _)| names.iter().map(String::as_str)).collect()
}

/// What is there is named, and what is named as always there is there.
fn agrees(what: &str, rows: &[(Vec<String>, String)], always: &str, found: &Value) -> Result<()> {
    let found: BTreeSet<&str> = found.as_object().context("no object")?.keys().map(String::as_str).collect();
    let unnamed: Vec<_> = found.difference(&names(rows, |_| true)).copied().collect();
    let missing: Vec<_> = names(rows, |there| there == always).difference(&found).copied().collect();
    ensure!(unnamed.is_empty() && missing.is_empty(), "{what}: not in the table {unnamed:?}, not there {missing:?}");
    Ok(())
}

pub async fn every_path_is_served(stage: &Stage) -> Result<()> {
    for path in names(&table("## Health paths")?, |_| true) {
        let status = http::ask(&stage.cluster.nodes()[0], "HEAD", path).await?.status;
        ensure!([200, 503].contains(&status), "{path}: {status}");
    }
    Ok(())
}

pub async fn every_field_is_in_the_tables(stage: &Stage) -> Result<()> {
    let (patroni, cluster) = (table("### `/patroni`")?, table("### `/cluster`")?);
    let record = table("### `members/<name>`")?;
    for node in stage.cluster.nodes() {
        let name = node.name();
        agrees(&format!("/patroni of {name}"), &patroni, "always", &stage.ask(name, "/patroni").await?)?;
        let body = stage.ask(name, "/cluster").await?;
        agrees(&format!("/cluster of {name}"), &cluster, "always", &body)?;
        for member in body["members"].as_array().context("no members")? {
            agrees(&format!("a member in /cluster of {name}"), &cluster, "for each member", member)?;
        }
        let stored = etcdctl::get(&stage.cluster, &format!("members/{name}")).await?;
        agrees(&format!("members/{name}"), &record, "always", &serde_json::from_str(&stored)?)?;
    }
    Ok(())
}

#[test]
fn the_table_of_metrics_has_every_series() {
    let series = table("## Metrics").expect("a table");
    assert_eq!(names(&series, |_| true), SERIES.iter().map(|(name, _)| *name).collect());
}
