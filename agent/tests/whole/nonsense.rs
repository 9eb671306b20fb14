//! Nonsense and other people's records under every key of a cluster, while a client writes: nobody comes down, nobody is promoted, what has an owner is
//! written anew by it, and everything else is told by name with what mends it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::etcdctl;
use crate::http;
use crate::stage::{Stage, on_stage, options};

/// What an agent writes anew by itself. `LEADER` and `STANDBY` stand for their names.
const OWNED: &[&str] = &[
    "leader",
    "term",
    "initialize",
    "sync",
    "status",
    "failsafe",
    "secrets/replication",
    "members/LEADER",
    "members/STANDBY",
];
/// What waits for a person.
const OTHERS: &[&str] = &[
    "config",
    "failover",
    "history",
    "site_token",
    "stray_timeline",
    "orders/STANDBY",
    "departures/gone",
    "ballots/STANDBY",
    "floors/gone",
    "members/gone",
    "transitions/t-0",
    "config_history/0000000900",
];

/// What is put there.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let newer = r#"{"schema":"of/v9","leader":7,"term":"x","mode":"majority","kind":"teleport","order":"hibernate","role":"witness","optime":{},"lsn":1,
        "by":{},"id":{},"config":1,"revoked":"x","conn_url":{},"pause":"perhaps","replication_password":1,"at":[]}"#;
    vec![
        ("bytes", b"\xff\xfe\x00\x9f\x92\x96".to_vec()),
        ("a list", b"[]".to_vec()),
        ("depth", vec![b'['; 50_000]),
        ("a megabyte", vec![b'x'; 1 << 20]),
        ("a newer version's", newer.as_bytes().to_vec()),
        ("another tool's", b"http://10.0.0.9:2379 ttl=30 host:x, {'yaml': yes}".to_vec()),
    ]
}

struct Cast {
    leader: String,
    standby: String,
}

impl Cast {
    fn key(&self, key: &str) -> String {
        key.replace("LEADER", &self.leader).replace("STANDBY", &self.standby)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_under_any_key_is_told_or_put_right_and_stops_no_write() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        stage.pgvigil(&leader, &["config", "set", "-p", "work_mem=5MB", "-y", "--reason", "test"]).await?;
        let cast = Cast { standby: stage.others(&leader).remove(0), leader };
        let agents = pids(stage);
        let began = Instant::now();
        for key in OWNED {
            for (what, value) in nonsense() {
                is_put_right(stage, &cast, &cast.key(key), what, &value).await?;
            }
        }
        for key in OTHERS {
            is_told(stage, &cast, &cast.key(key)).await?;
        }
        ensure!(etcdctl::get(&stage.cluster, "config").await?.contains("work_mem"), "the settings are gone");
        stage.say(&format!("{} ms without a write at most", stage.silence_since(began)?.as_millis()));
        ensure!(pids(stage) == agents, "an agent has ended");
        nothing_panicked(stage)?;
        let begin = Instant::now();
        stage.node(&cast.leader)?.kill_everything()?;
        stage.leader_other_than(&cast.leader).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("the leader was killed: {} ms without a write", stage.silence_since(begin)?.as_millis()));
        stage.start(&cast.leader)
    })
    .await;
}

