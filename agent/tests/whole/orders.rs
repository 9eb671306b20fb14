//! Orders of an operator to one node: its Postgres is restarted, its data copied anew, while a client writes and loses nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_restarted_and_copied_anew_at_an_order_and_nothing_is_lost() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let standby = stage.others(&leader)[0].clone();
        for name in [&standby, &leader] {
            restarted(stage, name).await?;
            stage.writes_go_on().await?;
        }
        ensure!(stage.leader().await? == leader, "a restart has moved the lead");
        what_cannot_be_copied_runs_on(stage, &standby).await?;
        the_outage_is_on_the_record_of_the_order_alone(stage, &leader).await?;
        copied_anew(stage, &standby).await?;
        stage.whole().await?;
        stage.pgvigil(&leader, &["pause", "--for", "10m", "--reason", "test"]).await?;
        restarted(stage, &standby).await?;
        copied_anew(stage, &standby).await?;
        refused(stage, &leader, &["restart", &leader, "-y"], "in a pause").await?;
        stage.pgvigil(&leader, &["resume"]).await?;
        stage.whole().await?;
        refused(stage, &leader, &["reinit", &leader, "-y"], "leads").await?;
        refused(stage, &leader, &["restart", &standby, "--role", "primary", "-y"], "is a standby").await?;
        an_order_to_a_node_that_is_away_is_told_and_taken_back(stage, &leader, &standby).await?;
        it_is_not_carried_out_in_a_hold(stage, &leader, &standby).await
    })
    .await;
}

async fn the_outage_is_on_the_record_of_the_order_alone(stage: &Stage, leader: &str) -> Result<()> {
    let of_leader = async || {
        let records = stage.transitions(leader).await?.into_iter();
        Ok::<Vec<_>, anyhow::Error>(records.filter(|one| one["kind"] == "restart" && one["to"] == leader).collect())
    };
    let measured = async || Ok(of_leader().await?.iter().any(|record| record["write_outage_ms"].as_f64() > Some(0.0)));
    stage.eventually("nobody tells how long writes stopped", measured).await?;
    let records = of_leader().await?;
    let [record] = &records[..] else { anyhow::bail!("one restart, and these records: {records:?}") };
    let phases = record["phases"].to_string();
    let whole = ["shutdown", "restart", "writable"].iter().all(|phase| phases.contains(&format!("{phase:?}")));
    let told = record["cause"] == "ordered" && record["outcome"] == "done" && record["reason"] == "test";
    ensure!(whole && told && record["requested_by"].as_str().is_some_and(|by| by.contains('@')), "{record}");
    Ok(())
}

