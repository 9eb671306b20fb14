//! What clients see of a change by each way to the primary: HAProxy with its checks, HAProxy that is told, PgBouncer before that one, and libpq that
//! knows every node. All four lead to one cluster and are written through at the same time, so they see the same change.

mod client;
mod ways;

use std::path::Path;
use std::time::{Duration, Instant};

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::ports::Ports;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use crate::results::Results;
use client::Writing;
use ways::Ways;

/// The faults: a name, and what it is called in the report.
pub const FAULTS: [(&str, &str); 3] = [
    ("switchover", "planned switchover"),
    ("postgres", "postmaster of the primary: SIGKILL"),
    ("node", "every program of the primary's host: SIGKILL"),
];
/// The ways: a name, and what it is called in the report.
pub const WAYS: [(&str, &str); 4] = [
    ("checks", "HAProxy, checks"),
    ("told", "HAProxy, told"),
    ("pooler", "PgBouncer before the latter, `[pgbouncer]`"),
    ("libpq", "libpq, every node named"),
];
/// For so long all write undisturbed before a fault.
const STEADY: Duration = Duration::from_secs(3);
/// Who is back and stops again within this was not back.
const RELAPSE_WITHIN: Duration = Duration::from_secs(2);
const BACK_WITHIN: Duration = Duration::from_secs(60);
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// So often in a row a cluster may fail to come up or to become whole.
const FAILURES: usize = 3;

/// One change, seen by every way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routed {
    /// The fault.
    pub fault: String,
    /// Which run, from 1.
    pub run: usize,
    /// The outage of writes by the transition's own record: until the marker commit of the new primary.
    pub own_ms: Option<f64>,
    /// By each way.
    pub ways: Vec<Seen>,
}

/// What one client saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its way.
    pub way: String,
    /// Its longest time without an acknowledgement.
    pub outage_ms: f64,
    /// Errors that it was told, and connections that it could not open.
    pub errors: usize,
    /// Acknowledged rows that are missing at the end.
    pub lost: usize,
}

/// Plays each fault so many times.
///
/// # Errors
/// The results cannot be kept.
pub async fn run(pgvigil: &Path, runs: usize, results: &Results) -> Result<()> {
    let plays = (1..=runs).flat_map(|run| FAULTS.map(|(fault, _)| (fault, run)));
    let mut plays: Vec<(&str, usize)> =
        plays.filter(|(fault, run)| !results.has("routes", &file(fault, *run))).collect();
    plays.reverse();
    // In a world of its own not even loopback is there by itself.
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().await.context("running ip")?;
    ensure!(up.success(), "loopback cannot be set up");
    let mut failures = 0;
    while !plays.is_empty() && failures < FAILURES {
        if let Err(error) = on_new_ground(pgvigil, &mut plays, results).await {
            println!("routes: {error:#}");
            failures += 1;
        }
    }
    Ok(())
}

fn file(fault: &str, run: usize) -> String {
    format!("{fault}.{run}")
}

async fn on_new_ground(pgvigil: &Path, plays: &mut Vec<(&str, usize)>, results: &Results) -> Result<()> {
    let ports = Ports::choose(None, 5)?;
    let options = ClusterOptions::new(pgvigil)
        .with("haproxy.runtime_sockets", &format!("[\"127.0.0.1:{}\"]", ports.at(0)))
        .with("pgbouncer.admin", &format!("[\"127.0.0.1:{}\"]", ports.at(1)))
        .with("pgbouncer.databases", "[\"demo\"]");
    let cluster = LocalCluster::prepare(&options)?;
    let ways = Ways::start(&cluster, &ports).await?;
    cluster.start_etcd().await?;
    cluster.start_nodes()?;
    cluster.start_proxy()?;
    settled(&cluster).await?;
    cluster.create_client().await?;
    let leader = cluster.leader().await?;
    cluster.connect(&leader).await?.batch_execute("CREATE TABLE routed (way text, i bigint)").await?;
    while let Some((fault, run)) = plays.last().copied() {
        let routed = play(&cluster, &ways, fault, run).await.with_context(|| format!("{fault}, run {run}"))?;
        let told: Vec<String> = routed
            .ways
            .iter()
            .map(|seen| format!("{} {:.0} ms, {} errors", seen.way, seen.outage_ms, seen.errors))
            .collect();
        println!("routes, {fault} run {run}: own {:?}; {}", routed.own_ms, told.join("; "));
        results.put("routes", &file(fault, run), &routed)?;
        plays.pop();
    }
    Ok(())
}