const OF_A_REIGN: [&[&str]; 6] = [
    &["leader", "sync"],
    &["leader", "term"],
    &["term", "sync"],
    &["initialize", "term"],
    &["initialize", "leader"],
    &["leader", "term", "sync"],
];

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_under_several_keys_of_a_reign_at_once_stops_no_write() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let cast = Cast { standby: stage.others(&leader).remove(0), leader };
        let before = of_a_reign(stage).await?;
        let began = Instant::now();
        for (round, keys) in OF_A_REIGN.iter().chain(&OF_A_REIGN[5..]).enumerate() {
            // The last time its agent is started anew upon the nonsense, and knows of nothing.
            let restarts = round == OF_A_REIGN.len();
            if restarts {
                stage.stop(&cast.leader).await?;
            }
            let puts: Vec<&str> = keys.to_vec();
            for key in &puts {
                etcdctl::put(&stage.cluster, key, "nonsense").await?;
            }
            if restarts {
                stage.start(&cast.leader)?;
            }
            let put_back = async || Ok(of_a_reign(stage).await? == before);
            stage.eventually(&format!("{puts:?} are not put back as they were"), put_back).await?;
            stage.writes_go_on().await?;
            still_leads(stage, &cast, &puts.join("+")).await?;
        }
        let silence = stage.silence_since(began)?;
        stage.say(&format!("{} ms without a write at most", silence.as_millis()));
        ensure!(silence < Duration::from_secs(2), "no write for {} ms", silence.as_millis());
        nothing_panicked(stage)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_nobody_can_read_outlive_the_agent_that_knew_them() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let on = stage.others(&leader).remove(0);
        let set = ["config", "set", "durability.mode=strict", "-p", "work_mem=5MB", "-y", "--reason", "test"];
        stage.pgvigil(&leader, &set).await?;
        in_force(stage, &leader).await?;

        etcdctl::put(&stage.cluster, "config", "nonsense").await?;
        starts_anew(stage, &leader, "the settings that stood there before stay in force").await?;
        let said = stage.pgvigil(&on, &["config", "rollback", "1", "-y"]).await?;
        ensure!(said.contains("what nobody can read gives way"), "{said}");
        let mended = async || Ok(problems(stage, &leader).await?.is_empty());
        stage.eventually("the settings are not put back", mended).await?;
        let good = etcdctl::get(&stage.cluster, "config").await?;

        etcdctl::put(&stage.cluster, "config", "nonsense").await?;
        etcdctl::forget_the_past(&stage.cluster).await?;
        starts_anew(stage, &leader, "of the history is in force").await?;

        etcdctl::etcdctl(&stage.cluster, &["del", "--prefix", "/service/demo/config_history/"]).await?;
        starts_anew(stage, &leader, "planned actions wait").await?;
        let Err(refused) = stage.pgvigil(&on, &["switchover", "--to", &on, "-y"]).await else {
            bail!("a switchover was not held");
        };
        ensure!(format!("{refused:#}").contains("nobody can read the settings"), "{refused:#}");
        etcdctl::put(&stage.cluster, "config", &good).await?;
        stage.eventually("the settings that were put there are not taken up", mended).await?;
        in_force(stage, &leader).await?;
        ensure!(stage.leader().await? == leader, "another leads");
        Ok(())
    })
    .await;
}

/// The agent is started anew upon nonsense in the place of the settings: it says what is in force, and nothing changes.
async fn starts_anew(stage: &Stage, leader: &str, told: &str) -> Result<()> {
    stage.stop(leader).await?;
    stage.start(leader)?;
    let says = async || Ok(problems(stage, leader).await?.iter().any(|(_, why)| why.contains(told)));
    stage.eventually(&format!("nobody says {told:?}"), says).await?;
    // Time in which an agent that goes by defaults would have changed both.
    tokio::time::sleep(Duration::from_secs(2)).await;
    in_force(stage, leader).await?;
    stage.writes_go_on().await
}

async fn in_force(stage: &Stage, leader: &str) -> Result<()> {
    let so = async || {
        let strict = etcdctl::get(&stage.cluster, "sync").await?.contains("strict");
        Ok(strict && stage.cluster.psql(leader, "SHOW work_mem").await? == "5MB")
    };
    stage.eventually("the settings are not in force", so).await
}

async fn of_a_reign(stage: &Stage) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for key in ["leader", "term", "sync", "initialize"] {
        values.push(etcdctl::get(&stage.cluster, key).await?);
    }
    Ok(values)
}

/// The process of each agent.
pub fn pids(stage: &Stage) -> Vec<Option<i32>> {
    stage.cluster.nodes().iter().map(|node| node.agent().pid()).collect()
}

/// Whatever happened, no agent has panicked.
pub fn nothing_panicked(stage: &Stage) -> Result<()> {
    for node in stage.cluster.nodes() {
        let log = String::from_utf8_lossy(&std::fs::read(node.agent().log())?).into_owned();
        let panicked = log.lines().find(|line| line.contains("panicked at"));
        ensure!(panicked.is_none(), "{}: {panicked:?}", node.name());
    }
    Ok(())
}

