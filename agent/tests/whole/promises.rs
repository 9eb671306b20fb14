//! A leader that lives on its peers' promises, and then something else goes wrong: its voters one after another, its Postgres, its agent,
//! its whole host. It goes on exactly as long as the promises carry it, and nobody leads beside it.

use std::time::{Duration, Instant};

use agent::demo::processes;
use agent::demo::service::Service;
use anyhow::{Context, Result, ensure};

use crate::direct::DirectWriter;
use crate::etcdctl::etcdctl;
use crate::http;
use crate::links::Links;
use crate::stage::{Stage, on_stage, options};

const TTL: Duration = Duration::from_secs(5);
/// What a busy machine may add between the end of a promise and the kill that follows it.
const GRACE: Duration = Duration::from_secs(1);

/// Waits until the agent of a node gives this reason for what it does.
pub async fn says(stage: &Stage, name: &str, code: &str) -> Result<()> {
    let so = async || Ok(stage.ask(name, "/why").await?["reason"]["code"] == code);
    stage.eventually(&format!("{name} does not say {code}"), so).await
}

/// All of etcd is killed, and the leader says that it lives on promises.
async fn etcd_is_lost(stage: &Stage, leader: &str) -> Result<()> {
    stage.cluster.etcd().iter().for_each(Service::kill);
    says(stage, leader, "leading_on_promises").await
}

async fn all_have_promised(stage: &Stage, voters: &[String]) -> Result<()> {
    for voter in voters {
        says(stage, voter, "promised").await?;
    }
    Ok(())
}

/// The links between its leader and etcd are cut, and every voter has promised to let it go on.
pub async fn leader_alone_loses_etcd(stage: &Stage, leader: &str) -> Result<Links> {
    let links = Links::between(stage, leader).await?;
    links.cut();
    all_have_promised(stage, &stage.others(leader)).await?;
    Ok(links)
}

fn etcd_is_back(stage: &Stage) -> Result<()> {
    stage.say("etcd is back");
    stage.cluster.etcd().iter().try_for_each(Service::start)
}

/// Nobody among these takes writes at this moment.
pub async fn nobody_is_primary(stage: &Stage, among: &[String]) -> Result<()> {
    for name in among {
        let answer = http::ask(stage.node(name)?, "GET", "/primary").await?;
        ensure!(answer.status == 503, "{name} says that it is primary");
    }
    Ok(())
}

