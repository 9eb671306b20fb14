//! What to do, or to wait for, where nobody takes writes: who is to come back first, the last resort, and when the lease of a leader that is not
//! heard any more ends by itself.

use std::time::Duration;

use consensus::Snapshot;
use decision::names::MemberName;
use decision::reason::{bytes, span};
use decision::view::Member;
use serde_json::Value;

use super::super::words;
use super::super::world::{Answer, World};
use super::facts::Status;
use super::member::MemberStatus;
use super::problems::Trouble;

/// The reasons for which the agents promote nobody however long they wait.
const STUCK: [&str; 5] = ["not_proven", "too_far_behind", "not_listed", "no_candidate", "last_leader_answers"];

/// The way out, where nobody leads and nobody is promoted by itself.
pub fn way_out(status: &Status, world: &World) -> Option<Trouble> {
    let snapshot = world.etcd.as_ref().ok()?;
    if status.leader.is_some() || status.pause.is_some() || snapshot.cluster.follows() {
        return None;
    }
    let says = world.answers().map(|(_, answer)| answer).find(|answer| STUCK.contains(&answer.code()))?;
    let mut hint = first(snapshot, says)?;
    if let Some(to) = best(snapshot) {
        hint.push_str(&format!(". Last resort: pgvigil failover --to {to} --accept-data-loss"));
    }
    Some(Trouble::new("nobody_promoted", "nobody leads, and nobody is promoted by itself", hint))
}

