//! What the fencer is for: an agent that is killed and kept dead, or frozen, on the primary. Its Postgres is dead before anybody else
//! leads, in `async` mode too, where no quorum would stop it; and a fencer that dies itself is replaced without anybody noticing.

use std::time::{Duration, Instant};

use agent::demo::processes;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::direct::DirectWriter;
use crate::http;
use crate::stage::{Stage, on_empty_stage, on_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_and_kept_dead_leaves_no_second_primary_in_async_mode() {
    let options = options().with("durability.mode", "\"async\"").with("durability.max_lag_on_failover", "\"1GB\"");
    on_stage(&options, async |stage| {
        let old = stage.leader().await?;
        no_second_primary(stage, &old, Fault::Killed).await?;
        stage.start(&old)?;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_leaves_no_second_primary_in_async_mode_and_returns_when_it_wakes() {
    let options = options().with("durability.mode", "\"async\"").with("durability.max_lag_on_failover", "\"1GB\"");
    on_stage(&options, async |stage| {
        let old = stage.leader().await?;
        no_second_primary(stage, &old, Fault::Frozen).await?;
        stage.node(&old)?.agent().thaw()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_and_kept_dead_loses_nothing_in_quorum_mode() {
    on_stage(&options(), async |stage| {
        let old = stage.leader().await?;
        no_second_primary(stage, &old, Fault::Killed).await?;
        stage.start(&old)?;
        Ok(())
    })
    .await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
}

/// A client sticks to the old leader and takes whatever that acknowledges.
async fn no_second_primary(stage: &mut Stage, old: &str, fault: Fault) -> Result<()> {
    let sticking = DirectWriter::start(stage.node(old)?.postgres_port());
    stage.eventually("the client at the leader gets nothing acknowledged", async || Ok(sticking.count() > 10)).await?;
    let asynchronous = stage.votes_nowhere();
    let begin = if asynchronous { stage.may_be_lost_from_here(old).await? } else { Instant::now() };
    match fault {
        Fault::Killed => stage.node(old)?.agent().kill(),
        Fault::Frozen => stage.node(old)?.agent().freeze()?,
    }
    let struck = Instant::now();
    let data_dir = stage.node(old)?.data_dir();
    let new = leads_beside(stage, old).await?;
    let leads = Instant::now();
    ensure!(processes::of_server(&data_dir).is_empty(), "{new} leads, and Postgres of {old} is alive");
    stage.say(&format!("{new} leads {:.1} s after the agent of {old} was {fault:?}", (leads - struck).as_secs_f64()));
    stage.writes_go_on().await?;
    let rows = sticking.stop();
    let last = rows.last().context("it got rows")?;
    ensure!(last.at < leads, "UNSAFE: the old leader has acknowledged a row after the new one led");
    stage.say(&format!("its last row was acknowledged {:.1} s before that", (leads - last.at).as_secs_f64()));
    if asynchronous {
        stage.may_be_lost(begin);
    }
    stage.must_also_be_there(rows);
    Ok(())
}

/// Waits until another node accepts writes. A frozen agent answers nobody, so only the others are asked.
async fn leads_beside(stage: &Stage, old: &str) -> Result<String> {
    let begin = Instant::now();
    loop {
        for name in stage.others(old) {
            if http::ask(stage.node(&name)?, "GET", "/primary").await.is_ok_and(|answer| answer.status == 200) {
                return Ok(name);
            }
        }
        ensure!(begin.elapsed() < Duration::from_secs(60), "nobody else leads");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fencer_that_dies_or_hangs_is_replaced_and_outlives_its_agents() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let term = stage.ask(&leader, "/beat").await?["term"].clone();
        let begin = Instant::now();
        let postmaster = stage.node(&leader)?.postmaster_pid();
        let first = fencer_of(stage, &leader)?.context("a leader has a fencer")?;
        processes::signal(first, Signal::SIGKILL);
        let second = another_fencer(stage, &leader, first).await?;
        processes::signal(second, Signal::SIGSTOP);
        let third = another_fencer(stage, &leader, second).await?;
        stage.say(&format!("fencer {first} was killed, {second} frozen, {third} stands guard"));
        stage.node(&leader)?.agent().kill();
        stage.start(&leader)?;
        stage.whole().await?;
        stage.writes_go_on().await?;
        ensure!(fencer_of(stage, &leader)? == Some(third), "the next agent has not adopted the fencer");
        ensure!(stage.node(&leader)?.postmaster_pid() == postmaster, "Postgres was restarted");
        ensure!(stage.ask(&leader, "/beat").await?["term"] == term, "the term has changed");
        let silence = stage.silence_since(begin)?;
        stage.say(&format!("{} ms without writes", silence.as_millis()));
        // It fences for the next agent as it would have for the first.
        no_second_primary(stage, &leader, Fault::Killed).await?;
        stage.start(&leader)
    })
    .await;
}

/// The fencer of a node.
fn fencer_of(stage: &Stage, name: &str) -> Result<Option<i32>> {
    let home = stage.node(name)?.home().to_owned();
    let is_one = |pid: &i32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let zombie = exe.as_os_str().is_empty();
        !zombie && exe.file_name().is_some_and(|name| name == fencer::PROGRAM)
    };
    Ok(processes::of_directory(&home).into_iter().find(is_one))
}

async fn another_fencer(stage: &Stage, name: &str, old: i32) -> Result<i32> {
    let there = async || Ok(fencer_of(stage, name)?.is_some_and(|now| now != old));
    stage.eventually("the fencer is not replaced", there).await?;
    stage.writes_go_on().await?;
    fencer_of(stage, name)?.context("it was there just now")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_watchdog_that_it_requires_no_node_leads_and_says_so() {
    let options = options().with("watchdog.mode", "\"required\"").with("watchdog.device", "\"/dev/no-such-watchdog\"");
    on_empty_stage(&options, async |stage| {
        stage.cluster.start_etcd().await?;
        stage.cluster.start_nodes()?;
        for name in ["n1", "n2", "n3"] {
            let told = async || {
                let why = stage.ask(name, "/why").await?;
                Ok(why["reason"]["code"] == "unfenced" && why.to_string().contains("/dev/no-such-watchdog"))
            };
            stage.eventually(&format!("{name} does not say why it must not lead"), told).await?;
            ensure!(stage.node(name)?.postmaster_pid().is_none(), "{name} runs Postgres");
        }
        Ok(())
    })
    .await;
}
