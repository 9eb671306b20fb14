//! The checks before a switchover, from fresh facts: is there a leader that writes, may the candidate lead, does it have (nearly)
//! everything. Each check is one line with its numbers, so that a refusal needs no second question.

use std::cmp::Reverse;

use consensus::Snapshot;
use decision::names::MemberName;
use decision::reason::bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::hold;
use super::switchover::asked_for;
use super::words;
use super::world::{Answer, World};

/// More than this is not left to receive or to replay while clients wait.
const LAG_LIMIT_BYTES: u64 = 16 << 20;
/// More than this is felt.
const LAG_FELT_BYTES: u64 = 1 << 20;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, with a drawback.
    Warn,
    /// It forbids the switchover.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// How it came out.
    pub grade: Grade,
    /// What was found.
    pub text: String,
    /// It may be otherwise in a moment, by itself.
    #[serde(skip)]
    pub fleeting: bool,
}

impl Check {
    /// As it should be.
    pub fn ok(text: impl Into<String>) -> Self {
        Self { grade: Grade::Ok, text: text.into(), fleeting: false }
    }
    /// It works, with a drawback.
    pub fn warn(text: impl Into<String>) -> Self {
        Self { grade: Grade::Warn, text: text.into(), fleeting: false }
    }
    /// It forbids what was asked for.
    pub fn fail(text: impl Into<String>) -> Self {
        Self { grade: Grade::Fail, text: text.into(), fleeting: false }
    }
    fn fail_for_now(text: impl Into<String>) -> Self {
        Self { fleeting: true, ..Self::fail(text) }
    }

    /// `[ok]   ...`
    pub fn line(&self) -> String {
        let mark = match self.grade {
            Grade::Ok => "[ok]  ",
            Grade::Warn => "[warn]",
            Grade::Fail => "[FAIL]",
        };
        format!("{mark} {}", self.text)
    }
}

/// What the checks say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preflight {
    /// Who leads.
    pub leader: Option<MemberName>,
    /// Who is to lead.
    pub candidate: Option<MemberName>,
    /// Everything that was checked.
    pub checks: Vec<Check>,
    /// Who would pass, where the candidate does not.
    pub instead: Option<MemberName>,
}

/// What the operator said.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Who is to lead; `None`: the best standby.
    pub to: Option<MemberName>,
    /// Who must lead now.
    pub expect_leader: Option<MemberName>,
    /// It goes on against a hold.
    pub ignore_hold: bool,
}

impl Preflight {
    /// Checks everything.
    pub fn of(world: &World, snapshot: &Snapshot, wish: &Wish, now: Timestamp) -> Self {
        let leader = snapshot.cluster.leader.clone();
        let mut checks = of_cluster(world, snapshot, wish, now);
        let sound = !checks.iter().any(is_fail);
        let Some(known_leader) = &leader else {
            return Self { leader, candidate: wish.to.clone(), checks, instead: None };
        };
        let ranked = ranked(world, snapshot, known_leader);
        let candidate = wish.to.clone().or_else(|| ranked.first().map(|(name, _)| name.clone()));
        match &candidate {
            Some(name) => checks.extend(of_candidate(world, snapshot, known_leader, name)),
            None => checks.push(Check::fail("no other member is registered: there is nobody to hand over to")),
        }
        let other = |name: &MemberName| Some(name) != candidate.as_ref() && name != known_leader;
        checks.extend(of_the_others(world, snapshot, &other));
        let refused = checks.iter().any(is_fail);
        let passes = ranked.into_iter().find(|(name, passes)| *passes && other(name)).map(|(name, _)| name);
        Self { leader, candidate, checks, instead: passes.filter(|_| sound && refused) }
    }

    /// Whether nothing forbids it.
    pub fn passed(&self) -> bool {
        !self.checks.iter().any(is_fail)
    }

