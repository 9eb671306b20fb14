//! The native API (`/v1`) as programs use it: what is asked for is answered at once, and any agent of the cluster tells how it stands, now and as a
//! stream that ends with the record.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control::{Controlled, is, token};
use crate::curl::{Answer, Stream};
use crate::stage::{Stage, on_empty_stage, options};

/// As docs/api.md has it.
const STREAMS_MAX: usize = 16;

/// One event of a stream.
#[derive(Debug)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// The events of a stream, in order.
fn events(text: &str) -> Result<Vec<Event>> {
    let blocks = text.split("\n\n").filter(|block| block.contains("event:"));
    let parse = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        let data = serde_json::from_str(&field("data: ")).with_context(|| format!("no JSON: {block}"))?;
        Ok(Event { name: field("event: "), id: field("id: "), data })
    };
    blocks.map(parse).collect()
}

async fn ask(control: &Controlled, node: &str, method: &str, path: &str, body: Value) -> Result<Answer> {
    control.at(node, method, path).token(&token("anna")).json(&body.to_string()).send().await
}

async fn look(control: &Controlled, node: &str, path: &str) -> Result<Answer> {
    control.at(node, "GET", path).token(&token("looker")).send().await
}

/// A stream that somebody reads in the background.
struct Open(Stream);

impl Open {
    fn begin(control: &Controlled, node: &str, path: &str) -> Result<Self> {
        Ok(Self(control.at(node, "GET", path).token(&token("looker")).stream()?))
    }

