//! The disk of a leader fails while its peers' promises are all that lets it lead. It asks for no more, nobody leads while one of them runs, and
//! the voters take over as soon as they are free and etcd is there, though the old leader is still around. Without root there is no such disk.

use std::time::{Duration, Instant};

use agent::demo::service::Service;
use anyhow::{Result, ensure};

use crate::direct::DirectWriter;
use crate::http;
use crate::promises::{keeps_a_promise, leader_alone_loses_etcd, nobody_is_primary, says};
use crate::stage::{SOON, Stage, on_empty_stage, options};
use crate::volume::{Fault, Volume};

/// Who leads, and whose disk fails.
const LEADER: &str = "n1";
const TTL: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_a_leader_whose_disk_freezes_asks_no_more_and_is_replaced_when_etcd_is_back() {
    all_of_etcd_is_stopped_and_the_disk_fails(Fault::Frozen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_a_leader_whose_disk_is_read_only_asks_no_more_and_is_replaced_when_etcd_is_back() {
    all_of_etcd_is_stopped_and_the_disk_fails(Fault::ReadOnly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_alone_lost_etcd_and_whose_disk_freezes_is_replaced_when_its_promises_end() {
    on_empty_stage(&options(), async |stage| {
        if !leads_on_a_disk(stage).await? {
            return Ok(());
        }
        let sticking = sticks_to_the_leader(stage).await?;
        let links = leader_alone_loses_etcd(stage, LEADER).await?;
        stage.disks[0].fail(Fault::Frozen)?;
        let froze = Instant::now();
        stage.say("its disk freezes");
        let new = replaced_by_whoever_is_free(stage).await?;
        stage.say(&format!("{new} leads after {} ms", froze.elapsed().as_millis()));
        stage.writes_go_on().await?;
        is_good_again(stage, Fault::Frozen)?;
        links.mend();
        stage.must_also_be_there(sticking.stop());
        stage.ends_well().await
    })
    .await;
}

/// Stopped, and not killed: when etcd goes on, the leases are over and nobody holds the lock.
async fn all_of_etcd_is_stopped_and_the_disk_fails(fault: Fault) {
    on_empty_stage(&options(), async |stage| {
        if !leads_on_a_disk(stage).await? {
            return Ok(());
        }
        let voters = stage.others(LEADER);
        let sticking = sticks_to_the_leader(stage).await?;
        stage.cluster.etcd().iter().try_for_each(Service::freeze)?;
        says(stage, LEADER, "leading_on_promises").await?;
        stage.disks[0].fail(fault)?;
        stage.say(&format!("its disk: {fault:?}"));
        promises_run_out(stage, &voters).await?;
        stage.say("its promises have ended");
        let answer = http::ask(stage.node(LEADER)?, "GET", "/primary").await?;
        ensure!(answer.status == 503, "it is primary beyond its promises");
        let rows = (stage.rows()?, sticking.count());
        let until = Instant::now() + TTL;
        while Instant::now() < until {
            nobody_is_primary(stage, &voters).await?;
            ensure!(!is_promised(stage, &voters).await?, "it asks again");
            tokio::time::sleep(POLL).await;
        }
        ensure!((stage.rows()?, sticking.count()) == rows, "somebody takes writes without etcd and without promises");
        stage.cluster.etcd().iter().try_for_each(Service::thaw)?;
        stage.say("etcd is back");
        let new = stage.leader_other_than(LEADER).await?;
        stage.say(&format!("{new} leads"));
        stage.writes_go_on().await?;
        is_good_again(stage, fault)?;
        stage.must_also_be_there(sticking.stop());
        stage.ends_well().await
    })
    .await;
}

/// The first node leads, and all that it has is on a disk of its own; false: there is none to be had.
async fn leads_on_a_disk(stage: &mut Stage) -> Result<bool> {
    let Some(disk) = Volume::under(stage.node(LEADER)?)? else { return Ok(false) };
    stage.disks.push(disk);
    stage.cluster.start_etcd().await?;
    stage.start(LEADER)?;
    stage.leader().await?;
    stage.others(LEADER).iter().try_for_each(|name| stage.start(name))?;
    stage.cluster.start_proxy()?;
    stage.begins_to_write().await?;
    stage.say("formed");
    ensure!(stage.leader().await? == LEADER, "another leads");
    Ok(true)
}

/// A client that goes on writing where the leader was, whoever leads.
async fn sticks_to_the_leader(stage: &Stage) -> Result<DirectWriter> {
    let sticking = DirectWriter::start(stage.node(LEADER)?.postgres_port());
    stage.eventually("the other client gets nothing acknowledged", async || Ok(sticking.count() > 10)).await?;
    Ok(sticking)
}

fn is_good_again(stage: &Stage, fault: Fault) -> Result<()> {
    let taken_out = matches!(fault, Fault::ReadOnly);
    if taken_out {
        stage.node(LEADER)?.kill_everything()?;
    }
    stage.disks[0].mend(fault)?;
    stage.say("its disk is good again");
    if taken_out { stage.start(LEADER) } else { Ok(()) }
}

async fn is_promised(stage: &Stage, voters: &[String]) -> Result<bool> {
    for voter in voters {
        if keeps_a_promise(stage, voter).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn promises_run_out(stage: &Stage, voters: &[String]) -> Result<()> {
    let begin = Instant::now();
    while is_promised(stage, voters).await? {
        nobody_is_primary(stage, voters).await?;
        ensure!(begin.elapsed() < SOON, "it asks for ever");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Waits until a voter takes writes, and makes sure that no voter is bound by a promise then: nobody gives a new one from there on.
async fn replaced_by_whoever_is_free(stage: &Stage) -> Result<String> {
    let new = stage.leader_other_than(LEADER).await?;
    ensure!(!is_promised(stage, &stage.others(LEADER)).await?, "{new} leads although a promise runs");
    Ok(new)
}