    /// What forbids it.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        self.of_grade(Grade::Fail)
    }

    /// What does not, and is not as it should be.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.of_grade(Grade::Warn)
    }

    fn of_grade(&self, grade: Grade) -> impl Iterator<Item = &str> {
        self.checks.iter().filter(move |check| check.grade == grade).map(|check| check.text.as_str())
    }

    /// Whether nothing forbids it but what may pass by itself: a standby that has just come back goes from one timeline to the next, and is
    /// not there for an instant.
    pub fn may_pass(&self) -> bool {
        self.checks.iter().all(|check| !is_fail(check) || check.fleeting)
    }

    /// `Refused: 1 failed check. Try --to pg2 (all checks pass).`
    pub fn refusal(&self) -> String {
        let count = self.checks.iter().filter(|check| is_fail(check)).count();
        let checks = if count == 1 { "check" } else { "checks" };
        let instead =
            self.instead.as_ref().map(|name| format!(" Try --to {name} (all checks pass).")).unwrap_or_default();
        format!("Refused: {count} failed {checks}.{instead}")
    }

    /// For programs.
    pub fn to_json(&self, expected_pause_ms: Option<f64>, exit: &str) -> Value {
        json!({
            "schema": "pgvigil.preflight/v1",
            "leader": self.leader,
            "candidate": self.candidate,
            "passed": self.passed(),
            "checks": self.checks,
            "instead": self.instead,
            "expected_write_pause_ms": expected_pause_ms,
            "exit": exit,
        })
    }
}

fn is_fail(check: &Check) -> bool {
    check.grade == Grade::Fail
}

/// What must be so whoever is to lead.
fn of_cluster(world: &World, snapshot: &Snapshot, wish: &Wish, now: Timestamp) -> Vec<Check> {
    let Some(leader) = &snapshot.cluster.leader else {
        return vec![Check::fail("nobody leads, so nobody can hand over; see `pgvigil why` and `pgvigil failover`")];
    };
    let mut checks = vec![match world.agents.get(leader).map(|agent| &agent.says) {
        Some(Ok(says)) if says.is_writable() => {
            Check::ok(format!("leader {leader} takes writes, term {}", snapshot.cluster.term))
        }
        Some(Ok(says)) if snapshot.cluster.follows() && says.beat["role"] == "standby_leader" => {
            Check::ok(format!("leader {leader} leads this site, which follows another, term {}", snapshot.cluster.term))
        }
        Some(Ok(says)) => Check::fail(format!("leader {leader} does not take writes: {}", says.sentence())),
        Some(Err(why)) => Check::fail(format!("the agent of the leader {leader} does not answer: {why}")),
        None => Check::fail(format!("the leader {leader} is not registered: its agent is down")),
    }];
    if let Some(expected) = wish.expect_leader.as_ref().filter(|expected| *expected != leader) {
        checks.push(Check::fail(format!("{leader} leads, not {expected}")));
    }
    if snapshot.config.paused_at(now) {
        checks.push(match wish.to {
            Some(_) => Check::warn("automatic actions are paused: this switchover is carried out, and nothing else"),
            None => Check::fail("in a pause nobody is chosen: name the candidate (`--to`), or `pgvigil resume` first"),
        });
    }
    if let Some(shown) = hold::Shown::of(snapshot, now) {
        checks.push(match wish.ignore_hold {
            true => Check::warn(format!("planned actions are held {}: ignored", shown.in_words())),
            false => Check::fail(hold::waits(&shown)),
        });
    }
    checks.push(match &snapshot.request_record {
        None => Check::ok("no other request waits"),
        Some(request) => {
            let what = asked_for(request);
            Check::fail(format!("another request waits: {what}; `pgvigil switchover --cancel` takes it back"))
        }
    });
    checks
}