/// Who is to come back first, and why.
fn first(snapshot: &Snapshot, says: &Answer) -> Option<String> {
    let reason = &says.why["reason"];
    let last = snapshot.cluster.sync.as_ref().filter(|sync| !sync.policies.is_empty()).map(|sync| &sync.leader);
    if says.code() == "not_proven" {
        let missing = reason["missing"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let missing = words::list(missing).replace(", ", " or ");
        return Some(format!("start {missing} first: acknowledged writes may be there alone"));
    }
    let last = last?;
    if says.code() == "last_leader_answers" {
        return Some(format!(
            "start the agent of {last}: it goes on leading there; or stop that Postgres, and another leads"
        ));
    }
    let verb = if snapshot.cluster.members.contains_key(last) { "bring back" } else { "start" };
    let has = match reason["behind_bytes"].as_u64() {
        Some(behind) => format!(" and has {} that nobody else has", bytes(behind)),
        None => String::new(),
    };
    Some(format!("{verb} {last} first: it led last{has}"))
}

/// Who has most of those who could be told to lead.
fn best(snapshot: &Snapshot) -> Option<&MemberName> {
    let may_lead =
        |name: &&MemberName| snapshot.cluster.members.get(*name).is_some_and(|member: &Member| !member.never_leads());
    let ballots = snapshot.cluster.current_ballots();
    let able = ballots.into_iter().filter(|(name, _)| may_lead(name));
    able.max_by_key(|(_, ballot)| (ballot.timeline, ballot.received)).map(|(name, _)| name)
}

/// What happens next where the leader is not heard any more: not by this command, and by nobody who would stream from it.
pub fn lease_ends(status: &Status, world: &World, ttl: Duration) -> Option<String> {
    let leader = status.leader.as_deref().filter(|_| status.etcd_reachable && status.pause.is_none())?;
    let streams = |(_, answer): (&MemberName, &Answer)| answer.patroni["replication_state"] == "streaming";
    if world.leader_answer().is_some() || world.answers().next().is_none() || world.answers().any(streams) {
        return None;
    }
    let heirs: Vec<&str> =
        status.members.iter().filter(|member| could_lead(member)).map(|one| one.name.as_str()).collect();
    let then = match heirs.as_slice() {
        [] => "pgvigil why says who may lead then".to_owned(),
        heirs => format!("then {} leads", heirs.join(" or ")),
    };
    let ttl = span(ttl);
    Some(format!(
        "{leader} holds the lock, does not answer, and nobody streams from it: unless its lease is renewed it ends within {ttl}; {then}"
    ))
}

/// Whether anything bars it that the end of the lease does not change.
fn could_lead(member: &MemberStatus) -> bool {
    let for_good = |code: &str| ["nofailover", "no_fence", "from_archive", "stray_timeline"].contains(&code);
    member.role == "standby" && member.reachable && !member.bars.iter().any(|bar| for_good(&bar.code))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use decision::names::{Lsn, Term, Timeline};
    use decision::settings::Mode;
    use decision::view::{Ballot, SyncRecord};
    use serde_json::json;

    use super::*;
    use crate::operate::testing::{name, standby};
    use crate::operate::world::Agent;

    fn answer(why: Value, patroni: Value) -> Answer {
        Answer { why, patroni, ..Answer::default() }
    }

    fn world(snapshot: Snapshot, says: Answer) -> World {
        let agents = BTreeMap::from([(name("pg1"), Agent { api_url: String::new(), says: Ok(says) })]);
        World { etcd: Ok(snapshot), agents, me: name("pg1"), under_way: None }
    }

    fn vacant() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let cluster = &mut snapshot.cluster;
        cluster.term = Term(7);
        let nobody = vec![decision::durability::Quorum::none()];
        cluster.sync = Some(SyncRecord::of_reign(name("pg3"), Term(7), Mode::Async, nobody, Timeline(1)));
        for (member, received) in [("pg1", 1500), ("pg2", 1000)] {
            let (received, timeline) = (Lsn(received), Timeline(1));
            let ballot = Ballot { revoked: Term(7), wal_term: Term(7), received, timeline, late: false, revision: 3 };
            cluster.ballots.insert(name(member), ballot);
            cluster.members.insert(name(member), standby(member));
        }
        snapshot
    }

    #[test]
    fn who_is_to_be_started_first_is_told_with_the_last_resort() {
        let hint = |reason: Value, snapshot: Snapshot| {
            let world = world(snapshot, answer(json!({"reason": reason}), json!({})));
            way_out(&Status::default(), &world).map(|trouble| trouble.hint)
        };
        let resort = ". Last resort: pgvigil failover --to pg1 --accept-data-loss";
        let behind = json!({"code": "too_far_behind", "best": "pg1", "behind_bytes": 5_872_026, "limit_bytes": 1});
        let told = format!("start pg3 first: it led last and has 5.6 MB that nobody else has{resort}");
        assert_eq!(hint(behind.clone(), vacant()), Some(told));
        let missing = json!({"code": "not_proven", "missing": ["pg2", "pg3"]});
        let told = format!("start pg2 or pg3 first: acknowledged writes may be there alone{resort}");
        assert_eq!(hint(missing, vacant()), Some(told));
        assert_eq!(hint(json!({"code": "awaiting_ballots"}), vacant()), None, "the agents are at it");
        let mut there = vacant();
        there.cluster.members.insert(name("pg3"), standby("pg3"));
        assert!(hint(behind, there).unwrap().starts_with("bring back pg3 first"));
    }

    #[test]
    fn until_the_lease_of_a_silent_leader_ends_it_is_told_when_that_is_and_who_leads_then() {
        let member = |name: &str, code: &str| {
            let bars = vec![super::super::member::BarStatus { code: code.to_owned(), sentence: String::new() }];
            let (name, role) = (name.to_owned(), "standby".to_owned());
            MemberStatus { name, role, reachable: true, bars, ..MemberStatus::default() }
        };
        let members = vec![member("pg1", "not_streaming"), member("pg2", "no_ballot"), member("pg4", "nofailover")];
        let status = Status { leader: Some("pg3".to_owned()), etcd_reachable: true, members, ..Status::default() };
        let told = |state: &str| {
            let mut snapshot = vacant();
            snapshot.cluster.leader = Some(name("pg3"));
            let world = world(snapshot, answer(json!({}), json!({"replication_state": state})));
            lease_ends(&status, &world, Duration::from_secs(5))
        };
        let said = told("in archive recovery").unwrap();
        assert!(said.ends_with("unless its lease is renewed it ends within 5.0 s; then pg1 or pg2 leads"), "{said}");
        assert_eq!(told("streaming"), None, "it is only this command that does not hear it");
    }
}
