//! etcd as an operator reaches it: `etcdctl`, with the keys that people know from Patroni.

use agent::demo::cluster::LocalCluster;
use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where everything of the demo's cluster is.
const BASE: &str = "/service/demo/";

/// Runs `etcdctl` against all members, and returns what it prints.
pub async fn etcdctl(cluster: &LocalCluster, arguments: &[&str]) -> Result<String> {
    let endpoints = cluster.etcd_urls().join(",");
    let mut command = Command::new("etcdctl");
    command.args(["--endpoints", &endpoints]).args(arguments).env("ETCDCTL_API", "3").kill_on_drop(true);
    let output = command.output().await.context("running etcdctl")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "etcdctl {arguments:?}: {}, {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// What is under a key of the cluster; empty where there is none.
pub async fn get(cluster: &LocalCluster, key: &str) -> Result<String> {
    etcdctl(cluster, &["get", "--print-value-only", &format!("{BASE}{key}")]).await
}

/// Writes a key of the cluster.
pub async fn put(cluster: &LocalCluster, key: &str, value: &str) -> Result<()> {
    etcdctl(cluster, &["put", &format!("{BASE}{key}"), value]).await.map(|_| ())
}

/// Writes any bytes under a key of the cluster, as long as they may be, bound to no lease.
pub async fn put_bytes(cluster: &LocalCluster, key: &str, value: &[u8]) -> Result<()> {
    let endpoints = cluster.etcd_urls().join(",");
    let mut command = Command::new("etcdctl");
    command.args(["--endpoints", &endpoints, "put", &format!("{BASE}{key}")]).env("ETCDCTL_API", "3");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().context("running etcdctl")?;
    let mut input = child.stdin.take().context("its standard input")?;
    input.write_all(value).await?;
    drop(input);
    ensure!(child.wait().await?.success(), "etcdctl put {key}");
    Ok(())
}

/// Removes a key of the cluster.
pub async fn delete(cluster: &LocalCluster, key: &str) -> Result<()> {
    etcdctl(cluster, &["del", &format!("{BASE}{key}")]).await.map(|_| ())
}

/// Has etcd forget what was written before now.
pub async fn forget_the_past(cluster: &LocalCluster) -> Result<()> {
    let answer: serde_json::Value = serde_json::from_str(&etcdctl(cluster, &["get", BASE, "-w", "json"]).await?)?;
    let revision = answer["header"]["revision"].as_i64().context("a revision")?;
    etcdctl(cluster, &["compact", &revision.to_string()]).await.map(|_| ())
}
