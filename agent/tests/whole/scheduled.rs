//! What is scheduled happens in its time, once, and not before; what is in the way lets it wait, and what could not begin in its window is dropped with a
//! record that says why.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control::{Controlled, is, token};
use crate::curl::Answer;
use crate::doomed::die_at_each;
use crate::etcdctl;
use crate::stage::{Stage, on_empty_stage, on_stage, options};

/// Schedules something on a node; its id.
async fn scheduled(stage: &Stage, on: &str, arguments: &[&str]) -> Result<String> {
    let told = stage.pgvigil(on, arguments).await?;
    let id = told.strip_prefix("scheduled ").and_then(|told| told.split(':').next());
    Ok(id.filter(|id| id.starts_with("p-")).with_context(|| format!("no id: {told}"))?.to_owned())
}

/// The record of this id, as etcd has it.
async fn record(stage: &Stage, id: &str) -> Result<Value> {
    let text = etcdctl::get(&stage.cluster, &format!("transitions/{id}")).await?;
    serde_json::from_str(&text).with_context(|| format!("no record {id}: {text}"))
}

/// Waits until there is a record that ends so, with this cause.
async fn ends(stage: &Stage, id: &str, outcome: &str, cause: &str) -> Result<Value> {
    let so = async || {
        let record = record(stage, id).await?;
        ensure!(record["outcome"] == outcome && record["cause"] == cause, "{record}");
        Ok(true)
    };
    stage.eventually(&format!("{id} does not end as {outcome}"), so).await?;
    record(stage, id).await
}

async fn nothing_is_scheduled(stage: &Stage) -> Result<()> {
    let left = etcdctl::etcdctl(&stage.cluster, &["get", "--prefix", "/service/demo/scheduled"]).await?;
    ensure!(left.is_empty(), "still there: {left}");
    Ok(())
}