async fn is_put_right(stage: &Stage, cast: &Cast, key: &str, what: &str, value: &[u8]) -> Result<()> {
    let before = etcdctl::get(&stage.cluster, key).await?;
    ensure!(!before.is_empty(), "{key} was not there");
    etcdctl::put_bytes(&stage.cluster, key, value).await?;
    stage.writes_go_on().await?;
    let nonsense = String::from_utf8_lossy(value).into_owned();
    let mended = async || {
        let now = etcdctl::get(&stage.cluster, key).await?;
        // Positions move on; whatever else it is, it is a record again.
        let so =
            !now.is_empty() && now != nonsense.trim_end() && (key == "status" || now.len() >= before.len().min(20) / 2);
        Ok(so && problems(stage, &cast.leader).await?.is_empty())
    };
    stage.eventually(&format!("{what} in the place of {key} is not put right"), mended).await?;
    let keeps = ["term", "initialize", "leader", "secrets/replication"].contains(&key);
    let now = etcdctl::get(&stage.cluster, key).await?;
    ensure!(!keeps || now == before, "{key} was {before} and is {now}");
    still_leads(stage, cast, key).await
}

async fn is_told(stage: &Stage, cast: &Cast, key: &str) -> Result<()> {
    let before = etcdctl::get(&stage.cluster, key).await?;
    for (what, value) in nonsense() {
        // An empty list is a good history of timelines.
        if key == "history" && what == "a list" {
            continue;
        }
        etcdctl::put_bytes(&stage.cluster, key, &value).await?;
        let told = async || {
            let problems = problems(stage, &cast.leader).await?;
            Ok(problems.iter().any(|(told, why)| told.ends_with(key) && why.len() < 2000 && says_the_mend(why)))
        };
        stage.eventually(&format!("nobody tells of {what} in the place of {key}, and what mends it"), told).await?;
        stage.writes_go_on().await?;
        still_leads(stage, cast, key).await?;
    }
    commands_go_on(stage, cast, key).await?;
    match before.as_str() {
        "" => etcdctl::delete(&stage.cluster, key).await,
        before => etcdctl::put(&stage.cluster, key, before).await,
    }
}

fn says_the_mend(why: &str) -> bool {
    ["etcdctl", "pgvigil ", "anew", "may take one again", "is not counted"].iter().any(|word| why.contains(word))
}

/// What looks goes on working, and says what is wrong.
async fn commands_go_on(stage: &Stage, cast: &Cast, key: &str) -> Result<()> {
    let on = cast.standby.as_str();
    let status: Value = serde_json::from_str(&stage.pgvigil(on, &["status", "-o", "json"]).await?)?;
    let told = status["problems"]
        .as_array()
        .context("problems")?
        .iter()
        .any(|one| one["code"] == "corrupt_key" && one["problem"].as_str().is_some_and(|text| text.contains(key)));
    ensure!(told, "status does not tell of {key}: {status}");
    for words in [vec!["transitions"], vec!["why"], vec!["config", "show"], vec!["config", "history"]] {
        stage.pgvigil(on, &words).await.with_context(|| format!("nonsense in the place of {key}"))?;
    }
    Ok(())
}

async fn still_leads(stage: &Stage, cast: &Cast, key: &str) -> Result<()> {
    let primaries = async || {
        let mut found = Vec::new();
        for node in stage.cluster.nodes() {
            if http::ask(node, "GET", "/primary").await?.status == 200 {
                found.push(node.name().to_owned());
            }
        }
        Ok(found == [cast.leader.clone()])
    };
    stage.eventually(&format!("{} is not the one primary any more: {key}", cast.leader), primaries).await
}

/// Keys that cannot be understood, as the agent of the leader tells them.
async fn problems(stage: &Stage, leader: &str) -> Result<Vec<(String, String)>> {
    let why = stage.ask(leader, "/why").await?;
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let told = why["problems"].as_array().context("problems")?;
    Ok(told.iter().map(|one| (text(one, "key"), text(one, "why"))).collect())
}
