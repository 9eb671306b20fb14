//! Patroni's verbs over the control API, as programs made for Patroni send them: they do what the command line does, answer in Patroni's codes and
//! sentences, and whatever is sent to them is answered.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control::{Controlled, begins, is, one_node, token};
use crate::etcdctl;
use crate::stage::{Stage, on_empty_stage, options};

/// A request to a node with a body.
async fn send(
    control: &Controlled,
    (node, name): (&str, &str),
    (method, path): (&str, &str),
    body: &Value,
) -> Result<crate::curl::Answer> {
    control.at(node, method, path).token(&token(name)).json(&body.to_string()).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_switch_over_restart_and_copy_anew_as_with_patroni_and_nothing_is_lost() {
    on_empty_stage(&options(), async |stage| {
        let control = Controlled::prepare(stage)?;
        stage.form().await?;
        switched_over(stage, &control).await?;
        nothing_comes_of_what_cannot_be_done(stage, &control).await?;
        restarted_and_copied_anew(stage, &control).await?;
        without_etcd_it_is_said_at_once(stage, &control).await?;
        stage.ends_well().await
    })
    .await;
}

async fn switched_over(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let heir = stage.others(&leader)[0].clone();
    let by = (heir.as_str(), "ansible");
    let wanted = json!({"leader": leader, "candidate": heir, "reason": "test"});
    let done = send(control, by, ("POST", "/switchover"), &wanted).await?;
    is(&done, 200, &format!("Successfully switched over to \"{heir}\""))?;
    ensure!(done.body.starts_with("Successfully") && stage.leader().await? == heir, "{heir} does not lead");
    let known = async || {
        let records = stage.transitions(&heir).await?;
        let record = records.iter().rev().find(|record| record["kind"] == "switchover").context("no record yet")?;
        Ok(record["requested_by"] == "ansible@127.0.0.1" && record["reason"] == "test")
    };
    stage.eventually("the record does not say who asked", known).await?;
    stage.whole().await?;
    // By curl as Patroni's documentation has it: no kind of body is said, and no candidate.
    let asked = control.at(&leader, "POST", "/switchover").token(&token("ansible"));
    is(
        &asked.with(&["-d", &format!("{{\"leader\":\"{heir}\"}}")]).send().await?,
        200,
        "Successfully switched over to",
    )?;
    ensure!(stage.leader().await? != heir, "{heir} leads on");
    stage.whole().await
}

async fn nothing_comes_of_what_cannot_be_done(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let [standby, other] = &stage.others(&leader)[..] else { anyhow::bail!("three nodes") };
    let switchover = ("POST", "/switchover");
    for (wanted, status, text) in [
        (json!({"leader": standby, "candidate": other}), 412, "leader name does not match"),
        (json!({"leader": leader, "candidate": "n9"}), 412, "candidate does not exists"),
        (json!({"leader": leader, "candidate": leader}), 400, "Switchover target and source are the same"),
        (json!({"candidate": standby}), 400, "Switchover could be performed only from a specific leader"),
        (json!({"leader": leader, "candidate": "a/b"}), 400, "`candidate`: "),
        (json!({"leader": leader, "candidat": standby}), 400, "unknown field `candidat`, expected one of `leader`"),
        (json!({"leader": 1}), 400, "`leader`: invalid type: integer `1`"),
    ] {
        is(&send(control, (standby, "ansible"), switchover, &wanted).await?, status, text)?;
    }
    for (name, wanted, status, text) in [
        ("ansible", json!({}), 400, "Failover could be performed only to a specific candidate"),
        ("ansible", json!({"candidate": standby}), 412, &*format!("{leader} leads and takes writes")),
        ("ansible", json!({"candidate": standby, "accept_data_loss": true}), 403, "that takes admin"),
        ("anna", json!({"candidate": standby, "accept_data_loss": true}), 412, "leads and takes writes"),
        ("anna", json!({"candidate": standby, "scheduled_at": "soon"}), 400, "Failover can't be scheduled"),
        ("anna", json!({"leader": standby, "member": other}), 412, "leader name does not match"),
    ] {
        is(&send(control, (standby, name), ("POST", "/failover"), &wanted).await?, status, text)?;
    }
    is(&send(control, (standby, "ansible"), ("DELETE", "/switchover"), &json!({})).await?, 404, "no switchover is")?;
    is(&send(control, (standby, "ansible"), ("DELETE", "/restart"), &json!({})).await?, 404, "no restarts are")?;
    ensure!(stage.leader().await? == leader, "somebody else leads");
    ensure!(etcdctl::get(&stage.cluster, "failover").await?.is_empty(), "a request waits");
    Ok(())
}

async fn restarted_and_copied_anew(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let standby = stage.others(&leader)[0].clone();
    let (by, restart) = ((standby.as_str(), "ansible"), ("POST", "/restart"));
    for (wanted, status, text) in [
        (json!({"role": "primary"}), 503, "restart conditions are not satisfied"),
        (json!({"restart_pending": true}), 503, "restart conditions are not satisfied: no parameter waits"),
        (json!({"postgres_version": "10.1"}), 503, "restart conditions are not satisfied: PostgreSQL 1"),
        (json!({"postgres_version": "ten"}), 400, "first.minor format"),
        (json!({"role": "king"}), 400, "either primary or replica, not"),
        (json!({"timeout": "soon"}), 400, "`timeout`: a number of seconds"),
        (json!({"when": "now"}), 400, "unknown field `when`"),
    ] {
        is(&send(control, by, restart, &wanted).await?, status, text)?;
    }
    let before = stage.node(&standby)?.postmaster_pid().context("it runs")?;
    let wanted = json!({"role": "replica", "timeout": 60});
    is(&send(control, by, restart, &wanted).await?, 200, "restarted successfully")?;
    ensure!(stage.node(&standby)?.postmaster_pid().is_some_and(|pid| pid != before), "{standby} runs on");
    stage.whole().await?;

    let again = ("POST", "/reinitialize");
    is(&send(control, by, again, &json!({})).await?, 403, "that takes admin")?;
    is(&send(control, (&leader, "anna"), again, &json!({})).await?, 503, "I am the leader, can not reinitialize")?;
    is(&send(control, (&standby, "anna"), again, &json!({"from_leader": true})).await?, 422, "clone.methods")?;
    let inode = |name| {
        std::fs::metadata(stage.node(name)?.data_dir())
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
            .context("it is there")
    };
    let before = inode(&standby)?;
    let wanted = json!({"force": true, "from_leader": false});
    is(&send(control, (&standby, "anna"), again, &wanted).await?, 200, "reinitialize started")?;
    stage.eventually("it has the data that it had", async || Ok(inode(&standby)? != before)).await?;
    stage.whole().await
}

async fn without_etcd_it_is_said_at_once(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    stage.cluster.etcd().iter().try_for_each(|member| member.freeze())?;
    let asked = [
        ("/switchover", json!({"leader": leader})),
        ("/restart", json!({})),
        ("/failover", json!({"candidate": leader})),
    ];
    for (path, wanted) in asked {
        is(&send(control, (&leader, "anna"), ("POST", path), &wanted).await?, 503, "etcd")?;
    }
    is(&send(control, (&leader, "anna"), ("PATCH", "/config"), &json!({"pause": true})).await?, 503, "etcd")?;
    is(&send(control, (&leader, "anna"), ("POST", "/reload"), &json!({})).await?, 202, "reload scheduled")?;
    stage.cluster.etcd().iter().try_for_each(|member| member.thaw())?;
    stage.writes_go_on().await
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_over_the_control_api_and_nonsense_changes_nothing() {
    on_empty_stage(&one_node(), async |stage| {
        let control = Controlled::prepare(stage)?;
        begins(stage).await?;
        settings_are_changed(stage, &control).await?;
        nothing_is_changed_under_another_leader(stage, &control).await?;
        whatever_is_sent_is_answered(&control).await
    })
    .await;
}

async fn settings_are_changed(stage: &Stage, control: &Controlled) -> Result<()> {
    let knows = async || Ok(stage.ask("n1", "/parameters").await?["parameters"].to_string().contains("work_mem"));
    stage.eventually("the agent does not come to know the parameters of its Postgres", knows).await?;
    let patch =
        async |name: &str, body: Value| send(control, ("n1", name), ("PATCH", "/config?reason=test"), &body).await;
    let work_mem = |value: Value| json!({"postgresql": {"parameters": {"work_mem": value}}});
    is(&patch("ansible", work_mem(json!("9MB"))).await?, 403, "any other setting takes admin")?;
    is(&patch("looker", json!({"pause": true})).await?, 403, "that takes operate")?;
    is(&patch("anna", work_mem(json!("lots"))).await?, 422, "work_mem")?;
    let command = json!({"postgresql": {"parameters": {"archive_command": "curl evil"}}});
    is(&patch("anna", command).await?, 422, "archive_command")?;
    is(&patch("anna", json!({"pgvigil": {"durability": {"mode": "sometimes"}}})).await?, 422, "sometimes")?;
    is(&patch("anna", json!({"standby_cluster": {"host": "a"}})).await?, 422, "pgvigil site")?;
    is(&patch("anna", json!({"pause": "yes"})).await?, 400, "`pause`: true or false")?;

    let merged = patch("anna", work_mem(json!("9MB"))).await?;
    is(&merged, 200, "9MB")?;
    ensure!(merged.json()? == work_mem(json!("9MB")), "{merged:?}");
    let shown = async |value: &str| {
        let so = async || Ok(stage.cluster.psql("n1", "SHOW work_mem").await? == value);
        stage.eventually(&format!("work_mem does not come to be {value}"), so).await
    };
    shown("9MB").await?;
    let history = stage.pgvigil("n1", &["config", "history"]).await?;
    ensure!(history.contains("anna@127.0.0.1") && history.contains("test"), "{history}");

    is(&patch("ansible", json!({"pause": true})).await?, 200, "\"pause\":true")?;
    let paused = async |wanted: bool| Ok((stage.ask("n1", "/patroni").await?["pause"] == true) == wanted);
    stage.eventually("nobody pauses", async || paused(true).await).await?;
    let told = stage.pgvigil("n1", &["status"]).await?;
    ensure!(told.contains("ansible@127.0.0.1"), "who has paused is not told: {told}");
    let put = async |name: &str, body: Value| send(control, ("n1", name), ("PUT", "/config"), &body).await;
    is(&put("ansible", json!({})).await?, 403, "that takes admin")?;
    let replaced = put("anna", work_mem(json!("10MB"))).await?.json()?;
    ensure!(replaced["pause"] == true, "replacing everything else has ended the pause: {replaced}");
    shown("10MB").await?;
    let wanted = json!({"leader": "n1"});
    is(&send(control, ("n1", "ansible"), ("POST", "/switchover"), &wanted).await?, 400, "in a paused state")?;
    is(&patch("ansible", json!({"pause": null})).await?, 200, "10MB")?;
    stage.eventually("nobody resumes", async || paused(false).await).await?;
    let without = patch("anna", work_mem(Value::Null)).await?.json()?;
    ensure!(without["postgresql"]["parameters"].get("work_mem").is_none(), "{without}");
    shown("4MB").await?;
    let now = control.ask("looker", "GET", "/config").send().await?.json()?;
    ensure!(now == without, "GET says {now}");
    Ok(())
}

/// Patroni's verbs take who must lead beside the body, and none overlooks it.
async fn nothing_is_changed_under_another_leader(stage: &Stage, control: &Controlled) -> Result<()> {
    let ask = async |verb: (&str, &str), body: Value| send(control, ("n1", "anna"), verb, &body).await;
    let before = etcdctl::get(&stage.cluster, "config").await?;
    for (method, path, body) in [
        ("PATCH", "/config", json!({"loop_wait": 7})),
        ("PATCH", "/config", json!({"pause": true})),
        ("PUT", "/config", json!({"loop_wait": 7})),
        ("POST", "/restart", json!({})),
        ("POST", "/reinitialize", json!({})),
    ] {
        let under = |leader: &str| format!("{path}?expect_leader={leader}");
        is(&ask((method, &under("n2")), body.clone()).await?, 412, "n1 leads, not n2")?;
        is(&ask((method, &under("")), body.clone()).await?, 400, "expect_leader")?;
        is(&ask((method, &under("n1&expect_leader=n2")), body).await?, 400, "expect_leader")?;
    }
    for (method, path) in [("POST", "/switchover"), ("POST", "/v1/pause"), ("DELETE", "/restart")] {
        let refused = ask((method, &format!("{path}?expect_leader=n1")), json!({})).await?;
        is(&refused, 400, "does not go into the query here")?;
    }
    ensure!(etcdctl::get(&stage.cluster, "config").await? == before, "the settings were changed");
    ensure!(etcdctl::get(&stage.cluster, "orders/n1").await?.is_empty(), "an order was left");
    is(&ask(("PATCH", "/config?expect_leader=n1"), json!({"loop_wait": 9})).await?, 200, "\"loop_wait\":9")?;
    is(&ask(("PATCH", "/config?expect_leader=n1"), json!({"loop_wait": null})).await?, 200, "{")
}

/// With a clear 4xx, and never with a fault of the agent's own.
async fn whatever_is_sent_is_answered(control: &Controlled) -> Result<()> {
    let verbs = [
        ("POST", "/switchover"),
        ("POST", "/failover"),
        ("POST", "/restart"),
        ("POST", "/reinitialize"),
        ("PATCH", "/config"),
        ("PUT", "/config"),
    ];
    let deep = "[".repeat(100_000);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "x".repeat(300 * 1024))?;
    let huge = format!("@{}", file.path().display());
    for (method, path) in verbs {
        let ask = || control.ask("anna", method, path);
        for body in ["[]", "null", "17", "\"text\"", "{", "{\"a\":}", "not json", "{} {}", "\u{1}", "{\"\\ud800\": 1}"]
        {
            is(&ask().json(body).send().await?, 400, "{\"error\":\"the body ")?;
        }
        is(&ask().json(&format!("{{\"leader\":{}", &deep[..50_000])).send().await?, 400, "the body will not do")?;
        is(&ask().json(&huge).send().await?, 413, "longer than 262144 bytes")?;
        let other = ask().with(&["-H", "Content-Type: text/xml", "-d", "<a/>"]).send().await?;
        is(&other, 415, "send application/json")?;
        let metrics = control.ask("looker", "GET", "/metrics").send().await?.body;
        ensure!(metrics.contains(&format!("verb=\"{method} {path}\",outcome=\"invalid\"")), "{metrics}");
    }
    is(&control.ask("anna", "POST", "/failover").send().await?, 400, "only to a specific candidate")?;
    is(&control.ask("anna", "PATCH", "/switchover").send().await?, 405, "POST, DELETE is")?;
    Ok(())
}
