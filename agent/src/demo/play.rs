//! The demonstration itself: start, write, break, watch it mend, count. Each step says what it does before it takes its time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::audit::audit;
use super::card::Card;
use super::cluster::LocalCluster;
use super::lookout::{self, Sight};
use super::screen::Screen;
use super::session::Session;
use super::workdir;
use super::writer::{TABLE, Writer};
use crate::cli::{Exit, Fault};

/// How long the writer works before the fault, so that the rate can be seen, and after it.
const STEADY: Duration = Duration::from_secs(3);
/// How long the first start may take; initdb and clones on a slow disk.
const FORMED_WITHIN: Duration = Duration::from_secs(120);
/// Writes that are back and stop again within this were not back: it is one outage. What comes later (a node rejoins, and all share the
/// disk of this machine) is told on its own.
const RELAPSE_WITHIN: Duration = Duration::from_secs(1);
/// Beyond this no failover is coming any more.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// Starts a prepared cluster, and returns when all stream and clients can work.
///
/// # Errors
/// What keeps it from forming.
pub async fn form(cluster: &LocalCluster, screen: &Screen) -> Result<()> {
    let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    screen.say(&format!(
        "starting {} in {}",
        count(cluster.etcd().len(), "etcd member"),
        cluster.directory().display()
    ));
    cluster.start_etcd().await?;
    let nodes = count(cluster.nodes().len(), "node");
    screen.say(&format!(
        "etcd answers; starting {nodes} with PostgreSQL {}, and HAProxy",
        cluster.postgres_programs().version
    ));
    cluster.start_nodes()?;
    cluster.start_proxy()?;
    let _following = screen.follow(cluster.lookout().clone(), || 0);
    cluster.wait_settled(FORMED_WITHIN).await?;
    if cluster.nodes().len() > 2 {
        let voters = |sights: &[Sight]| sights.iter().filter(|sight| sight.votes).count();
        let all = cluster.nodes().len() - 1;
        cluster.wait_for("the standbys do not vote", FORMED_WITHIN, |sights| voters(sights) == all).await?;
    }
    cluster.create_client().await?;
    let session =
        Session::open(cluster.node(&cluster.leader().await?)?.postgres_port(), Duration::from_secs(5)).await?;
    session.batch_execute(TABLE).await.context("creating the table")?;
    screen.say("all stream");
    let directory = cluster.directory().to_owned();
    let settling = tokio::task::spawn_blocking(move || workdir::settle(&directory));
    // Another program may keep the disk busy for longer; it is a kindness, and no condition.
    let _ = tokio::time::timeout(SETTLED_WITHIN, settling).await;
    Ok(())
}

/// Breaks what `fault` says under a writer, and tells what came of it.
///
/// # Errors
/// Writes do not come back, or the cluster does not become whole again.
pub async fn play(cluster: &LocalCluster, fault: Fault, screen: &Screen) -> Result<Card> {
    let writer = Writer::start(cluster.proxy_ports().read_write);
    let _following = screen.follow(cluster.lookout().clone(), writer.counter());
    screen.say("a writer works through HAProxy");
    wait_until("the writer gets nothing acknowledged", FORMED_WITHIN, || writer.count() > 0).await?;
    tokio::time::sleep(STEADY).await;

    let old_leader = cluster.leader().await?;
    let before = Before::look(cluster, &old_leader).await?;
    let struck = Instant::now();
    strike(cluster, fault, &old_leader, screen).await?;
    let back = wait_until("no write is acknowledged", BACK_WITHIN, || writer.read(|logbook| logbook.is_back(struck)));
    if let Err(error) = back.await {
        bail!("{error}{}", lookout::told(&cluster.lookout().survey().await));
    }
    let back = Instant::now();
    let outage = writer.read(|logbook| logbook.outage(struck, back)).unwrap_or_default();
    screen.say(&format!("writes are back after {:.0} ms without", milliseconds(outage)));

    let restored = restore(cluster, fault, &old_leader, screen);
    let (redundancy, ()) = tokio::try_join!(before.redundant_again(cluster, struck, screen), restored)?;
    cluster.wait_settled(WHOLE_WITHIN).await?;
    screen.say("all stream again");
    tokio::time::sleep(STEADY).await;

    let logbook = writer.stop();
    let steady = back + RELAPSE_WITHIN;
    let outage = logbook.outage(struck, steady).unwrap_or_default();
    let later = logbook.silence(|last, _| last >= steady).unwrap_or_default();
    let new_leader = cluster.leader().await?;
    let transition = before.newest_transition(cluster, &new_leader).await;
    screen.say("looking for every acknowledged row on every node");
    Ok(Card {
        fault,
        write_outage_ms: milliseconds(outage),
        later_pause_ms: milliseconds(later),
        acknowledged_rows: logbook.acknowledged.len(),
        unknown_rows: logbook.unknown,
        audit: audit(cluster, &logbook).await?,
        old_leader,
        new_leader,
        redundancy_restored_ms: redundancy.map(milliseconds),
        transition,
    })
}

/// What the cluster was like before the fault.
struct Before {
    transitions: BTreeSet<String>,
    /// Commits waited for standbys.
    waited: bool,
}

