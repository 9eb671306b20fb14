//! What each node is for: who streams from another standby or from an archive, who is ranked first, who never leads, votes or serves reads, and in
//! which zone it is. A client writes meanwhile and loses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use agent::demo::cluster::ClusterOptions;
use agent::demo::session::Session;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http;
use crate::stage::{Stage, on_empty_stage, options};

/// One etcd member says as much here as three.
pub fn four_nodes() -> ClusterOptions {
    ClusterOptions { nodes: 4, etcd_members: 1, ..options() }
}

/// `n4` streams from `n3`. The upstream dies, comes back, comes to lead.
#[tokio::test(flavor = "multi_thread")]
async fn a_cascaded_node_falls_back_goes_back_and_is_never_waited_for() {
    on_empty_stage(&four_nodes(), async |stage| {
        stage.set("n4", "tags.replicatefrom", "\"n3\"")?;
        forms(stage, "n1").await?;
        streams(stage, "n4", "n3").await?;
        why(stage, "n4", "cascades").await?;
        votes(stage, &["n2", "n3"]).await?;
        slot_of(stage, "n4", "n3", "t").await?;
        slot_of(stage, "n4", "n1", "").await?;
        let listed = stage.ask("n1", "/cluster").await?.to_string();
        ensure!(listed.contains("\"replicatefrom\":\"n3\""), "{listed}");
        stage.say("its upstream dies");
        stage.node("n3")?.kill_everything()?;
        streams(stage, "n4", "n1").await?;
        why(stage, "n4", "fallen_back").await?;
        stage.writes_go_on().await?;
        stage.say("its upstream is back");
        stage.start("n3")?;
        streams(stage, "n4", "n3").await?;
        stage.say("its upstream comes to lead, and its leader dies");
        stage.pgvigil("n1", &["switchover", "--to", "n3", "-y"]).await?;
        streams(stage, "n4", "n3").await?;
        votes(stage, &["n1", "n2"]).await?;
        stage.pgvigil("n1", &["switchover", "--to", "n1", "-y"]).await?;
        streams(stage, "n3", "n1").await?;
        why(stage, "n4", "cascades").await?;
        stage.node("n1")?.kill_everything()?;
        let leader = stage.leader_other_than("n1").await?;
        ensure!(leader != "n4", "the one that is behind another leads");
        stage.start("n1")?;
        stage.say("it is asked to lead itself");
        stage.eventually("n1 does not come back", async || is_streaming(stage, "n1").await).await?;
        stage.pgvigil(&leader, &["switchover", "--to", "n4", "-y"]).await?;
        ensure!(stage.leader().await? == "n4", "n4 does not lead");
        stage.ends_well().await
    })
    .await;
}

/// `n2` ranks above `n3`, which comes later; `n3` neither votes nor serves reads; `n4` never leads, and takes its WAL from an archive.
#[tokio::test(flavor = "multi_thread")]
async fn tags_change_what_a_node_is_wherever_they_ought_to() {
    on_empty_stage(&four_nodes(), async |stage| {
        let archive = stage.cluster.make_directory("archive")?;
        for node in ["n1", "n2", "n3", "n4"] {
            stage.set(node, "postgres.parameters.archive_mode", "\"on\"")?;
            let copy = format!("\"cp %p {}/%f\"", archive.display());
            stage.set(node, "postgres.parameters.archive_command", &copy)?;
            stage.set(node, "postgres.parameters.archive_timeout", "\"1s\"")?;
        }
        stage.set("n3", "tags.nosync", "true")?;
        stage.set("n3", "tags.noloadbalance", "true")?;
        stage.set("n4", "tags.nostream", "true")?;
        let fetch = format!("\"cp {}/%f %p\"", archive.display());
        stage.set("n4", "postgres.parameters.restore_command", &fetch)?;
        forms(stage, "n1").await?;
        nobody_waits_for_who_does_not_vote(stage).await?;
        one_is_fed_by_the_archive(stage).await?;
        among_equals_priority_decides(stage).await?;
        who_never_leads_is_not_switched_over_to(stage).await?;
        for (node, key) in [("n4", "tags.nostream"), ("n3", "tags.nosync")] {
            stage.set(node, key, "false")?;
            stage.stop(node).await?;
            stage.start(node)?;
        }
        stage.ends_well().await
    })
    .await;
}

