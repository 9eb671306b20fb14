//! Members that leave for good and come back under their name, and nodes whose address changes, while a client writes and loses nothing.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_removed_and_whoever_comes_back_under_its_name_is_a_member_again() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let [gone, stays] = <[String; 2]>::try_from(stage.others(&leader)).ok().context("there are two standbys")?;
        refused(stage, &leader, &gone, "is registered").await?;
        refused(stage, &leader, &leader, "leads").await?;
        refused(stage, &leader, "n9", "not known here").await?;
        stage.node(&gone)?.kill_everything()?;
        nothing_but_its_slot_tells_of_it(stage, &gone).await?;
        removed(stage, &leader, &gone).await?;
        ensure!(members(stage, &leader).await?.len() == 2, "status still shows whoever was removed");
        stage.pgvigil(&leader, &["config", "set", "durability.mode=strict", "-y"]).await?;
        the_last_voter_of_a_strict_cluster_stays(stage, &leader, &stays).await?;
        stage.say("it comes back with what it had");
        comes_back(stage, &gone).await?;
        stage.node(&gone)?.kill_everything()?;
        is_away(stage, &gone).await?;
        etcdctl::put(&stage.cluster, &format!("floors/{gone}"), "0/1000000").await?;
        removed(stage, &leader, &gone).await?;
        stage.say("it comes back as another node, with nothing");
        std::fs::remove_dir_all(stage.node(&gone)?.data_dir())?;
        comes_back(stage, &gone).await?;
        its_postgres_goes_on(stage, &leader, &gone).await?;
        stage.say("what it acknowledges counts again");
        stage.node(&leader)?.kill_everything()?;
        stage.leader_other_than(&leader).await?;
        stage.start(&leader)?;
        stage.whole().await
    })
    .await;
}

async fn is_away(stage: &Stage, gone: &str) -> Result<()> {
    let key = format!("members/{gone}");
    let away = async || Ok(etcdctl::get(&stage.cluster, &key).await?.is_empty());
    stage.eventually("its lease does not end", away).await
}

/// It never led and nothing counts on it any more, as some seconds after any standby is lost; the gate before a change knows it nevertheless.
async fn nothing_but_its_slot_tells_of_it(stage: &Stage, gone: &str) -> Result<()> {
    is_away(stage, gone).await?;
    for key in ["sync", "failsafe", "history", &format!("ballots/{gone}"), &format!("floors/{gone}")] {
        let forgotten = async || Ok(!etcdctl::get(&stage.cluster, key).await?.contains(gone));
        stage.eventually(&format!("{key} still tells of it"), forgotten).await?;
    }
    let gate = stage.cluster.pgvigil(&stage.leader().await?, &["gate", "migrate"]).await?;
    let said = String::from_utf8_lossy(&gate.stdout).into_owned();
    ensure!(gate.status.code() == Some(3) && said.contains("1 of 2 standbys stream"), "{}: {said}", gate.status);
    Ok(())
}

async fn removed(stage: &mut Stage, leader: &str, gone: &str) -> Result<()> {
    stage.pgvigil(leader, &["member", "remove", gone, "-y", "--reason", "sold"]).await?;
    let word: Value = serde_json::from_str(&etcdctl::get(&stage.cluster, &format!("departures/{gone}")).await?)?;
    ensure!(word["done"] == true && word["reason"] == "sold", "{word}");
    ensure!(etcdctl::get(&stage.cluster, &format!("floors/{gone}")).await?.is_empty(), "its floor is still there");
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{gone}'");
    let dropped = async || Ok(stage.cluster.psql(leader, &slots).await? == "0");
    stage.eventually("its slot is still there", dropped).await?;
    for key in ["sync", "failsafe"] {
        let value = etcdctl::get(&stage.cluster, key).await?;
        ensure!(!value.contains(&format!("\"{gone}\"")), "{key} still names it: {value}");
    }
    stage.pgvigil(leader, &["member", "remove", gone, "-y"]).await.context("said twice")?;
    stage.writes_go_on().await
}

