//! A logical slot that outlives its leader on any version of Postgres: it is copied to whoever may lead next when a Postgres is started, follows the
//! leader's, and whoever reads by it misses no change.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agent::demo::cluster::ClusterOptions;
use agent::demo::programs;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::roles::{forms, four_nodes, streams};
use crate::slots::come_to_be;
use crate::stage::{SOON, Stage, on_empty_stage, on_stage, options};

/// Slots are looked at every ten seconds: a node that led a moment ago finds only then that its slot is a copy, which is to become ready again.
const LOOKED_AT_WITHIN: Duration = Duration::from_secs(12);

/// What the slot is, in `slots.permanent`.
const CDC: &str = "slots.permanent.cdc=logical:postgres:test_decoding";

/// From 17 on Postgres takes them over by itself, unless it is told not to.
fn by_copies(options: ClusterOptions) -> ClusterOptions {
    let options = options.with("postgres.parameters.wal_level", "\"logical\"");
    match programs::postgres(options.bin_dir.as_deref()) {
        Ok(found) if found.version >= pg_control::native::SINCE => {
            options.with("postgres.parameters.sync_replication_slots", "\"off\"")
        }
        Ok(_) | Err(_) => options,
    }
}

/// Whether this Postgres has the plugin whose changes these plays read: a build without contrib has not.
fn has_the_plugin() -> bool {
    let library = programs::postgres(None).ok().and_then(|found| {
        let told = Command::new(found.bin_dir.join("pg_config")).arg("--pkglibdir").output().ok()?;
        Some(Path::new(String::from_utf8(told.stdout).ok()?.trim()).join("test_decoding.so"))
    });
    let here = library.is_none_or(|library| library.is_file());
    if !here {
        eprintln!("SKIPPED: this PostgreSQL has no test_decoding");
    }
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logical_slot_is_copied_follows_and_misses_no_change_over_a_switchover_and_a_failover() {
    if !has_the_plugin() {
        return;
    }
    on_stage(&by_copies(options()), async |stage| {
        let leader = stage.leader().await?;
        stage.cluster.psql(&leader, "CREATE TABLE changes (id int PRIMARY KEY)").await?;
        stage.pgvigil(&leader, &["config", "set", "-y", CDC]).await?;
        come_to_be(stage, &leader, "slot_type = 'logical' AND database = 'postgres'", &["cdc"]).await?;
        let standbys = stage.others(&leader);
        let told = async || {
            Ok(stage.pgvigil(&leader, &["status"]).await?.contains(&format!("pgvigil restart {}", standbys[0])))
        };
        stage.eventually("status does not say that a restart is needed", told).await?;
        for standby in &standbys {
            stage.pgvigil(&leader, &["restart", standby, "-y"]).await?;
            come_to_be(stage, standby, "slot_type = 'logical'", &["cdc"]).await?;
        }
        stage.whole().await?;
        stage.say("copied");
        let mut seen = BTreeSet::new();
        let mut written = 0;
        for turn in 0..2 {
            let leader = stage.leader().await?;
            written = write(stage, &leader, written).await?;
            read(stage, &leader, &mut seen).await?;
            ensure!(seen.len() == written, "{} of {written} changes were read", seen.len());
            let others = stage.others(&leader);
            are_ready(stage, &leader, &others, &mut seen, &mut written).await?;
            stage.say("ready");
            let next = standbys.iter().chain(&others).filter(|name| **name != leader).nth(turn).unwrap_or(&others[0]);
            written = write(stage, &leader, written).await?;
            if turn == 0 {
                stage.pgvigil(&leader, &["switchover", "--to", next, "-y"]).await?;
            } else {
                stage.node(&leader)?.kill_everything()?;
            }
            let new = stage.leader_other_than(&leader).await?;
            read(stage, &new, &mut seen).await?;
            ensure!(seen.len() == written, "{} of {written} changes were read after {new} came to lead", seen.len());
            stage.say(&format!("{new} leads, and no change is missing"));
            if turn == 1 {
                stage.start(&leader)?;
            }
            stage.whole().await?;
            come_to_be(stage, &leader, "slot_type = 'logical'", &["cdc"]).await?;
        }
        Ok(())
    })
    .await;
}

/// A few more rows, each in its own transaction.
async fn write(stage: &Stage, leader: &str, from: usize) -> Result<usize> {
    for id in from + 1..=from + 5 {
        stage.cluster.psql(leader, &format!("INSERT INTO changes VALUES ({id})")).await?;
    }
    Ok(from + 5)
}

/// Reads what the slot has, as change data capture does: what was read once may come again.
async fn read(stage: &Stage, leader: &str, seen: &mut BTreeSet<usize>) -> Result<()> {
    let sql = "SELECT coalesce(string_agg(substring(data from 'id\\[integer\\]:(\\d+)'), ' '), '') FROM pg_logical_slot_get_changes('cdc', NULL, NULL)";
    for id in stage.cluster.psql(leader, sql).await?.split_whitespace() {
        seen.insert(id.parse().context("a number")?);
    }
    Ok(())
}

/// Waits until these standbys have a copy that is ready, and as far as the leader's slot was read. Whoever reads goes on meanwhile, and checkpoints
/// tell who runs a transaction, by which a slot moves on: Postgres by itself tells it once in fifteen seconds, and three are needed.
async fn are_ready(
    stage: &Stage,
    leader: &str,
    standbys: &[String],
    seen: &mut BTreeSet<usize>,
    written: &mut usize,
) -> Result<()> {
    let (begin, mut so_since) = (Instant::now(), Instant::now());
    loop {
        *written = write(stage, leader, *written).await?;
        stage.cluster.psql(leader, "CHECKPOINT").await?;
        read(stage, leader, seen).await?;
        let mut all = true;
        for standby in standbys {
            all &= copy_on(stage, standby).await.is_ok_and(|cdc| cdc["made_for"] == "permanent");
        }
        if !all {
            so_since = Instant::now();
        } else if so_since.elapsed() > LOOKED_AT_WITHIN {
            break;
        }
        ensure!(begin.elapsed() < SOON * 3, "the copies are not ready");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'cdc'";
    let confirmed = stage.cluster.psql(leader, confirmed).await?;
    for standby in standbys {
        let level = async || Ok(copy_on(stage, standby).await?["confirmed_flush_lsn"] == confirmed.as_str());
        stage.eventually(&format!("the copy on {standby} is not at {confirmed}"), level).await?;
    }
    Ok(())
}

async fn copy_on(stage: &Stage, standby: &str) -> Result<Value> {
    let told = stage.ask(standby, "/slots").await?;
    let slots = told["slots"].as_array().context("no slots")?;
    slots.iter().find(|slot| slot["name"] == "cdc").cloned().context("no slot cdc")
}

/// `n4` streams from `n2`, which never leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_another_standby_has_its_copy_from_the_leader_and_who_never_leads_has_none() {
    if !has_the_plugin() {
        return;
    }
    on_empty_stage(&by_copies(four_nodes()), async |stage| {
        stage.set("n2", "tags.nofailover", "true")?;
        stage.set("n4", "tags.replicatefrom", "\"n2\"")?;
        forms(stage, "n1").await?;
        streams(stage, "n4", "n2").await?;
        stage.cluster.psql("n1", "CREATE TABLE changes (id int PRIMARY KEY)").await?;
        stage.pgvigil("n1", &["config", "set", "-y", CDC]).await?;
        come_to_be(stage, "n1", "slot_type = 'logical'", &["cdc"]).await?;
        for standby in ["n3", "n4"] {
            stage.pgvigil("n1", &["restart", standby, "-y"]).await?;
            come_to_be(stage, standby, "slot_type = 'logical'", &["cdc"]).await?;
        }
        stage.pgvigil("n1", &["restart", "n2", "-y"]).await?;
        streams(stage, "n4", "n2").await?;
        let standbys = ["n3", "n4"].map(str::to_owned);
        are_ready(stage, "n1", &standbys, &mut BTreeSet::new(), &mut 0).await?;
        come_to_be(stage, "n2", "slot_type = 'logical'", &[]).await?;
        stage.writes_go_on().await
    })
    .await;
}
