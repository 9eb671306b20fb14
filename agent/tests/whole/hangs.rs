//! Single processes of a server that are stopped while everything else lives: the server answers, and something that clients need does not go
//! on. It is noticed, and costs no acknowledged row.

use std::time::{Duration, Instant};

use agent::demo::processes;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::stage::{Stage, on_stage, options};

/// A commit that takes longer waits for something that does not come, on however busy a machine; the leader is given up after 2 s.
const NO_COMMIT_TAKES: Duration = Duration::from_millis(1500);
/// Commits of its own, which wait for nobody else.
const COMMIT: &str = "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'test', 'x')";

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_one_backend_is_frozen_inside_a_commit_is_replaced() {
    on_stage(&options(), async |stage| {
        let old = stage.leader().await?;
        let (frozen, begin) = freeze_inside_a_commit(stage, &old).await?;
        stage.say(&format!("process {frozen} of {old} is stopped, and no commit ends any more"));
        let new = stage.leader_other_than(&old).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("{new} leads; {} ms without writes", stage.silence_since(begin)?.as_millis()));
        stage.whole().await
    })
    .await;
}

/// A client of a node that commits as fast as it can is stopped, again and again, until nobody's commits end any more.
async fn freeze_inside_a_commit(stage: &Stage, name: &str) -> Result<(i32, Instant)> {
    let (busy, other) = (stage.cluster.connect(name).await?, stage.cluster.connect(name).await?);
    let pid: i32 = busy.query_one("SELECT pg_backend_pid()", &[]).await.context("asking for the pid")?.get(0);
    tokio::spawn(async move { while busy.batch_execute(COMMIT).await.is_ok() {} });
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(7)).await;
        let begin = Instant::now();
        processes::signal(pid, Signal::SIGSTOP);
        match tokio::time::timeout(NO_COMMIT_TAKES, other.batch_execute(COMMIT)).await {
            Ok(done) => done.context("committing beside it")?,
            Err(_) => {
                // What was asked for goes on waiting, as long as its connection lasts.
                std::mem::forget(other);
                return Ok((pid, begin));
            }
        }
        processes::signal(pid, Signal::SIGCONT);
    }
    bail!("it was never stopped while it held anything")
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_processes_of_replication_are_ended_and_commits_go_on() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let term = stage.ask(&leader, "/beat").await?["term"].clone();
        for (kind, names) in [("walsender", vec![leader.clone()]), ("walreceiver", stage.others(&leader))] {
            stage.whole().await?;
            let begin = Instant::now();
            for name in &names {
                let pids =
                    format!("SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = '{kind}'");
                let pids = stage.cluster.psql(name, &pids).await?;
                pids.split(' ')
                    .filter_map(|pid| pid.parse().ok())
                    .for_each(|pid| processes::signal(pid, Signal::SIGSTOP));
                stage.say(&format!("{kind} {pids} of {name} stopped"));
            }
            stage.writes_go_on().await?;
            stage.whole().await?;
            stage.writes_go_on().await?;
            stage.say(&format!("{} ms without writes", stage.silence_since(begin)?.as_millis()));
        }
        anyhow::ensure!(stage.ask(&leader, "/beat").await?["term"] == term, "somebody else leads");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_postmaster_alone_is_frozen_is_replaced() {
    on_stage(&options(), async |stage| {
        let old = stage.leader().await?;
        let begin = Instant::now();
        processes::signal(stage.node(&old)?.postmaster_pid().context("it runs")?, Signal::SIGSTOP);
        stage.say(&format!("the postmaster of {old} is stopped"));
        let new = stage.leader_other_than(&old).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("{new} leads after {} ms", begin.elapsed().as_millis()));
        stage.whole().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standbys_whose_replay_somebody_has_stopped_take_over_all_the_same() {
    on_stage(&options(), async |stage| {
        let old = stage.leader().await?;
        for name in stage.others(&old) {
            let startup = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'";
            processes::signal(stage.cluster.psql(&name, startup).await?.parse()?, Signal::SIGSTOP);
        }
        stage.writes_go_on().await?;
        stage.say("nobody replays any more, and writes go on");
        stage.node(&old)?.kill_everything()?;
        let begin = Instant::now();
        let new = stage.leader_other_than(&old).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("{new} leads; {} ms without writes", stage.silence_since(begin)?.as_millis()));
        stage.start(&old)?;
        stage.whole().await
    })
    .await;
}
