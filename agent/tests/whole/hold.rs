//! Holds: planned actions wait while a command runs, whoever asks for them and however; a failover does not, and nothing is left behind by a program
//! that is killed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::control::{Controlled, is, token};
use crate::etcdctl;
use crate::stage::{Stage, on_empty_stage, on_stage, options};

/// A hold around a command that does nothing for long; both end with the test.
struct Held(Child);

impl Held {
    /// Takes it from a node, and waits until it is there.
    async fn around_nothing(stage: &Stage, node: &str) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil"));
        command.args(["hold", "--reason", "flyway V42", "--for", "30m", "--", "sleep", "600"]);
        command.env("PGVIGIL_CONFIG", stage.node(node)?.config()).stdin(Stdio::null());
        let held = Self(command.spawn().context("pgvigil hold")?);
        stage.eventually("no hold is taken", async || Ok(held.child().is_some() && is_held(stage).await?)).await?;
        Ok(held)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.0.id())?))
    }

    /// The process of the command.
    fn child(&self) -> Option<Pid> {
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(child) = self.child() {
            let _ = kill(child, Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn is_held(stage: &Stage) -> Result<bool> {
    Ok(!etcdctl::get(&stage.cluster, "hold").await?.is_empty())
}

/// Runs `pgvigil`, which is to end with this code and to say this.
async fn ends(stage: &Stage, on: &str, arguments: &[&str], code: i32, says: &str) -> Result<String> {
    let output = stage.cluster.pgvigil(on, arguments).await?;
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code) && told.contains(says), "{arguments:?}: {}, {told}", output.status);
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planned_waits_while_a_command_runs_under_a_hold() {
    on_empty_stage(&options(), async |stage| {
        let control = Controlled::prepare(stage)?;
        stage.form().await?;
        let leader = stage.leader().await?;
        let held = Held::around_nothing(stage, &leader).await?;
        nothing_planned_is_done(stage, &control).await?;
        it_is_shown_wherever_one_looks(stage).await?;
        the_gate_is_closed_to_others_alone(stage, &control).await?;
        whoever_may_goes_on_all_the_same(stage, &control).await?;
        nothing_is_left_of_a_program_that_is_killed(stage, &held).await?;
        drop(held);
        stage.ends_well().await
    })
    .await;
}

async fn nothing_planned_is_done(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let standby = stage.others(&leader)[0].clone();
    let said = "until 20";
    for refused in [
        &["switchover", "-y"][..],
        &["switchover", "--to", &standby, "--dry-run"][..],
        &["restart", &standby, "-y"][..],
        &["restart", "--rolling", "-y"][..],
        &["reinit", &standby, "-y"][..],
        &["site", "demote", "--host", "192.0.2.1", "-y"][..],
        &["hold", "--reason", "another", "--for", "1m"][..],
    ] {
        let told = ends(stage, &standby, refused, 3, said).await?;
        ensure!(told.contains("flyway V42") && told.contains('@'), "who and why: {told}");
    }
    let told = ends(stage, &standby, &["hold", "--reason", "another", "--", "true"], 125, said).await?;
    ensure!(told.contains("flyway V42") && told.contains("was not run"), "{told}");
    let post = async |node: &str, who: &str, path: &str, body: Value| {
        control.at(node, "POST", path).token(&token(who)).json(&body.to_string()).send().await
    };
    let switchover = json!({"leader": leader, "candidate": standby});
    is(&post(&standby, "anna", "/switchover", switchover.clone()).await?, 412, "planned actions are held by")?;
    is(&post(&standby, "anna", "/restart", json!({})).await?, 412, "flyway V42")?;
    is(&post(&standby, "anna", "/reinitialize", json!({})).await?, 412, "flyway V42")?;
    for path in ["/switchover", "/restart"] {
        let ignoring = json!({"leader": leader, "ignore_hold": true});
        let ignoring = if path == "/restart" { json!({"ignore_hold": true}) } else { ignoring };
        is(&post(&standby, "ansible", path, ignoring).await?, 403, "that takes admin")?;
    }
    // What stops nothing does not wait.
    stage.pgvigil(&standby, &["reload", &standby]).await?;
    stage.pgvigil(&standby, &["config", "set", "-y", "-p", "work_mem=5MB"]).await?;
    ensure!(stage.leader().await? == leader, "somebody else leads");
    ensure!(etcdctl::get(&stage.cluster, "failover").await?.is_empty(), "a request waits");
    Ok(())
}

async fn it_is_shown_wherever_one_looks(stage: &Stage) -> Result<()> {
    let told = stage.pgvigil("n1", &["status"]).await?;
    ensure!(told.contains("HELD by ") && told.contains("flyway V42"), "{told}");
    let status: Value = serde_json::from_str(&stage.pgvigil("n1", &["status", "-o", "json"]).await?)?;
    ensure!(status["hold"]["reason"] == "flyway V42" && status["hold"]["remaining_s"].as_u64() > Some(60), "{status}");
    ensure!(status["verdict"]["word"] == "ok", "a hold is nothing wrong: {}", status["verdict"]);
    for node in stage.cluster.nodes() {
        let shown = async || {
            let (patroni, cluster) =
                (stage.ask(node.name(), "/patroni").await?, stage.ask(node.name(), "/cluster").await?);
            Ok([patroni, cluster].iter().all(|body| body["pgvigil"]["hold"]["id"] == status["hold"]["id"]))
        };
        stage.eventually("an agent does not show the hold", shown).await?;
    }
    let metrics = crate::http::ask(stage.node("n1")?, "GET", "/metrics").await?.body;
    let is_set = |name: &str| {
        metrics.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0") && !line.ends_with(" 0.0"))
    };
    ensure!(is_set("pgvigil_hold_active") && is_set("pgvigil_hold_until_timestamp_seconds"), "{metrics}");
    Ok(())
}

async fn the_gate_is_closed_to_others_alone(stage: &Stage, control: &Controlled) -> Result<()> {
    let status: Value = serde_json::from_str(&stage.pgvigil("n1", &["status", "-o", "json"]).await?)?;
    let id = status["hold"]["id"].as_str().context("its id")?.to_owned();
    ends(stage, "n1", &["gate", "migrate"], 3, "no go: hold").await?;
    ends(stage, "n1", &["gate", "migrate", "--hold", &id, "--wait", "60s"], 0, "\ngo").await?;
    is(&control.ask("looker", "GET", "/gate/migrate").send().await?, 403, "that takes gate")?;
    let closed = control.ask("gatekeeper", "GET", "/gate/migrate").send().await?;
    is(&closed, 409, "\"go\":false")?;
    ensure!(closed.json()?["failed"][0]["check"] == "hold", "{closed:?}");
    let open = async || {
        let answer = control.ask("gatekeeper", "GET", &format!("/gate/migrate?max_lag=5s&hold={id}")).send().await?;
        Ok(answer.status == 200 && answer.json()?["go"] == true)
    };
    stage.eventually("the gate is closed to whoever holds", open).await?;
    is(&control.ask("gatekeeper", "GET", "/gate/migrate?max_lagg=5s").send().await?, 400, "max_lagg")
}

async fn whoever_may_goes_on_all_the_same(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let [heir, other] = &stage.others(&leader)[..] else { anyhow::bail!("three nodes") };
    stage.pgvigil(heir, &["switchover", "--to", heir, "--ignore-hold", "-y", "--reason", "it burns"]).await?;
    ensure!(stage.leader().await? == *heir, "{heir} does not lead");
    let recorded = async |kind: &str| {
        let records = stage.transitions(heir).await?;
        let record = records.iter().rev().find(|record| record["kind"] == kind).context("no record yet")?;
        Ok(record["outcome"] == "done" && record["notes"].to_string().contains("against the hold of"))
    };
    stage.eventually("the switchover does not tell of the hold", async || recorded("switchover").await).await?;
    stage.whole().await?;
    let restart = control.at(other, "POST", "/restart").token(&token("anna")).json(r#"{"ignore_hold": true}"#);
    is(&restart.send().await?, 200, "restarted successfully")?;
    stage.eventually("the restart does not tell of the hold", async || recorded("restart").await).await?;
    stage.whole().await
}

async fn nothing_is_left_of_a_program_that_is_killed(stage: &Stage, held: &Held) -> Result<()> {
    ensure!(is_held(stage).await?, "the hold is gone already");
    let command = held.child().context("the command runs")?;
    kill(held.pid()?, Signal::SIGKILL)?;
    let began = Instant::now();
    stage.eventually("the hold outlives the program", async || Ok(!is_held(stage).await?)).await?;
    stage.say(&format!("the hold of a killed program was gone after {} ms", began.elapsed().as_millis()));
    ensure!(kill(command, None).is_ok(), "the command was ended with it");
    kill(command, Signal::SIGKILL)?;
    let standby = stage.standby().await?;
    stage.pgvigil(&standby, &["switchover", "--to", &standby, "-y"]).await?;
    stage.whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_a_hold_is_as_fast_as_any_and_its_record_tells_of_it() {
    on_stage(&options(), async |stage| {
        let without = lost_and_replaced(stage).await?;
        let leader = stage.leader().await?;
        let held = Held::around_nothing(stage, &stage.others(&leader)[0]).await?;
        let within = lost_and_replaced(stage).await?;
        stage.say(&format!(
            "writes stood still for {} ms without a hold, {} ms in one",
            without.as_millis(),
            within.as_millis()
        ));
        ensure!(
            within < without * 3 + Duration::from_secs(5),
            "a hold delays a failover: {within:?}, without {without:?}"
        );
        ensure!(is_held(stage).await?, "the hold has not outlived the failover");
        let new = stage.leader().await?;
        let told = async || {
            let records = stage.transitions(&new).await?;
            let failovers: Vec<&Value> = records.iter().filter(|record| record["kind"] == "failover").collect();
            let tells = |record: &Value| record["notes"].to_string().contains("in a hold by ");
            Ok(failovers.len() == 2 && !tells(failovers[0]) && tells(failovers[1]))
        };
        stage.eventually("the record does not tell of the hold", told).await?;
        drop(held);
        Ok(())
    })
    .await;
}

/// The leader's node dies and comes back; for how long nothing was acknowledged.
async fn lost_and_replaced(stage: &Stage) -> Result<Duration> {
    let (leader, began) = (stage.leader().await?, Instant::now());
    stage.node(&leader)?.kill_everything()?;
    stage.leader_other_than(&leader).await?;
    stage.writes_go_on().await?;
    let silence = stage.silence_since(began)?;
    stage.start(&leader)?;
    stage.whole().await?;
    Ok(silence)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_as_it_was_told_and_the_command_ends_as_it_likes() {
    on_stage(&options(), async |stage| {
        let hold = ["hold", "--reason", "test", "--"];
        for (command, code) in [
            (&["sh", "-c", "exit 7"][..], 7),
            (&["sh", "-c", "test -n \"$PGVIGIL_HOLD\""][..], 0),
            (&["sh", "-c", "kill -TERM $$"][..], 143),
            (&["/no/such/program"][..], 127),
        ] {
            ends(stage, "n1", &[&hold[..], command].concat(), code, "held until").await?;
            ensure!(!is_held(stage).await?, "{command:?} has left its hold");
        }
        ends(stage, "n1", &["hold", "--reason", "test"], 2, "--for").await?;
        signals_are_passed_on(stage).await?;
        ends(stage, "n1", &["hold", "--", "true"], 125, "--reason").await?;
        a_lost_hold_is_told_and_is_no_success(stage).await?;
        released_and_over(stage).await?;
        a_hold_that_nobody_can_read(stage).await
    })
    .await;
}

async fn signals_are_passed_on(stage: &Stage) -> Result<()> {
    let mut held = Held::around_nothing(stage, "n1").await?;
    kill(held.pid()?, Signal::SIGTERM)?;
    let ended = tokio::task::spawn_blocking(move || held.0.wait()).await??;
    ensure!(ended.code() == Some(143), "it ended with {ended}");
    ensure!(!is_held(stage).await?, "the hold is still there");
    Ok(())
}

/// Its lease ends before its time, and somebody else holds planned actions before it is taken again.
async fn a_lost_hold_is_told_and_is_no_success(stage: &Stage) -> Result<()> {
    let arguments = ["hold", "--reason", "lost", "--", "sleep", "4"];
    let lost = async {
        stage.eventually("no hold is taken", async || is_held(stage).await).await?;
        let key = ["get", "/service/demo/hold", "-w", "json"];
        let found: Value = serde_json::from_str(&etcdctl::etcdctl(&stage.cluster, &key).await?)?;
        let lease = found["kvs"][0]["lease"].as_i64().context("it hangs on a lease")?;
        let another = r#"{"id":"h-2","by":"bert@db2","reason":"x","since":"2026-01-01T00:00:00Z","until":"2099-01-01T00:00:00Z","host":"db2"}"#;
        etcdctl::etcdctl(&stage.cluster, &["lease", "revoke", &format!("{lease:x}")]).await?;
        etcdctl::put(&stage.cluster, "hold", another).await
    };
    let (told, done) = tokio::join!(ends(stage, "n1", &arguments, 125, "the hold is lost"), lost);
    done?;
    let told = told?;
    ensure!(told.contains("ended with 0") && !told.contains("released by somebody"), "{told}");
    ends(stage, "n1", &["release"], 3, "`pgvigil release h-2` releases it").await?;
    ends(stage, "n1", &["release", "h-2"], 0, "released").await.map(|_| ())
}

async fn released_and_over(stage: &Stage) -> Result<()> {
    let id = stage.pgvigil("n1", &["hold", "--for", "10m", "--reason", "by hand"]).await?;
    ends(stage, "n2", &["release", "h-another"], 3, &id).await?;
    ends(stage, "n2", &["switchover", "-y"], 3, "by hand").await?;
    ends(stage, "n2", &["release", &id], 0, "released: the hold").await?;
    ends(stage, "n2", &["release"], 0, "nothing to release").await?;

    let told =
        ends(stage, "n1", &["hold", "--for", "2s", "--reason", "short", "--", "sleep", "5"], 0, "held until").await?;
    ensure!(told.contains("come to its end"), "nobody is warned: {told}");
    stage.pgvigil("n1", &["hold", "--for", "3s", "--reason", "short"]).await?;
    ends(stage, "n2", &["switchover", "-y"], 3, "short").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(is_held(stage).await?, "the record of one that has ended stays until the next");
    let standby = stage.standby().await?;
    stage.pgvigil(&standby, &["switchover", "--to", &standby, "-y"]).await?;
    stage.whole().await?;
    let next = stage.pgvigil("n1", &["hold", "--for", "10m", "--reason", "next"]).await?;
    ends(stage, "n1", &["release", &next], 0, "released").await?;
    Ok(())
}

/// It forbids what a hold forbids, and a failover takes no notice.
async fn a_hold_that_nobody_can_read(stage: &Stage) -> Result<()> {
    etcdctl::put(&stage.cluster, "hold", "{").await?;
    ends(stage, "n1", &["switchover", "-y"], 3, "pgvigil release").await?;
    ends(stage, "n1", &["status"], 0, "pgvigil release").await?;
    lost_and_replaced(stage).await?;
    ends(stage, "n1", &["release"], 0, "nobody could read").await?;
    ensure!(!is_held(stage).await?, "it is still there");
    Ok(())
}
