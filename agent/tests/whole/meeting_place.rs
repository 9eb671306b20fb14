//! etcd in trouble: one member frozen, which nobody may notice; all of it frozen, in which case the primary stops in time; and keys with
//! nonsense in them, which must not bring an agent down.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::direct::DirectWriter;
use crate::etcdctl;
use crate::http;
use crate::stage::{Stage, on_stage, options};

/// A client that was connected to the frozen member needs a moment to try another.
const NOTICED: Duration = Duration::from_secs(5);
/// Longer than several leases.
const MEMBER_FROZEN_FOR: Duration = Duration::from_secs(8);
const TTL: Duration = Duration::from_secs(5);
/// What a busy machine may add between the end of a lease and the kill that follows it.
const GRACE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn one_frozen_member_of_etcd_loses_nothing_and_a_follower_changes_nothing() {
    on_stage(&options(), async |stage| {
        for (member, url) in stage.cluster.etcd().iter().zip(stage.cluster.etcd_urls()) {
            let follows = !leads_etcd(stage, url).await?;
            let before = (stage.leader().await?, term(stage).await?);
            let began = Instant::now();
            member.freeze()?;
            tokio::time::sleep(MEMBER_FROZEN_FOR).await;
            stage.writes_go_on().await?;
            let (now, silence) = ((stage.leader().await?, term(stage).await?), stage.silence_since(began)?);
            let role = if follows { "a follower" } else { "the leader of etcd" };
            stage.say(&format!("{}, {role}, is frozen: {} ms without writes", member.name(), silence.as_millis()));
            // etcd elects another leader in two to four seconds on a busy machine, which a lease of five may not outlive.
            ensure!(now == before || !follows, "leader and term were {before:?} and are {now:?}: {}", member.name());
            ensure!(silence < NOTICED || !follows, "no write for {silence:?} while {} is frozen", member.name());
            member.thaw()?;
            let healthy = async || etcdctl::etcdctl(&stage.cluster, &["endpoint", "health"]).await.map(|_| true);
            stage.eventually("etcd does not come back", healthy).await?;
            // A member that led etcd and wakes up revokes every lease, in versions as old as Debian 12's (etcd-io/etcd issue 15247).
            // That may cost the leadership, and no row.
            stage.whole().await?;
            stage.writes_go_on().await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_the_primary_stops_before_its_lease_is_over_and_comes_back() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let sticking = DirectWriter::start(stage.node(&leader)?.postgres_port());
        stage.eventually("the other client gets nothing acknowledged", async || Ok(sticking.count() > 10)).await?;
        let frozen = Instant::now();
        stage.cluster.etcd().iter().try_for_each(agent::demo::service::Service::freeze)?;
        nobody_is_primary(stage).await?;
        stage.say(&format!("/primary says no after {} ms", frozen.elapsed().as_millis()));
        tokio::time::sleep_until((frozen + TTL + GRACE).into()).await;
        let (rows, others) = (stage.rows()?, sticking.count());
        tokio::time::sleep(TTL).await;
        ensure!((stage.rows()?, sticking.count()) == (rows, others), "writes are acknowledged without a lease");
        nobody_is_primary(stage).await?;
        stage.cluster.etcd().iter().try_for_each(agent::demo::service::Service::thaw)?;
        stage.writes_go_on().await?;
        let silence = stage.silence_since(frozen)?;
        stage.say(&format!("etcd is back: {} ms without writes", silence.as_millis()));
        stage.must_also_be_there(sticking.stop());
        Ok(())
    })
    .await;
}

async fn nobody_is_primary(stage: &Stage) -> Result<()> {
    let nobody = async || {
        for node in stage.cluster.nodes() {
            if http::ask(node, "GET", "/primary").await?.status != 503 {
                return Ok(false);
            }
        }
        Ok(true)
    };
    stage.eventually("somebody is primary without etcd", nobody).await
}

const KEYS: [&str; 9] =
    ["sync", "members/x", "failover", "config", "history", "status", "ballots/x", "floors/n1", "transitions/x"];
/// The last one is what is told.
const NONSENSE: [&str; 6] = ["", "nonsense", "[]", "{\"leader\": 5, \"ttl\": \"x\"}", "\u{1F418}", "{nonsense"];

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_etcd_is_told_and_brings_nobody_down() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        for key in KEYS {
            let before = etcdctl::get(&stage.cluster, key).await?;
            for nonsense in NONSENSE {
                etcdctl::put(&stage.cluster, key, nonsense).await?;
                stage.writes_go_on().await?;
            }
            if !key.starts_with("transitions") {
                let told = async || problem_is_told(stage, &leader, key).await;
                stage.eventually(&format!("nobody tells that {key} is nonsense"), told).await?;
            }
            stage.say(&format!("{key} had nonsense in it"));
            put_back(stage, key, &before).await?;
        }
        ensure!(stage.leader().await? == leader, "the leadership has changed");
        Ok(())
    })
    .await;
}

async fn problem_is_told(stage: &Stage, leader: &str, key: &str) -> Result<bool> {
    let why = stage.ask(leader, "/why").await?;
    let problems = why["problems"].as_array().cloned().unwrap_or_default();
    Ok(problems.iter().any(|problem| problem["key"].as_str().is_some_and(|told| told.ends_with(key))))
}

async fn put_back(stage: &Stage, key: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        etcdctl::etcdctl(&stage.cluster, &["del", &format!("/service/demo/{key}")]).await.map(|_| ())
    } else {
        etcdctl::put(&stage.cluster, key, value).await
    }
}

async fn leads_etcd(stage: &Stage, url: &str) -> Result<bool> {
    let status = etcdctl::etcdctl(&stage.cluster, &["endpoint", "status", "--write-out=json"]).await?;
    let members: Vec<serde_json::Value> = serde_json::from_str(&status)?;
    let status = members.iter().find(|member| member["Endpoint"] == url).map(|member| &member["Status"]);
    let status = status.with_context(|| format!("{url} is not in {members:?}"))?;
    Ok(status["leader"] == status["header"]["member_id"])
}

async fn term(stage: &Stage) -> Result<String> {
    etcdctl::get(&stage.cluster, "term").await
}
