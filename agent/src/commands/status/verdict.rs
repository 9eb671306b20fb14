//! How things stand: every problem with what to do about it, and one sentence that says whether writes work and what a failover at
//! this moment would cost. Whoever reads nothing else should be right to go back to sleep on `OK`.

use std::collections::BTreeSet;
use std::time::Duration;

use decision::durability::{Policies, proven};
use decision::names::MemberName;
use decision::reason::{bytes, span};
use decision::settings::Mode;
use serde::Serialize;
use serde_json::Value;

use super::super::words;
use super::super::world::World;
use super::facts::Status;
use super::member::MemberStatus;

/// Replay this far behind prolongs a failover noticeably.
const REPLAY_BEHIND_BYTES: u64 = 16 << 20;

/// Acknowledged commits need not be on a voter, by a setting.
const OVERRULED: &str = "durability_overruled";
/// Clients may not write, by a setting.
const FORBIDDEN: &str = "writes_forbidden";

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// How things stand, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Writes work, and nothing is wrong.
    Ok,
    /// Writes work (or it is not known), and something is wrong.
    #[default]
    Degraded,
    /// Nobody accepts writes.
    NoPrimary,
}

impl Word {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Word::Ok => "OK",
            Word::Degraded => "DEGRADED",
            Word::NoPrimary => "NO PRIMARY",
        }
    }
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// One word.
    pub word: Word,
    /// One sentence.
    pub sentence: String,
    /// A failover could happen by itself now; `null`: not known.
    pub failover_possible: Option<bool>,
    /// The most acknowledged bytes that it would lose, as things stand; `null`: not known, or no failover is possible.
    pub failover_lost_bytes_bound: Option<u64>,
}

/// What a failover would cost at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cost {
    /// Nothing that was acknowledged.
    Nothing,
    /// What the best candidate has not received yet.
    UpTo { best: String, behind_bytes: Option<u64> },
    /// Commits that a setting lets through without a voter.
    Uncounted,
    /// Nobody would be promoted.
    Impossible(String),
    /// Nobody leads.
    Unknown,
}

/// Everything that is wrong, the gravest first.
pub fn problems(status: &Status, world: &World, ttl: Duration) -> Vec<Trouble> {
    let mut found = Vec::new();
    if let Some(error) = &status.etcd_error {
        let problem = format!("etcd does not answer: {error}");
        found.push(Trouble::new(
            "etcd_unreachable",
            problem,
            "is etcd running, and no firewall between? pgvigil validate asks each member",
        ));
    }
    if let Ok(snapshot) = &world.etcd {
        found.extend(snapshot.problems.iter().map(|problem| {
            let told = format!("the value of {} cannot be understood: {}", problem.key, problem.why);
            Trouble::new("corrupt_key", told, format!("etcdctl get {}", problem.key))
        }));
    }
    found.extend(status.members.iter().filter_map(|member| of_member(member, status, ttl)));
    let degraded = status.durability.as_ref().filter(|durability| durability.mode != Mode::Async);
    if degraded.is_some_and(|durability| durability.policies.iter().any(|quorum| quorum.k == 0)) {
        let problem = "commits wait for nobody although the mode promises that they do: there is no voter";
        found.push(Trouble::new(
            "durability_degraded",
            problem,
            "bring a standby back: pgvigil why names what each one waits for",
        ));
    }
    found.extend(overruled(world.leader_answer().map_or(&Value::Null, |leader| &leader.why)));
    if let Some(pause) = &status.pause {
        let problem = format!("automatic actions are paused {}", pause.in_words());
        found.push(Trouble::new("paused", problem, "pgvigil resume"));
    }
    if status.request.is_some() {
        let problem = "an operator's request waits to be carried out";
        found.push(Trouble::new(
            "request_pending",
            problem,
            "pgvigil why says what it waits for, pgvigil switchover --cancel takes it back",
        ));
    }
    found
}

/// What an operator has set by SQL against what is promised, in the words of the leader's agent.
fn overruled(why: &Value) -> Vec<Trouble> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or("unknown").to_owned();
    let told = why["overruled"].as_array().into_iter().flatten();
    told.map(|one| {
        let code = if one["code"] == FORBIDDEN { FORBIDDEN } else { OVERRULED };
        Trouble::new(code, text(one, "problem"), text(one, "hint"))
    })
    .collect()
}

