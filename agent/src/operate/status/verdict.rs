//! How things stand: one word and one sentence that says whether writes work and what a failover at this moment would cost. Whoever reads
//! nothing else should be right to go back to sleep on `OK`.

use std::collections::BTreeSet;
use std::time::Duration;

use consensus::Snapshot;
use decision::durability::{Policies, count_of_voters, proven};
use decision::names::MemberName;
use decision::reason::bytes;
use decision::settings::Mode;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::words;
use super::super::world::World;
use super::facts::Status;
use super::member::MemberStatus;
use super::problems::{FORBIDDEN, OVERRULED, UNREADABLE};
use super::vacancy;

/// How things stand, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    /// One word.
    pub word: Word,
    /// One sentence.
    pub sentence: String,
    /// The code of what makes it so without anybody's choice: `two_nodes`, where `auto` stays `async`.
    pub because: Option<&'static str>,
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

/// The verdict on all of it.
pub fn verdict(status: &Status, world: &World, ttl: Duration) -> Verdict {
    let is_told = |code: &str| status.problems.iter().any(|problem| problem.code == code);
    let ends = vacancy::lease_ends(status, world, ttl).filter(|_| status.writable.is_none());
    let cost = match cost(status) {
        // What is so under its lease says nothing of what comes after it.
        _ if ends.is_some() => Cost::Unknown,
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
        Some(false) if follows(world) => match streams_from_there(world) {
            true if status.problems.is_empty() => (Word::Ok, "this site follows another and has its writes".to_owned()),
            true => (Word::Degraded, "this site follows another and has its writes".to_owned()),
            false => {
                (Word::Degraded, format!("this site follows another, but does not stream: {}", explanation(world)))
            }
        },
        Some(false) if world.etcd.as_ref().is_ok_and(Snapshot::is_of_nothing) => {
            let why = "no agent has ever registered; is `cluster` in the node's file right? (pgvigil fleet status)";
            (Word::NoPrimary, format!("cluster {} is not in this etcd: {why}", status.cluster))
        }
        Some(false) => (Word::NoPrimary, no_primary(world, leader)),
        None if status.leader.is_some() => {
            let unknown = || {
                format!("{leader} holds the lock, but its agent does not answer here: whether writes work is not known")
            };
            (Word::Degraded, ends.unwrap_or_else(unknown))
        }
        None => (Word::Degraded, "who leads is not known: etcd is silent, and no agent that answers leads".to_owned()),
    };
    let told = price(&cost, status);
    let sentence = told.map_or_else(|| writes.clone(), |told| format!("{writes}; {told}"));
    let (failover_possible, failover_lost_bytes_bound) = match cost {
        Cost::Nothing => (Some(true), Some(0)),
        Cost::UpTo { behind_bytes, .. } => (Some(true), behind_bytes),
        Cost::Uncounted => (Some(true), None),
        Cost::Impossible(_) => (Some(false), None),
        Cost::Unknown => (None, None),
    };
    Verdict { word, sentence, because: None, failover_possible, failover_lost_bytes_bound }
}

/// What a failover would cost, as the second half of the sentence; where nobody takes writes there is none to be had.
fn price(cost: &Cost, status: &Status) -> Option<String> {
    match (cost, status.writable) {
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
    }
}

impl Verdict {
    /// Says why commits wait for nobody, where nobody has chosen that: with two members that could vote, `auto` stays `async`.
    #[must_use]
    pub fn because_of_two_nodes(self, snapshot: &Snapshot, asked: Mode) -> Self {
        let is_async = snapshot.cluster.sync.as_ref().is_some_and(|sync| sync.mode == Mode::Async);
        if asked != Mode::Auto || !is_async || count_of_voters(&snapshot.cluster) != 2 {
            return self;
        }
        let sentence =
            format!("{}; async, because with two nodes each mode has its price: docs/small-clusters.md", self.sentence);
        Self { sentence, because: Some("two_nodes"), ..self }
    }
}

/// Whether this site follows another, where nobody is to accept writes.
fn follows(world: &World) -> bool {
    world.etcd.as_ref().is_ok_and(|snapshot| snapshot.cluster.follows())
}

fn streams_from_there(world: &World) -> bool {
    world.leader_answer().is_some_and(|leader| leader.patroni["replication_state"] == "streaming")
}

/// The leader would take writes, and its Postgres does not listen where clients look for it.
fn unheard(world: &World) -> Option<&str> {
    world.leader_answer().filter(|leader| leader.leads())?.why["not_listening"]["problem"].as_str()
}

