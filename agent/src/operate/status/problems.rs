//! Every problem with what to do about it, the gravest first.

use std::time::Duration;

use decision::names::MemberName;
use decision::reason::{bytes, span};
use decision::settings::Mode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::words;
use super::super::world::{Answer, World};
use super::facts::Status;
use super::member::{MemberStatus, streams_on, told_of_streaming};
use super::{told, vacancy};
use crate::operate::schedule::clocks::differing;

/// Replay this far behind prolongs a failover noticeably.
const REPLAY_BEHIND_BYTES: u64 = 16 << 20;

/// A value in etcd cannot be understood.
pub const CORRUPT: &str = "corrupt_key";
/// etcd renews leases and cannot be read.
pub const UNREADABLE: &str = "etcd_unreadable";
/// Acknowledged commits need not be on a voter, by a setting.
pub const OVERRULED: &str = "durability_overruled";
/// Clients may not write, by a setting.
pub const FORBIDDEN: &str = "writes_forbidden";

/// Postgres does not listen where everybody looks for it.
pub const NOT_LISTENING: &str = "not_listening";

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Trouble {
    /// The stable code.
    pub code: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

impl Trouble {
    /// A problem and the way out.
    pub fn new(code: &'static str, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, problem: problem.into(), hint: hint.into() }
    }
}

/// Everything that is wrong, the gravest first.
pub fn problems(status: &Status, world: &World, ttl: Duration) -> Vec<Trouble> {
    let mut found = Vec::new();
    found.extend(status.etcd_error.as_ref().map(|error| of_etcd(error, world, ttl)));
    if let Ok(snapshot) = &world.etcd {
        found.extend(snapshot.problems.iter().map(|problem| {
            let told = format!("the value of {} cannot be understood: {}", problem.key, problem.why);
            Trouble::new(CORRUPT, told, format!("etcdctl get {}", problem.key))
        }));
        found.extend(told::beside(world, snapshot));
    }
    found.extend(vacancy::way_out(status, world));
    found.extend(world.answers().filter_map(|(name, answer)| not_listening(name, &answer.why)));
    found.extend(status.members.iter().filter_map(|member| of_member(member, status, world, ttl)));
    let degraded = status.durability.as_ref().filter(|durability| durability.mode != Mode::Async);
    if degraded.is_some_and(|durability| durability.policies.iter().any(|quorum| quorum.k == 0)) {
        let problem = "commits wait for nobody although the mode promises that they do: there is no voter";
        found.push(Trouble::new(
            "durability_degraded",
            problem,
            "bring a standby back: pgvigil why names what each one waits for",
        ));
    }
    found.extend(world.answers().filter_map(|(name, answer)| state_dir(name, &answer.why)));
    found.extend(told::parameters(world));
    found.extend(told::slots(world));
    found.extend(told::certificates(world));
    found.extend(told::overruled(world.leader_answer().map_or(&Value::Null, |leader| &leader.why)));
    if let Some(pause) = &status.pause {
        let problem = format!("automatic actions are paused {}", pause.in_words());
        found.push(Trouble::new("paused", problem, "pgvigil resume"));
    }
    if !status.scheduled.is_empty() {
        let hint = "what is scheduled counts by the clock of whoever leads then: chronyc tracking, or timedatectl, on both hosts";
        found.extend(differing(world).into_iter().map(|clock| Trouble::new("clocks_differ", clock, hint)));
    }
    if status.request.is_some() {
        let problem = "an operator's request waits to be carried out";
        found.push(Trouble::new(
            "request_pending",
            problem,
            "pgvigil why says what it waits for, pgvigil switchover --cancel takes it back",
        ));
    }
    found.extend(told::orders(world, Timestamp::now()));
    found
}

/// Why etcd could not be read from here, as far as the agents tell: they read it as well, and it renews their leases.
fn of_etcd(error: &str, world: &World, ttl: Duration) -> Trouble {
    let age = |answer: &Answer, key: &str| answer.why[key].as_u64().map(Duration::from_millis);
    let those = |fits: &dyn Fn(&Answer) -> bool| -> Vec<MemberName> {
        world.answers().filter(|(_, answer)| fits(answer)).map(|(name, _)| name.clone()).collect()
    };
    let read_it = those(&|answer| age(answer, "etcd_age_ms").is_some_and(|age| age <= ttl / 3));
    if !read_it.is_empty() {
        let problem = format!("etcd cannot be read from here, though {} can: {error}", words::list(&read_it));
        let hint = "look at this host: its way to etcd, its certificates, the password in its file; pgvigil validate asks each member";
        return Trouble::new("etcd_unreachable", problem, hint);
    }
    let renewed = those(&|answer| {
        age(answer, "lease_renewed_ms").is_some_and(|age| age <= ttl / 2)
            && age(answer, "etcd_age_ms").is_none_or(|age| age > ttl)
    });
    if !renewed.is_empty() {
        let problem =
            format!("etcd renews the leases of {}, so it answers, and cannot be read: {error}", words::list(&renewed));
        let hint = "the network is not the cause: etcdctl endpoint status and etcdctl alarm list, and may the user of the agents read the keys?";
        return Trouble::new(UNREADABLE, problem, hint);
    }
    let problem = format!("etcd does not answer: {error}");
    let hint = "is etcd running, and no firewall between? pgvigil validate asks each member";
    Trouble::new("etcd_unreachable", problem, hint)
}

/// What to look for where an agent is registered and says nothing.
fn of_silence(name: &str, error: &str) -> String {
    match error.starts_with("no answer") {
        true => format!(
            "is the host of {name} up, and no firewall between? Where its agent runs, it is stopped (state T in ps) or starved: restart it, Postgres goes on"
        ),
        false => format!("is the host of {name} up, and its port open from here?"),
    }
}

/// A server that nobody reaches.
fn not_listening(name: &MemberName, why: &Value) -> Option<Trouble> {
    let text = |key: &str| why["not_listening"][key].as_str();
    let problem = format!("on {name}: {}", text("problem")?);
    Some(Trouble::new(NOT_LISTENING, problem, text("hint").unwrap_or("see postgres.log there")))
}

/// What an agent misses of its own directory.
fn state_dir(name: &MemberName, why: &Value) -> Option<Trouble> {
    let text = |key: &str| why["state_dir"][key].as_str();
    let problem = format!("on {name}: {}", text("problem")?);
    Some(Trouble::new("state_dir_lost", problem, text("hint").unwrap_or("see the log of its agent")))
}

/// The gravest thing that is wrong with one member.
fn of_member(member: &MemberStatus, status: &Status, world: &World, ttl: Duration) -> Option<Trouble> {
    let name = &member.name;
    let trouble = |code, problem, hint: String| Some(Trouble::new(code, problem, hint));
    let why = || format!("pgvigil why {name}");
    if member.state == "down" {
        let problem = format!("{name} is down: its agent is not registered in etcd");
        let hint = format!(
            "start the agent on {name}; its log says why it ended. Where it runs (state T in ps: it is stopped), restart it"
        );
        return trouble("member_down", problem, hint);
    }
    if member.state == "leaving" {
        if let Some(leader) = MemberName::new(name.as_str()).ok().and_then(|name| streams_on(world, &name)) {
            let (problem, hint) = told_of_streaming(name, leader.as_str());
            return trouble("leaving", problem, hint.to_owned());
        }
        let problem = format!("{name} was removed by an operator, and something still counts on it");
        return trouble("leaving", problem, "pgvigil why says what the leader is at".to_owned());
    }
    if !member.reachable {
        let problem =
            format!("the agent of {name} does not answer: {}", member.error.as_deref().unwrap_or("no address"));
        return trouble("agent_unreachable", problem, of_silence(name, member.error.as_deref().unwrap_or_default()));
    }
    if member.seen_ms.is_some_and(|age| Duration::from_millis(age) > ttl) {
        let problem = format!("the agent of {name} answers, but its picture is old: its loop hangs");
        return trouble("agent_stuck", problem, format!("restart the agent on {name}; Postgres goes on running"));
    }
    if member.role == "primary" {
        let problem = format!("Postgres on {name} accepts writes, or would, without the leader lock");
        return trouble("primary_without_lock", problem, why());
    }
    if member.role == "leader" {
        let problem = format!("{name} holds the lock but does not accept writes ({})", member.state);
        let as_it_should = ["writable", "follows another site"].contains(&member.state.as_str());
        return if as_it_should { None } else { trouble("leader_not_writable", problem, why()) };
    }
    if !["streaming", "from the archive"].contains(&member.state.as_str()) && status.leader.is_some() {
        return trouble("not_streaming", format!("{name} does not stream: {}", member.state), why());
    }
    if let Some(rests) = member.acknowledges_nothing_ms {
        let rests = span(Duration::from_millis(rests));
        let problem =
            format!("{name} streams, and has acknowledged nothing for {rests}, although commits wait for it or may");
        let hint = format!(
            "look for a walreceiver on {name} or its WAL sender on {} that is stopped (state T in ps), and for a slow disk on {name}",
            status.leader.as_deref().unwrap_or("the leader")
        );
        return trouble("acknowledges_nothing", problem, hint);
    }
    let leader_timeline = status.members.iter().find(|other| other.role == "leader").and_then(|leader| leader.timeline);
    if leader_timeline.is_some() && member.timeline.is_some() && member.timeline != leader_timeline {
        return trouble("other_timeline", format!("{name} is on another timeline than the leader"), why());
    }
    let behind = member.replay_lag_bytes.filter(|behind| *behind > REPLAY_BEHIND_BYTES)?;
    let problem = format!("{name} has {} left to replay, and would need that time before it could lead", bytes(behind));
    trouble("replay_behind", problem, format!("a long query on {name} may block replay: pg_stat_activity there"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operate::world::Agent;

    #[test]
    fn an_etcd_that_cannot_be_read_is_called_unreachable_only_where_no_agent_knows_better() {
        let pg1 = MemberName::new("pg1").unwrap();
        for (why, code, told) in [
            (json!({"etcd_age_ms": 300, "lease_renewed_ms": 200}), "etcd_unreachable", "though pg1 can"),
            (json!({"etcd_age_ms": 60_000, "lease_renewed_ms": 200}), UNREADABLE, "renews the leases of pg1"),
            (json!({"etcd_age_ms": null, "lease_renewed_ms": 200}), UNREADABLE, "renews the leases of pg1"),
            (json!({"etcd_age_ms": 3_000, "lease_renewed_ms": 2_000}), "etcd_unreachable", "does not answer: late"),
            (json!({"etcd_age_ms": 60_000, "lease_renewed_ms": 60_000}), "etcd_unreachable", "does not answer: late"),
            (json!({}), "etcd_unreachable", "does not answer: late"),
        ] {
            let says = Ok(Answer { why: why.clone(), ..Answer::default() });
            let agents = [(pg1.clone(), Agent { api_url: String::new(), says })].into();
            let world = World { etcd: Err("late".to_owned()), agents, me: pg1.clone(), under_way: None };
            let trouble = of_etcd("late", &world, Duration::from_secs(5));
            assert!(trouble.code == code && trouble.problem.contains(told), "{why}: {trouble:?}");
        }
    }

    #[test]
    fn of_a_removed_member_whose_postgres_goes_on_the_mend_is_told() {
        let (pg1, pg3) = (MemberName::new("pg1").unwrap(), MemberName::new("pg3").unwrap());
        let told = |senders: Value| {
            let patroni = json!({"replication": senders});
            let says = Ok(Answer { patroni, beat: json!({"leader": true}), ..Answer::default() });
            let agents = [(pg1.clone(), Agent { api_url: String::new(), says })].into();
            let world = World { etcd: Err("late".to_owned()), agents, me: pg1.clone(), under_way: None };
            let gone = MemberStatus { name: pg3.to_string(), state: "leaving".to_owned(), ..MemberStatus::default() };
            of_member(&gone, &Status::default(), &world, Duration::from_secs(5)).unwrap()
        };
        let streams = told(json!([{"application_name": "pg3_t4"}]));
        assert_eq!(streams.problem, "pg3 is removed, but its Postgres still streams from pg1");
        assert!(streams.hint.contains("pg_ctl") && streams.hint.contains("stop -m fast"), "{streams:?}");
        assert!(told(json!([])).hint.contains("pgvigil why"));
    }

    #[test]
    fn an_agent_that_is_frozen_is_told_apart_from_one_that_nobody_reaches() {
        assert!(of_silence("pg2", "no answer from http://pg2:8008/beat within 1s").contains("state T in ps"));
        assert!(!of_silence("pg2", "Connection refused (os error 111)").contains("state T"));
    }

    #[test]
    fn an_agent_that_misses_its_own_directory_is_a_problem_with_its_mend() {
        let name = MemberName::new("pg2").unwrap();
        let told = state_dir(&name, &json!({"state_dir": {"problem": "/s is gone", "hint": "make it"}})).unwrap();
        assert_eq!(told, Trouble::new("state_dir_lost", "on pg2: /s is gone", "make it"));
        assert_eq!(state_dir(&name, &json!({"state_dir": null})), None);
    }
}
