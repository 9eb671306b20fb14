//! A cluster at rest: nothing is written to etcd, however long nothing happens.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::etcdctl::etcdctl;
use crate::stage::{Stage, on_empty_stage, options};

/// Longer than anything that is refreshed now and then.
const AT_REST_FOR: Duration = Duration::from_secs(20);
const TRIES: u32 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_at_rest_writes_nothing_to_etcd() {
    on_empty_stage(&options(), async |stage| {
        stage.cluster.start_etcd().await?;
        stage.cluster.start_nodes()?;
        stage.cluster.start_proxy()?;
        stage.whole().await?;
        // Postgres itself comes to rest a minute or two after the last write: a checkpoint, a snapshot for its standbys, autovacuum.
        let mut written = Vec::new();
        for _ in 0..TRIES {
            let before = revision(stage).await?;
            tokio::time::sleep(AT_REST_FOR).await;
            if revision(stage).await? == before {
                return Ok(());
            }
            written = written_since(stage, before).await?;
        }
        bail!("etcd's revision goes on moving: {written:?}")
    })
    .await;
}

async fn all(stage: &Stage) -> Result<Value> {
    let answer = etcdctl(&stage.cluster, &["get", "--prefix", "/", "-w", "json"]).await?;
    serde_json::from_str(&answer).context("etcdctl prints no JSON")
}

async fn revision(stage: &Stage) -> Result<i64> {
    all(stage).await?["header"]["revision"].as_i64().context("etcdctl tells no revision")
}

/// The values that are younger than a revision; `etcdctl` prints them in base64.
async fn written_since(stage: &Stage, revision: i64) -> Result<Vec<String>> {
    let all = all(stage).await?;
    let younger = all["kvs"].as_array().into_iter().flatten();
    let younger = younger.filter(|kv| kv["mod_revision"].as_i64() > Some(revision));
    Ok(younger.map(|kv| format!("{} = {}", kv["key"], kv["value"])).collect())
}
