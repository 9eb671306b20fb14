//! patronictl, which reads our keys in etcd as if Patroni had written them: the list, the tree, the history, the settings, and how to connect.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::run;
use crate::etcdctl;
use crate::stage::Stage;

/// How the cluster of these tests is called.
const CLUSTER: &str = "demo";

pub struct Patronictl {
    program: PathBuf,
    config: String,
}

impl Patronictl {
    pub fn new(program: PathBuf, stage: &Stage) -> Result<Self> {
        let file = stage.cluster.directory().join("patronictl.yml");
        let hosts: Vec<_> = stage.cluster.etcd_urls().iter().map(|url| url.trim_start_matches("http://")).collect();
        std::fs::write(&file, serde_json::json!({"scope": CLUSTER, "etcd3": {"hosts": hosts}}).to_string())?;
        Ok(Self { program, config: file.to_str().context("a path")?.to_owned() })
    }

    async fn says(&self, arguments: &[&str]) -> Result<String> {
        let arguments = [&["-c", &self.config], arguments].concat();
        let output = run(&self.program, &arguments).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            bail!("{arguments:?}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    async fn rows(&self, command: &str) -> Result<Vec<Value>> {
        let said = self.says(&[command, CLUSTER, "-f", "json"]).await?;
        serde_json::from_str(&said).with_context(|| format!("{command} prints no JSON: {said}"))
    }

    pub async fn shows_a_healthy_cluster(&self, stage: &Stage, leader: &str) -> Result<()> {
        let healthy = async || {
            let rows = self.rows("list").await?;
            let timeline = &stage.ask(leader, "/patroni").await?["timeline"];
            is_healthy(stage, &rows, leader, timeline).with_context(|| format!("list: {rows:?}"))?;
            Ok(true)
        };
        stage.eventually("the list is not that of a healthy cluster", healthy).await?;
        let tree = self.says(&["topology", CLUSTER]).await?;
        let (above, below) = tree.split_once("Leader").context("no leader in the tree")?;
        ensure!(above.contains(&format!("| {leader} ")), "somebody else is at the root:\n{tree}");
        let hangs = |name: &String| below.contains(&format!("+ {name} "));
        ensure!(stage.others(leader).iter().all(hangs), "somebody does not hang below {leader}:\n{tree}");
        self.history_has_every_promotion(stage, leader).await?;
        let dsn = self.says(&["dsn", CLUSTER, "-r", "primary"]).await?;
        let port = stage.node(leader)?.postgres_port();
        ensure!(dsn == format!("host=127.0.0.1 port={port}"), "the way to {leader}: {dsn}");
        Ok(())
    }

    /// Which promise is kept it does not read from `sync`, but from Patroni's own setting. With that, the list names the voters.
    pub async fn voters_are_named_once_patroni_is_told_the_mode(&self, stage: &Stage) -> Result<()> {
        let before = etcdctl::get(&stage.cluster, "config").await?;
        let mut settings: Value = serde_json::from_str(&before)?;
        settings["synchronous_mode"] = "quorum".into();
        etcdctl::put(&stage.cluster, "config", &settings.to_string()).await?;
        let rows = self.rows("list").await?;
        let voters = rows.iter().filter(|row| row["Role"] == "Quorum Standby").count();
        ensure!(voters == stage.cluster.nodes().len() - 1, "voters in the list: {rows:?}");
        let shown = self.says(&["show-config", CLUSTER]).await?;
        ensure!(shown.contains("synchronous_mode: quorum"), "the settings: {shown}");
        etcdctl::put(&stage.cluster, "config", &before).await
    }

    /// It asks every agent for its version, and takes it for Patroni's.
    pub async fn versions_are_told(&self, stage: &Stage) -> Result<()> {
        let versions = self.says(&["version", CLUSTER]).await?;
        let names = stage.cluster.nodes().iter().map(|node| format!("{}: Patroni ", node.name()));
        ensure!(names.into_iter().all(|name| versions.contains(&name)), "versions: {versions}");
        Ok(())
    }

    /// A line for each: where the old timeline ended, when, and who went on.
    async fn history_has_every_promotion(&self, stage: &Stage, leader: &str) -> Result<()> {
        let records = stage.transitions(leader).await?;
        let promoted = |record: &&Value| {
            record["timeline_before"].is_u64() && record["timeline_before"] != record["timeline_after"]
        };
        let promotions: Vec<&Value> = records.iter().filter(promoted).collect();
        let complete = async || {
            let rows = self.rows("history").await?;
            ensure!(rows.len() == promotions.len(), "{} of {} lines: {rows:?}", rows.len(), promotions.len());
            for (row, record) in rows.iter().zip(&promotions) {
                let same = row["TL"] == record["timeline_before"] && row["New Leader"] == record["to"];
                let told = row["LSN"].as_u64() > Some(0) && row["Timestamp"].as_str().is_some_and(is_time);
                ensure!(same && told && row["Reason"].is_string(), "{row} is not about {record}");
            }
            Ok(true)
        };
        stage.eventually("the history is not complete", complete).await
    }

    pub async fn shows_what_waits_for_a_restart(&self, stage: &Stage) -> Result<()> {
        let told = async || {
            let rows = self.rows("list").await?;
            let waits = |row: &Value| {
                let why = row["Pending restart reason"].as_str().unwrap_or_default();
                row["Pending restart"] == "*" && why == "max_files_per_process: 1000->900"
            };
            ensure!(rows.iter().all(waits), "{rows:?}");
            Ok(true)
        };
        stage.eventually("the list does not tell what waits for a restart", told).await
    }

    pub async fn shows_a_pause(&self, stage: &Stage) -> Result<()> {
        let told = async || {
            let list = self.says(&["list", CLUSTER]).await?;
            ensure!(list.contains("Maintenance mode: on"), "{list}");
            Ok(true)
        };
        stage.eventually("the list tells of no pause", told).await
    }
}

fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

/// Names, addresses, roles, states, the timeline, and lags, in megabytes.
fn is_healthy(stage: &Stage, rows: &[Value], leader: &str, timeline: &Value) -> Result<()> {
    ensure!(rows.len() == stage.cluster.nodes().len(), "not every member is there");
    for (row, node) in rows.iter().zip(stage.cluster.nodes()) {
        let leads = node.name() == leader;
        let (role, state) = if leads { ("Leader", "running") } else { ("Replica", "streaming") };
        let host = format!("127.0.0.1:{}", node.postgres_port());
        for (column, expected) in [("Member", node.name()), ("Host", &host), ("Role", role), ("State", state)] {
            ensure!(row[column] == expected, "{column} of {}", node.name());
        }
        ensure!(row["TL"] == *timeline, "the timeline of {}", node.name());
        let near = row["Receive Lag"] == 0 && row["Replay Lag"] == 0;
        ensure!(leads || (near && row["Receive LSN"].is_string()), "the lag of {}", node.name());
    }
    Ok(())
}
