//! What a pause must not cost. Its end brings no second primary beside one whose agent is away; and while it lasts commits go on without voters that
//! are gone, and a leader whose lease has lapsed holds its lock again.

use std::time::Duration;

use agent::demo::cluster::ClusterOptions;
use anyhow::{Context, Result, ensure};

use crate::direct::DirectWriter;
use crate::etcdctl;
use crate::http;
use crate::stage::{Stage, on_stage, options};

/// Longer than a lease and a window for ballots.
const WATCHED_FOR: Duration = Duration::from_secs(3);
/// Longer than a lease.
const SILENCE: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_agent_ends_in_a_pause_has_no_other_beside_it_when_the_pause_ends() {
    let small = ClusterOptions { nodes: 2, etcd_members: 1, ..options() };
    on_stage(&small, async |stage| {
        let leader = stage.leader().await?;
        nobody_leads_beside_it(stage, &leader).await?;
        let other = stage.others(&leader)[0].clone();
        let begin = stage.may_be_lost_from_here(&leader).await?;
        ends_in_a_pause(stage, &leader).await?;
        stage.node(&leader)?.kill_postgres()?;
        ensure!(stage.leader_other_than(&leader).await? == other, "{other} does not lead");
        stage.may_be_lost(begin);
        stage.start(&leader)?;
        stage.writes_go_on().await
    })
    .await;
}

async fn ends_in_a_pause(stage: &Stage, leader: &str) -> Result<()> {
    stage.pgvigil(leader, &["pause", "--for", "5s", "--reason", "test"]).await?;
    stage.stop(leader).await?;
    let said = std::fs::read_to_string(stage.node(leader)?.agent().log())?;
    ensure!(said.contains("in the pause nothing fences Postgres"), "its last words are others");
    Ok(())
}

/// Its Postgres goes on acknowledging, and what it acknowledges stays.
async fn nobody_leads_beside_it(stage: &mut Stage, leader: &str) -> Result<()> {
    let other = stage.others(leader)[0].clone();
    ends_in_a_pause(stage, leader).await?;
    let sticking = DirectWriter::start(stage.node(leader)?.postgres_port());
    let is_left = async || Ok(stage.ask(&other, "/why").await?["reason"]["code"] == "last_leader_answers");
    stage.eventually("nobody says that the last leader answers", is_left).await?;
    tokio::time::sleep(WATCHED_FOR).await;
    ensure!(http::ask(stage.node(&other)?, "GET", "/primary").await?.status == 503, "UNSAFE: two lead");
    let before = sticking.count();
    stage.eventually("it acknowledges nothing more", async || Ok(sticking.count() > before + 10)).await?;
    let status = stage.cluster.pgvigil(&other, &["status", "--exit-code"]).await?;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    let told = [format!("{leader}, whose agent is away, may accept writes"), format!("start the agent of {leader}")];
    ensure!(
        status.status.code() == Some(11) && told.iter().all(|told| said.contains(told)),
        "{}: {said}",
        status.status
    );
    let unproven = stage.cluster.pgvigil(&other, &["failover", "--to", &other, "-y"]).await?;
    ensure!(unproven.status.code() == Some(3), "{unproven:?}");
    stage.start(leader)?;
    stage.writes_go_on().await.context("its agent is back")?;
    ensure!(stage.leader().await? == leader, "another leads");
    stage.must_also_be_there(sticking.stop());
    stage.whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pause_commits_go_on_without_voters_and_a_lapsed_lock_is_taken_again() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        stage.pgvigil(&leader, &["pause", "--for", "10m", "--reason", "test"]).await?;
        let term = etcdctl::get(&stage.cluster, "term").await?;
        stage.cluster.etcd().iter().try_for_each(|member| member.freeze())?;
        tokio::time::sleep(SILENCE).await;
        stage.cluster.etcd().iter().try_for_each(|member| member.thaw())?;
        let holds = async || Ok(etcdctl::get(&stage.cluster, "leader").await? == leader);
        stage.eventually("the leader does not hold its lock", holds).await?;
        ensure!(etcdctl::get(&stage.cluster, "term").await? == term, "it was not its own lock that it took");
        for standby in stage.others(&leader) {
            stage.node(&standby)?.kill_everything()?;
        }
        stage.writes_go_on().await.context("no voter is left")?;
        let status = stage.cluster.pgvigil(&leader, &["status"]).await?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(said.contains(&format!("writes work on {leader}")), "{said}");
        for standby in stage.others(&leader) {
            stage.start(&standby)?;
        }
        stage.pgvigil(&leader, &["resume"]).await.map(|_| ())
    })
    .await;
}
