//! Everything down and up again, in any order: a power cut in the whole room, a clean shutdown of every part, and then whoever comes
//! first finds its place.

use std::time::Duration;

use agent::demo::cluster::ClusterOptions;
use agent::demo::processes;
use anyhow::{Context, Result};

use crate::dice::Dice;
use crate::stage::{Stage, on_stage, options};

const ROUNDS: usize = 3;
const PAUSE_MAX_MS: usize = 1500;
const STOPS_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn everything_killed_at_once_comes_up_in_any_order() {
    let mut dice = Dice::thrown();
    on_stage(&options(), async |stage| {
        for round in 1..=ROUNDS {
            power_cut(stage)?;
            up_in_any_order(stage, &mut dice).await.with_context(|| format!("power cut {round}"))?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_stopped_in_any_order_comes_up_in_any_order() {
    let mut dice = Dice::thrown();
    on_stage(&options(), async |stage| {
        for round in 1..=ROUNDS {
            down_in_any_order(stage, &mut dice).await?;
            up_in_any_order(stage, &mut dice).await.with_context(|| format!("clean stop {round}"))?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_two_and_of_one_form_and_survive_a_power_cut() {
    let mut dice = Dice::thrown();
    for nodes in [2, 1] {
        on_stage(&ClusterOptions { nodes, etcd_members: 1, ..options() }, async |stage| {
            // Two nodes are asynchronous: whoever comes up first may miss what the other had just acknowledged.
            let from = stage.may_be_lost_from_here(&stage.leader().await?).await?;
            power_cut(stage)?;
            stage.may_be_lost(from);
            up_in_any_order(stage, &mut dice).await?;
            for node in stage.cluster.nodes() {
                stage.stop(node.name()).await?;
                stage.start(node.name())?;
            }
            stage.whole().await
        })
        .await;
    }
}

/// A part of the cluster, by its number.
#[derive(Clone, Copy, Debug)]
enum Part {
    Etcd(usize),
    Node(usize),
}

fn parts(stage: &Stage) -> Vec<Part> {
    let etcd = (0..stage.cluster.etcd().len()).map(Part::Etcd);
    etcd.chain((0..stage.cluster.nodes().len()).map(Part::Node)).collect()
}

fn power_cut(stage: &Stage) -> Result<()> {
    stage.cluster.etcd().iter().for_each(agent::demo::service::Service::kill);
    stage.cluster.nodes().iter().for_each(|node| node.agent().kill());
    stage.cluster.nodes().iter().try_for_each(|node| processes::end(|| processes::of_directory(node.home())))?;
    stage.say("everything is killed");
    Ok(())
}

async fn down_in_any_order(stage: &Stage, dice: &mut Dice) -> Result<()> {
    let order = dice.shuffled(parts(stage));
    stage.say(&format!("down: {order:?}"));
    for part in order {
        match part {
            Part::Etcd(index) => {
                stage.cluster.etcd()[index].stop(STOPS_WITHIN).await?;
            }
            Part::Node(index) => stop_node(stage, index).await?,
        }
        pause(dice).await;
    }
    Ok(())
}

/// First the agent, then its Postgres, cleanly, as the shutdown of a host does.
async fn stop_node(stage: &Stage, index: usize) -> Result<()> {
    let node = &stage.cluster.nodes()[index];
    stage.stop(node.name()).await?;
    if let Some(postmaster) = node.postmaster_pid() {
        processes::signal(postmaster, nix::sys::signal::Signal::SIGINT);
    }
    let gone = async || Ok(processes::of_server(&node.data_dir()).is_empty());
    stage.eventually(&format!("Postgres of {} does not end", node.name()), gone).await
}

async fn up_in_any_order(stage: &Stage, dice: &mut Dice) -> Result<()> {
    let order = dice.shuffled(parts(stage));
    stage.say(&format!("up: {order:?}"));
    for part in order {
        match part {
            Part::Etcd(index) => stage.cluster.etcd()[index].start()?,
            Part::Node(index) => stage.cluster.nodes()[index].agent().start()?,
        }
        pause(dice).await;
    }
    stage.whole().await?;
    stage.say("whole again");
    stage.writes_go_on().await
}

async fn pause(dice: &mut Dice) {
    let milliseconds = u64::try_from(dice.below(PAUSE_MAX_MS)).unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