impl Before {
    async fn look(cluster: &LocalCluster, leader: &str) -> Result<Self> {
        let transitions = transitions(cluster, leader).await.unwrap_or_default().iter().map(id_of).collect();
        let session = cluster.connect(leader).await?;
        let names: String = session.query_one("SHOW synchronous_standby_names", &[]).await?.get(0);
        Ok(Self { transitions, waited: !names.is_empty() })
    }

    /// Waits until the new leader has a standby again of the kind that commits waited for before. A single node has no redundancy.
    async fn redundant_again(
        &self,
        cluster: &LocalCluster,
        struck: Instant,
        screen: &Screen,
    ) -> Result<Option<Duration>> {
        const STANDBYS: &str = "SELECT count(*) FROM pg_stat_replication \
             WHERE state = 'streaming' AND (sync_state IN ('sync', 'quorum') OR NOT $1)";
        if cluster.nodes().len() == 1 {
            return Ok(None);
        }
        let begin = Instant::now();
        while begin.elapsed() < WHOLE_WITHIN {
            if let Ok(leader) = cluster.leader().await
                && let Ok(session) = cluster.connect(&leader).await
                && let Ok(row) = session.query_one(STANDBYS, &[&self.waited]).await
                && row.get::<_, i64>(0) > 0
            {
                let took = struck.elapsed();
                screen.say(&format!("redundancy is back, {:.1} s after the fault", took.as_secs_f64()));
                return Ok(Some(took));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no standby of the new leader acknowledges commits after {WHOLE_WITHIN:?}");
    }

    /// The record that was not there before: its id and phases.
    async fn newest_transition(&self, cluster: &LocalCluster, leader: &str) -> Option<(String, Vec<(String, f64)>)> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            let records = transitions(cluster, leader).await.unwrap_or_default();
            let fresh = records.iter().rev().find(|record| !self.transitions.contains(&id_of(record)));
            if let Some(record) = fresh.filter(|record| record["outcome"] != "in_progress") {
                return Some((id_of(record), phases_of(record)));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }
}

async fn transitions(cluster: &LocalCluster, node: &str) -> Result<Vec<Value>> {
    let body = cluster.lookout().ask(node, "/transitions").await?;
    Ok(body["transitions"].as_array().cloned().unwrap_or_default())
}

fn id_of(record: &Value) -> String {
    record["id"].as_str().unwrap_or_default().to_owned()
}

fn phases_of(record: &Value) -> Vec<(String, f64)> {
    let phases = record["phases"].as_array().cloned().unwrap_or_default();
    phases
        .iter()
        .filter_map(|phase| Some((phase["name"].as_str()?.to_owned(), phase["duration_ms"].as_f64()?)))
        .collect()
}

async fn strike(cluster: &LocalCluster, fault: Fault, leader: &str, screen: &Screen) -> Result<()> {
    let node = cluster.node(leader)?;
    match fault {
        Fault::Node => {
            node.kill_everything()?;
            screen.say(&format!("{leader} is killed: agent and Postgres, SIGKILL"));
            if cluster.nodes().len() == 1 {
                // Nobody else could take over: the host comes back.
                node.agent().start()?;
            }
        }
        Fault::Postgres => {
            node.kill_postgres()?;
            screen.say(&format!("the postmaster of {leader} is killed: SIGKILL"));
        }
        Fault::Hang => {
            node.freeze_postgres();
            screen.say(&format!("Postgres of {leader} is frozen: SIGSTOP"));
        }
        Fault::Switchover => switch_over(cluster, leader, screen).await?,
    }
    Ok(())
}

async fn switch_over(cluster: &LocalCluster, leader: &str, screen: &Screen) -> Result<()> {
    let sights = cluster.lookout().survey().await;
    let Some(to) = sights.iter().find(|sight| sight.streams()) else {
        bail!("no standby streams, so none can take over")
    };
    screen.say(&format!("pgvigil switchover --to {} -y", to.name));
    let arguments = ["switchover", "--to", &to.name, "--expect-leader", leader, "--reason", "demo", "-y"];
    let output = cluster.pgvigil(&to.name, &arguments).await?;
    let told = [output.stdout, output.stderr].concat();
    for line in String::from_utf8_lossy(&told).lines().filter(|line| !line.trim().is_empty()) {
        screen.print(&format!("            {line}"));
    }
    match output.status.code() {
        Some(code) if [Exit::Done, Exit::DoneOtherwise].iter().any(|exit| code == i32::from(exit.code())) => Ok(()),
        _ => bail!("the switchover to {} failed ({})", to.name, output.status),
    }
}

/// Brings back what was broken, as a repaired host would come back: its agent does the rest.
async fn restore(cluster: &LocalCluster, fault: Fault, leader: &str, screen: &Screen) -> Result<()> {
    let node = cluster.node(leader)?;
    match fault {
        Fault::Node if node.agent().pid().is_none() => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            node.agent().start()?;
            screen.say(&format!("{leader} is started again"));
        }
        Fault::Hang => node.thaw_postgres(),
        Fault::Node | Fault::Postgres | Fault::Switchover => {}
    }
    Ok(())
}

async fn wait_until(complaint: &str, within: Duration, done: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > within {
            bail!("{complaint} within {within:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