    fn read(&self) -> Result<Vec<Event>> {
        // The last one may be on its way.
        events(self.0.text()?.rsplit_once("\n\n").map_or("", |(whole, _)| whole))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_answered_at_once_and_any_agent_tells_how_it_stands() {
    on_empty_stage(&options(), async |stage| {
        let control = Controlled::prepare(stage)?;
        stage.form().await?;
        a_switchover_is_followed_to_its_end(stage, &control).await?;
        nothing_is_done_where_another_leads(stage, &control).await?;
        one_that_waits_is_taken_back(stage, &control).await?;
        what_is_immediate_is_answered_when_it_is_done(stage, &control).await?;
        streams_leave_room_for_the_rest(stage, &control).await?;
        stage.ends_well().await
    })
    .await;
}

async fn a_switchover_is_followed_to_its_end(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let [heir, third] = &stage.others(&leader)[..] else { anyhow::bail!("three nodes") };
    let changes = Open::begin(control, third, "/v1/events")?;
    let begun = async || Ok(changes.read()?.first().is_some_and(|first| first.name == "cluster"));
    stage.eventually("the stream of changes does not begin", begun).await?;

    let wanted = json!({"to": heir, "expect_leader": leader, "reason": "test"});
    let accepted = ask(control, heir, "POST", "/v1/switchover", wanted).await?;
    is(&accepted, 202, "\"state\":\"accepted\"")?;
    let action = accepted.json()?;
    let id = action["id"].as_str().context("an id")?.to_owned();
    let path = format!("/v1/actions/{id}");
    ensure!(id.starts_with("s-") && accepted.head.contains(&format!("location: {path}")), "{accepted:?}");

    // By an agent that has no part in it.
    let stream = look(control, third, &format!("{path}/events")).await?;
    is(&stream, 200, "event: end")?;
    ensure!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    let told = events(&stream.body)?;
    let (end, phases) = told.split_last().context("no event at all")?;
    let record = &end.data["record"];
    ensure!(end.name == "end" && end.data["state"] == "done" && record["to"] == heir.as_str(), "{end:?}");
    let of_record = record["phases"].as_array().context("phases")?;
    ensure!(phases.len() == of_record.len(), "{phases:?} {of_record:?}");
    for phase in phases {
        let known = of_record.contains(&phase.data);
        ensure!(phase.name == "phase" && phase.id.contains('@') && known, "{phase:?} is not in {of_record:?}");
    }
    for measured_by in [&leader, heir] {
        ensure!(
            of_record.iter().any(|phase| phase["measured_on"] == measured_by.as_str()),
            "{measured_by} tells nothing"
        );
    }
    ensure!(stage.leader().await? == *heir, "{heir} does not lead");

    // Redundancy comes later; all else is as it was told.
    for node in [&leader, heir, third] {
        let known = look(control, node, &format!("/v1/transitions/{id}")).await?.json()?;
        for field in ["id", "kind", "outcome", "from", "to", "term_after", "requested_by", "reason", "started_at"] {
            ensure!(
                known[field] == record[field],
                "{node}: {field} is {} and was told as {}",
                known[field],
                record[field]
            );
        }
        is(&look(control, node, &path).await?, 200, "\"state\":\"done\"")?;
    }
    ensure!(record["requested_by"] == "anna@127.0.0.1" && record["reason"] == "test", "{record}");
    is(&ask(control, third, "DELETE", &path, json!({})).await?, 409, "it is done")?;

    let seen = async || {
        let told = changes.read()?;
        let has =
            |name: &str, so: &dyn Fn(&Value) -> bool| told.iter().any(|event| event.name == name && so(&event.data));
        Ok(has("leader", &|data| data["leader"] == heir.as_str())
            && has("member", &|data| data["name"] == heir.as_str() && data["role"] == "leader")
            && has("transition", &|data| data["change"] == "ended" && data["record"]["id"] == id.as_str()))
    };
    stage.eventually("the stream of changes does not tell of it", seen).await?;
    stage.whole().await
}

async fn nothing_is_done_where_another_leads(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let [standby, other] = &stage.others(&leader)[..] else { anyhow::bail!("three nodes") };
    let told = format!("{leader} leads, not {other}");
    for (path, wanted) in [
        ("/v1/switchover", json!({"to": standby, "expect_leader": other})),
        ("/v1/restart", json!({"member": standby, "expect_leader": other})),
        ("/v1/reinitialize", json!({"member": standby, "expect_leader": other})),
        ("/v1/reload", json!({"expect_leader": other})),
        ("/v1/pause", json!({"expect_leader": other})),
        ("/v1/resume", json!({"expect_leader": other})),
        ("/v1/failover", json!({"to": standby, "expect_leader": other})),
    ] {
        let refused = ask(control, standby, "POST", path, wanted).await?;
        is(&refused, 412, &told)?;
        let checks = refused.json()?["checks"].clone();
        ensure!(
            checks.as_array().is_some_and(|checks| checks.iter().any(|check| check["grade"] == "fail")),
            "{checks}"
        );
    }
    for (path, wanted, status, text) in [
        ("/v1/failover", json!({"to": standby}), 412, "leads and takes writes"),
        ("/v1/switchover", json!({"to": leader}), 412, "leads already"),
        ("/v1/restart", json!({"member": "n9"}), 412, "n9 is not registered"),
        ("/v1/reinitialize", json!({"member": leader}), 412, "switch over first"),
        ("/v1/restart", json!({}), 400, "missing field `member`"),
        ("/v1/restart", json!({"member": "a/b"}), 400, "`member`: "),
        ("/v1/pause", json!({"for": "1h"}), 400, "unknown field `for`"),
        ("/v1/pause", json!({"for_s": 0}), 400, "`for_s`: a number of seconds from 1"),
        ("/v1/switchover", json!({"accept_data_loss": true}), 400, "unknown field"),
    ] {
        is(&ask(control, standby, "POST", path, wanted).await?, status, text)?;
    }
    for id in ["s-1", "o-999999", "t-1", "s-0", "nonsense", "a%2Fb", "%FF"] {
        for path in [format!("/v1/actions/{id}"), format!("/v1/actions/{id}/events")] {
            is(&look(control, standby, &path).await?, 404, "there is no action")?;
        }
        is(
            &ask(control, standby, "DELETE", &format!("/v1/actions/{id}"), json!({})).await?,
            404,
            "there is no action",
        )?;
    }
    is(&look(control, standby, "/v1/transitions/s-1").await?, 404, "there is no transition s-1")?;
    is(&look(control, standby, "/v1/transitions?limit=0").await?, 400, "`limit`: a number from 1")?;
    is(&look(control, standby, "/v1/transitions?limit=many").await?, 400, "`limit`: ")?;
    let one = look(control, standby, "/v1/transitions?limit=1").await?.json()?;
    ensure!(one["transitions"].as_array().is_some_and(|records| records.len() == 1), "{one}");
    let by = |name: &str| control.at(standby, "POST", "/v1/reinitialize").token(&token(name)).json("{}");
    is(&by("ansible").send().await?, 403, "that takes admin")?;
    ensure!(stage.leader().await? == leader, "somebody else leads");
    Ok(())
}

/// An order to a node whose agent does not look.
async fn one_that_waits_is_taken_back(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let [standby, other] = &stage.others(&leader)[..] else { anyhow::bail!("three nodes") };
    let before = stage.node(standby)?.postmaster_pid().context("it runs")?;
    stage.node(standby)?.agent().freeze()?;
    let ordered = ask(control, other, "POST", "/v1/restart", json!({"member": standby, "reason": "test"})).await?;
    is(&ordered, 202, "\"kind\":\"restart\"")?;
    let id = ordered.json()?["id"].as_str().context("an id")?.to_owned();
    let path = format!("/v1/actions/{id}");
    is(&look(control, &leader, &path).await?, 200, "\"state\":\"waiting\"")?;
    is(&ask(control, other, "POST", "/v1/restart", json!({"member": standby})).await?, 409, "another order waits")?;
    let stream = Open::begin(control, other, &format!("{path}/events"))?;
    is(&ask(control, &leader, "DELETE", &path, json!({})).await?, 200, "\"state\":\"cancelled\"")?;
    is(&look(control, other, &path).await?, 200, "taken back by anna@127.0.0.1")?;
    is(&ask(control, other, "DELETE", &path, json!({})).await?, 409, "it is cancelled")?;
    let ended =
        async || Ok(stream.read()?.last().is_some_and(|last| last.name == "end" && last.data["state"] == "cancelled"));
    stage.eventually("the stream does not end", ended).await?;
    stage.node(standby)?.agent().thaw()?;
    stage.whole().await?;
    ensure!(stage.node(standby)?.postmaster_pid() == Some(before), "it was restarted all the same");

    let ordered = ask(control, other, "POST", "/v1/restart", json!({"member": standby, "role": "standby"})).await?;
    is(&ordered, 202, "\"state\":\"accepted\"")?;
    let id = ordered.json()?["id"].as_str().context("an id")?.to_owned();
    is(&look(control, &leader, &format!("/v1/actions/{id}/events")).await?, 200, "\"state\":\"done\"")?;
    ensure!(stage.node(standby)?.postmaster_pid().is_some_and(|pid| pid != before), "{standby} runs on");
    stage.whole().await
}

async fn what_is_immediate_is_answered_when_it_is_done(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let standby = &stage.others(&leader)[0];
    let status = async || look(control, standby, "/v1/cluster").await?.json();
    is(
        &ask(control, standby, "POST", "/v1/pause", json!({"for_s": 600, "reason": "test"})).await?,
        200,
        "\"paused\":true",
    )?;
    let paused = status().await?;
    ensure!(paused["schema"] == "pgvigil.status/v1" && paused["pause"]["by"] == "anna@127.0.0.1", "{paused}");
    is(&ask(control, standby, "POST", "/v1/resume", json!({})).await?, 200, "\"changed\":true")?;
    is(&ask(control, standby, "POST", "/v1/resume", json!({})).await?, 200, "\"changed\":false")?;
    let command: Value = serde_json::from_str(&stage.pgvigil(standby, &["status", "-o", "json"]).await?)?;
    let same = status().await?;
    let keys = |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
    ensure!(keys(&command) == keys(&same) && command["leader"] == same["leader"], "{command} {same}");
    is(&ask(control, standby, "POST", "/v1/reload", json!({})).await?, 200, &format!("\"member\":\"{standby}\""))?;
    let ordered = ask(control, standby, "POST", "/v1/reload", json!({"member": leader})).await?;
    is(&ordered, 202, "\"kind\":\"reload\"")?;
    let id = ordered.json()?["id"].as_str().context("an id")?.to_owned();
    is(&look(control, standby, &format!("/v1/actions/{id}/events")).await?, 200, "\"state\":\"done\"")
}

async fn streams_leave_room_for_the_rest(stage: &Stage, control: &Controlled) -> Result<()> {
    let leader = stage.leader().await?;
    let open: Vec<Open> =
        (0..STREAMS_MAX).map(|_| Open::begin(control, &leader, "/v1/events")).collect::<Result<_>>()?;
    let all_begin = async || Ok(open.iter().all(|stream| stream.read().is_ok_and(|events| !events.is_empty())));
    stage.eventually("the streams do not begin", all_begin).await?;
    is(&look(control, &leader, "/v1/events").await?, 503, "16 streams are open at this agent")?;
    is(&ask(control, &leader, "POST", "/v1/reload", json!({})).await?, 200, "\"changes\"")?;
    drop(open);
    let again = async || {
        let one = Open::begin(control, &leader, "/v1/events")?;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        Ok(one.read()?.first().is_some_and(|event| event.name == "cluster"))
    };
    stage.eventually("there is no room again", again).await
}