/// Only its agent was stopped, as a service manager does it: what is left to do is told with the removal, and by `status` until it is done.
async fn its_postgres_goes_on(stage: &Stage, leader: &str, gone: &str) -> Result<()> {
    stage.stop(gone).await?;
    is_away(stage, gone).await?;
    let told = format!("{gone} is removed, but its Postgres still streams from {leader}");
    let said = stage.pgvigil(leader, &["member", "remove", gone, "-y"]).await?;
    // A leader that does not answer in that second has not told that it still streams.
    let silent = said.contains(&format!("{gone} is removed"));
    ensure!(said.contains(&told) && said.contains("stop -m fast") || silent, "{said}");
    let shown = async || {
        let status = stage.pgvigil(leader, &["status"]).await?;
        Ok(status.contains(&told) && status.contains("stop -m fast"))
    };
    stage.eventually("status does not say so", shown).await?;
    stage.node(gone)?.kill_everything()?;
    let over = async || Ok(!stage.pgvigil(leader, &["status"]).await?.contains("still streams"));
    stage.eventually("it is still told", over).await?;
    comes_back(stage, gone).await
}

async fn the_last_voter_of_a_strict_cluster_stays(stage: &Stage, leader: &str, last: &str) -> Result<()> {
    stage.node(last)?.kill_everything()?;
    is_away(stage, last).await?;
    refused(stage, leader, last, "mode strict never waits for fewer").await?;
    stage.start(last)?;
    stage.writes_go_on().await?;
    let said = stage.pgvigil(leader, &["reinit", last, "-y"]).await.err().context("its data was given up")?;
    ensure!(format!("{said:#}").contains("bring another standby first"), "{said:#}");
    stage.writes_go_on().await
}

async fn comes_back(stage: &Stage, gone: &str) -> Result<()> {
    stage.start(gone)?;
    stage.whole().await?;
    let key = format!("departures/{gone}");
    let void = async || Ok(etcdctl::get(&stage.cluster, &key).await?.is_empty());
    stage.eventually("the word that it has left is still there", void).await
}

async fn members(stage: &Stage, name: &str) -> Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&stage.pgvigil(name, &["status", "-o", "json"]).await?)?;
    Ok(status["members"].as_array().cloned().unwrap_or_default())
}

async fn refused(stage: &Stage, name: &str, whom: &str, why: &str) -> Result<()> {
    let output = stage.cluster.pgvigil(name, &["member", "remove", whom, "-y"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3) && said.contains(why), "{}: {said}", output.status);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_change_their_address_are_followed_to_where_they_are() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let moving = stage.others(&leader)[0].clone();
        a_port_changes_with_the_next_restart(stage, &moving).await?;
        stage.say("the host of the leader gets another address");
        stage.node(&leader)?.kill_everything()?;
        let port = stage.node(&leader)?.postgres_port();
        let changes = [
            ("postgres.advertise", format!("127.0.0.2:{port}")),
            ("postgres.listen", "127.0.0.1,127.0.0.2".to_owned()),
        ];
        changes.iter().try_for_each(|(key, value)| stage.set(&leader, key, &format!("{value:?}")))?;
        stage.leader_other_than(&leader).await?;
        stage.start(&leader)?;
        stage.whole().await?;
        stage.pgvigil(&leader, &["switchover", "--to", &leader, "-y"]).await?;
        stage.whole().await?;
        for standby in stage.others(&leader) {
            let from = "SELECT sender_host FROM pg_stat_wal_receiver";
            ensure!(stage.cluster.psql(&standby, from).await? == "127.0.0.2", "{standby} is not where it ought to be");
        }
        Ok(())
    })
    .await;
}

/// The agent begins anew with another port in its file. Its Postgres goes on as it is, and says what waits for a restart.
async fn a_port_changes_with_the_next_restart(stage: &mut Stage, moving: &str) -> Result<()> {
    let node = stage.node(moving)?;
    let (before, pid) = (node.postgres_port(), node.postmaster_pid());
    let after = before + 15;
    stage.set(moving, "postgres.advertise", &format!("\"127.0.0.1:{after}\""))?;
    stage.stop(moving).await?;
    stage.start(moving)?;
    stage.whole().await?;
    let registered = async |stage: &Stage, port: u16| {
        Ok(etcdctl::get(&stage.cluster, &format!("members/{moving}")).await?.contains(&format!("127.0.0.1:{port}/")))
    };
    ensure!(stage.node(moving)?.postmaster_pid() == pid, "its Postgres was restarted for that");
    stage.eventually("it is not where it runs", async || registered(stage, before).await).await?;
    let told = async || Ok(stage.pgvigil(moving, &["status"]).await?.contains("port"));
    stage.eventually("nobody says that the port waits for a restart", told).await?;
    stage.pgvigil(moving, &["restart", moving, "-y"]).await?;
    stage.cluster.moved(moving, after)?;
    stage.eventually("it is not where it runs now", async || registered(stage, after).await).await?;
    stage.whole().await?;
    stage.writes_go_on().await
}
