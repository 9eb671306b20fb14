//! etcd in trouble: one member frozen, which nobody may notice; all of it dead, or out of the leader's reach alone, in which case it goes
//! on by its peers' promises, or stops in time where there are none; and keys with nonsense in them, which must not bring an agent down.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::direct::DirectWriter;
use crate::etcdctl;
use crate::http;
use crate::links::Links;
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
async fn without_etcd_the_primary_goes_on_by_its_peers_promises_and_no_write_is_missed() {
    on_stage(&options(), async |stage| {
        let before = (stage.leader().await?, term(stage).await?);
        let leader = before.0.clone();
        let etcd = stage.cluster.etcd();
        etcd.iter().for_each(agent::demo::service::Service::kill);
        let killed = Instant::now();
        let by_promises = async || Ok(stage.ask(&leader, "/why").await?["reason"]["code"] == "leading_on_promises");
        stage.eventually("the leader does not say on what it relies", by_promises).await?;
        tokio::time::sleep_until((killed + TTL * 2).into()).await;
        let standby = stage.others(&leader).remove(0);
        stage.say(&format!("two leases later the agent of {standby} dies: one promise is left, and enough"));
        stage.node(&standby)?.agent().kill();
        tokio::time::sleep(TTL * 2).await;
        stage.writes_go_on().await?;
        stage.start(&standby)?;
        tokio::time::sleep(TTL).await;
        let undisturbed = stage.silence_since(killed)?;
        stage.say(&format!(
            "{} ms without a write so far; the agent of the leader is restarted",
            undisturbed.as_millis()
        ));
        stage.node(&leader)?.agent().kill();
        stage.start(&leader)?;
        tokio::time::sleep(TTL).await;
        stage.eventually("the next agent does not say on what it relies", by_promises).await?;
        stage.writes_go_on().await?;
        let metrics = http::ask(stage.node(&leader)?, "GET", "/metrics").await?.body;
        let told =
            metrics.lines().any(|line| line.starts_with("pgvigil_leading_on_promises{") && line.ends_with(" 1.0"));
        ensure!(told, "no metric tells of it");
        let without = (killed.elapsed(), stage.silence_since(killed)?);
        stage.say(&format!("{} s without etcd, {} ms without a write", without.0.as_secs(), without.1.as_millis()));
        ensure!(without.0 > Duration::from_secs(30) && without.1 < TTL, "writes paused for {:?}", without.1);
        etcd.iter().try_for_each(agent::demo::service::Service::start)?;
        let back = Instant::now();
        let follows = async || Ok(stage.ask(&leader, "/why").await?["reason"]["code"] == "leading");
        stage.eventually("the leader does not get its lock back", follows).await?;
        stage.writes_go_on().await?;
        let pause = stage.silence_since(back)?;
        stage.say(&format!("the lock is back; {} ms without a write", pause.as_millis()));
        ensure!(pause < TTL, "writes paused for {pause:?} when etcd came back");
        let after = (stage.leader().await?, term(stage).await?);
        ensure!(after == before, "leader and term were {before:?} and are {after:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_async_mode_the_leader_goes_on_without_etcd_only_while_every_listed_member_promises() {
    on_stage(&options().with("durability.mode", "\"async\""), async |stage| {
        let leader = stage.leader().await?;
        let all = async || {
            let list = etcdctl::get(&stage.cluster, "failsafe").await?;
            Ok(stage.cluster.nodes().iter().all(|node| list.contains(&format!("\"{}\"", node.name()))))
        };
        stage.eventually("not everybody is listed", all).await?;
        stage.cluster.etcd().iter().try_for_each(agent::demo::service::Service::freeze)?;
        let frozen = Instant::now();
        tokio::time::sleep_until((frozen + TTL * 2).into()).await;
        stage.writes_go_on().await?;
        stage.say(&format!("{} ms without a write", stage.silence_since(frozen)?.as_millis()));
        let away = stage.others(&leader).remove(0);
        stage.node(&away)?.agent().kill();
        let no_primary = async || Ok(http::ask(stage.node(&leader)?, "GET", "/primary").await?.status == 503);
        stage.eventually("it goes on although one may lead that has not promised", no_primary).await?;
        stage.cluster.etcd().iter().try_for_each(agent::demo::service::Service::thaw)?;
        stage.start(&away)?;
        stage.whole().await?;
        stage.writes_go_on().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_and_without_promises_the_primary_stops_before_its_lease_is_over_and_comes_back() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let sticking = DirectWriter::start(stage.node(&leader)?.postgres_port());
        stage.eventually("the other client gets nothing acknowledged", async || Ok(sticking.count() > 10)).await?;
        let frozen = Instant::now();
        for standby in stage.others(&leader) {
            stage.node(&standby)?.agent().freeze()?;
        }
        stage.cluster.etcd().iter().try_for_each(agent::demo::service::Service::freeze)?;
        let no_primary = async || Ok(http::ask(stage.node(&leader)?, "GET", "/primary").await?.status == 503);
        stage.eventually("it is primary without etcd and without promises", no_primary).await?;
        stage.say(&format!("/primary says no after {} ms", frozen.elapsed().as_millis()));
        tokio::time::sleep_until((frozen + TTL + GRACE).into()).await;
        let (rows, others) = (stage.rows()?, sticking.count());
        tokio::time::sleep(TTL).await;
        ensure!((stage.rows()?, sticking.count()) == (rows, others), "UNSAFE: writes are acknowledged without a lease");
        for standby in stage.others(&leader) {
            stage.node(&standby)?.agent().thaw()?;
        }
        stage.cluster.etcd().iter().try_for_each(agent::demo::service::Service::thaw)?;
        stage.writes_go_on().await?;
        let silence = stage.silence_since(frozen)?;
        stage.say(&format!("etcd is back: {} ms without writes", silence.as_millis()));
        stage.must_also_be_there(sticking.stop());
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_alone_lost_etcd_is_let_go_on_by_its_peers_or_is_replaced_and_loses_nothing() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let before = term(stage).await?;
        let links = Links::between(stage, &leader).await?;
        links.cut();
        let cut = Instant::now();
        let by_promises = async || Ok(stage.ask(&leader, "/why").await?["reason"]["code"] == "leading_on_promises");
        stage.eventually("the leader does not say on what it relies", by_promises).await?;
        let peer = stage.others(&leader).remove(0);
        let promised = async || Ok(stage.ask(&peer, "/why").await?["reason"]["code"] == "promised");
        stage.eventually("its peer does not say what it waits for", promised).await?;
        tokio::time::sleep(TTL * 2).await;
        stage.writes_go_on().await?;
        stage.say(&format!("cut from etcd alone: {} ms without a write", stage.silence_since(cut)?.as_millis()));
        links.mend();
        let back = async || Ok(etcdctl::get(&stage.cluster, "leader").await? == leader);
        stage.eventually("the leader does not get its lock back", back).await?;
        ensure!(term(stage).await? == before, "somebody has led meanwhile");
        stage.writes_go_on().await?;
        stage.say(&format!("healed: {} ms without a write at most", stage.silence_since(cut)?.as_millis()));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_was_restored_from_an_old_backup_loses_nothing_and_gets_a_later_term() {
    on_stage(&options(), async |stage| {
        let dump = stage.cluster.directory().join("old.snapshot");
        let dump = dump.to_string_lossy().into_owned();
        let one = stage.cluster.etcd_urls()[0].clone();
        let mut save = tokio::process::Command::new("etcdctl");
        save.env("ETCDCTL_API", "3").args(["--endpoints", &one, "snapshot", "save", &dump]);
        run(&mut save).await?;
        let first = stage.leader().await?;
        let to = stage.standby().await?;
        stage.pgvigil(&first, &["switchover", "--to", &to, "-y"]).await?;
        stage.whole().await?;
        let (leader, before): (String, u64) = (stage.leader().await?, term(stage).await?.parse()?);
        ensure!(leader == to, "{leader} leads");
        stage.say("the backup is older than the reign; etcd is lost and restored from it");
        let began = Instant::now();
        let mut flags = Vec::new();
        for member in stage.cluster.etcd() {
            flags.push(arguments(member.pid().context("etcd runs")?)?);
        }
        stage.cluster.etcd().iter().for_each(agent::demo::service::Service::kill);
        for (member, flags) in stage.cluster.etcd().iter().zip(&flags) {
            restore(&dump, flags).await?;
            member.start()?;
        }
        let later = async || Ok(term(stage).await?.parse::<u64>()? > before);
        stage.eventually("no later term is given out", later).await?;
        stage.writes_go_on().await?;
        stage.whole().await?;
        ensure!(stage.leader().await? == leader, "another leads");
        stage.say(&format!("restored: {} ms without a write", stage.silence_since(began)?.as_millis()));
        Ok(())
    })
    .await;
}

/// The flags of a running process, by their names.
fn arguments(pid: i32) -> Result<std::collections::BTreeMap<String, String>> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let words: Vec<&str> = line.split('\0').skip(1).collect();
    Ok(words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
}

async fn run(command: &mut tokio::process::Command) -> Result<()> {
    let output = command.output().await?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Puts what was saved in the place of a member's data.
async fn restore(dump: &str, flags: &std::collections::BTreeMap<String, String>) -> Result<()> {
    let data_dir = flags.get("--data-dir").context("etcd has a data directory")?;
    let lost = format!("{data_dir}.lost");
    std::fs::rename(data_dir, &lost)?;
    let mut command = tokio::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["snapshot", "restore", dump, "--data-dir", data_dir]);
    for flag in ["--name", "--initial-cluster", "--initial-cluster-token", "--initial-advertise-peer-urls"] {
        command.args([flag, flags.get(flag).context("a flag of the demo's etcd")?]);
    }
    run(&mut command).await?;
    run(tokio::process::Command::new("chown").args(["-R", "--reference", &lost, data_dir])).await
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
            let told = async || problem_is_told(stage, &leader, key).await;
            stage.eventually(&format!("nobody tells that {key} is nonsense"), told).await?;
            stage.say(&format!("{key} had nonsense in it"));
            put_back(stage, key, &before).await?;
        }
        ensure!(stage.leader().await? == leader, "the leadership has changed");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_that_somebody_changes_by_hand_is_put_right_by_the_leader() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        for by_hand in ["1005", "1"] {
            etcdctl::put(&stage.cluster, "term", by_hand).await?;
            stage.writes_go_on().await?;
            stage.whole().await?;
            ensure!(stage.leader().await? == leader, "the leadership has changed");
            ensure!(term(stage).await?.parse::<u64>()? > 1005, "the term is {}", term(stage).await?);
        }
        the_host_of_the_leader_is_lost(stage, &leader).await
    })
    .await;
}

/// Whatever was put right is good for a failover as well.
async fn the_host_of_the_leader_is_lost(stage: &Stage, leader: &str) -> Result<()> {
    stage.node(leader)?.kill_everything()?;
    stage.leader_other_than(leader).await?;
    stage.writes_go_on().await?;
    stage.start(leader)
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
