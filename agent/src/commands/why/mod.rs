//! `pgvigil why [MEMBER]`: what an agent is doing and why, since when, and what bars each member from leading. The agent's own words;
//! nothing is concluded here.

mod explain;
mod path;

use std::time::Duration;

use decision::names::MemberName;
use jiff::Timestamp;
use serde_json::Value;

use super::screen::{self, answer, tell};
use super::status::Status;
use super::words;
use super::world::{Answer, Reach, World};
use crate::cli::{Exit, Output, WhyArgs};

pub use explain::codes as explained;

/// etcd is read about once a second; what is older than this is worth a word.
const NEWS_MS: u64 = 5_000;

/// Prints one agent's view.
pub async fn run(arguments: &WhyArgs) -> Exit {
    if let Some(code) = &arguments.explain {
        return explain::run(code);
    }
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    if let Some(path) = &arguments.path
        && let Err(why) = path::known(path)
    {
        tell(&format!("error: {why}"));
        return Exit::Usage;
    }
    let world = reach.look().await;
    let asked = match &arguments.member {
        Some(member) => named(&world, &reach, member),
        None => own_or_leader(&world),
    };
    match asked {
        Ok(says) => {
            if let Some(path) = &arguments.path {
                return path::run(&reach, &world, says, path, arguments.output).await;
            }
            match arguments.output {
                Output::Json => answer(&serde_json::to_string_pretty(&says.why).unwrap_or_default()),
                Output::Table => answer(&render(&says.why)),
            };
            Exit::Done
        }
        Err((exit, why)) => {
            tell(&format!("error: {why}"));
            if exit == Exit::Unreachable { reach.silence() } else { exit }
        }
    }
}

fn named<'a>(world: &'a World, reach: &Reach, member: &str) -> Result<&'a Answer, (Exit, String)> {
    let name = MemberName::new(member).map_err(|bad| (Exit::Usage, bad.to_string()))?;
    let told = world.leader_answer().and_then(|leader| leader.bars(&name)).map(|bars| {
        let bars: Vec<String> = bars.into_iter().map(|(_, sentence)| sentence).collect();
        let bars = if bars.is_empty() { "nothing bars it from leading".to_owned() } else { bars.join("; ") };
        format!("\nThe leader's agent says of {name}: {bars}")
    });
    match world.agents.get(&name) {
        Some(agent) => agent.says.as_ref().map_err(|why| {
            let told = told.unwrap_or_default();
            (Exit::Unreachable, format!("the agent of {name} ({}) does not answer: {why}{told}", agent.api_url))
        }),
        None if world.is_dark() => Err((Exit::Unreachable, dark(world))),
        None => {
            let known = words::list(world.agents.keys());
            let why = format!("no agent is registered as {name}; there are: {known}");
            let status = Status::of(world, &reach.config, Timestamp::now());
            // A name that the cluster knows is no typing error.
            if told.is_none() && !status.members.iter().any(|member| member.name == name.as_str()) {
                return Err((Exit::Usage, why));
            }
            let mend = format!("start the agent of {name}, or look in its log why it cannot reach etcd");
            Err((Exit::Unreachable, format!("{why}\nHINT: {mend}{}", told.unwrap_or_default())))
        }
    }
}

fn own_or_leader(world: &World) -> Result<&Answer, (Exit, String)> {
    if let Some(own) = world.answer(&world.me) {
        return Ok(own);
    }
    if let Some((leader, says)) = world.leader().and_then(|leader| Some((leader.clone(), world.answer(&leader)?))) {
        tell(&format!("note: the agent of this host does not answer; this is what {leader} says, which leads"));
        return Ok(says);
    }
    if let Some((name, says)) = world.answers().next() {
        tell(&format!("note: neither the agent of this host nor a leader answers; this is what {name} says"));
        return Ok(says);
    }
    Err((Exit::Unreachable, dark(world)))
}

fn dark(world: &World) -> String {
    match &world.etcd {
        Ok(_) => match world.agents.values().find_map(|agent| agent.says.as_ref().err()) {
            Some(why) => format!("no agent answers: {why}"),
            None => "no agent answers".to_owned(),
        },
        Err(why) => format!("neither the agent of this host nor etcd answers: {why}"),
    }
}

