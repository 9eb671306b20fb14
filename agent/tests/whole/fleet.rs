//! Two clusters in one etcd, beside one of somebody else: all are told with their problems first, a zone is left in both at once, and what cannot be
//! done is refused and changes nothing.

use std::time::Duration;

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::stage::{SOON, options};

/// Two nodes each: n1 in zone a, n2 in zone b; n1 leads.
async fn two_clusters() -> Result<[LocalCluster; 2]> {
    let small = ClusterOptions { nodes: 2, etcd_members: 1, haproxy: false, ..options() };
    let demo = LocalCluster::prepare(&small)?;
    let etcd = demo.etcd_urls().iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(", ");
    let beside = small.with("cluster", "\"orders\"").with("etcd.endpoints", &format!("[{etcd}]"));
    let orders = LocalCluster::prepare(&beside)?;
    demo.start_etcd().await?;
    for cluster in [&demo, &orders] {
        for (node, zone) in cluster.nodes().iter().zip(["a", "b"]) {
            let text = std::fs::read_to_string(node.config())?;
            std::fs::write(node.config(), format!("{text}zone = {zone:?}\n"))?;
        }
        cluster.start_nodes()?;
    }
    for cluster in [&demo, &orders] {
        cluster.wait_settled(SOON * 2).await?;
        if cluster.leader().await? != "n1" {
            let output = cluster.pgvigil("n1", &["switchover", "--to", "n1", "-y"]).await?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            cluster.wait_settled(SOON).await?;
        }
    }
    Ok([demo, orders])
}

/// Nothing was read, and nothing done: on a busy machine etcd may be late.
const UNREACHABLE: Option<i32> = Some(6);

/// What it printed, and its exit code.
async fn fleet(cluster: &LocalCluster, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let words: Vec<&str> = ["fleet"].iter().chain(arguments).copied().collect();
    let began = std::time::Instant::now();
    loop {
        let output = cluster.pgvigil("n1", &words).await?;
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        eprintln!("pgvigil {words:?}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        let late = output.status.code() == UNREACHABLE && said.is_empty();
        if !late || began.elapsed() > SOON {
            return Ok((output.status.code(), said));
        }
    }
}

async fn status(cluster: &LocalCluster) -> Result<(Option<i32>, Value)> {
    let (code, said) = fleet(cluster, &["status", "-o", "json", "--exit-code"]).await?;
    Ok((code, serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))?))
}

/// Waits until `fleet status` is as wanted.
async fn eventually(cluster: &LocalCluster, what: &str, wanted: impl Fn(Option<i32>, &Value) -> bool) -> Result<Value> {
    let began = std::time::Instant::now();
    loop {
        let (code, told) = status(cluster).await?;
        if wanted(code, &told) {
            return Ok(told);
        }
        ensure!(began.elapsed() < SOON, "{what}: {code:?}, {told:#}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn words(told: &Value) -> Vec<(&str, &str)> {
    let rows = told["clusters"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| (row["cluster"].as_str().unwrap_or(""), row["word"].as_str().unwrap_or(""))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_told_worst_first_and_leaves_a_zone_cluster_by_cluster() {
    let [demo, orders] = two_clusters().await.expect("two clusters in one etcd");
    if let Err(error) = played(&demo, &orders).await {
        panic!("{error:#}");
    }
}

async fn played(demo: &LocalCluster, orders: &LocalCluster) -> Result<()> {
    for key in ["leader", "initialize", "members/batman1", "status"] {
        etcdctl::etcdctl(demo, &["put", &format!("/service/batman/{key}"), "batman1"]).await?;
    }
    let told = eventually(demo, "both are well", |code, _| code == Some(0)).await?;
    ensure!(words(&told) == [("demo", "ok"), ("orders", "ok")], "{told:#}");
    ensure!(told["not_ours"][0]["scope"] == "batman" && told["not_ours"][0]["owner"] == "patroni", "{told:#}");
    ensure!(told["clusters"][1]["leader_zone"] == "a" && told["clusters"][1]["members_reachable"] == 2, "{told:#}");

    leaves_the_zone(demo, orders).await?;

    for node in orders.nodes() {
        node.kill_everything()?;
    }
    let told = eventually(demo, "nobody accepts writes in orders", |code, told| {
        code == Some(11) && words(told) == [("orders", "no_primary"), ("demo", "ok")]
    })
    .await?;
    ensure!(told["verdict"]["word"] == "no_primary", "{told:#}");
    let (code, table) = fleet(demo, &["status"]).await?;
    let lines: Vec<&str> = table.lines().collect();
    ensure!(code == Some(0) && lines[1].starts_with("orders") && lines[2].starts_with("demo"), "{table}");
    ensure!(lines[3].contains("not ours") && lines[4].starts_with("NO PRIMARY - 2 clusters"), "{table}");

    // The lease of who led there runs out in its time.
    let began = std::time::Instant::now();
    let told = loop {
        let (code, said) = fleet(demo, &["switchover", "--from-zone", "b", "--dry-run", "-o", "json"]).await?;
        if code == Some(5) {
            break serde_json::from_str::<Value>(&said)?;
        }
        ensure!(began.elapsed() < SOON, "{code:?} {said}");
    };
    let row = |at: usize| &told["clusters"][at];
    ensure!(row(0)["cluster"] == "demo" && row(0)["to"] == "n1" && row(0)["passed"] == true, "{told:#}");
    ensure!(row(1)["left_alone_because"] == "left alone: nobody leads" && row(1)["passed"] == false, "{told:#}");

    etcdctl::put(demo, "orders/n9", "{\"half\":").await?;
    let (_, told) = status(demo).await?;
    ensure!(words(&told) == [("orders", "no_primary"), ("demo", "corrupt")], "{told:#}");
    Ok(())
}

async fn leaves_the_zone(demo: &LocalCluster, orders: &LocalCluster) -> Result<()> {
    let (code, said) = fleet(demo, &["switchover", "--from-zone", "a", "--dry-run"]).await?;
    ensure!(code == Some(0) && said.contains("demo: n1 -> n2 in b: ready"), "{code:?} {said}");
    ensure!(said.contains("orders: n1 -> n2 in b: ready") && said.ends_with("Ready: 2 clusters."), "{said}");
    ensure!(demo.leader().await? == "n1" && orders.leader().await? == "n1", "a dry run moved a leader");

    let (code, said) = fleet(demo, &["switchover", "--from-zone", "a", "--to-zone", "c", "-y"]).await?;
    ensure!(code == Some(3) && said.contains("no member is registered in zone c"), "{code:?} {said}");
    ensure!(demo.leader().await? == "n1" && orders.leader().await? == "n1", "a refusal moved a leader");

    let go =
        ["switchover", "--from-zone", "a", "-y", "--max-parallel", "2", "--reason", "the power goes", "-o", "json"];
    let (code, said) = fleet(demo, &go).await?;
    ensure!(code == Some(0), "{code:?} {said}");
    let told: Value = serde_json::from_str(&said)?;
    for row in told["clusters"].as_array().context("no clusters")? {
        ensure!(row["exit"] == "done" && row["transition"]["reason"] == "the power goes", "{told:#}");
    }
    for cluster in [demo, orders] {
        cluster.wait_settled(SOON).await?;
        ensure!(cluster.leader().await? == "n2", "it has not moved");
    }
    let (code, said) = fleet(demo, &["switchover", "--from-zone", "a", "-y"]).await?;
    ensure!(code == Some(0) && said.starts_with("nothing to do"), "{code:?} {said}");
    Ok(())
}