async fn an_order_to_a_node_that_is_away_is_told_and_taken_back(stage: &Stage, on: &str, away: &str) -> Result<()> {
    // Until its lease ends it is registered, and may be given orders.
    stage.node(away)?.kill_everything()?;
    let output = stage.cluster.pgvigil(on, &["reinit", away, "-y", "--wait", "1s"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let way_back = format!("pgvigil reinit {away} --cancel");
    let told = said.contains("has not begun") && said.contains(&way_back);
    ensure!(output.status.code() == Some(4) && told, "{}: {said}", output.status);
    let status = stage.pgvigil(on, &["status", "-o", "json"]).await?;
    ensure!(status.contains("order_pending") && status.contains(&way_back), "{status}");
    let taken = stage.pgvigil(on, &["reinit", away, "--cancel"]).await?;
    ensure!(taken.contains(&format!("taken back: reinit of {away} by ")), "{taken}");
    ensure!(etcdctl::get(&stage.cluster, &format!("orders/{away}")).await?.is_empty(), "the order is still there");
    let again = stage.pgvigil(on, &["reinit", away, "--cancel"]).await?;
    ensure!(again.contains("nothing to take back"), "{again}");
    Ok(())
}

async fn is_there(stage: &Stage, key: &str) -> Result<bool> {
    Ok(!etcdctl::get(&stage.cluster, key).await?.is_empty())
}

/// Whoever holds does not know of the node that is away; it comes back in the hold with an order that was given before.
async fn it_is_not_carried_out_in_a_hold(stage: &mut Stage, on: &str, away: &str) -> Result<()> {
    let (member, order) = (format!("members/{away}"), format!("orders/{away}"));
    stage.eventually("its lease does not end", async || Ok(!is_there(stage, &member).await?)).await?;
    etcdctl::put(&stage.cluster, &order, r#"{"order": "restart", "requested_by": "anna"}"#).await?;
    stage.pgvigil(on, &["hold", "--reason", "flyway V42", "--for", "10m"]).await?;
    stage.start(away)?;
    stage.whole().await?;
    let pid = stage.node(away)?.postmaster_pid().context("it runs")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(is_there(stage, &order).await?, "the order was taken in a hold");
    let status = stage.pgvigil(on, &["status"]).await?;
    ensure!(status.contains("planned actions are held") && status.contains("--cancel"), "{status}");
    stage.pgvigil(on, &["release"]).await?;
    stage.eventually("it waits on", async || Ok(!is_there(stage, &order).await?)).await?;
    let restarted = async || Ok(stage.node(away)?.postmaster_pid().is_some_and(|now| now != pid));
    stage.eventually("it was not restarted", restarted).await?;
    stage.whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_restarted_one_after_another_and_writes_pause_for_a_switchover_alone() {
    on_stage(&options(), async |stage| {
        let pids = || -> Result<Vec<_>> {
            stage.cluster.nodes().iter().map(|node| node.postmaster_pid().context("it runs")).collect()
        };
        let (before, leader, begin) = (pids()?, stage.leader().await?, Instant::now());
        stage.pgvigil(&leader, &["restart", "--rolling", "-y"]).await?;
        ensure!(pids()?.iter().all(|pid| !before.contains(pid)), "somebody runs on");
        ensure!(stage.leader().await? != leader, "nobody was switched over to");
        stage.say(&format!("the longest pause was {} ms", stage.silence_since(begin)?.as_millis()));
        stage.whole().await
    })
    .await;
}

async fn restarted(stage: &Stage, name: &str) -> Result<()> {
    let before = stage.node(name)?.postmaster_pid().context("it runs")?;
    stage.pgvigil(name, &["restart", name, "-y", "--reason", "test"]).await?;
    ensure!(stage.node(name)?.postmaster_pid().is_some_and(|pid| pid != before), "{name} runs on");
    ensure!(etcdctl::get(&stage.cluster, &format!("orders/{name}")).await?.is_empty(), "the order is still there");
    stage.whole().await
}

async fn copied_anew(stage: &Stage, name: &str) -> Result<()> {
    let id = |name| {
        std::fs::metadata(stage.node(name)?.data_dir())
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
            .context("it is there")
    };
    let before = id(name)?;
    stage.pgvigil(name, &["reinit", name, "-y"]).await?;
    ensure!(id(name)? != before, "{name} has the directory that it had");
    stage.writes_go_on().await
}

/// Where no copy can be put into place nothing is stopped, and where one fails what was here runs again.
async fn what_cannot_be_copied_runs_on(stage: &Stage, name: &str) -> Result<()> {
    let pid = || stage.node(name)?.postmaster_pid().context("it runs");
    let (before, data_dir) = (pid()?, stage.node(name)?.data_dir());
    let home = data_dir.parent().context("it has a home")?;
    let mode = std::fs::metadata(home)?.permissions();
    std::fs::set_permissions(home, std::os::unix::fs::PermissionsExt::from_mode(0o555))?;
    let said = refused(stage, name, &["reinit", name, "-y"], "cannot be moved aside").await;
    std::fs::set_permissions(home, mode)?;
    said?;
    ensure!(pid()? == before, "it was stopped for nothing");

    let file = stage.node(name)?.config().to_owned();
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("clone.methods = [\"command\"]\nclone.command = [\"/bin/false\"]\n{text}"))?;
    stage.pgvigil(name, &["reload", name]).await?;
    let said = refused(stage, name, &["reinit", name, "-y"], "runs again").await;
    std::fs::write(&file, text)?;
    stage.pgvigil(name, &["reload", name]).await?;
    said?;
    ensure!(pid()? != before, "it was not stopped");
    stage.whole().await
}

async fn refused(stage: &Stage, name: &str, words: &[&str], why: &str) -> Result<()> {
    let said = stage.pgvigil(name, words).await.err().context("it was obeyed")?;
    ensure!(format!("{said:#}").contains(why), "{said:#}");
    Ok(())
}
