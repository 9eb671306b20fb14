//! One cluster that is well, and each thing that can be otherwise: which check says so, and what the verdict is.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;

use super::super::testing::name;
use super::rules::{Durability, Facts, Failover, Replica, Seconds, Server, Sight, judge};
use super::verdict::{Grade, Verdict, Word};
use super::{Lag, Limits};

fn replica(member: &str, behind_s: f64) -> Replica {
    let behind_s = Some(Seconds::Within(behind_s));
    Replica { member: name(member), streams: Some(true), behind_bytes: Some(0), behind_s }
}

fn well() -> Sight {
    Sight {
        leader: Some(name("pg1")),
        writes: Some(Ok(true)),
        renewed_s: Some(0.4),
        ttl_s: 5.0,
        replicas: vec![replica("pg2", 0.1), replica("pg3", 0.2)],
        durability: Durability { promised: true, in_force: true, text: "quorum".into(), overruled: vec![] },
        failover: Failover::Nothing,
        server: Some(Ok(Server { oldest: Some((1.5, 77)), prepared_s: None, lock_waiters: 0 })),
        ..Sight::default()
    }
}

fn verdict(sight: Sight, limits: &Limits) -> Verdict {
    Verdict::new("orders", limits, sight.leader.clone(), judge(&Facts::Seen(Box::new(sight)), limits))
}

/// The word, and what forbids it.
fn said(sight: Sight, limits: &Limits) -> (Word, Vec<String>) {
    let verdict = verdict(sight, limits);
    let against = verdict.checks.iter().filter(|check| matches!(check.grade, Grade::Fail | Grade::Unknown));
    let named = against.map(|check| match &check.member {
        Some(member) => format!("{} {member}", check.word),
        None => check.word.to_owned(),
    });
    let named = named.collect();
    (verdict.word(), named)
}

fn changed(change: impl FnOnce(&mut Sight)) -> Sight {
    let mut sight = well();
    change(&mut sight);
    sight
}

#[test]
fn a_cluster_that_is_well_is_a_go() {
    assert_eq!(said(well(), &Limits::default()), (Word::Go, vec![]));
    let strict = Limits { require_sync: true, lag: Lag::Bytes(0), min_replicas: Some(2), ..Limits::default() };
    assert_eq!(said(well(), &strict), (Word::Go, vec![]));
}

#[test]
fn each_thing_that_is_otherwise_forbids_it_by_its_own_word() {
    type Change = fn(&mut Sight);
    let table: [(Change, &[&str]); 21] = [
        (|s| s.leader = None, &["leader"]),
        (|s| s.writes = Some(Ok(false)), &["leader pg1"]),
        (|s| s.others_writing = vec![name("pg9")], &["single_primary pg9"]),
        (|s| s.renewed_s = Some(2.6), &["lease pg1"]),
        (|s| s.under_way = Some(Ok("restart o-5 of pg2 is under way".into())), &["transition"]),
        (|s| s.waits = Some("switchover to pg2".into()), &["request"]),
        (|s| s.paused = Some("paused".into()), &["pause"]),
        (|s| s.held = Some("held by anna".into()), &["hold"]),
        (|s| s.replicas[1].streams = Some(false), &["streaming pg3", "replicas"]),
        (|s| s.replicas[1].behind_s = Some(Seconds::Within(2.4)), &["replica_lag pg3", "replicas"]),
        (|s| s.replicas[1].behind_s = Some(Seconds::MoreThan(2.1)), &["replica_lag pg3", "replicas"]),
        (|s| s.durability.in_force = false, &["durability"]),
        (|s| s.durability.overruled = vec!["synchronous_commit = off".into()], &["durability"]),
        (|s| s.failover = Failover::Impossible("nobody".into()), &["failover_ready"]),
        (|s| s.server = Some(Ok(Server { oldest: Some((301.0, 7)), ..Server::default() })), &["transactions"]),
        (|s| s.server = Some(Ok(Server { prepared_s: Some(400.0), ..Server::default() })), &["prepared_transactions"]),
        (|s| s.server = Some(Ok(Server { lock_waiters: 1, ..Server::default() })), &["lock_queue"]),
        (|s| s.disk_low = vec![name("pg1")], &["disk pg1"]),
        (|s| s.pending_restart = vec![name("pg1")], &[]),
        (|s| s.failover = Failover::UpTo(name("pg2"), Some(4096)), &[]),
        (|s| s.server = Some(Ok(Server::default())), &[]),
    ];
    for (number, (change, against)) in table.into_iter().enumerate() {
        let word = if against.is_empty() { Word::Go } else { Word::NoGo };
        let against: Vec<String> = against.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(said(changed(change), &Limits::default()), (word, against), "row {number}");
    }
}

