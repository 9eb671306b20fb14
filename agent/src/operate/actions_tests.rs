//! What was asked for is found by its id, wherever it lies, and its record says how it stands.
#![allow(clippy::unwrap_used)]

use consensus::records::{Planned as Stored, PlannedRestart, PlannedSwitchover};

use super::super::testing::name;
use super::*;

fn record(id: &str, kind: &str, outcome: &str, cause: &str) -> Transition {
    let (from, to) = (Some("pg1".to_owned()), Some("pg2".to_owned()));
    let [id, kind, outcome, cause] = [id, kind, outcome, cause].map(str::to_owned);
    Transition { id, kind, outcome, cause, from, to, ..Transition::default() }
}

#[test]
fn a_record_says_how_it_stands() {
    for (outcome, cause, state) in [
        ("in_progress", "switchover", State::InProgress),
        ("done", "switchover", State::Done),
        ("failed", "switchover", State::Failed),
        ("failed", OVERTAKEN, State::DoneOtherwise),
        ("refused", "request_refused", State::Refused),
        ("refused", CANCELLED, State::Cancelled),
    ] {
        assert_eq!(Action::of_record(record("s-7", "switchover", outcome, cause)).state, state, "{outcome} {cause}");
    }
    let copied = Action::of_record(record("o-8", "reinit", "done", "ordered"));
    assert_eq!((copied.kind.as_str(), copied.member.as_deref(), copied.to), ("reinitialize", Some("pg2"), None));
}

#[test]
fn what_nobody_has_begun_is_found_by_its_revision() {
    let asked = FailoverRecord { member: Some("pg2".to_owned()), ..FailoverRecord::default() };
    let mut snapshot = Snapshot::default();
    (snapshot.request_record, snapshot.failover_revision) = (Some(asked), 70);
    snapshot.reloads.insert(name("pg3"), 71);
    let order = OrderRecord { order: "reload".to_owned(), ..OrderRecord::default() };
    snapshot.order_records.insert(name("pg3"), order);
    let waiting = |snapshot: &Snapshot, id: &str| Some(place(snapshot, id)?.action(snapshot, id));
    let found = waiting(&snapshot, "s-70").unwrap();
    assert_eq!((found.kind.as_str(), found.to.as_deref(), found.state), ("failover", Some("pg2"), State::Waiting));
    let found = waiting(&snapshot, "o-71").unwrap();
    assert_eq!((found.kind.as_str(), found.member.as_deref()), ("reload", Some("pg3")));
    assert_eq!((waiting(&snapshot, "s-71"), waiting(&snapshot, "o-70")), (None, None));
}

#[test]
fn what_was_scheduled_is_found_under_one_id_before_and_after_it_begins() {
    let at = r#"{"at":"2026-11-29T02:00:00Z","window_s":600,"requested_by":"anna","leader":"pg1","role":"replica"}"#;
    let mut snapshot = Snapshot::default();
    let switchover = Stored { record: PlannedSwitchover::from_json(at).unwrap(), revision: 60 };
    let restart = Stored { record: PlannedRestart::from_json(at).unwrap(), revision: 61 };
    snapshot.scheduled.switchover = Some(switchover.clone());
    snapshot.scheduled.restarts.insert(name("pg3"), restart.clone());
    let found = |snapshot: &Snapshot, id: &str| Some(place(snapshot, id)?.action(snapshot, id));
    let ahead = found(&snapshot, "p-60").unwrap();
    assert_eq!((ahead.state, ahead.from.as_deref(), ahead.to), (State::Scheduled, Some("pg1"), None));
    assert_eq!(ahead.until.as_deref(), Some("2026-11-29T02:10:00Z"));
    assert_eq!(found(&snapshot, "p-61").unwrap().member.as_deref(), Some("pg3"));
    let mut begun = Snapshot::default();
    begun.failover_revision = 70;
    begun.request_record = Some(switchover.request(&name("pg2"), None));
    let revision = 71;
    begun.cluster.orders.insert(name("pg3"), restart.record.order().to_order(revision).unwrap().unwrap());
    begun.order_records.insert(name("pg3"), restart.order(None));
    for (id, kind) in [("p-60", "switchover"), ("p-61", "restart")] {
        let waits = found(&begun, id).unwrap();
        assert_eq!((waits.state, waits.kind.as_str(), waits.at), (State::Waiting, kind, None));
    }
    assert_eq!((found(&begun, "s-70"), found(&begun, "o-71")), (None, None), "it has one id, not two");
}

#[test]
fn only_ids_as_they_are_given_out_name_an_action() {
    for (id, names) in [
        ("s-7", true),
        ("o-7", true),
        ("s-07", false),
        ("s-+7", false),
        ("s--7", false),
        ("t-7", false),
        ("p-7", true),
        ("p-07", false),
    ] {
        assert_eq!(names_an_action(id), names, "{id}");
    }
}

#[test]
fn one_that_is_done_is_complete_once_the_old_leader_has_told_its_phases() {
    let mut done = record("s-7", "switchover", "done", "switchover");
    assert!(!Action::of_record(done.clone()).is_complete());
    done.phases.push(Phase { measured_on: "pg1".to_owned(), ..Phase::default() });
    assert!(Action::of_record(done).is_complete());
    assert!(Action::of_record(record("s-7", "switchover", "failed", "switchover")).is_complete());
    assert!(!Action::of_record(record("s-7", "switchover", "in_progress", "switchover")).is_complete());
}
