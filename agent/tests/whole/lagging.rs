//! Who may not lead: a standby that is too far behind, and a node whose tags forbid it. Nobody is promoted, the reason has numbers, and
//! an operator's word, which is recorded, settles it.

use std::time::Duration;

use agent::demo::lookout::Sight;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

const LIMIT_BYTES: u64 = 256 << 10;
/// 64 MB of WAL: more than the buffers between two nodes hold.
const BULK: &str =
    "SELECT count(pg_logical_emit_message(false, 'bulk', repeat('x', 1 << 20))) FROM generate_series(1, 64)";
/// Nobody is promoted for as long: the lease has ended, ballots are in, and then some.
const WATCHED_FOR: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_too_far_behind_is_not_promoted_until_an_operator_says_so() {
    let limit = format!("\"{}kB\"", LIMIT_BYTES >> 10);
    let options = options().with("durability.mode", "\"async\"").with("durability.max_lag_on_failover", &limit);
    on_stage(&options, async |stage| {
        let leader = stage.leader().await?;
        let [good, behind] = <[String; 2]>::try_from(stage.others(&leader)).ok().context("there are two standbys")?;
        one_falls_behind_and_the_others_die(stage, &leader, &behind).await?;
        it_is_not_promoted(stage, &behind).await?;
        nobody_who_is_barred_by_its_tags_is(stage, &behind, &good).await?;
        an_operator_decides(stage, &behind).await?;
        stage.start(&leader)?;
        stage.whole().await?;
        a_barred_node_alone_leads_nothing(stage, &good).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_replays_late_holds_up_no_failover() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        // Among equals the first name is elected: this one may have to be promoted itself.
        let late = stage.others(&leader).into_iter().min().context("there are standbys")?;
        stage.set(&late, "postgres.parameters.recovery_min_apply_delay", "\"10min\"")?;
        stage.pgvigil(&leader, &["reload", &late]).await?;
        let delays = async || Ok(stage.cluster.psql(&late, "SHOW recovery_min_apply_delay").await? == "10min");
        stage.eventually("it does not replay late", delays).await?;
        stage.writes_go_on().await?;
        stage.node(&leader)?.kill_everything()?;
        let new = stage.leader_other_than(&leader).await?;
        stage.say(&format!("{new} leads, and {late} was to replay ten minutes later"));
        stage.writes_go_on().await?;
        stage.unset(&late, "postgres.parameters.recovery_min_apply_delay")?;
        stage.pgvigil(&new, &["reload", &late]).await?;
        stage.start(&leader)
    })
    .await;
}

async fn one_falls_behind_and_the_others_die(stage: &mut Stage, leader: &str, behind: &str) -> Result<()> {
    let from = stage.may_be_lost_from_here(leader).await?;
    let slow = stage.node(behind)?;
    slow.agent().freeze()?;
    slow.freeze_postgres();
    stage.cluster.psql(leader, BULK).await.context("writing much")?;
    let end = stage.cluster.psql(leader, "SELECT pg_current_wal_lsn() - '0/0'").await?;
    let end: u64 = end.parse().context("the end of WAL")?;
    let published = async || Ok(etcdctl::get(&stage.cluster, "status").await?.published() >= Some(end));
    stage.eventually("the leader does not publish how far it is", published).await?;
    for name in stage.others(behind) {
        stage.node(&name)?.kill_everything()?;
    }
    slow.thaw_postgres();
    slow.agent().thaw()?;
    stage.may_be_lost(from);
    stage.say(&format!("only {behind} is left, and far behind"));
    Ok(())
}

trait Status {
    /// The position in Patroni's `status` key.
    fn published(&self) -> Option<u64>;
}

impl Status for String {
    fn published(&self) -> Option<u64> {
        serde_json::from_str::<Value>(self).ok()?["optime"].as_u64()
    }
}