#[test]
fn what_is_not_known_is_no_go_and_is_told_from_what_is() {
    let limits = Limits::default();
    type Change = fn(&mut Sight);
    let table: [(Change, &[&str]); 8] = [
        (|s| s.writes = None, &["leader pg1"]),
        (|s| s.writes = Some(Err("late".into())), &["leader pg1"]),
        (|s| s.renewed_s = None, &["lease pg1"]),
        (|s| s.under_way = Some(Err("late".into())), &["transition"]),
        (|s| s.replicas[0].streams = None, &["streaming pg2", "replicas"]),
        (|s| s.replicas[0].behind_s = None, &["replica_lag pg2", "replicas"]),
        (|s| s.server = Some(Err("late".into())), &["transactions"]),
        (|s| s.failover = Failover::Unknown, &["failover_ready"]),
    ];
    for (number, (change, against)) in table.into_iter().enumerate() {
        let against: Vec<String> = against.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(said(changed(change), &limits), (Word::Unknown, against), "row {number}");
    }
    let blind = Verdict::new("orders", &limits, None, judge(&Facts::Blind("late".into()), &limits));
    assert_eq!((blind.word(), blind.checks.len()), (Word::Unknown, 1));
    let both = changed(|s| (s.writes, s.paused) = (None, Some("paused".into())));
    assert_eq!(said(both, &limits).0, Word::NoGo, "one thing that forbids it suffices");
}

#[test]
fn fewer_standbys_and_no_second_copy_are_enough_where_that_is_said() {
    let away = || changed(|s| s.replicas[1].streams = Some(false));
    let least = |count| Limits { min_replicas: Some(count), ..Limits::default() };
    assert_eq!(said(away(), &least(1)), (Word::Go, vec![]));
    assert_eq!(said(away(), &least(2)).0, Word::NoGo);
    assert_eq!(said(well(), &least(3)), (Word::NoGo, vec!["replicas".to_owned()]));
    let alone = |s: &mut Sight| s.durability = Durability { text: "async".into(), ..Durability::default() };
    assert_eq!(said(changed(alone), &Limits::default()).0, Word::Go);
    let sync = Limits { require_sync: true, ..Limits::default() };
    assert_eq!(said(changed(alone), &sync), (Word::NoGo, vec!["durability".to_owned()]));
    let some = Limits { lag: Lag::Bytes(1 << 20), transaction: Duration::from_secs(1), ..Limits::default() };
    let behind = changed(|s| s.replicas[0].behind_bytes = Some(2 << 20));
    assert_eq!(said(behind, &some).1, ["replica_lag pg2", "replicas", "transactions"]);
}

#[test]
fn programs_get_every_number_with_its_unit() {
    let late = changed(|s| s.replicas[1].behind_s = Some(Seconds::MoreThan(3.1)));
    let body = verdict(late, &Limits::default()).to_json();
    assert_eq!(
        (&body["schema"], &body["go"], &body["verdict"]),
        (&json!("pgvigil.gate/v1"), &json!(false), &json!("no_go"))
    );
    let lag = json!({
        "check": "replica_lag", "state": "fail", "member": "pg3", "text": "it is more than 3.1 s behind in replay",
        "value_seconds": 3.1, "limit_seconds": 2.0,
    });
    assert_eq!(body["failed"][0], lag);
    assert_eq!((&body["failed"][1]["value_count"], &body["failed"][1]["limit_count"]), (&json!(1), &json!(2)));
    assert_eq!(body["limits"]["max_lag_seconds"], 2.0);
}
