//! Replication slots of a cluster that is written to: every node that may lead has one for each other member, nobody waits for one, and whoever
//! was away goes on where it was.

use std::collections::BTreeSet;

use agent::demo::service::Service;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::promises::says;
use crate::stage::{Stage, on_stage, options};

/// The slots of a node that fulfil a condition.
pub async fn slots(stage: &Stage, node: &str, so: &str) -> Result<BTreeSet<String>> {
    let sql = format!(
        "SELECT coalesce(string_agg(slot_name, ' '), '') FROM pg_replication_slots WHERE NOT temporary AND ({so})"
    );
    Ok(stage.cluster.psql(node, &sql).await?.split_whitespace().map(str::to_owned).collect())
}

/// Waits until the slots of a node that fulfil a condition are these.
pub async fn come_to_be(stage: &Stage, node: &str, so: &str, expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    let there = async || {
        let found = slots(stage, node, so).await?;
        ensure!(found == expected, "they are {found:?}");
        Ok(true)
    };
    stage.eventually(&format!("the slots of {node} that are {so:?} are not {expected:?}"), there).await
}

fn names(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

async fn every_node_has_the_others(stage: &Stage) -> Result<()> {
    for node in stage.others("") {
        come_to_be(stage, &node, "NOT active IS NULL", &names(&stage.others(&node))).await?;
    }
    Ok(())
}

async fn streams_by_its_slot(stage: &Stage, standby: &str) -> Result<()> {
    let by = async || Ok(stage.cluster.psql(standby, "SELECT slot_name FROM pg_stat_wal_receiver").await? == standby);
    stage.eventually(&format!("{standby} does not stream by its slot"), by).await
}

/// What the leader tells of its slots.
async fn told(stage: &Stage) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let status: Value = serde_json::from_str(&etcdctl::get(&stage.cluster, "status").await?)?;
    let with_position = status["slots"].as_object().context("no positions")?.keys().cloned().collect();
    let kept = status["retain_slots"].as_array().context("none is kept")?;
    Ok((with_position, kept.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()))
}