async fn it_is_not_promoted(stage: &Stage, behind: &str) -> Result<()> {
    let told = async || Ok(stage.ask(behind, "/why").await?["reason"]["code"] == "too_far_behind");
    stage.eventually("the one that is behind does not say why it waits", told).await?;
    let why = stage.ask(behind, "/why").await?;
    let number = |key: &str| why["reason"][key].as_u64().unwrap_or_default();
    ensure!(number("limit_bytes") == LIMIT_BYTES && number("behind_bytes") > LIMIT_BYTES, "{why}");
    ensure!(why["sentence"].as_str().is_some_and(|sentence| sentence.contains("MB")), "{why}");
    nobody_leads(stage).await?;
    let output = stage.cluster.pgvigil(behind, &["failover", "--to", behind, "-y"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3) && said.contains("--accept-data-loss"), "{}: {said}", output.status);
    let status = stage.pgvigil(behind, &["status"]).await?;
    let resort = format!("Last resort: pgvigil failover --to {behind} --accept-data-loss");
    ensure!(status.contains(" first: it led last and has ") && status.contains(&resort), "{status}");
    for (word, code, passed) in [(None, 3, false), (Some("--accept-data-loss"), 0, true)] {
        let arguments = ["failover", "--to", behind, "--dry-run", "-o", "json"].into_iter().chain(word);
        let output = stage.cluster.pgvigil(behind, &arguments.collect::<Vec<_>>()).await?;
        let told: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.code() == Some(code) && told["passed"] == passed, "{}: {told}", output.status);
        ensure!(told["schema"] == "pgvigil.preflight/v1" && told["candidate"] == behind, "{told}");
    }
    nobody_leads(stage).await
}

/// A node that has everything comes back, with a tag that bars it.
async fn nobody_who_is_barred_by_its_tags_is(stage: &Stage, behind: &str, good: &str) -> Result<()> {
    let config = stage.node(good)?.config();
    let text = std::fs::read_to_string(config)?;
    std::fs::write(config, format!("{text}tags.nofailover = true\n"))?;
    stage.start(good)?;
    let barred = async || Ok(bars(&stage.ask(behind, "/why").await?, good).contains(&"nofailover".to_owned()));
    stage.eventually("the tag is not among the bars", barred).await?;
    nobody_leads(stage).await
}

fn bars(why: &Value, member: &str) -> Vec<String> {
    let standings = why["standings"].as_array().cloned().unwrap_or_default();
    let of_member = standings.iter().filter(|standing| standing["member"] == member);
    let bars = of_member.filter_map(|standing| standing["bars"].as_array()).flatten();
    bars.filter_map(|bar| bar["code"].as_str().map(str::to_owned)).collect()
}

async fn an_operator_decides(stage: &Stage, behind: &str) -> Result<()> {
    let word = ["failover", "--to", behind, "--accept-data-loss", "--reason", "the disks are gone", "-y"];
    stage.pgvigil(behind, &word).await?;
    ensure!(stage.leader().await? == behind, "{behind} does not lead");
    stage.writes_go_on().await?;
    let forced = async || Ok(stage.transitions(behind).await?.iter().any(is_forced));
    stage.eventually("the operator's word is not on record", forced).await
}

fn is_forced(record: &Value) -> bool {
    let lost = record["lost_bytes_bound"].as_u64().is_some_and(|lost| lost > LIMIT_BYTES);
    record["cause"] == "forced" && record["lost"] == "bounded" && lost && record["reason"] == "the disks are gone"
}

async fn a_barred_node_alone_leads_nothing(stage: &mut Stage, barred: &str) -> Result<()> {
    let leader = stage.leader().await?;
    let from = stage.may_be_lost_from_here(&leader).await?;
    for name in stage.others(barred) {
        stage.node(&name)?.kill_everything()?;
    }
    stage.may_be_lost(from);
    let told = async || Ok(stage.ask(barred, "/why").await?["reason"]["code"] == "no_candidate");
    stage.eventually("the barred node does not say that nobody may lead", told).await?;
    nobody_leads(stage).await?;
    for name in stage.others(barred) {
        stage.start(&name)?;
    }
    stage.whole().await?;
    ensure!(stage.leader().await? != barred, "{barred} leads, against its tags");
    Ok(())
}

async fn nobody_leads(stage: &Stage) -> Result<()> {
    let begin = std::time::Instant::now();
    while begin.elapsed() < WATCHED_FOR {
        let sights = stage.survey().await;
        let leads = |sight: &&Sight| sight.leads || sight.writable || sight.role == "primary";
        ensure!(!sights.iter().any(|sight| leads(&sight)), "somebody leads: {sights:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
