//! What pgvigil tells of what it did, and of what it did not do: a failover that a rule forbade is on record with its reason, its evidence and its end,
//! and an outage whose beginning nobody saw is not told shorter than it was.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http;
use crate::stage::{Stage, on_stage, options};

/// Long enough that a record which tells of less is wrong.
const DARK_FOR: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_a_rule_forbids_is_on_record_until_somebody_leads() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let [gone, left] = <[String; 2]>::try_from(stage.others(&leader)).ok().context("there are two standbys")?;
        let begin = Instant::now();
        for name in [&gone, &leader] {
            stage.node(name)?.kill_everything()?;
        }
        let open = async || Ok(refused(stage, &left).await?.is_some_and(|record| record["outcome"] == "in_progress"));
        stage.eventually("the refusal is not on record", open).await?;
        let record = refused(stage, &left).await?.context("it was there")?;
        it_says_why(&record, &leader, &left)?;
        it_is_told_everywhere(stage, &left, &record).await?;
        for name in [&leader, &gone] {
            stage.start(name)?;
        }
        stage.whole().await?;
        let ended = async || Ok(refused(stage, &left).await?.is_some_and(|record| record["outcome"] == "refused"));
        stage.eventually("the refusal does not end", ended).await?;
        let dark = begin.elapsed();
        let record = refused(stage, &left).await?.context("it was there")?;
        let phase = &record["phases"][0];
        let took = phase["duration_ms"].as_f64().context("how long it took")?;
        ensure!(phase["name"] == "without_primary" && took > 0.0 && took <= dark.as_secs_f64() * 1000.0, "{record}");
        ensure!(record["ended_at"].is_string() && record["to"].is_string(), "{record}");
        ensure!(record["write_outage_ms"].is_null(), "the transition that follows counts it: {record}");
        let all = stage.transitions(&left).await?;
        let refusals = all.iter().filter(|record| record["kind"] == "refused").count();
        ensure!(refusals == 1, "one episode has {refusals} records: {all:?}");
        let slo = stage.ask(&left, "/slo").await?;
        ensure!(!slo["costs"].to_string().contains("\"refused\""), "{slo}");
        Ok(())
    })
    .await;
}

async fn refused(stage: &Stage, of: &str) -> Result<Option<Value>> {
    Ok(stage.transitions(of).await?.into_iter().find(|record| record["kind"] == "refused"))
}

fn it_says_why(record: &Value, leader: &str, left: &str) -> Result<()> {
    let why = ["not_proven", "awaiting_ballots"].iter().any(|code| record["cause"] == *code);
    ensure!(why && record["from"] == leader && record["told_by"] == left, "{record}");
    let evidence = record["evidence"].as_array().context("evidence")?;
    let says = |line: &Value, what: &str| line.as_str().is_some_and(|line| line.starts_with(what));
    ensure!(evidence.iter().any(|line| says(line, &format!("{left} had received "))), "{record}");
    ensure!(evidence.iter().any(|line| says(line, "commits had waited for any 1 of ")), "{record}");
    ensure!(record["write_outage_ms"].is_null() && record["ended_at"].is_null(), "{record}");
    Ok(())
}

async fn it_is_told_everywhere(stage: &Stage, left: &str, record: &Value) -> Result<()> {
    let id = record["id"].as_str().context("an id")?;
    ensure!(id.starts_with("n-"), "{record}");
    let list = stage.pgvigil(left, &["transitions", "list"]).await?;
    ensure!(list.lines().any(|line| line.starts_with(id) && line.contains("no failover: ")), "{list}");
    let shown = stage.pgvigil(left, &["transitions", "show", id]).await?;
    ensure!(shown.contains("  cause     did not fail over because of "), "{shown}");
    let export = stage.pgvigil(left, &["transitions", "export", id, "--md"]).await?;
    ensure!(export.starts_with("# Refused of ") && export.contains("It did not fail over because: "), "{export}");
    let answer = http::ask(stage.node(left)?, "GET", "/metrics").await?.body;
    let counted = |line: &&str| line.starts_with("pgvigil_failovers_refused_total{") && line.ends_with(" 1");
    ensure!(answer.lines().any(|line| counted(&line)), "no refusal is counted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_nobody_watched_from_its_beginning_is_not_told_shorter_than_it_was() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        // The leader last, so that nobody takes over before everything rests.
        for name in stage.others(&leader).into_iter().chain([leader.clone()]) {
            stage.stop(&name).await?;
        }
        tokio::time::sleep(DARK_FOR).await;
        for node in stage.cluster.nodes() {
            ensure!(node.name() != leader || node.postmaster_pid().is_none(), "its fence has not struck");
        }
        let known = Instant::now();
        for node in stage.cluster.nodes() {
            stage.start(node.name())?;
        }
        let told = async || Ok(unseen(&stage.transitions(&stage.leader().await?).await?).is_some());
        stage.eventually("no record says that its outage was longer", told).await?;
        let record = unseen(&stage.transitions(&stage.leader().await?).await?).context("it was there")?;
        let outage = record["write_outage_ms"].as_f64().context("an outage")?;
        let unattended = |phase: &&Value| phase["name"] == "unattended";
        let phase = record["phases"].as_array().into_iter().flatten().find(unattended);
        if record["to"] == *leader {
            // Its lease and its fence last for a time to live at most.
            let least = (DARK_FOR - Duration::from_secs(6)).as_secs_f64() * 1000.0;
            ensure!(phase.is_some() && outage >= least, "{record}");
        }
        let most = (DARK_FOR + known.elapsed()).as_secs_f64() * 1000.0;
        ensure!(outage <= most + 2000.0, "it is told longer than it can have been: {record}");
        let list = stage.pgvigil(&stage.leader().await?, &["transitions"]).await?;
        ensure!(list.contains("≥ "), "{list}");
        Ok(())
    })
    .await;
}

fn unseen(records: &[Value]) -> Option<Value> {
    records.iter().rev().find(|record| record["write_outage_at_least"] == true && record["outcome"] == "done").cloned()
}
