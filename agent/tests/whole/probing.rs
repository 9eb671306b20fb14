//! What is timed for whoever watches: renewals of leases on every node, and commits on the primary alone, where a file asks for them.

use anyhow::{Result, ensure};

use crate::http;
use crate::stage::{Stage, on_stage, options};

/// The sum of a counter over its labels.
async fn counted(stage: &Stage, node: &str, name: &str) -> Result<f64> {
    let page = http::ask(stage.node(node)?, "GET", "/metrics").await?.body;
    let lines = page.lines().filter(|line| line.starts_with(name));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_tried_on_the_primary_alone_and_go_with_the_lead() {
    on_stage(&options().with("write_probe.every", "\"1s\""), async |stage| {
        let leader = stage.leader().await?;
        let done = "pgvigil_write_probe_seconds_count";
        stage.eventually("no commit was tried", async || Ok(counted(stage, &leader, done).await? >= 2.0)).await?;
        let other = stage.standby().await?;
        ensure!(counted(stage, &other, "pgvigil_write_probes_total").await? == 0.0, "{other} is a standby");
        ensure!(counted(stage, &other, "pgvigil_lease_renewal_seconds_count").await? > 0.0, "no renewal was timed");
        stage.pgvigil(&leader, &["switchover", "--to", &other, "-y"]).await?;
        stage.eventually("none is tried by the next", async || Ok(counted(stage, &other, done).await? >= 2.0)).await?;
        let failed = "pgvigil_write_probes_total{cluster=\"demo\",member=\"";
        let page = http::ask(stage.node(&leader)?, "GET", "/metrics").await?.body;
        let failure = page.lines().find(|line| line.starts_with(failed) && line.contains("outcome=\"failed\""));
        ensure!(failure.is_none(), "a planned end of a lead is no failure: {failure:?}");
        Ok(())
    })
    .await;
}