/// The first half of the sentence where no client can write as it should.
fn no_primary(world: &World, leader: &str) -> String {
    if let Some(why) = unheard(world) {
        return format!("no client reaches {leader}, which leads: {why}");
    }
    let why = explanation(world);
    match unled(world) {
        Some(last) => format!("nobody leads, and {last}, whose agent is away, may accept writes: {why}"),
        None => format!("nobody accepts writes: {why}"),
    }
}

/// Whoever led last and has no agent, where a standby still streams from it, or hears it, though nobody leads: its Postgres has not been fenced.
fn unled(world: &World) -> Option<&MemberName> {
    let cluster =
        world.etcd.as_ref().ok().map(|snapshot| &snapshot.cluster).filter(|cluster| cluster.leader.is_none())?;
    let last = cluster.sync.as_ref().map(|sync| &sync.leader).filter(|last| !cluster.members.contains_key(*last))?;
    let streams = cluster.members.values().any(|member| member.streams_from.as_ref() == Some(last));
    let answers = world.answers().any(|(_, answer)| answer.code() == "last_leader_answers");
    (streams || answers).then_some(last)
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
        let unreadable = status.problems.iter().any(|problem| problem.code == UNREADABLE);
        return Cost::Impossible(if unreadable { "etcd cannot be read" } else { "etcd is silent" }.to_owned());
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

    use consensus::records::MemberRecord;
    use decision::durability::Quorum;

    use super::super::facts::DurabilityStatus;
    use super::super::member::BarStatus;
    use super::super::told::overruled;
    use super::*;
    use crate::operate::world::{Agent, Answer};

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
    fn a_cluster_of_two_is_told_why_its_commits_wait_for_nobody() {
        let name = |text: &str| MemberName::new(text).unwrap();
        let mut snapshot = Snapshot::default();
        for member in ["pg1", "pg2"] {
            let record = MemberRecord { conn_url: "postgres://h:1/x".to_owned(), ..MemberRecord::default() };
            snapshot.cluster.members.insert(name(member), record.to_member().unwrap());
        }
        let mut with_record = |mode| {
            let (term, timeline) = (decision::names::Term(1), decision::names::Timeline(1));
            snapshot.cluster.sync =
                Some(decision::view::SyncRecord::of_reign(name("pg1"), term, mode, vec![Quorum::none()], timeline));
            snapshot.clone()
        };
        let told = |snapshot: &Snapshot, asked| Verdict::default().because_of_two_nodes(snapshot, asked).because;
        let two = with_record(Mode::Async);
        assert_eq!(told(&two, Mode::Auto), Some("two_nodes"));
        assert_eq!(told(&two, Mode::Async), None, "somebody has chosen it");
        assert_eq!(told(&with_record(Mode::Quorum), Mode::Auto), None, "it has been three");
        let mut three = two;
        three.cluster.members.insert(name("pg3"), three.cluster.members[&name("pg2")].clone());
        assert_eq!(told(&three, Mode::Auto), None);
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
    fn a_leader_whom_no_client_reaches_is_not_called_writable_and_the_mend_is_told() {
        let name = |text: &str| MemberName::new(text).unwrap();
        let why = serde_json::json!({"member": "pg1", "not_listening": {"problem": "it does not listen on h:1", "hint": "ss"}});
        let says =
            Ok(Answer { beat: serde_json::json!({"leader": true, "writable": false}), why, ..Answer::default() });
        let agents = BTreeMap::from([(name("pg1"), Agent { api_url: String::new(), says })]);
        let world = World { etcd: Err(String::new()), agents, me: name("pg1"), under_way: None };
        let status = Status { leader: Some("pg1".to_owned()), writable: Some(false), ..Status::default() };
        let verdict = verdict(&status, &world, Duration::from_secs(5));
        assert_eq!(verdict.word, Word::NoPrimary);
        assert_eq!(verdict.sentence, "no client reaches pg1, which leads: it does not listen on h:1");
        let told = super::super::problems::problems(&status, &world, Duration::from_secs(5));
        assert!(told.iter().any(|one| (one.code, one.hint.as_str()) == ("not_listening", "ss")), "{told:?}");
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
            let world = World {
                etcd: Err(String::new()),
                agents: BTreeMap::new(),
                me: MemberName::new("pg1").unwrap(),
                under_way: None,
            };
            let verdict = verdict(&status, &world, Duration::from_secs(5));
            assert_eq!((verdict.word, verdict.sentence.as_str()), (Word::Degraded, sentence));
            let bound = if code == FORBIDDEN { Some(0) } else { None };
            assert_eq!(verdict.failover_lost_bytes_bound, bound);
        }
    }
}
