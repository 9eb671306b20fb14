//! When a failover is refused, and in which words; and what is known before somebody accepts a loss.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use decision::names::{Lsn, Term, Timeline};
use decision::view::Ballot;
use serde_json::json;

use super::super::testing::{name, standby};
use super::super::world::{Agent, Answer};
use super::*;

fn world(snapshot: &Snapshot, says: &[(&str, Answer)]) -> World {
    let agent = |says: &Answer| Agent { api_url: String::new(), says: Ok(says.clone()) };
    let agents: BTreeMap<_, _> = says.iter().map(|(member, says)| (name(member), agent(says))).collect();
    World { etcd: Ok(snapshot.clone()), agents, me: name("pg2"), under_way: None }
}

fn vacant() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.cluster.term = Term(7);
    snapshot.cluster.members.insert(name("pg2"), standby("pg2"));
    snapshot
}

#[test]
fn a_healthy_leader_calls_for_a_switchover() {
    let mut snapshot = vacant();
    snapshot.cluster.leader = Some(name("pg1"));
    let writes = Answer { beat: json!({"writable": true}), ..Answer::default() };
    let told = refusal(&world(&snapshot, &[("pg1", writes)]), &snapshot, &name("pg2")).unwrap();
    assert!(told.ends_with("pgvigil switchover --to pg2"), "{told}");
    let told = refusal(&world(&snapshot, &[]), &snapshot, &name("pg2")).unwrap();
    assert!(told.starts_with("pg1 still holds the leader lock"), "{told}");
}

#[test]
fn without_proof_the_missing_nodes_are_named() {
    let snapshot = vacant();
    let why = json!({"sentence": "nobody is promoted", "reason": {"code": "not_proven", "missing": ["pg1", "pg3"]}});
    let world = world(&snapshot, &[("pg2", Answer { why, ..Answer::default() })]);
    assert_eq!(refusal(&world, &snapshot, &name("pg2")), None);
    let told = unproven(&world, &name("pg2"), false).unwrap();
    assert!(told.contains("only on pg1, pg3") && told.contains("--accept-data-loss"), "{told}");
    assert_eq!(unproven(&world, &name("pg2"), true), None);
    assert!(refusal(&world, &snapshot, &name("pg9")).unwrap().contains("Registered: pg2"));
}

/// Than the last leader had published.
fn pg2_has_500_bytes_less(snapshot: &mut Snapshot) {
    let (received, timeline) = (Lsn(1000), Timeline(1));
    let ballot = Ballot { revoked: Term(7), wal_term: Term(7), received, timeline, late: false, revision: 3 };
    snapshot.cluster.ballots.insert(name("pg2"), ballot);
    snapshot.cluster.leader_lsn = Some(Lsn(1500));
}

#[test]
fn the_bytes_at_risk_are_counted_where_they_are_known() {
    let mut snapshot = vacant();
    assert!(at_risk(&snapshot, &name("pg2")).starts_with("at risk: unknown"));
    pg2_has_500_bytes_less(&mut snapshot);
    assert!(at_risk(&snapshot, &name("pg2")).starts_with("at risk: 500 bytes that"));
}

#[test]
fn afterwards_it_is_told_where_the_rest_lies_before_it_is_rewound() {
    let mut snapshot = vacant();
    let told = |snapshot: &Snapshot, to: &str| afterwards(snapshot, &name(to), Path::new("/data"));
    assert_eq!(told(&snapshot, "pg2"), None, "who led last is not known");
    let (mode, timeline) = (decision::settings::Mode::Async, Timeline(1));
    snapshot.cluster.sync = Some(decision::view::SyncRecord::of_reign(name("pg3"), Term(7), mode, vec![], timeline));
    let unknown = told(&snapshot, "pg2").unwrap();
    assert!(unknown.starts_with("before you start the agent of pg3: writes may be there alone"), "{unknown}");
    pg2_has_500_bytes_less(&mut snapshot);
    let counted = told(&snapshot, "pg2").unwrap();
    assert!(counted.contains("500 bytes or more are there alone") && counted.contains("/data"), "{counted}");
    assert_eq!(told(&snapshot, "pg3"), None, "it has its own");
}

#[test]
fn the_checks_say_all_that_a_failover_would_be_refused_for_and_what_it_puts_at_risk() {
    let mut snapshot = vacant();
    let why = json!({"sentence": "nobody is promoted", "reason": {"code": "not_proven", "missing": ["pg1", "pg3"]}});
    let world = world(&snapshot, &[("pg2", Answer { why, ..Answer::default() })]);
    let pg2 = name("pg2");
    let lines = |snapshot: &Snapshot, expected: Option<&MemberName>, accepted| {
        let preflight = checked(&world, snapshot, &pg2, expected, accepted);
        (preflight.passed(), preflight.checks.iter().map(Check::line).collect::<Vec<_>>())
    };
    let (passed, told) = lines(&snapshot, None, false);
    assert!(!passed && told[0] == "[ok]   nobody leads, and the agent of pg2 answers", "{told:?}");
    assert!(told[1].starts_with("[FAIL] acknowledged writes may be only on pg1, pg3"), "{told:?}");
    let (passed, told) = lines(&snapshot, None, true);
    assert!(passed && told[1].starts_with("[warn] at risk: unknown"), "{told:?}");
    let (passed, told) = lines(&snapshot, Some(&name("pg1")), true);
    assert!(!passed && told.len() == 1 && told[0].contains("who led last is not known"), "{told:?}");
    snapshot.cluster.leader = Some(name("pg1"));
    let (passed, told) = lines(&snapshot, None, true);
    assert!(!passed && told[0].starts_with("[FAIL] pg1 still holds the leader lock"), "{told:?}");
}