fn of_candidate(world: &World, snapshot: &Snapshot, leader: &MemberName, name: &MemberName) -> Vec<Check> {
    if name == leader {
        return vec![Check::fail(format!("{name} leads already"))];
    }
    let Some(member) = snapshot.cluster.members.get(name) else {
        let registered = words::list(snapshot.cluster.members.keys());
        return vec![Check::fail(format!("{name} is not registered: is its agent running? Registered: {registered}"))];
    };
    let mut checks = Vec::new();
    if member.tags.never_leads() {
        checks.push(Check::fail(format!("the tags of {name} bar it from leading")));
    }
    if let Some(why) = &member.no_fence {
        checks.push(Check::fail(format!("the fence of {name} cannot be armed: {why}")));
    }
    if let Some(address) = &member.not_listening {
        checks.push(Check::fail(format!("Postgres of {name} does not listen on {address}: no client would reach it")));
    }
    match world.agents.get(name).map(|agent| &agent.says) {
        Some(Ok(says)) => checks.extend(of_standby(world, leader, name, says)),
        Some(Err(why)) => checks.push(Check::fail(format!("the agent of {name} does not answer: {why}"))),
        None => checks.push(Check::fail(format!("the agent of {name} is nowhere to be asked"))),
    }
    checks
}

/// Whether a standby that answers streams, and how much it has to catch up with.
fn of_standby(world: &World, leader: &MemberName, name: &MemberName, says: &Answer) -> Vec<Check> {
    let leader_says = world.answer(leader);
    let bars = leader_says.and_then(|leader| leader.bars(name)).unwrap_or_default();
    let in_the_way =
        bars.into_iter().find(|(code, _)| ["not_streaming", "not_running", "agent_down"].contains(&code.as_str()));
    if let Some((_, sentence)) = in_the_way {
        return vec![Check::fail_for_now(format!("{name} cannot take over: {sentence}"))];
    }
    if says.patroni["replication_state"] != "streaming" {
        return vec![Check::fail_for_now(format!("{name} does not stream: {}", says.sentence()))];
    }
    vec![Check::ok(format!("{name} streams from {leader}")), lag(leader_says, name)]
}

fn lag(leader_says: Option<&Answer>, name: &MemberName) -> Check {
    let Some((receive, replay)) = lags(leader_says, name) else {
        return Check::warn(format!("how far {name} is behind is not known, for the leader's agent does not say"));
    };
    let text = format!("{name} has {} left to receive, {} to replay", bytes(receive), bytes(replay));
    match receive.max(replay) {
        LAG_LIMIT_BYTES.. if receive.max(replay) > LAG_LIMIT_BYTES => {
            Check::fail_for_now(format!("{text}; the limit is {}", bytes(LAG_LIMIT_BYTES)))
        }
        LAG_FELT_BYTES.. => Check::warn(format!("{text}: writes pause for that long")),
        _ => Check::ok(text),
    }
}

fn lags(leader_says: Option<&Answer>, name: &MemberName) -> Option<(u64, u64)> {
    let member = leader_says?.member(name)?;
    Some((member["receive_lag"].as_u64()?, member["replay_lag"].as_u64()?))
}

/// Members that the switchover does not need, and that it will not wait for.
fn of_the_others(world: &World, snapshot: &Snapshot, other: &dyn Fn(&MemberName) -> bool) -> Vec<Check> {
    let away =
        |name: &&MemberName| world.answer(name).is_none_or(|says| says.patroni["replication_state"] != "streaming");
    let away: Vec<&MemberName> = snapshot.cluster.members.keys().filter(|name| other(name)).filter(away).collect();
    if away.is_empty() { Vec::new() } else { vec![Check::warn(format!("not streaming now: {}", words::list(away)))] }
}

/// The other members, best first, and whether each passes: as the leader itself would choose.
pub fn ranked(world: &World, snapshot: &Snapshot, leader: &MemberName) -> Vec<(MemberName, bool)> {
    let mut ranked: Vec<_> = snapshot
        .cluster
        .members
        .iter()
        .filter(|(name, _)| *name != leader)
        .map(|(name, member)| {
            let passes = !of_candidate(world, snapshot, leader, name).iter().any(is_fail);
            let (receive, _) = lags(world.answer(leader), name).unwrap_or((u64::MAX, u64::MAX));
            let priority = Reverse(member.tags.failover_priority);
            let preferred = snapshot.cluster.is_preferred(name);
            ((!passes, member.tags.streams_elsewhere(), receive, priority, !preferred, name.clone()), passes)
        })
        .collect();
    ranked.sort();
    ranked.into_iter().map(|((.., name), passes)| (name, passes)).collect()
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