/// The gravest thing that is wrong with one member.
fn of_member(member: &MemberStatus, status: &Status, ttl: Duration) -> Option<Trouble> {
    let name = &member.name;
    let trouble = |code, problem, hint: String| Some(Trouble::new(code, problem, hint));
    let why = || format!("pgvigil why {name}");
    if member.state == "down" {
        let problem = format!("{name} is down: its agent is not registered in etcd");
        return trouble("member_down", problem, format!("start the agent on {name}; its log says why it ended"));
    }
    if !member.reachable {
        let problem =
            format!("the agent of {name} does not answer: {}", member.error.as_deref().unwrap_or("no address"));
        return trouble(
            "agent_unreachable",
            problem,
            format!("is the host of {name} up, and its port open from here?"),
        );
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
        return if member.state == "writable" { None } else { trouble("leader_not_writable", problem, why()) };
    }
    if member.state != "streaming" && status.leader.is_some() {
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

/// The verdict on all of it.
pub fn verdict(status: &Status, world: &World) -> Verdict {
    let is_told = |code: &str| status.problems.iter().any(|problem| problem.code == code);
    let cost = match cost(status) {
        Cost::Nothing if is_told(OVERRULED) => Cost::Uncounted,
        cost => cost,
    };
    let leader = status.leader.as_deref().unwrap_or("nobody");
    let (word, writes) = match status.writable {
        Some(true) if status.problems.is_empty() && matches!(cost, Cost::Nothing | Cost::UpTo { .. }) => {
            (Word::Ok, format!("writes work on {leader}"))
        }
        Some(true) if is_told(FORBIDDEN) => {
            (Word::Degraded, format!("{leader} could take writes, but a setting forbids them to every client"))
        }
        Some(true) => (Word::Degraded, format!("writes work on {leader}")),
        Some(false) => (Word::NoPrimary, format!("nobody accepts writes: {}", explanation(world))),
        None if status.leader.is_some() => (
            Word::Degraded,
            format!("{leader} holds the lock, but its agent does not answer here: whether writes work is not known"),
        ),
        None => (Word::Degraded, "who leads is not known: etcd is silent, and no agent that answers leads".to_owned()),
    };
    let told = match (&cost, status.writable) {
        (_, Some(false)) | (Cost::Unknown, _) => None,
        (Cost::Nothing, _) if status.pause.is_some() => {
            Some("a failover would lose nothing, but none happens while paused".to_owned())
        }
        (Cost::Nothing, _) => Some("a failover now would lose nothing".to_owned()),
        (Cost::Uncounted, _) => Some("a failover now may lose acknowledged writes, by a setting".to_owned()),
        (Cost::UpTo { best, behind_bytes: Some(behind) }, _) => Some(format!(
            "a failover now would lose what {best} has not received yet ({} at this moment)",
            bytes(*behind)
        )),
        (Cost::UpTo { best, behind_bytes: None }, _) => {
            Some(format!("a failover now would lose what {best} has not received yet"))
        }
        (Cost::Impossible(why), _) => Some(format!("no failover is possible now: {why}")),
    };
    let sentence = told.map_or_else(|| writes.clone(), |told| format!("{writes}; {told}"));
    let (failover_possible, failover_lost_bytes_bound) = match cost {
        Cost::Nothing => (Some(true), Some(0)),
        Cost::UpTo { behind_bytes, .. } => (Some(true), behind_bytes),
        Cost::Uncounted => (Some(true), None),
        Cost::Impossible(_) => (Some(false), None),
        Cost::Unknown => (None, None),
    };
    Verdict { word, sentence, failover_possible, failover_lost_bytes_bound }
}

/// Why nobody accepts writes, in the words of whoever knows best: the leader, or the first that has something to say.
fn explanation(world: &World) -> String {
    let told = world
        .leader_answer()
        .or_else(|| world.answers().map(|(_, answer)| answer).find(|answer| answer.code() != "following"));
    told.map_or("no agent answers".to_owned(), |answer| answer.sentence().to_owned())
}

fn cost(status: &Status) -> Cost {
    if !status.etcd_reachable {
        return Cost::Impossible("etcd is silent".to_owned());
    }
    let Some(durability) = status.durability.as_ref().filter(|_| status.leader.is_some()) else { return Cost::Unknown };
    let able: Vec<&MemberStatus> = status.members.iter().filter(|member| able(member, durability.mode)).collect();
    cost_of(durability.mode, &durability.policies, &able)
}

/// Whether it could take over. How far behind it is matters only where nothing can be proven.
fn able(member: &MemberStatus, mode: Mode) -> bool {
    let in_the_way = |code: &str| mode == Mode::Async || code != "too_far_behind";
    let bars = member.bars.iter().filter(|bar| in_the_way(&bar.code)).count();
    member.role == "standby" && member.reachable && member.may_lead.is_some() && bars == 0
}

fn cost_of(mode: Mode, policies: &Policies, able: &[&MemberStatus]) -> Cost {
    let Some(best) = able.iter().min_by_key(|member| (member.receive_lag_bytes.unwrap_or(u64::MAX), &member.name))
    else {
        return Cost::Impossible("no standby may lead".to_owned());
    };
    if mode == Mode::Async {
        return Cost::UpTo { best: best.name.clone(), behind_bytes: best.receive_lag_bytes };
    }
    let names: BTreeSet<MemberName> =
        able.iter().filter_map(|member| MemberName::new(member.name.as_str()).ok()).collect();
    if proven(policies, &names) {
        return Cost::Nothing;
    }
    let missing: BTreeSet<&MemberName> = policies.iter().flat_map(|quorum| quorum.voters.difference(&names)).collect();
    Cost::Impossible(match missing.is_empty() {
        true => "commits wait for nobody, so nothing could be proven".to_owned(),
        false => format!("acknowledged writes may be only on {}, which cannot take part", words::list(missing)),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use decision::durability::Quorum;

    use super::super::facts::DurabilityStatus;
    use super::super::member::BarStatus;
    use super::*;

    fn standby(name: &str, lag: u64) -> MemberStatus {
        MemberStatus {
            name: name.to_owned(),
            role: "standby".to_owned(),
            state: "streaming".to_owned(),
            receive_lag_bytes: Some(lag),
            may_lead: Some(true),
            registered: Some(true),
            reachable: true,
            ..MemberStatus::default()
        }
    }

    fn barred(member: MemberStatus, code: &str) -> MemberStatus {
        let bars = vec![BarStatus { code: code.to_owned(), sentence: code.to_owned() }];
        MemberStatus { may_lead: Some(false), bars, ..member }
    }

    fn quorum(k: u32, voters: &[&str]) -> Quorum {
        Quorum { k, voters: voters.iter().map(|name| MemberName::new(*name).unwrap()).collect() }
    }

    #[test]
    fn with_every_voter_there_a_failover_loses_nothing() {
        let (pg2, pg3) = (standby("pg2", 0), standby("pg3", 900));
        let policies = vec![quorum(1, &["pg2", "pg3"])];
        assert_eq!(cost_of(Mode::Quorum, &policies, &[&pg2, &pg3]), Cost::Nothing);
    }

    #[test]
    fn without_enough_voters_nobody_would_be_promoted_and_the_missing_one_is_named() {
        let pg2 = standby("pg2", 0);
        let policies = vec![quorum(1, &["pg2", "pg3"])];
        let told = "acknowledged writes may be only on pg3, which cannot take part".to_owned();
        assert_eq!(cost_of(Mode::Quorum, &policies, &[&pg2]), Cost::Impossible(told));
        assert!(matches!(cost_of(Mode::Quorum, &vec![Quorum::none()], &[&pg2]), Cost::Impossible(_)));
        assert!(matches!(cost_of(Mode::Quorum, &policies, &[]), Cost::Impossible(_)));
    }

    #[test]
    fn in_async_mode_the_best_candidate_tells_the_price() {
        let (pg2, pg3) = (standby("pg2", 4096), standby("pg3", 100));
        let price = Cost::UpTo { best: "pg3".to_owned(), behind_bytes: Some(100) };
        assert_eq!(cost_of(Mode::Async, &vec![Quorum::none()], &[&pg2, &pg3]), price);
    }

    #[test]
    fn lag_bars_nobody_where_the_ballots_prove_it() {
        let late = barred(standby("pg2", 9 << 20), "too_far_behind");
        assert!(able(&late, Mode::Quorum) && !able(&late, Mode::Async));
        assert!(!able(&barred(standby("pg2", 0), "nofailover"), Mode::Quorum));
        assert!(!able(&MemberStatus { reachable: false, ..standby("pg2", 0) }, Mode::Quorum));
    }

    #[test]
    fn what_is_set_against_the_promises_is_a_problem_and_nobody_says_that_nothing_would_be_lost() {
        let told = |code: &str| serde_json::json!({"overruled": [{"code": code, "problem": "set", "hint": "mend"}]});
        for (code, sentence) in [
            ("durability_overruled", "writes work on pg1; a failover now may lose acknowledged writes, by a setting"),
            (
                "writes_forbidden",
                "pg1 could take writes, but a setting forbids them to every client; a failover now would lose nothing",
            ),
        ] {
            let status = Status {
                leader: Some("pg1".to_owned()),
                writable: Some(true),
                etcd_reachable: true,
                durability: Some(DurabilityStatus {
                    mode: Mode::Quorum,
                    policies: vec![quorum(1, &["pg2", "pg3"])],
                    text: String::new(),
                }),
                members: vec![standby("pg2", 0), standby("pg3", 0)],
                problems: overruled(&told(code)),
                ..Status::default()
            };
            let world =
                World { etcd: Err(String::new()), agents: BTreeMap::new(), me: MemberName::new("pg1").unwrap() };
            let verdict = verdict(&status, &world);
            assert_eq!((verdict.word, verdict.sentence.as_str()), (Word::Degraded, sentence));
            let bound = if code == FORBIDDEN { Some(0) } else { None };
            assert_eq!(verdict.failover_lost_bytes_bound, bound);
        }
    }
}
