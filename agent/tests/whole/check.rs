//! What monitoring asks of a cluster that is well, limps and is gone: `pgvigil check` and its exit codes, and `pgvigil why --path`, which explains
//! the very answer that a load balancer gets.

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use anyhow::{Result, ensure};
use serde_json::Value;

use crate::http;
use crate::stage::{SOON, options};

/// Every kind of path, with conditions.
const PATHS: [&str; 12] = [
    "/primary",
    "/leader",
    "/replica",
    "/replica?lag=16MB",
    "/replica?replication_state=streaming",
    "/replica?tag_nosync=true",
    "/read-only",
    "/sync",
    "/async",
    "/health",
    "/liveness",
    "/readiness",
];

async fn check(cluster: &LocalCluster, words: &[&str], code: i32, told: &str) -> Result<()> {
    let words: Vec<&str> = ["check"].iter().chain(words).copied().collect();
    let output = cluster.pgvigil("n1", &words).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    eprint!("{words:?}: {}\n{said}", output.status);
    ensure!(output.status.code() == Some(code) && said.contains(told), "{words:?}: {}, {said}", output.status);
    ensure!(said.lines().count() == 1, "more than one line: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_is_told_in_its_own_way_and_answers_are_explained() {
    let small = ClusterOptions { nodes: 2, etcd_members: 1, haproxy: false, ..options() };
    let cluster = LocalCluster::start(&small).await.expect("a cluster");
    if let Err(error) = played(&cluster).await {
        panic!("{error:#}");
    }
}

async fn played(cluster: &LocalCluster) -> Result<()> {
    let leader = cluster.leader().await?;
    let standby = if leader == "n1" { "n2" } else { "n1" };
    check(cluster, &["leader"], 0, &format!("PGVIGIL LEADER OK - writes work on {leader}")).await?;
    check(cluster, &["replication"], 0, "1 of 1 standbys stream | streaming=1;;;0;1").await?;
    check(cluster, &["replication", "-w", "0", "-c", "0"], 2, "behind").await?;
    check(cluster, &["etcd"], 0, "1 of 1 members answer").await?;
    check(cluster, &["etcd", "-w", "0ms", "-c", "10s"], 1, "to answer").await?;
    check(cluster, &["etcd", "-w", "soon"], 3, "UNKNOWN - soon is no limit").await?;
    check(cluster, &["config"], 0, "the settings are in force").await?;
    check(cluster, &["all"], 0, "PGVIGIL ALL OK - leader: ").await?;
    every_answer_is_explained(cluster, &[&leader, standby]).await?;

    let paused = cluster.pgvigil("n1", &["pause", "--for", "10m"]).await?;
    ensure!(paused.status.success(), "{}", String::from_utf8_lossy(&paused.stderr));
    check(cluster, &["config"], 1, "paused").await?;
    check(cluster, &["all"], 1, "PGVIGIL ALL WARNING - config: ").await?;

    cluster.node(standby)?.kill_everything()?;
    check(cluster, &["replication"], 2, &format!("0 of 1 standbys stream, not {standby}")).await?;
    cluster.etcd().iter().try_for_each(|member| member.freeze())?;
    check(cluster, &["etcd"], 2, "0 of 1 members answer").await?;
    cluster.node(&leader)?.kill_everything()?;
    check(cluster, &["leader"], 3, "neither etcd nor an agent answers").await?;
    cluster.etcd().iter().try_for_each(|member| member.thaw())?;
    let began = std::time::Instant::now();
    while let Err(error) = check(cluster, &["leader"], 2, "nobody accepts writes").await {
        ensure!(began.elapsed() < SOON, "{error:#}");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    Ok(())
}

/// What is explained is what is answered.
async fn every_answer_is_explained(cluster: &LocalCluster, nodes: &[&str]) -> Result<()> {
    for node in nodes {
        for path in PATHS {
            let answered = http::ask(cluster.node(node)?, "GET", path).await?;
            let words = ["why", node, "--path", path, "-o", "json"];
            let output = cluster.pgvigil("n1", &words).await?;
            let told: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(output.status.success() && told["status"] == answered.status, "{node} {path}: {told}");
            ensure!(told["sentence"].is_string() == (answered.status == 503), "{node} {path}: {told}");
            if !answered.body.is_empty() {
                let body: Value = serde_json::from_str(&answered.body)?;
                ensure!(body["pgvigil"]["health"]["code"] == told["code"], "{node} {path}: {body}");
            }
        }
    }
    let output = cluster.pgvigil("n1", &["why", nodes[1], "--path", "/primary"]).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("{} answers 503 to /primary: {} holds the leader lock", nodes[1], nodes[0]);
    ensure!(said.starts_with(&expected) && said.trim_end().ends_with("[no_lock]"), "{said}");
    let output = cluster.pgvigil("n1", &["why", "--path", "/repica"]).await?;
    ensure!(output.status.code() == Some(2), "{}", output.status);
    Ok(())
}
