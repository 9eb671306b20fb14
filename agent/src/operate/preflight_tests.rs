//! Worlds of three members, one thing wrong in each, and the line that names it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use consensus::records::{FailoverRecord, Hold, HoldRecord, PauseRecord};
use decision::names::Term;

use super::super::testing::{name, standby};
use super::super::world::Agent;
use super::*;

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.cluster.term = Term(7);
    snapshot.cluster.leader = Some(name("pg1"));
    for member in ["pg1", "pg2", "pg3"] {
        snapshot.cluster.members.insert(name(member), standby(member));
    }
    snapshot
}

/// pg1 leads; pg2 and pg3 stream, with so many bytes left to receive and to replay.
fn world(snapshot: &Snapshot, pg2_lag: u64, pg3_lag: u64) -> World {
    let listed = |name: &str, lag: u64| json!({"name": name, "receive_lag": lag, "replay_lag": lag});
    let leader = Answer {
        beat: json!({"leader": true, "writable": true}),
        cluster: json!({"members": [listed("pg2", pg2_lag), listed("pg3", pg3_lag)]}),
        why: json!({"sentence": "leads", "standings": []}),
        ..Answer::default()
    };
    let standby = Answer { patroni: json!({"replication_state": "streaming"}), ..Answer::default() };
    let agent = |says| Agent { api_url: String::new(), says: Ok(says) };
    let agents = BTreeMap::from([
        (name("pg1"), agent(leader)),
        (name("pg2"), agent(standby.clone())),
        (name("pg3"), agent(standby)),
    ]);
    World { etcd: Ok(snapshot.clone()), agents, me: name("pg1"), under_way: None }
}

fn check(snapshot: &Snapshot, world: &World, to: Option<&str>) -> Preflight {
    let wish = Wish { to: to.map(name), ..Wish::default() };
    Preflight::of(world, snapshot, &wish, Timestamp::now())
}

fn failures(preflight: &Preflight) -> Vec<&str> {
    preflight.checks.iter().filter(|check| is_fail(check)).map(|check| check.text.as_str()).collect()
}

#[test]
fn the_nearest_standby_is_chosen() {
    let snapshot = snapshot();
    let preflight = check(&snapshot, &world(&snapshot, 4096, 0), None);
    assert!(preflight.passed(), "{preflight:?}");
    assert_eq!(preflight.candidate, Some(name("pg3")));
    let lines: Vec<String> = preflight.checks.iter().map(Check::line).collect();
    assert_eq!(
        lines,
        [
            "[ok]   leader pg1 takes writes, term 7",
            "[ok]   no other request waits",
            "[ok]   pg3 streams from pg1",
            "[ok]   pg3 has 0 bytes left to receive, 0 bytes to replay",
        ]
    );
}

#[test]
fn among_equals_priority_decides_and_then_the_name() {
    let mut snapshot = snapshot();
    assert_eq!(check(&snapshot, &world(&snapshot, 0, 0), None).candidate, Some(name("pg2")));
    snapshot.cluster.members.get_mut(&name("pg3")).unwrap().tags.failover_priority = 5;
    assert_eq!(check(&snapshot, &world(&snapshot, 0, 0), None).candidate, Some(name("pg3")));
}

#[test]
fn a_laggard_is_refused_and_another_is_suggested() {
    let snapshot = snapshot();
    let preflight = check(&snapshot, &world(&snapshot, 0, 18 << 20), Some("pg3"));
    assert_eq!(failures(&preflight), ["pg3 has 18.0 MB left to receive, 18.0 MB to replay; the limit is 16.0 MB"]);
    assert_eq!(preflight.refusal(), "Refused: 1 failed check. Try --to pg2 (all checks pass).");
    assert_eq!(preflight.to_json(None, "refused")["instead"], "pg2");
}

#[test]
fn a_lag_that_is_felt_is_a_warning() {
    let snapshot = snapshot();
    let preflight = check(&snapshot, &world(&snapshot, 2 << 20, 0), Some("pg2"));
    assert!(preflight.passed() && preflight.checks.iter().any(|check| check.grade == Grade::Warn), "{preflight:?}");
}