/// What the status says of all that is scheduled.
async fn shown(stage: &Stage) -> Result<Value> {
    let status: Value = serde_json::from_str(&stage.pgvigil("n1", &["status", "-o", "json"]).await?)?;
    Ok(status["scheduled"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_switchover_happens_in_its_time_and_is_dropped_where_it_cannot() {
    on_stage(&options(), async |stage| {
        happens_in_its_time(stage).await.context("in its time")?;
        waits_for_the_end_of_a_hold(stage).await.context("a hold")?;
        waits_until_the_next_life_has_closed_what_one_has_begun(stage).await.context("an earlier life")?;
        is_dropped_at_the_end_of_its_window(stage).await.context("its window")?;
        is_not_done_under_another_leader(stage).await.context("another leader")?;
        is_taken_back(stage).await.context("taken back")?;
        nothing_is_scheduled(stage).await
    })
    .await;
}

async fn happens_in_its_time(stage: &Stage) -> Result<()> {
    let (leader, began) = (stage.leader().await?, Instant::now());
    let after = Duration::from_secs(5);
    let id = scheduled(stage, &leader, &["switchover", "--in", "5s", "--reason", "test", "-y"]).await?;
    let told = shown(stage).await?;
    ensure!(told[0]["id"] == id.as_str() && told[0]["from"] == leader.as_str(), "{told}");
    ensure!(told[0]["kind"] == "switchover" && told[0]["waits_for"].is_null(), "{told}");
    let cluster = async || Ok(stage.ask(&leader, "/cluster").await?["scheduled_switchover"]["from"] == leader.as_str());
    stage.eventually("Patroni's programs do not see it", cluster).await?;
    let new = stage.leader_other_than(&leader).await?;
    ensure!(began.elapsed() >= after, "{new} leads after {:?} already", began.elapsed());
    let record = ends(stage, &id, "done", "switchover").await?;
    ensure!(record["reason"] == "test" && record["to"] == new.as_str(), "{record}");
    ensure!(record["notes"].to_string().contains("scheduled for 20"), "when is not told: {record}");
    stage.whole().await
}

async fn waits_for_the_end_of_a_hold(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    stage.pgvigil("n1", &["hold", "--for", "30m", "--reason", "flyway V42"]).await?;
    let id = scheduled(stage, "n1", &["switchover", "--in", "1s", "-y"]).await?;
    let waits = async || {
        let told = shown(stage).await?;
        ensure!(told[0]["waits_for"].as_str().is_some_and(|why| why.contains("flyway V42")), "{told}");
        Ok(true)
    };
    stage.eventually("it does not wait for the hold", waits).await?;
    ensure!(stage.leader().await? == leader, "it has not waited");
    stage.pgvigil("n1", &["release"]).await?;
    ends(stage, &id, "done", "switchover").await?;
    stage.whole().await
}

/// An agent has died in the middle of an order, which it cannot end any more.
async fn waits_until_the_next_life_has_closed_what_one_has_begun(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let other = stage.others(&leader)[0].clone();
    let (term, now) = (stage.ask(&leader, "/beat").await?["term"].clone(), jiff::Timestamp::now().to_string());
    let begun = json!({"id": "o-999", "kind": "restart", "from": other, "to": other, "term_before": term, "term_after": term,
        "started_at": now, "outcome": "in_progress", "requested_by": "anna"});
    // An agent that lives knows at once that it has not begun this.
    stage.stop(&other).await?;
    etcdctl::put(&stage.cluster, "transitions/o-999", &begun.to_string()).await?;
    let id = scheduled(stage, &leader, &["switchover", "--in", "1s", "-y"]).await?;
    let waits = async || Ok(shown(stage).await?[0]["waits_for"] == format!("restart o-999 of {other} is under way"));
    stage.eventually("it does not say what it waits for", waits).await?;
    stage.start(&other)?;
    let closed = async || Ok(record(stage, "o-999").await?["outcome"] == "failed");
    stage.eventually("nobody closes what an earlier life has begun", closed).await?;
    ends(stage, &id, "done", "switchover").await?;
    stage.whole().await
}

async fn is_dropped_at_the_end_of_its_window(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    stage.pgvigil("n1", &["hold", "--for", "30m", "--reason", "flyway V43"]).await?;
    let id = scheduled(stage, "n1", &["switchover", "--in", "1s", "--window", "2s", "-y"]).await?;
    let record = ends(stage, &id, "refused", "schedule_expired").await?;
    let why = record["cause_text"].as_str().unwrap_or_default();
    ensure!(why.contains("it could not begin between ") && why.contains("flyway V43"), "{record}");
    stage.pgvigil("n1", &["release"]).await?;
    ensure!(stage.leader().await? == leader, "somebody else leads");
    Ok(())
}

async fn is_not_done_under_another_leader(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let [heir, other] = &stage.others(&leader)[..] else { anyhow::bail!("three nodes") };
    let id = scheduled(stage, "n1", &["switchover", "--to", other, "--in", "10m", "-y"]).await?;
    stage.pgvigil("n1", &["switchover", "--to", heir, "-y"]).await?;
    let record = ends(stage, &id, "refused", "leader_changed").await?;
    ensure!(record["cause_text"].as_str().is_some_and(|why| why.contains(&format!("{heir} leads"))), "{record}");
    stage.whole().await?;
    ensure!(stage.leader().await? == *heir, "somebody else leads");
    Ok(())
}

async fn is_taken_back(stage: &Stage) -> Result<()> {
    let id = scheduled(stage, "n1", &["switchover", "--in", "10m", "-y"]).await?;
    let again = stage.cluster.pgvigil("n2", &["switchover", "--in", "20m", "-y"]).await?;
    let told = String::from_utf8_lossy(&again.stdout).into_owned();
    ensure!(again.status.code() == Some(3) && told.contains(&id) && told.contains("--cancel"), "{told}");
    let told = stage.pgvigil("n3", &["switchover", "--cancel"]).await?;
    ensure!(told.starts_with(&format!("taken back: {id}")), "{told}");
    ends(stage, &id, "refused", "request_cancelled").await?;
    ensure!(stage.pgvigil("n3", &["switchover", "--cancel"]).await?.contains("nothing to take back"), "twice");
    etcdctl::put(&stage.cluster, "scheduled/switchover", "{").await?;
    ensure!(stage.pgvigil("n1", &["status"]).await?.contains("switchover --cancel"), "nonsense is not told");
    stage.pgvigil("n1", &["switchover", "--cancel"]).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_die_when_something_scheduled_is_due_do_it_once() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let standby = stage.others(&leader)[0].clone();
        let pid = || stage.node(&standby)?.postmaster_pid().context("it runs");
        let before = pid()?;
        let id = dies_when_it_is_due(stage, &leader, &["restart", &standby, "--in", "1s", "-y"]).await?;
        ends(stage, &id, "done", "ordered").await?;
        stage.whole().await?;
        let after = pid()?;
        ensure!(after != before, "{standby} was not restarted");
        handed_over_once(stage).await?;
        nothing_is_scheduled(stage).await?;
        let records = stage.transitions(&stage.leader().await?).await?;
        let restarts = records.iter().filter(|record| record["kind"] == "restart" && record["cause"] == "ordered");
        ensure!(restarts.count() == 1, "more than one restart: {records:?}");
        Ok(())
    })
    .await;
}

/// Whether the other nodes have taken over from the agent that died, and the request was refused, or not: the lead was handed over once at most.
async fn handed_over_once(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let id = dies_when_it_is_due(stage, &leader, &["switchover", "--in", "1s", "-y"]).await?;
    let settled = async || {
        let waits = !etcdctl::get(&stage.cluster, "failover").await?.is_empty();
        Ok(!waits && record(stage, &id).await?["outcome"] != "in_progress")
    };
    stage.eventually("the request is never answered", settled).await?;
    stage.whole().await?;
    let records = stage.transitions(&stage.leader().await?).await?;
    let planned: Vec<&Value> = records.iter().filter(|record| record["kind"] == "switchover").collect();
    ensure!(planned.len() == 1 && planned[0]["id"] == id.as_str(), "{planned:?}");
    stage.say(&format!("the switchover of an agent that died: {}", planned[0]["outcome"]));
    Ok(())
}

/// Schedules something, and lets the agent of the leader die right before that begins, and its next life right after; its id.
async fn dies_when_it_is_due(stage: &Stage, leader: &String, arguments: &[&str]) -> Result<String> {
    let id = RefCell::new(String::new());
    let asked = async || scheduled(stage, leader, arguments).await.map(|told| drop(id.replace(told)));
    die_at_each(stage, std::slice::from_ref(leader), &["schedule:before", "schedule:after"], asked).await?;
    Ok(id.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_restart_outlives_a_failover_and_programs_schedule_as_with_patroni() {
    on_empty_stage(&options(), async |stage| {
        let control = Controlled::prepare(stage)?;
        stage.form().await?;
        restarts_under_another_leader(stage).await.context("a failover")?;
        as_with_patroni(stage, &control).await.context("as with Patroni")?;
        over_the_native_api(stage, &control).await.context("the native API")?;
        nothing_is_scheduled(stage).await?;
        stage.ends_well().await
    })
    .await;
}

async fn restarts_under_another_leader(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let [standby, other] = &stage.others(&leader)[..] else { anyhow::bail!("three nodes") };
    let pid = |name: &str| stage.node(name)?.postmaster_pid().context("it runs");
    let before = [pid(standby)?, pid(other)?];
    let never = scheduled(stage, standby, &["restart", &leader, "--pending", "--in", "1s", "-y"]).await?;
    ends(stage, &never, "refused", "not_needed").await?;
    let mut ids = Vec::new();
    for of in [standby, other] {
        ids.push(scheduled(stage, of, &["restart", of, "--role", "standby", "--in", "5s", "-y"]).await?);
    }
    stage.node(&leader)?.kill_everything()?;
    let new = stage.leader_other_than(&leader).await?;
    stage.start(&leader)?;
    // Whoever has come to lead is no standby any more, so its order is refused when its turn comes.
    for (of, id) in [standby, other].into_iter().zip(&ids) {
        match *of == new {
            true => ends(stage, id, "refused", "order_refused").await?,
            false => ends(stage, id, "done", "ordered").await?,
        };
    }
    stage.whole().await?;
    let after = [pid(standby)?, pid(other)?];
    let restarted = [standby, other].into_iter().zip(before.iter().zip(&after)).filter(|(_, (old, new))| old != new);
    let restarted: Vec<&String> = restarted.map(|(of, _)| of).collect();
    ensure!(restarted.len() == 1 && *restarted[0] != new, "restarted: {restarted:?}, leader {new}");
    Ok(())
}

async fn send(control: &Controlled, node: &str, (method, path): (&str, &str), body: Value) -> Result<Answer> {
    control.at(node, method, path).token(&token("anna")).json(&body.to_string()).send().await
}

async fn as_with_patroni(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let standby = stage.others(&leader)[0].clone();
    let (switchover, restart, later) = (("POST", "/switchover"), ("POST", "/restart"), "2099-01-01T03:00:00+01:00");
    for (wanted, status, text) in [
        (json!({"leader": leader, "scheduled_at": "2099-01-01T03:00:00"}), 400, "Timezone information is mandatory"),
        (
            json!({"leader": leader, "scheduled_at": "2020-01-01T00:00:00Z"}),
            422,
            "Cannot schedule switchover in the past",
        ),
        (json!({"leader": leader, "scheduled_at": "soon"}), 422, "Unable to parse scheduled timestamp"),
        (json!({"leader": leader, "scheduled_at": 17}), 422, "Unable to parse scheduled timestamp"),
        (json!({"leader": leader, "window_s": 60}), 400, "it goes with `scheduled_at`"),
        (json!({"leader": standby, "scheduled_at": later}), 412, "leader name does not match"),
        (json!({"leader": leader, "candidate": "n9", "scheduled_at": later}), 412, "candidate does not exists"),
        (json!({"leader": leader, "scheduled_at": later}), 202, "Switchover scheduled"),
        (json!({"leader": leader, "scheduled_at": later}), 409, "Another switchover is already scheduled"),
    ] {
        is(&send(control, &standby, switchover, wanted).await?, status, text)?;
    }
    for (wanted, status, text) in [
        (json!({"schedule": "2099-01-01 03:00"}), 400, "Timezone information is mandatory for the scheduled restart"),
        (json!({"schedule": "2020-01-01T00:00:00Z"}), 422, "Cannot schedule restart in the past"),
        (json!({"schedule": later, "postgres_version": "15.3"}), 400, "`postgres_version`"),
        (json!({"schedule": later, "role": "replica", "restart_pending": true}), 202, "Restart scheduled"),
        (json!({"schedule": later}), 409, "Another restart is already scheduled"),
    ] {
        is(&send(control, &standby, restart, wanted).await?, status, text)?;
    }
    let seen = async || {
        let (cluster, own) = (stage.ask(&leader, "/cluster").await?, stage.ask(&standby, "/patroni").await?);
        let listed = cluster["members"].as_array().and_then(|all| all.iter().find(|one| one["name"] == *standby));
        let planned = json!({"schedule": "2099-01-01T02:00:00Z", "role": "replica", "restart_pending": true});
        ensure!(listed.is_some_and(|one| one["scheduled_restart"] == planned), "{cluster}");
        ensure!(own["scheduled_restart"] == planned, "{own}");
        let member: Value = serde_json::from_str(&etcdctl::get(&stage.cluster, &format!("members/{standby}")).await?)?;
        ensure!(member["scheduled_restart"] == planned, "{member}");
        Ok(cluster["scheduled_switchover"] == json!({"at": "2099-01-01T02:00:00Z", "from": leader}))
    };
    stage.eventually("it is not shown as Patroni shows it", seen).await?;
    is(&send(control, &standby, ("DELETE", "/switchover"), json!({})).await?, 200, "scheduled switchover deleted")?;
    is(&send(control, &standby, ("DELETE", "/restart"), json!({})).await?, 200, "scheduled restart deleted")?;
    is(&send(control, &standby, ("DELETE", "/switchover"), json!({})).await?, 404, "no switchover is scheduled")?;
    is(&send(control, &standby, ("DELETE", "/restart"), json!({})).await?, 404, "no restarts are scheduled")?;
    stage.pgvigil("n1", &["pause", "--for", "10m", "--reason", "test"]).await?;
    let wanted = json!({"leader": leader, "scheduled_at": later});
    is(&send(control, &standby, switchover, wanted).await?, 400, "Can't schedule switchover in the paused state")?;
    let wanted = json!({"schedule": later});
    is(&send(control, &standby, restart, wanted).await?, 500, "Can't schedule restart in the paused state")?;
    stage.pgvigil("n1", &["resume"]).await.map(|_| ())
}

async fn over_the_native_api(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let standby = stage.others(&leader)[0].clone();
    let later = "2099-01-01T03:00:00+01:00";
    for (wanted, status, text) in [
        (json!({"at": "2099-01-01T03:00:00"}), 400, "does not say in which time zone"),
        (json!({"at": "2020-01-01T00:00:00Z"}), 422, "has passed"),
        (json!({"at": later, "window_s": 0}), 400, "`window_s`: a window is from 1 second"),
        (json!({"window_s": 60}), 400, "it goes with `at`"),
        (json!({"at": later, "expect_leader": standby}), 412, "leads, not"),
    ] {
        is(&send(control, &standby, ("POST", "/v1/switchover"), wanted).await?, status, text)?;
    }
    for (path, wanted, again) in [
        ("/v1/switchover", json!({"at": later, "expect_leader": leader, "reason": "test"}), "another switchover is"),
        ("/v1/restart", json!({"at": later, "member": standby, "role": "standby"}), "another restart of"),
    ] {
        let accepted = send(control, &standby, ("POST", path), wanted.clone()).await?;
        is(&accepted, 202, "\"state\":\"scheduled\"")?;
        let action = accepted.json()?;
        let this = action["links"]["self"].as_str().context("where it is")?.to_owned();
        ensure!(action["at"] == "2099-01-01T02:00:00Z" && action["until"] == "2099-01-01T02:10:00Z", "{action}");
        is(&send(control, &standby, ("POST", path), wanted).await?, 409, again)?;
        is(&send(control, &leader, ("GET", &this), json!({})).await?, 200, "\"state\":\"scheduled\"")?;
        is(&send(control, &leader, ("DELETE", &this), json!({})).await?, 200, "\"state\":\"cancelled\"")?;
        is(&send(control, &leader, ("DELETE", &this), json!({})).await?, 409, "cannot be taken back any more")?;
    }
    let wanted = json!({"member": standby, "only_pending": true});
    is(&send(control, &leader, ("POST", "/v1/restart"), wanted).await?, 412, "no parameter waits for a restart of")?;
    changes_are_told(stage, control, &leader).await?;
    let now = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(2))?.to_string();
    let wanted = json!({"at": now, "member": standby, "reason": "test"});
    let action = send(control, &leader, ("POST", "/v1/restart"), wanted).await?.json()?;
    let stream = action["links"]["events"].as_str().context("its stream")?;
    let told = send(control, &leader, ("GET", stream), json!({})).await?;
    is(&told, 200, "event: end")?;
    ensure!(told.body.contains("\"state\":\"done\"") && told.body.contains("scheduled for 20"), "{told:?}");
    stage.whole().await
}

/// Whoever listens hears of a schedule when it is set, begun and done, or dropped.
async fn changes_are_told(stage: &Stage, control: &Controlled, leader: &str) -> Result<()> {
    let standby = stage.others(leader)[1].clone();
    let changes = control.at(leader, "GET", "/v1/events").token(&token("looker")).stream()?;
    let begun = async || Ok(changes.text()?.contains("event: cluster"));
    stage.eventually("the stream does not begin", begun).await?;
    let heard = async |change: &str, id: &str| {
        let event = format!("event: schedule\ndata: {{\"change\":\"{change}\",\"scheduled\":{{\"id\":\"{id}\"");
        stage.eventually(&format!("{id} is not told as {change}"), async || Ok(changes.text()?.contains(&event))).await
    };
    let later = json!({"at": "2099-01-01T03:00:00+01:00", "member": standby, "only_pending": true});
    let action = send(control, leader, ("POST", "/v1/restart"), later).await?.json()?;
    let id = action["id"].as_str().context("an id")?;
    heard("set", id).await?;
    is(&send(control, leader, ("DELETE", &format!("/v1/actions/{id}")), json!({})).await?, 200, "cancelled")?;
    heard("dropped", id).await?;
    let soon = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(3))?.to_string();
    let action =
        send(control, leader, ("POST", "/v1/restart"), json!({"at": soon, "member": standby})).await?.json()?;
    let id = action["id"].as_str().context("an id")?;
    for change in ["set", "begun", "done"] {
        heard(change, id).await?;
    }
    stage.whole().await
}