fn inode(stage: &Stage, name: &str) -> Result<u64> {
    let found = std::fs::metadata(stage.node(name)?.data_dir());
    found.map(|found| std::os::unix::fs::MetadataExt::ino(&found)).context("it is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn members_stream_by_slots_that_are_kept_for_them_and_outlive_a_failover() {
    on_stage(&options(), async |stage| {
        every_node_has_the_others(stage).await?;
        let leader = stage.leader().await?;
        for standby in stage.others(&leader) {
            streams_by_its_slot(stage, &standby).await?;
        }
        come_to_be(stage, &leader, "active", &names(&stage.others(&leader))).await?;
        let all: BTreeSet<String> = stage.others("").into_iter().collect();
        let others: BTreeSet<String> = stage.others(&leader).into_iter().collect();
        let told_all = async || Ok(told(stage).await? == (all.clone(), others.clone()));
        stage.eventually("the leader does not tell of its slots", told_all).await?;
        // Each statement of a standby's own is read by the leader's vacuum, by way of its slot.
        stage
            .pgvigil(&leader, &["config", "set", "-y", "-p", "hot_standby_feedback=on", "-p", "wal_keep_size=0"])
            .await?;
        positions_move_on(stage, &leader).await?;
        the_absent_goes_on_where_it_was(stage).await?;
        the_next_leader_has_them(stage).await
    })
    .await;
}

async fn positions_move_on(stage: &Stage, leader: &str) -> Result<()> {
    let begin = stage.cluster.psql(leader, "SELECT pg_current_wal_flush_lsn()").await?;
    for standby in stage.others(leader) {
        let others = stage.others(&standby);
        come_to_be(stage, &standby, &format!("restart_lsn > '{begin}'"), &names(&others)).await?;
    }
    stage.say("positions move on");
    Ok(())
}

/// More WAL than anything else keeps is written while a standby is away.
async fn the_absent_goes_on_where_it_was(stage: &mut Stage) -> Result<()> {
    let (leader, absent) = (stage.leader().await?, stage.standby().await?);
    let (directory, before) =
        (inode(stage, &absent)?, stage.cluster.psql(&leader, "SELECT pg_current_wal_lsn()").await?);
    stage.node(&absent)?.kill_everything()?;
    for _ in 0..6 {
        stage.cluster.psql(&leader, "CREATE TABLE IF NOT EXISTS filler (a text)").await?;
        let fill = "INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 10000) AS i";
        stage.cluster.psql(&leader, fill).await?;
        stage.cluster.psql(&leader, "SELECT pg_switch_wal()").await?;
        stage.cluster.psql(&leader, "CHECKPOINT").await?;
    }
    let kept = format!("NOT active AND restart_lsn < '{before}'::pg_lsn + 1000000 AND wal_status <> 'lost'");
    come_to_be(stage, &leader, &kept, &[&absent]).await?;
    let (_, retained) = told(stage).await?;
    ensure!(retained.contains(&absent), "the others do not know that the slot is kept: {retained:?}");
    stage.start(&absent)?;
    stage.whole().await?;
    ensure!(inode(stage, &absent)? == directory, "{absent} was copied anew");
    streams_by_its_slot(stage, &absent).await?;
    stage.say("the absent goes on where it was");
    Ok(())
}

async fn the_next_leader_has_them(stage: &mut Stage) -> Result<()> {
    let old = stage.leader().await?;
    every_node_has_the_others(stage).await?;
    stage.node(&old)?.kill_everything()?;
    let new = stage.leader_other_than(&old).await?;
    let third = stage.others(&old).into_iter().find(|name| *name != new).context("there is a third")?;
    ensure!(
        slots(stage, &new, "true").await? == [old.clone(), third.clone()].into(),
        "the slots were not there beforehand"
    );
    streams_by_its_slot(stage, &third).await?;
    stage.start(&old)?;
    stage.whole().await?;
    streams_by_its_slot(stage, &old).await?;
    every_node_has_the_others(stage).await?;
    // What the old leader's slots keep of dead rows would be kept by the new one as well.
    come_to_be(stage, &old, "NOT active AND xmin IS NULL", &[&new, &third]).await?;
    stage.say("the next leader has them");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_slots_are_wherever_somebody_may_lead_and_move_on_without_etcd() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let [standby, barred] =
            <[String; 2]>::try_from(stage.others(&leader)).ok().context("there are two standbys")?;
        stage.stop(&barred).await?;
        let config = stage.node(&barred)?.config().to_owned();
        std::fs::write(&config, format!("{}tags.nofailover = true\n", std::fs::read_to_string(&config)?))?;
        stage.start(&barred)?;
        stage.cluster.psql(&leader, "SELECT pg_create_physical_replication_slot('backup', true)").await?;
        stage.pgvigil(&leader, &["config", "set", "-y", "slots.permanent.dr=physical"]).await?;
        for node in [&leader, &standby] {
            come_to_be(stage, node, "slot_name = 'dr'", &["dr"]).await?;
        }
        consumed(stage, &leader, &standby).await?;
        stage.cluster.etcd().iter().for_each(Service::kill);
        says(stage, &leader, "leading_on_promises").await?;
        consumed(stage, &leader, &standby).await?;
        stage.say("slots move on without etcd");
        stage.cluster.etcd().iter().try_for_each(Service::start)?;
        says(stage, &leader, "leading").await?;
        stage.writes_go_on().await?;
        stage.pgvigil(&leader, &["switchover", "--to", &standby, "-y"]).await?;
        stage.leader_other_than(&leader).await?;
        come_to_be(stage, &standby, "slot_name = 'dr'", &["dr"]).await?;
        come_to_be(stage, &leader, "slot_name IN ('backup', 'dr')", &["backup", "dr"]).await?;
        is_shown(stage, &standby).await?;
        // Who never leads keeps nothing for anybody: what it made before it was barred goes after a minute.
        come_to_be(stage, &barred, "true", &[]).await?;
        std::fs::write(&config, std::fs::read_to_string(&config)?.replace("tags.nofailover = true\n", ""))?;
        stage.stop(&barred).await?;
        stage.start(&barred)
    })
    .await;
}

/// What takes WAL by the permanent slot has come to this position, and so do the slots of whoever may lead next.
async fn consumed(stage: &Stage, leader: &str, standby: &str) -> Result<()> {
    let end = stage.cluster.psql(leader, "SELECT pg_current_wal_flush_lsn()").await?;
    stage.cluster.psql(leader, &format!("SELECT pg_replication_slot_advance('dr', '{end}')")).await?;
    come_to_be(stage, standby, &format!("slot_name = 'dr' AND restart_lsn = '{end}'"), &["dr"]).await?;
    let others = stage.others(standby);
    come_to_be(stage, standby, &format!("slot_name <> 'dr' AND restart_lsn >= '{end}'"), &names(&others)).await
}

async fn is_shown(stage: &Stage, node: &str) -> Result<()> {
    let shown = async || {
        let status: Value = serde_json::from_str(&stage.pgvigil(node, &["status", "-o", "json"]).await?)?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let slots = members.iter().find(|member| member["name"] == node).map(|member| member["slots"].clone());
        let shown = slots.as_ref().and_then(Value::as_array).context("none is shown")?;
        let dr = shown.iter().find(|slot| slot["name"] == "dr").context("it is not shown")?;
        Ok(dr["made_for"] == "permanent" && dr["retained_bytes"].is_u64() && dr["active"] == false)
    };
    stage.eventually("status does not show the slots", shown).await?;
    let metrics = crate::http::ask(stage.node(node)?, "GET", "/metrics").await?.body;
    ensure!(metrics.contains("pgvigil_slot_retained_bytes{"), "no metric tells what slots keep");
    Ok(())
}