async fn settled(cluster: &LocalCluster) -> Result<()> {
    cluster.wait_settled(WHOLE_WITHIN).await?;
    let vote = |sights: &[agent::demo::lookout::Sight]| sights.iter().all(|sight| sight.writable || sight.votes);
    cluster.wait_for("the standbys do not vote", WHOLE_WITHIN, vote).await?;
    Ok(())
}

async fn play(cluster: &LocalCluster, ways: &Ways, fault: &str, run: usize) -> Result<Routed> {
    let old = cluster.leader().await?;
    cluster.connect(&old).await?.batch_execute("TRUNCATE routed").await?;
    let before = records(cluster, &old).await?.len();
    let writing = ways.write();
    tokio::time::sleep(STEADY).await;
    ensure!(writing.iter().all(|one| one.count() > 0), "somebody gets nothing acknowledged before the fault");
    let struck = Instant::now();
    strike(cluster, fault, &old).await?;
    back(&writing, struck).await?;
    let steady = Instant::now();
    tokio::time::sleep(RELAPSE_WITHIN).await;
    if fault == "node" {
        cluster.node(&old)?.agent().start()?;
    }
    let seen: Vec<_> = writing.into_iter().map(Writing::stop).collect();
    settled(cluster).await?;
    let leader = cluster.leader().await?;
    let session = cluster.connect(&leader).await?;
    let mut told = Vec::new();
    for log in seen {
        let there = session.query("SELECT i FROM routed WHERE way = $1", &[&log.way]).await?;
        let there: std::collections::BTreeSet<i64> = there.iter().map(|row| row.get(0)).collect();
        let lost = log.acknowledged.iter().filter(|(i, _)| !there.contains(i)).count();
        let outage = log.outage(struck, steady + RELAPSE_WITHIN / 2).context("an outage that has not ended")?;
        let errors = log.errors.iter().filter(|at| **at >= struck).count();
        told.push(Seen { way: log.way.to_owned(), outage_ms: outage.as_secs_f64() * 1000.0, errors, lost });
    }
    let records = records(cluster, &leader).await?;
    let own = records
        .iter()
        .skip(before)
        .find(|record| ["switchover", "failover"].iter().any(|kind| record["kind"] == *kind));
    let own_ms = own.and_then(|record| record["write_outage_ms"].as_f64());
    // What is measured next begins from rest.
    tokio::time::sleep(STEADY).await;
    Ok(Routed { fault: fault.to_owned(), run, own_ms, ways: told })
}

async fn strike(cluster: &LocalCluster, fault: &str, leader: &str) -> Result<()> {
    match fault {
        "switchover" => {
            let others = cluster.nodes().iter().map(|node| node.name()).filter(|name| *name != leader);
            let to = others.last().context("there is one node alone")?;
            let asked = cluster.pgvigil(leader, &["switchover", "--to", to, "-y"]).await?;
            ensure!(asked.status.success(), "switchover: {}", String::from_utf8_lossy(&asked.stderr));
            Ok(())
        }
        "postgres" => cluster.node(leader)?.kill_postgres(),
        _ => cluster.node(leader)?.kill_everything(),
    }
}

/// Waits until each has something acknowledged that it sent after the fault, and for a while.
async fn back(writing: &[Writing], struck: Instant) -> Result<()> {
    let begin = Instant::now();
    while !writing.iter().all(|one| one.is_back(struck)) {
        if begin.elapsed() > BACK_WITHIN {
            bail!("somebody gets nothing acknowledged any more");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn records(cluster: &LocalCluster, node: &str) -> Result<Vec<Value>> {
    let body = cluster.lookout().ask(node, "/transitions").await?;
    Ok(body["transitions"].as_array().cloned().unwrap_or_default())
}
