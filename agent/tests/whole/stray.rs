//! Somebody promotes a standby by hand, `pg_ctl promote`, while another node leads. Nobody gets a commit acknowledged there, the node comes
//! back by itself, what it threw away is counted, and its timeline's number is never used again. Where nobody saw it, the number is used
//! again, and the two are told apart by where they branched off.

use std::time::Duration;

use agent::demo::processes;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::adopt::{run, text};
use crate::direct::DirectWriter;
use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

/// So many clients stick to the standby.
const CLIENTS: usize = 4;
/// So long it takes writes, as the agent stands still meanwhile.
const STRAYS_FOR: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_by_hand_acknowledges_nothing() {
    on_stage(&options(), async |stage| {
        let leader = promoted_by_hand(stage).await?;
        the_next_promotion_takes_another_number(stage, &leader).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_by_hand_acknowledges_nothing_in_async_mode_either() {
    on_stage(&options().with("durability.mode", "\"async\""), async |stage| {
        let leader = promoted_by_hand(stage).await?;
        // A failover in that mode may lose what its leader alone has.
        let alone = stage.may_be_lost_from_here(&leader).await?;
        the_next_promotion_takes_another_number(stage, &leader).await?;
        stage.may_be_lost(alone);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_another_branch_with_the_leaders_timeline_number_is_copied_anew() {
    on_stage(&options(), async |stage| {
        let old = stage.leader().await?;
        let twin = stage.standby().await?;
        stage.node(&twin)?.agent().kill();
        promote(stage, &twin)?;
        let promoted = async || Ok(stage.cluster.psql(&twin, "SELECT pg_is_in_recovery()").await? == "f");
        stage.eventually("the standby is not promoted", promoted).await?;
        is_made_a_standby_again(stage, &twin).await?;
        // As long as commits may have waited for it, nobody is promoted without it.
        let alone = async || Ok(!etcdctl::get(&stage.cluster, "sync").await?.contains(&twin));
        stage.eventually("commits still wait for the standby that is away", alone).await?;
        stage.node(&old)?.kill_everything()?;
        let new = stage.leader_other_than(&old).await?;
        stage.writes_go_on().await?;
        ensure!(new != twin && writes_timeline(stage, &new).await? == "00000002", "{new} does not write timeline 2");
        stage.say(&format!("{new} and {twin} are on a timeline 2 each"));
        stage.start(&twin)?;
        stage.start(&old)?;
        stage.whole().await?;
        let log = std::fs::read_to_string(stage.node(&twin)?.agent().log())?;
        ensure!(log.contains("action=\"clone\" reason=\"twin\""), "{twin} was not copied anew");
        Ok(())
    })
    .await;
}

/// By somebody who means well: nothing in the directory says any more that it was a primary.
async fn is_made_a_standby_again(stage: &Stage, name: &str) -> Result<()> {
    let node = stage.node(name)?;
    let (data_dir, port) = (text(&node.data_dir()), node.postgres_port());
    let options = format!("-p {port} -k {} -c listen_addresses=127.0.0.1", text(&node.socket_dir()));
    let log = text(&node.home().join("by-hand.log"));
    let stop = ["stop", "-w", "-m", "fast", "-D", &data_dir];
    run(stage, "pg_ctl", &stop).await?;
    std::fs::write(node.data_dir().join("standby.signal"), "")?;
    run(stage, "pg_ctl", &["start", "-w", "-D", &data_dir, "-o", &options, "-l", &log]).await?;
    run(stage, "pg_ctl", &stop).await
}

/// Returns the leader, which leads all the time.
async fn promoted_by_hand(stage: &Stage) -> Result<String> {
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
    ensure!(acknowledged == 0, "UNSAFE: {acknowledged} rows were acknowledged by {standby}, and are lost");
    ensure!(stage.leader().await? == leader, "{leader} does not lead any more");
    Ok(leader)
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
    let timeline = writes_timeline(stage, &new).await?;
    ensure!(timeline == "00000003", "{new} writes timeline {timeline}");
    stage.start(leader)
}

async fn writes_timeline(stage: &Stage, name: &str) -> Result<String> {
    stage.cluster.psql(name, "SELECT substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8)").await
}
