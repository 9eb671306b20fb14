//! Two nodes and one, where one more or less decides: what they do alone, what they refuse, and that a copy of the data is no member.

use std::time::{Duration, Instant};

use agent::demo::cluster::ClusterOptions;
use anyhow::{Context, Result, ensure};

use crate::etcdctl;
use crate::stage::{Stage, on_empty_stage, options};

/// Beyond the leader's lease, and whatever is still decided at its end.
const BEYOND_A_LEASE: Duration = Duration::from_secs(8);

/// `n1` begins alone, and `n2` comes with a copy of its data.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_goes_on_without_etcd_and_two_do_what_their_mode_lets_them() {
    let two = ClusterOptions { nodes: 2, etcd_members: 1, ..options() };
    on_empty_stage(&two, async |stage| {
        stage.cluster.start_etcd().await?;
        stage.start("n1")?;
        stage.cluster.start_proxy()?;
        stage.leader().await?;
        stage.begins_to_write_now().await?;
        one_node_goes_on_without_etcd(stage).await?;
        a_copy_of_the_data_does_not_lead(stage).await?;
        in_async_mode_a_dead_postgres_is_started_where_it_is(stage).await?;
        in_async_mode_one_that_cannot_start_is_replaced(stage).await?;
        in_quorum_mode_either_can_be_lost_after_the_other(stage).await?;
        stage.ends_well().await
    })
    .await;
}

async fn one_node_goes_on_without_etcd(stage: &Stage) -> Result<()> {
    let etcd = &stage.cluster.etcd()[0];
    etcd.kill();
    tokio::time::sleep(BEYOND_A_LEASE).await;
    ensure!(reason(stage, "n1").await? == "leading_on_promises", "it leads by {}", reason(stage, "n1").await?);
    stage.writes_go_on().await?;
    etcd.start()?;
    let leads = async || Ok(reason(stage, "n1").await? == "leading");
    stage.eventually("n1 does not take its lock again", leads).await
}

/// A node restored from a backup while nobody leads is not listed as one that may, and waits for the one that is.
async fn a_copy_of_the_data_does_not_lead(stage: &Stage) -> Result<()> {
    listed(stage, &["n1"]).await?;
    stage.node("n1")?.kill_everything()?;
    let (from, to) = (stage.node("n1")?.data_dir(), stage.node("n2")?.data_dir());
    let mut copying = stage.cluster.command("cp");
    let copied = copying.arg("-a").args([&from, &to]).status()?;
    ensure!(copied.success(), "cp: {copied}");
    stage.start("n2")?;
    let refuses = async || Ok(reason(stage, "n2").await? == "not_listed");
    stage.eventually("n2 does not say that it is not listed", refuses).await?;
    tokio::time::sleep(BEYOND_A_LEASE).await;
    ensure!(!stage.survey().await.iter().any(|sight| sight.writable), "a copy of the data leads");
    stage.start("n1")?;
    stage.whole().await?;
    ensure!(stage.leader().await? == "n1", "the copy leads");
    listed(stage, &["n1", "n2"]).await
}

async fn in_async_mode_a_dead_postgres_is_started_where_it_is(stage: &Stage) -> Result<()> {
    let begin = Instant::now();
    stage.node("n1")?.kill_postgres()?;
    stage.writes_go_on().await?;
    stage.whole().await?;
    stage.say(&format!("started again where it is: {} ms", stage.silence_since(begin)?.as_millis()));
    ensure!(stage.leader().await? == "n1" && timeline(stage, "n1").await? == "1", "somebody was promoted");
    Ok(())
}

async fn in_async_mode_one_that_cannot_start_is_replaced(stage: &mut Stage) -> Result<()> {
    let from = stage.may_be_lost_from_here("n1").await?;
    let file = stage.node("n1")?.data_dir().join("postgresql.conf");
    let good = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{good}\nthis is no setting\n"))?;
    stage.node("n1")?.kill_postgres()?;
    ensure!(stage.leader_other_than("n1").await? == "n2", "n2 does not lead");
    stage.may_be_lost(from);
    stage.writes_go_on().await?;
    // Writes come first, and the row a moment later.
    let told = async || {
        let history = stage.ask("n2", "/history").await?;
        let row = history.as_array().and_then(|rows| rows.last());
        Ok(row.is_some_and(|row| row[2].as_str().is_some_and(|why| !why.is_empty()) && row[4] == "n2"))
    };
    stage.eventually("the history does not tell who came to lead, and why", told).await?;
    std::fs::write(&file, good)?;
    stage.whole().await
}

/// With proof asked for, the one that is left leads with everything, and alone after a while; and the other way round.
async fn in_quorum_mode_either_can_be_lost_after_the_other(stage: &Stage) -> Result<()> {
    stage.pgvigil("n2", &["config", "set", "durability.mode=quorum", "-y"]).await?;
    for _ in 0..2 {
        let leader = stage.leader().await?;
        one_alone_is_asked(stage, &leader).await?;
        stage.node(&leader)?.kill_everything()?;
        stage.leader_other_than(&leader).await?;
        stage.writes_go_on().await?;
        stage.start(&leader)?;
        stage.whole().await?;
    }
    Ok(())
}

/// Commits wait for the other, and the record says that no other promise is in force any more.
async fn one_alone_is_asked(stage: &Stage, leader: &str) -> Result<()> {
    let asked = async || {
        let waits_for = stage.cluster.psql(leader, "SHOW synchronous_standby_names").await?;
        Ok(waits_for.starts_with("ANY 1") && stage.survey().await.iter().any(|sight| sight.votes))
    };
    stage.eventually("commits do not come to wait for the other alone", asked).await
}

async fn listed(stage: &Stage, names: &[&str]) -> Result<()> {
    let all = async || {
        let listed: serde_json::Value = serde_json::from_str(&etcdctl::get(&stage.cluster, "failsafe").await?)?;
        let listed: Vec<_> = listed.as_object().context("no list")?.keys().cloned().collect();
        Ok(listed == names)
    };
    stage.eventually(&format!("those who may lead without proof are not {names:?}"), all).await
}

async fn reason(stage: &Stage, node: &str) -> Result<String> {
    let why = stage.ask(node, "/why").await?;
    Ok(why["reason"]["code"].as_str().unwrap_or_default().to_owned())
}

async fn timeline(stage: &Stage, node: &str) -> Result<String> {
    stage.cluster.psql(node, "SELECT timeline_id FROM pg_control_checkpoint()").await
}
