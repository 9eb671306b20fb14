//! Somebody promotes a standby by hand, `pg_ctl promote`, while another node leads. Nobody gets a commit acknowledged there, the node comes
//! back by itself, what it threw away is counted, and its timeline's number is never used again.

use std::time::Duration;

use agent::demo::processes;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::direct::DirectWriter;
use crate::stage::{Stage, on_stage, options};

/// So many clients stick to the standby.
const CLIENTS: usize = 4;
/// So long it takes writes, as the agent stands still meanwhile.
const STRAYS_FOR: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_by_hand_acknowledges_nothing() {
    on_stage(&options(), promoted_by_hand).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_by_hand_acknowledges_nothing_in_async_mode_either() {
    on_stage(&options().with("durability.mode", "\"async\""), promoted_by_hand).await;
}

async fn promoted_by_hand(stage: &mut Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let standby = stage.standby().await?;
    let node = stage.node(&standby)?;
    let clients: Vec<_> = (0..CLIENTS).map(|_| DirectWriter::start(node.postgres_port())).collect();
    node.agent().freeze()?;
    promote(stage, &standby)?;
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waits = async || Ok(stage.cluster.psql(&standby, waits).await? == "t");
    let waits = stage.eventually("no commit waits on the standby that was promoted by hand", waits).await;
    tokio::time::sleep(STRAYS_FOR).await;
    stage.node(&standby)?.agent().thaw()?;
    waits?;
    stage.say(&format!("{standby} was promoted by hand beside {leader}"));
    is_counted(stage, &leader, &standby).await?;
    stage.whole().await?;
    let acknowledged: usize = clients.into_iter().map(|client| client.stop().len()).sum();
    ensure!(acknowledged == 0, "{acknowledged} rows were acknowledged by {standby}, and are lost");
    ensure!(stage.leader().await? == leader, "{leader} does not lead any more");
    the_next_promotion_takes_another_number(stage, &leader).await
}

fn promote(stage: &Stage, name: &str) -> Result<()> {
    let node = stage.node(name)?;
    std::fs::write(node.data_dir().join("promote"), "").context("the promote file")?;
    let postmaster = node.postmaster_pid().context("Postgres does not run")?;
    processes::signal(postmaster, Signal::SIGUSR1);
    Ok(())
}

async fn is_counted(stage: &Stage, leader: &str, standby: &str) -> Result<()> {
    let counted = async || {
        let records = stage.transitions(leader).await?;
        let record = records.iter().rev().find(|record| record["kind"] == "discard").context("there is no record")?;
        let discarded = record["discarded"][0].clone();
        ensure!(record["timeline_before"] == 2 && discarded["member"] == standby, "{record}");
        Ok(discarded["transactions"].as_u64() > Some(0) && discarded["bytes"].as_u64() > Some(0))
    };
    stage.eventually("what was thrown away is not on record", counted).await
}

async fn the_next_promotion_takes_another_number(stage: &Stage, leader: &str) -> Result<()> {
    stage.node(leader)?.kill_everything()?;
    let new = stage.leader_other_than(leader).await?;
    let timeline = "SELECT substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8)";
    let timeline = stage.cluster.psql(&new, timeline).await?;
    ensure!(timeline == "00000003", "{new} writes timeline {timeline}");
    stage.start(leader)
}