async fn nobody_waits_for_who_does_not_vote(stage: &Stage) -> Result<()> {
    votes(stage, &["n2"]).await?;
    for (node, path, status) in [
        ("n3", "/quorum", 503),
        ("n3", "/replica", 503),
        ("n3", "/health", 200),
        ("n2", "/sync", 200),
        ("n2", "/replica", 200),
    ] {
        let says = async || Ok(http::ask(stage.node(node)?, "GET", path).await?.status == status);
        stage.eventually(&format!("{node} does not answer {status} on {path}"), says).await?;
    }
    Ok(())
}

async fn one_is_fed_by_the_archive(stage: &Stage) -> Result<()> {
    let rows = i64::try_from(stage.rows()?)?;
    let there = async || {
        let session = stage.cluster.connect("n4").await?;
        Ok(session.query_one("SELECT count(*) FROM rows", &[]).await?.get::<_, i64>(0) >= rows)
    };
    stage.eventually("the archive does not reach n4", there).await?;
    let says = stage.ask("n4", "/patroni").await?;
    ensure!(says["replication_state"] == "in archive recovery" && says["tags"]["nostream"] == true, "{says}");
    why(stage, "n4", "from_archive").await?;
    let senders = stage.cluster.psql("n1", "SELECT count(*) FROM pg_stat_replication").await?;
    ensure!(senders == "2", "{senders} nodes stream");
    ensure!(bars(&stage.ask("n1", "/why").await?, "n4") == ["from_archive"], "why does not tell");
    Ok(())
}

async fn among_equals_priority_decides(stage: &Stage) -> Result<()> {
    stage.set("n3", "tags.nosync", "false")?;
    stage.set("n3", "tags.failover_priority", "2")?;
    let said = stage.pgvigil("n1", &["reload", "n3"]).await?;
    ensure!(said.contains("in force now: tags"), "{said}");
    votes(stage, &["n2", "n3"]).await?;
    let _rest = nobody_writes(stage, "n1").await?;
    stage.pgvigil("n1", &["switchover", "-y"]).await?;
    let leader = stage.leader_other_than("n1").await?;
    ensure!(leader == "n3", "{leader} leads, and n3 ranks above it");
    stage.pgvigil("n3", &["switchover", "--to", "n1", "-y"]).await.map(drop)
}

async fn who_never_leads_is_not_switched_over_to(stage: &Stage) -> Result<()> {
    let output = stage.cluster.pgvigil("n1", &["switchover", "--to", "n4", "-y"]).await?;
    ensure!(output.status.code() == Some(3), "{}", output.status);
    ensure!(stage.leader().await? == "n1", "somebody else leads");
    Ok(())
}

/// Two nodes in each of two zones.
#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_another_zone_and_a_zone_that_is_preferred_leads() {
    on_empty_stage(&four_nodes(), async |stage| {
        for (node, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b")] {
            stage.set(node, "zone", &format!("{zone:?}"))?;
        }
        forms(stage, "n1").await?;
        stage.pgvigil("n1", &["config", "set", "durability.other_zone=true", "failover.prefer_zone=b", "-y"]).await?;
        votes(stage, &["n3", "n4"]).await?;
        stage.say("the other zone is lost");
        stage.node("n3")?.kill_everything()?;
        stage.node("n4")?.kill_everything()?;
        votes(stage, &["n2"]).await?;
        stage.writes_go_on().await?;
        stage.start("n3")?;
        stage.start("n4")?;
        votes(stage, &["n3", "n4"]).await?;
        let rest = nobody_writes(stage, "n1").await?;
        stage.pgvigil("n1", &["switchover", "-y"]).await?;
        drop(rest);
        let leader = stage.leader_other_than("n1").await?;
        ensure!(["n3", "n4"].contains(&leader.as_str()), "{leader} leads, in a zone that is not preferred");
        votes(stage, &["n1", "n2"]).await?;
        let status: Value = serde_json::from_str(&stage.pgvigil("n1", &["status", "-o", "json"]).await?)?;
        ensure!(status["members"][0]["zone"] == "a", "{status}");
        stage.pgvigil("n1", &["config", "set", "durability.other_zone=false", "-y"]).await?;
        stage.ends_well().await
    })
    .await;
}