#[test]
fn whatever_forbids_it_is_named() {
    let world_of = |snapshot: &Snapshot| world(snapshot, 0, 0);
    let mut vacant = snapshot();
    vacant.cluster.leader = None;
    assert!(failures(&check(&vacant, &world_of(&vacant), Some("pg2")))[0].starts_with("nobody leads"));

    let mut paused = snapshot();
    paused.config.pause = Some(PauseRecord::default());
    assert!(failures(&check(&paused, &world_of(&paused), None))[0].starts_with("in a pause nobody is chosen"));
    assert!(check(&paused, &world_of(&paused), Some("pg2")).passed());

    let mut asked = snapshot();
    let by = Some("anna@db1".to_owned());
    asked.request_record = Some(FailoverRecord { requested_by: by, ..FailoverRecord::default() });
    let told = "another request waits: switchover to the best candidate by anna@db1; `pgvigil switchover --cancel` takes it back";
    assert_eq!(failures(&check(&asked, &world_of(&asked), None)), [told]);

    let mut barred = snapshot();
    barred.cluster.members.get_mut(&name("pg2")).unwrap().tags.nofailover = true;
    let refused = check(&barred, &world_of(&barred), Some("pg2"));
    assert_eq!(failures(&refused), ["the tags of pg2 bar it from leading"]);
    assert_eq!(refused.instead, Some(name("pg3")));

    let fine = snapshot();
    assert_eq!(failures(&check(&fine, &world_of(&fine), Some("pg1"))), ["pg1 leads already"]);
    assert!(failures(&check(&fine, &world_of(&fine), Some("pg9")))[0].contains("Registered: pg1, pg2, pg3"));
    let wish = Wish { to: None, expect_leader: Some(name("pg2")), ..Wish::default() };
    let moved = Preflight::of(&world_of(&fine), &fine, &wish, Timestamp::now());
    assert_eq!(failures(&moved), ["pg1 leads, not pg2"]);
    assert_eq!(moved.instead, None);
}

#[test]
fn a_standby_that_does_not_stream_or_answer_is_refused() {
    let snapshot = snapshot();
    let mut silent = world(&snapshot, 0, 0);
    silent.agents.get_mut(&name("pg2")).unwrap().says = Err("connection refused".to_owned());
    let told = "the agent of pg2 does not answer: connection refused";
    assert_eq!(failures(&check(&snapshot, &silent, Some("pg2"))), [told]);
    assert_eq!(check(&snapshot, &silent, None).candidate, Some(name("pg3")));

    let mut cut_off = world(&snapshot, 0, 0);
    let leader = cut_off.agents.get_mut(&name("pg1")).unwrap().says.as_mut().unwrap();
    leader.why["standings"] = json!([{"member": "pg2", "bars": [{"code": "not_streaming", "sentence": "it does not stream from the leader"}]}]);
    let told = "pg2 cannot take over: it does not stream from the leader";
    assert_eq!(failures(&check(&snapshot, &cut_off, Some("pg2"))), [told]);
}

#[test]
fn a_hold_forbids_it_unless_whoever_asks_goes_on_all_the_same() {
    let (now, mut snapshot) = (Timestamp::now(), snapshot());
    let until = now + jiff::SignedDuration::from_mins(30);
    let (id, by, reason, host) = ("h-1".into(), "anna@db1".into(), "flyway V42".into(), "db1".into());
    snapshot.hold = Hold::Taken(HoldRecord { id, by, reason, since: now, until, host });
    let world = world(&snapshot, 0, 0);
    let check = |ignore_hold| Preflight::of(&world, &snapshot, &Wish { ignore_hold, ..Wish::default() }, now);
    let held = check(false);
    assert!(!held.passed() && failures(&held)[0].contains("held by anna@db1"), "{held:?}");
    assert_eq!(held.instead, None, "nobody else would pass");
    let ignored = check(true);
    assert!(ignored.passed() && ignored.checks.iter().any(|check| check.text.ends_with("flyway V42: ignored")));
}