/// The answer for people.
fn render(why: &Value) -> String {
    let text = |pointer: &str| why.pointer(pointer).and_then(Value::as_str).unwrap_or("unknown");
    let span = |key: &str| why[key].as_u64().map(|ms| words::age(Duration::from_millis(ms)));
    let mut lines = vec![
        format!("{}: {}", text("/member"), text("/sentence")),
        format!(
            "  reason   {}, since {} ago   (pgvigil why --explain {})",
            text("/reason/code"),
            or_unknown(span("since_ms")),
            text("/reason/code")
        ),
        format!("  action   {}", text("/action")),
        format!("  writes   {}", if why["writable"] == true { "work here" } else { "are not accepted here" }),
        format!("  etcd     {}", etcd(why["etcd_age_ms"].as_u64(), why["lease_renewed_ms"].as_u64())),
    ];
    lines.extend(failed(&why["failed"]));
    let standings: Vec<Vec<String>> = why["standings"].as_array().into_iter().flatten().flat_map(standing).collect();
    if !standings.is_empty() {
        lines.extend([String::new(), screen::table(&["MEMBER", "MAY LEAD", "WHY"], &standings)]);
    }
    for problem in why["problems"].as_array().into_iter().flatten() {
        let text = |key: &str| problem[key].as_str().unwrap_or("unknown");
        lines.push(format!("! {}: {}", text("key"), text("why")));
    }
    for refused in why["refused_promises"].as_array().into_iter().flatten() {
        let text = |key: &str| refused[key].as_str().unwrap_or("unknown");
        lines.push(format!("! {} has not promised to let this leader go on: {}", text("member"), text("why")));
    }
    let own = ["not_listening", "state_dir"].into_iter().filter_map(|key| why.get(key).filter(|one| !one.is_null()));
    let told = ["overruled", "slot_problems"].into_iter().flat_map(|key| why[key].as_array().into_iter().flatten());
    for trouble in own.chain(told) {
        let text = |key: &str| trouble[key].as_str().unwrap_or("unknown");
        lines.push(format!("! {}\n  {}", text("problem"), text("hint")));
    }
    lines.join("\n")
}

/// When etcd was last seen. One that renews leases and is not seen answers, so whoever looks for it in the network looks in the wrong place.
fn etcd(seen_ms: Option<u64>, renewed_ms: Option<u64>) -> String {
    let ago = |ms| format!("{} ago", words::age(Duration::from_millis(ms)));
    let seen = seen_ms.map_or("never seen".to_owned(), |ms| format!("seen {}", ago(ms)));
    match renewed_ms.filter(|renewed| seen_ms.is_none_or(|seen| seen > NEWS_MS && *renewed < seen / 2)) {
        Some(renewed) => format!("{seen}, yet it renewed the lease {}: it answers, and cannot be read", ago(renewed)),
        None => seen,
    }
}

/// What went wrong last, where nothing has succeeded since: why something is tried again.
fn failed(failed: &Value) -> Option<String> {
    let (action, error) = (failed["action"].as_str()?, failed["error"].as_str()?);
    let ago = failed["ago_ms"].as_u64().map(|ms| words::age(Duration::from_millis(ms)));
    Some(format!("  failed   {action}, {} ago: {error}", or_unknown(ago)))
}

fn or_unknown(text: Option<String>) -> String {
    text.unwrap_or_else(|| "unknown".to_owned())
}

/// A row for the first bar of a member and one for each further bar: all of them are told.
fn standing(standing: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let name = text(&standing["member"]);
    let bars: Vec<&Value> = standing["bars"].as_array().into_iter().flatten().collect();
    let Some((first, rest)) = bars.split_first() else {
        return vec![vec![name, "yes".to_owned(), "nothing bars it".to_owned()]];
    };
    let may = if text(&first["code"]) == "is_leader" { "leads" } else { "no" };
    let mut rows = vec![vec![name, may.to_owned(), text(&first["sentence"])]];
    rows.extend(rest.iter().map(|bar| vec![String::new(), String::new(), text(&bar["sentence"])]));
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_etcd_that_renews_leases_and_cannot_be_read_is_not_called_silent() {
        for (seen, renewed, told) in [
            (Some(200), Some(100), "seen 0.2 s ago"),
            (None, None, "never seen"),
            (Some(40_000), None, "seen 40 s ago"),
            (Some(40_000), Some(39_000), "seen 40 s ago"),
            (
                Some(40_000),
                Some(400),
                "seen 40 s ago, yet it renewed the lease 0.4 s ago: it answers, and cannot be read",
            ),
        ] {
            assert_eq!(etcd(seen, renewed), told);
        }
    }

    #[test]
    fn every_bar_of_every_member_is_told() {
        let why = json!({
            "member": "pg2", "action": "wait", "sentence": "follows pg1, term 3", "reason": {"code": "following"},
            "failed": {"action": "start", "error": "postgres did not start: FATAL:  no such option", "ago_ms": 2_500},
            "since_ms": 125_000, "etcd_age_ms": 200, "writable": false,
            "standings": [
                {"member": "pg1", "bars": [{"code": "is_leader", "sentence": "it is the leader"}]},
                {"member": "pg2", "bars": []},
                {"member": "pg3", "bars": [{"code": "a", "sentence": "first"}, {"code": "b", "sentence": "second"}]},
            ],
            "refused_promises": [{"member": "pg3", "why": "it has balloted"}],
            "state_dir": {"problem": "its directory is gone", "hint": "make it"},
            "overruled": [{"code": "writes_forbidden", "problem": "nothing may be written", "hint": "let it"}],
            "problems": [{"key": "/service/x/status", "why": "it is no JSON"}],
        });
        let expected = "\
pg2: follows pg1, term 3
  reason   following, since 2 min ago   (pgvigil why --explain following)
  action   wait
  writes   are not accepted here
  etcd     seen 0.2 s ago
  failed   start, 2.5 s ago: postgres did not start: FATAL:  no such option

MEMBER  MAY LEAD  WHY
pg1     leads     it is the leader
pg2     yes       nothing bars it
pg3     no        first
                  second
! /service/x/status: it is no JSON
! pg3 has not promised to let this leader go on: it has balloted
! its directory is gone
  make it
! nothing may be written
  let it";
        assert_eq!(render(&why), expected);
    }
}