/// Whether a node is bound by a promise at this moment.
pub async fn keeps_a_promise(stage: &Stage, name: &str) -> Result<bool> {
    let metrics = http::ask(stage.node(name)?, "GET", "/metrics").await?.body;
    let told = metrics.lines().find(|line| line.starts_with("pgvigil_promised{"));
    Ok(!told.context("no metric tells of promises")?.ends_with(" 0.0"))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_strict_mode_one_voter_is_enough_without_etcd_and_none_is_not() {
    on_stage(&options().with("durability.mode", "\"strict\""), async |stage| {
        let leader = stage.leader().await?;
        let voters = stage.others(&leader);
        let lost = Instant::now();
        etcd_is_lost(stage, &leader).await?;
        let [first, second] = [stage.node(&voters[0])?, stage.node(&voters[1])?];
        stage.say(&format!("{} is out of reach as well", first.name()));
        first.agent().freeze()?;
        first.freeze_postgres();
        tokio::time::sleep(TTL * 2).await;
        stage.writes_go_on().await?;
        stage.say(&format!("{} ms without a write", stage.silence_since(lost)?.as_millis()));
        ensure!(stage.silence_since(lost)? < TTL, "writes paused");
        let refused = stage.ask(&leader, "/why").await?["refused_promises"].clone();
        ensure!(refused[0]["member"] == first.name(), "nobody says who has not promised: {refused}");
        let data_dir = stage.node(&leader)?.data_dir();
        second.agent().freeze()?;
        second.freeze_postgres();
        tokio::time::sleep(TTL + GRACE).await;
        ensure!(processes::of_server(&data_dir).is_empty(), "Postgres lives although no promise does");
        for node in [first, second] {
            node.thaw_postgres();
            node.agent().thaw()?;
        }
        etcd_is_back(stage)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_nobody_follows_a_leader_whose_host_is_lost_and_why_says_so() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let others = stage.others(&leader);
        etcd_is_lost(stage, &leader).await?;
        stage.node(&leader)?.kill_everything()?;
        stage.say("the leader's host is lost as well");
        let until = Instant::now() + TTL * 2;
        while Instant::now() < until {
            nobody_is_primary(stage, &others).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for name in &others {
            says(stage, name, "etcd_silent").await?;
        }
        etcd_is_back(stage)?;
        let new = stage.leader_other_than(&leader).await?;
        stage.say(&format!("{new} leads"));
        stage.writes_go_on().await?;
        stage.start(&leader)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fencer_strikes_when_the_promises_end_whose_agent_is_dead() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let sticking = DirectWriter::start(stage.node(&leader)?.postgres_port());
        etcd_is_lost(stage, &leader).await?;
        tokio::time::sleep(TTL * 2).await;
        let data_dir = stage.node(&leader)?.data_dir();
        ensure!(!processes::of_server(&data_dir).is_empty(), "the fence was not moved by promises");
        stage.node(&leader)?.agent().kill();
        stage.say("two leases later its agent dies, and is left dead");
        tokio::time::sleep(TTL + GRACE).await;
        ensure!(
            processes::of_server(&data_dir).is_empty(),
            "Postgres lives without an agent that could ask for promises"
        );
        etcd_is_back(stage)?;
        stage.leader_other_than(&leader).await?;
        stage.writes_go_on().await?;
        stage.must_also_be_there(sticking.stop());
        stage.start(&leader)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_without_etcd_is_started_again_where_it_is() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let term = stage.ask(&leader, "/beat").await?["term"].clone();
        etcd_is_lost(stage, &leader).await?;
        for _ in 0..2 {
            stage.node(&leader)?.kill_postgres()?;
            stage.say("its postmaster is killed");
            stage.writes_go_on().await?;
        }
        tokio::time::sleep(TTL).await;
        stage.writes_go_on().await?;
        etcd_is_back(stage)?;
        says(stage, &leader, "leading").await?;
        ensure!(stage.ask(&leader, "/beat").await?["term"] == term, "the term has changed");
        stage
            .eventually("what was measured without etcd is not recorded", async || both_restarts(stage, &leader).await)
            .await
    })
    .await;
}

/// Both are on record, with their outage.
async fn both_restarts(stage: &Stage, leader: &str) -> Result<bool> {
    let records = stage.transitions(leader).await?;
    let restarts = records.iter().filter(|record| record["kind"] == "restart" && record["outcome"] == "done");
    Ok(restarts.filter(|record| record["write_outage_ms"].as_f64().is_some_and(|outage| outage > 0.0)).count() == 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_while_etcd_renews_leases_and_refuses_to_be_read_is_started_again_where_it_is() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let term = stage.ask(&leader, "/beat").await?["term"].clone();
        for order in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
        {
            etcdctl(&stage.cluster, order).await?;
        }
        stage.say("etcd asks for a password that nobody has");
        says(stage, &leader, "leading_on_promises").await?;
        tokio::time::sleep(TTL).await;
        let said = stage.pgvigil(&leader, &["status", "-o", "json"]).await?;
        ensure!(said.contains("etcd_unreadable"), "{said}");
        stage.node(&leader)?.kill_postgres()?;
        let died = Instant::now();
        stage.writes_go_on().await?;
        stage.say(&format!(
            "{} ms without a write, and etcd is still unreadable",
            stage.silence_since(died)?.as_millis()
        ));
        etcdctl(&stage.cluster, &["--user", "root:secret", "auth", "disable"]).await?;
        says(stage, &leader, "leading").await?;
        ensure!(stage.ask(&leader, "/beat").await?["term"] == term, "the term has changed");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_with_the_quorum_of_etcd_is_soon_started_again_where_it_is() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let term = stage.ask(&leader, "/beat").await?["term"].clone();
        let lost = Instant::now();
        stage.cluster.etcd().iter().take(2).for_each(Service::kill);
        stage.node(&leader)?.kill_postgres()?;
        stage.writes_go_on().await?;
        stage.say(&format!("{} ms without a write, and etcd is still away", stage.silence_since(lost)?.as_millis()));
        tokio::time::sleep(TTL).await;
        stage.writes_go_on().await?;
        stage.cluster.etcd().iter().take(2).try_for_each(Service::start)?;
        says(stage, &leader, "leading").await?;
        ensure!(stage.ask(&leader, "/beat").await?["term"] == term, "the term has changed");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_with_the_quorum_of_etcd_loses_nothing_when_etcd_comes_back_at_once() {
    on_stage(&options(), async |stage| {
        for pause in [Duration::from_millis(500), Duration::from_secs(2)] {
            let leader = stage.leader().await?;
            stage.cluster.etcd().iter().take(2).for_each(Service::kill);
            stage.node(&leader)?.kill_postgres()?;
            tokio::time::sleep(pause).await;
            stage.cluster.etcd().iter().take(2).try_for_each(Service::start)?;
            stage.say(&format!("etcd is back after {pause:?}"));
            stage.writes_go_on().await?;
            stage.whole().await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_alone_lost_etcd_and_whose_postgres_hangs_restarts_it_under_its_term() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let term = stage.ask(&leader, "/beat").await?["term"].clone();
        let links = Links::between(stage, &leader).await?;
        links.cut();
        says(stage, &leader, "leading_on_promises").await?;
        let postmaster = stage.node(&leader)?.postmaster_pid();
        stage.node(&leader)?.freeze_postgres();
        let froze = Instant::now();
        stage.say("its Postgres hangs");
        stage.writes_go_on().await?;
        stage.say(&format!("{} ms without a write", stage.silence_since(froze)?.as_millis()));
        ensure!(stage.node(&leader)?.postmaster_pid() != postmaster, "nobody has killed what hangs");
        ensure!(stage.leader().await? == leader, "somebody else leads beside promises");
        links.mend();
        says(stage, &leader, "leading").await?;
        ensure!(stage.ask(&leader, "/beat").await?["term"] == term, "the term has changed");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_outlives_the_agent_that_gave_it_and_forbids_every_takeover_until_it_ends() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let voters = stage.others(&leader);
        let links = leader_alone_loses_etcd(stage, &leader).await?;
        // An operator is not refused for ever; nothing happens while the promises last.
        let asked = stage.cluster.pgvigil(&voters[0], &["switchover", "--to", &voters[0], "-y"]).await?;
        stage.say(&format!("a switchover is asked for meanwhile: {}", asked.status));
        tokio::time::sleep(TTL).await;
        says(stage, &leader, "leading_on_promises").await?;
        for voter in &voters {
            stage.node(voter)?.agent().kill();
        }
        stage.node(&leader)?.kill_everything()?;
        let lost = Instant::now();
        voters.iter().try_for_each(|voter| stage.start(voter))?;
        stage.say("the leader's host is lost, and its voters' agents are new");
        all_have_promised(stage, &voters).await?;
        let new = stage.leader_other_than(&leader).await?;
        stage.say(&format!("{new} leads after {} ms", lost.elapsed().as_millis()));
        stage.writes_go_on().await?;
        links.mend();
        stage.start(&leader)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_has_its_lease_again_frees_its_voters_at_once() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let voters = stage.others(&leader);
        let links = leader_alone_loses_etcd(stage, &leader).await?;
        links.mend();
        says(stage, &leader, "leading").await?;
        let back = Instant::now();
        for voter in &voters {
            let free = async || Ok(!keeps_a_promise(stage, voter).await?);
            stage.eventually(&format!("{voter} keeps its promise for ever"), free).await?;
        }
        let freed = back.elapsed();
        stage.say(&format!("freed after {} ms", freed.as_millis()));
        stage.node(&leader)?.kill_everything()?;
        let lost = Instant::now();
        let new = stage.leader_other_than(&leader).await?;
        stage.say(&format!("its host is lost: {new} leads after {} ms", lost.elapsed().as_millis()));
        ensure!(freed + lost.elapsed() < TTL, "the promise was kept until its end");
        stage.writes_go_on().await?;
        let records = stage.transitions(&new).await?;
        let outage = records.last().and_then(|record| record["write_outage_ms"].as_f64()).unwrap_or_default();
        ensure!(outage < TTL.as_secs_f64() * 1000.0, "the record begins when the leader was cut off: {outage} ms");
        stage.start(&leader)
    })
    .await;
}