/// All standbys come to be level: which of them has more would decide otherwise. The writer goes on with the next leader.
async fn nobody_writes(stage: &Stage, leader: &str) -> Result<Session> {
    let session = stage.cluster.connect(leader).await?;
    session.batch_execute("BEGIN; LOCK TABLE rows IN ACCESS EXCLUSIVE MODE").await?;
    let level = "SELECT bool_and(replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication";
    stage
        .eventually("the standbys do not catch up", async || Ok(stage.cluster.psql(leader, level).await? == "t"))
        .await?;
    // The agents see it a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(session)
}

/// Starts with `first` alone, so that it leads, and begins to write when the others are there.
pub async fn forms(stage: &mut Stage, first: &str) -> Result<()> {
    stage.cluster.start_etcd().await?;
    stage.cluster.start_proxy()?;
    stage.start(first)?;
    let leads = async || Ok(stage.survey().await.iter().any(|sight| sight.name == first && sight.writable));
    stage.eventually("nobody leads", leads).await?;
    for name in stage.others(first) {
        stage.start(&name)?;
    }
    for name in stage.others(first) {
        stage.eventually("a standby does not come up", async || is_up(stage, &name).await).await?;
    }
    // Each that joins changes whom commits wait for.
    stage.eventually("nobody leads who has all of them", async || Ok(stage.leader().await? == first)).await?;
    stage.begins_to_write_now().await
}

async fn is_up(stage: &Stage, name: &str) -> Result<bool> {
    Ok(stage.ask(name, "/patroni").await?["state"] == "running")
}

async fn is_streaming(stage: &Stage, name: &str) -> Result<bool> {
    Ok(stage.ask(name, "/patroni").await?["replication_state"] == "streaming")
}

pub async fn streams(stage: &Stage, name: &str, from: &str) -> Result<()> {
    let so = async || {
        let beat = stage.ask(name, "/beat").await?;
        Ok(beat["streams_from"] == from && is_streaming(stage, name).await?)
    };
    stage.eventually(&format!("{name} does not stream from {from}"), so).await
}

/// Waits until a node has the slot of a member, and that is used (`t`) or not (`f`), or has none (nothing).
async fn slot_of(stage: &Stage, member: &str, on: &str, active: &str) -> Result<()> {
    let ask = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{member}'");
    let so = async || Ok(stage.cluster.psql(on, &ask).await? == active);
    stage.eventually(&format!("the slot of {member} on {on} is not \"{active}\""), so).await
}

async fn why(stage: &Stage, name: &str, code: &str) -> Result<()> {
    let told = async || Ok(stage.ask(name, "/why").await?["reason"]["code"] == code);
    stage.eventually(&format!("{name} does not say {code}"), told).await
}

fn bars(why: &Value, member: &str) -> Vec<String> {
    let standings = why["standings"].as_array().cloned().unwrap_or_default();
    let bars = standings.iter().filter(|standing| standing["member"] == member).flat_map(|it| it["bars"].as_array());
    bars.flatten().filter_map(|bar| bar["code"].as_str().map(str::to_owned)).collect()
}

/// Waits until commits wait for these and nobody else, as the record in etcd has it.
async fn votes(stage: &Stage, expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    stage.eventually(&format!("not {expected:?} vote"), async || Ok(voters(stage).await? == expected)).await
}

/// Whom commits wait for, as the record in etcd has it last.
async fn voters(stage: &Stage) -> Result<BTreeSet<String>> {
    let sync: Value = serde_json::from_str(&crate::etcdctl::get(&stage.cluster, "sync").await?)?;
    let last = sync["policies"].as_array().and_then(|policies| policies.last()).context("a record")?;
    Ok(last["voters"].as_array().into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect())
}
