//! Every standby is gone and the mode is `quorum`: commits wait a while, then the leader goes on alone. That is on record from the first
//! such commit, with how long it lasted and how much was at stake, and it is over as soon as a standby is back.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http;
use crate::stage::{Stage, on_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_goes_on_alone_says_so_counts_what_is_at_stake_and_closes_the_record() {
    let options = options().with("durability.mode", "\"quorum\"");
    on_stage(&options, async |stage| {
        let leader = stage.leader().await?;
        let standbys = stage.others(&leader);
        for standby in &standbys {
            stage.node(standby)?.kill_everything()?;
        }
        stage.say("both standbys are gone");
        stage.writes_go_on().await?;
        let open = async || Ok(degrade(stage, &leader).await?.is_some_and(|record| record["outcome"] == "in_progress"));
        stage.eventually("no record says that the leader is alone", open).await?;
        let at_stake = async || Ok(metric(stage, &leader, "pgvigil_exposure_bytes").await? > 0.0);
        stage.eventually("nothing is said to be at stake", at_stake).await?;
        an_agent_that_starts_meanwhile_begins_no_second_record(stage, &leader).await?;
        for standby in &standbys {
            stage.start(standby)?;
        }
        stage.whole().await?;
        let closed = async || Ok(degrade(stage, &leader).await?.is_some_and(|record| record["outcome"] == "done"));
        stage.eventually("the record is never closed", closed).await?;
        let record = degrade(stage, &leader).await?.context("there is one")?;
        ensure!(
            record["phases"].as_array().is_some_and(|phases| phases.iter().any(|phase| phase["name"] == "exposed")),
            "{record}"
        );
        let over = async || Ok(metric(stage, &leader, "pgvigil_exposure_bytes").await? == 0.0);
        stage.eventually("something is still said to be at stake", over).await
    })
    .await;
}

async fn an_agent_that_starts_meanwhile_begins_no_second_record(stage: &Stage, leader: &str) -> Result<()> {
    stage.stop(leader).await?;
    stage.start(leader)?;
    stage.writes_go_on().await?;
    let counts_again = async || Ok(metric(stage, leader, "pgvigil_exposure_seconds").await? > 2.5);
    stage.eventually("the new agent does not see that it is alone", counts_again).await?;
    let records = stage.transitions(leader).await?;
    let open = |record: &&Value| record["kind"] == "degrade" && record["outcome"] == "in_progress";
    let degrades = records.iter().filter(open).count();
    ensure!(degrades == 1, "{degrades} open records of one exposure: {records:?}");
    Ok(())
}

async fn degrade(stage: &Stage, node: &str) -> Result<Option<Value>> {
    Ok(stage.transitions(node).await?.into_iter().rfind(|record| record["kind"] == "degrade"))
}

async fn metric(stage: &Stage, node: &str, name: &str) -> Result<f64> {
    let page = http::ask(stage.node(node)?, "GET", "/metrics").await?.body;
    let line = page.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).with_context(|| format!("no number: {line}"))
}
