//! The gate before a change of the schema: open on a cluster that is well, closed by each thing that is not, and closed where nothing is known.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::control::{Controlled, is};
use crate::stage::{Stage, on_empty_stage, options};

/// What the gate says: its exit code and its object.
async fn gate(stage: &Stage, on: &str, more: &[&str]) -> Result<(i32, Value)> {
    let arguments = [&["gate", "migrate", "-o", "json"][..], more].concat();
    let output = stage.cluster.pgvigil(on, &arguments).await?;
    let code = output.status.code().context("it has ended by itself")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let body = serde_json::from_str(&said).with_context(|| format!("{code}: {said}{told}"))?;
    Ok((code, body))
}

/// It is closed by this check, about this member.
async fn closed(stage: &Stage, on: &str, more: &[&str], check: &str, member: Option<&str>) -> Result<Value> {
    let (code, body) = gate(stage, on, more).await?;
    let failed = body["failed"].as_array().cloned().unwrap_or_default();
    let found = failed.into_iter().find(|one| one["check"] == check && one["member"].as_str() == member);
    ensure!(code == 3 && body["go"] == false && body["exit"] == "refused", "{code}: {body}");
    found.with_context(|| format!("{check} is not among what failed: {body}"))
}

/// It is open, perhaps only in a moment.
async fn open(stage: &Stage, on: &str, more: &[&str]) -> Result<Value> {
    let (code, body) = gate(stage, on, &[&["--wait", "60s"][..], more].concat()).await?;
    ensure!(code == 0 && body["go"] == true && body["failed"] == serde_json::json!([]), "{code}: {body}");
    Ok(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_is_open_on_a_cluster_that_is_well_and_closed_otherwise() {
    on_empty_stage(&options(), async |stage| {
        let control = Controlled::prepare(stage)?;
        stage.form().await?;
        let body = open(stage, "n1", &["--max-lag", "5s", "--require-sync"]).await?;
        ensure!(body["schema"] == "pgvigil.gate/v1" && body["limits"]["max_lag_seconds"] == 5.0, "{body}");
        open(stage, "n2", &["--max-lag", "64MB"]).await?;
        by_a_standby_that_does_not_replay(stage, &control).await?;
        by_a_transaction_that_is_old(stage).await?;
        by_a_pause(stage).await?;
        by_silence(stage, &control).await?;
        stage.ends_well().await
    })
    .await;
}

async fn by_a_standby_that_does_not_replay(stage: &Stage, control: &Controlled) -> Result<()> {
    let standby = stage.standby().await?;
    stage.cluster.psql(&standby, "SELECT pg_wal_replay_pause()").await?;
    stage.writes_go_on().await?;
    // It grows with time, from the first write on that is not replayed.
    let lags = async || closed(stage, "n1", &[], "replica_lag", Some(&standby)).await.map(|_| true);
    stage.eventually("nobody notices the lag", lags).await?;
    let lag = closed(stage, "n1", &[], "replica_lag", Some(&standby)).await?;
    ensure!(lag["value_seconds"].as_f64() > Some(2.0) && lag["limit_seconds"] == 2.0, "{lag}");
    let lag = closed(stage, "n1", &["--max-lag", "0B"], "replica_lag", Some(&standby)).await?;
    ensure!(lag["value_bytes"].as_u64() > Some(0) && lag["limit_bytes"] == 0, "{lag}");
    // The other one is enough, where that is said.
    open(stage, "n1", &["--max-lag", "5s", "--min-replicas", "1"]).await?;
    let answer = control.ask("gatekeeper", "GET", "/gate/migrate?max_lag=1s").send().await?;
    is(&answer, 409, "\"check\":\"replica_lag\"")?;
    stage.cluster.psql(&standby, "SELECT pg_wal_replay_resume()").await?;
    open(stage, "n1", &["--max-lag", "5s"]).await.map(|_| ())
}

async fn by_a_transaction_that_is_old(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let (first, second) = (stage.cluster.connect(&leader).await?, stage.cluster.connect(&leader).await?);
    first.batch_execute("CREATE TABLE gate ()").await?;
    first.batch_execute("BEGIN; LOCK TABLE gate").await?;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let old = closed(stage, "n1", &["--max-transaction", "1s"], "transactions", None).await?;
    ensure!(old["value_seconds"].as_f64() > Some(1.0), "{old}");
    open(stage, "n1", &["--max-lag", "5s"]).await?;
    let waits = tokio::spawn(async move { second.batch_execute("SELECT FROM gate").await });
    let queued = async || closed(stage, "n1", &["--max-lag", "5s"], "lock_queue", None).await.map(|_| true);
    stage.eventually("nobody notices the queue", queued).await?;
    first.batch_execute("ROLLBACK").await?;
    waits.await?.context("it waited for the lock alone")?;
    first.batch_execute("DROP TABLE gate").await?;
    open(stage, "n1", &["--max-lag", "5s", "--max-transaction", "1s"]).await.map(|_| ())
}

async fn by_a_pause(stage: &Stage) -> Result<()> {
    stage.pgvigil("n1", &["pause", "--for", "10m", "--reason", "test"]).await?;
    closed(stage, "n1", &["--max-lag", "5s"], "pause", None).await?;
    stage.pgvigil("n1", &["resume"]).await?;
    open(stage, "n1", &["--max-lag", "5s"]).await.map(|_| ())
}

async fn by_silence(stage: &Stage, control: &Controlled) -> Result<()> {
    stage.cluster.etcd().iter().try_for_each(|member| member.freeze())?;
    let (code, body) = gate(stage, "n1", &[]).await?;
    ensure!(code == 6 && body["verdict"] == "unknown" && body["unknown"][0]["check"] == "etcd", "{code}: {body}");
    is(&control.ask("gatekeeper", "GET", "/gate/migrate").send().await?, 503, "\"verdict\":\"unknown\"")?;
    stage.cluster.etcd().iter().try_for_each(|member| member.thaw())?;
    stage.writes_go_on().await?;
    open(stage, "n1", &["--max-lag", "5s"]).await.map(|_| ())
}
