//! Switchovers under load: there and back, again and again, and no acknowledged row lost on the way.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::stage::{Stage, on_stage, options};

const THERE_AND_BACK: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn ten_switchovers_there_and_back_lose_nothing() {
    on_stage(&options(), async |stage| {
        let home = stage.leader().await?;
        let there = stage.standby().await?;
        for round in 1..=THERE_AND_BACK {
            switch_over(stage, &home, &there).await.with_context(|| format!("there, round {round}"))?;
            switch_over(stage, &there, &home).await.with_context(|| format!("back, round {round}"))?;
        }
        each_has_a_record(stage, &home).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_that_cannot_be_had_is_refused_and_changes_nothing() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let standby = stage.standby().await?;
        let dry = ["switchover", "--to", &standby, "--dry-run"];
        stage.pgvigil(&leader, &dry).await?;
        refused(stage, &leader, &["switchover", "--to", &leader, "-y"]).await?;
        refused(stage, &leader, &["switchover", "--to", "nobody", "-y"]).await?;
        refused(stage, &leader, &["switchover", "--to", &standby, "--expect-leader", &standby, "-y"]).await?;
        refused(stage, &leader, &["failover", "--to", &standby, "--accept-data-loss", "-y"]).await?;
        ensure!(stage.leader().await? == leader, "somebody else leads");
        stage.writes_go_on().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_does_not_confirm_is_not_waited_for() {
    on_stage(&options(), goes_back_where_the_candidate_does_not_confirm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_does_not_confirm_is_not_waited_for_in_async_mode_either() {
    let options = options().with("durability.mode", "\"async\"");
    on_stage(&options, goes_back_where_the_candidate_does_not_confirm).await;
}

/// The candidate receives everything and replays nothing, so the last word of the old leader is never replayed: the lock must not move,
/// and the old leader takes writes again, with every standby behind it.
async fn goes_back_where_the_candidate_does_not_confirm(stage: &mut Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let candidate = stage.standby().await?;
    stage.cluster.psql(&candidate, "SELECT pg_wal_replay_pause()").await?;
    let began = Instant::now();
    let asked = ["switchover", "--to", &candidate, "--expect-leader", &leader, "-y", "-o", "json"];
    let output = stage.cluster.pgvigil(&candidate, &asked).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("going back"), "{}: {said}", output.status);
    ensure!(stage.leader().await? == leader, "somebody else leads");
    stage.writes_go_on().await?;
    let silence = stage.silence_since(began)?;
    stage.say(&format!("went back: {} ms without writes", silence.as_millis()));
    stage.cluster.psql(&candidate, "SELECT pg_wal_replay_resume()").await?;
    stage.whole().await?;
    let records = stage.transitions(&leader).await?;
    let failed = records.iter().rev().find(|record| record["kind"] == "switchover");
    ensure!(failed.is_some_and(|record| record["outcome"] == "failed"), "{failed:?}");
    switch_over(stage, &leader, &candidate).await
}

async fn switch_over(stage: &Stage, from: &str, to: &str) -> Result<()> {
    let began = Instant::now();
    stage.pgvigil(to, &["switchover", "--to", to, "--expect-leader", from, "--reason", "test", "-y"]).await?;
    ensure!(stage.leader().await? == to, "{to} does not lead");
    stage.writes_go_on().await?;
    stage.whole().await?;
    let silence = stage.silence_since(began)?;
    stage.say(&format!("{from} to {to}: {} ms without writes", silence.as_millis()));
    Ok(())
}

async fn each_has_a_record(stage: &Stage, leader: &str) -> Result<()> {
    let records = stage.transitions(leader).await?;
    let switchovers: Vec<&Value> = records.iter().filter(|record| record["kind"] == "switchover").collect();
    ensure!(switchovers.len() == 2 * THERE_AND_BACK, "{} records of switchovers", switchovers.len());
    for record in switchovers {
        let phases = record["phases"].as_array().map(Vec::len).unwrap_or_default();
        ensure!(record["outcome"] == "done" && record["lost"] == "none" && phases > 3, "{record}");
        ensure!(record["write_outage_ms"].as_f64().is_some_and(|outage| outage > 0.0), "no outage in {record}");
        ensure!(record["reason"] == "test", "whoever asked is not in {record}");
    }
    Ok(())
}

async fn refused(stage: &Stage, on: &str, arguments: &[&str]) -> Result<()> {
    let output = stage.cluster.pgvigil(on, arguments).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "{arguments:?}: {}, {said}", output.status);
    Ok(())
}
