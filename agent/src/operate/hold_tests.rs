//! What a hold forbids and what forbids a hold.
#![allow(clippy::unwrap_used)]

use consensus::Condition;
use consensus::records::{FailoverRecord, MemberRecord, OrderRecord};
use decision::names::SystemId;
use decision::site::Remote;
use decision::view::Initialize;

use super::super::testing::{name, standby};
use super::*;

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn held(id: &str) -> Snapshot {
    let until = now() + SignedDuration::from_mins(30);
    let (by, reason, host) = ("anna@db1".to_owned(), "flyway V42".to_owned(), "db1".to_owned());
    let record = HoldRecord { id: id.to_owned(), by, reason, since: now(), until, host };
    seen(Hold::Taken(record))
}

fn pass(snapshot: &Snapshot, now: Timestamp, ignore_hold: bool) -> Result<Pass, Unable> {
    Proviso { ignore_hold, ..Proviso::default() }.planned(snapshot, now)
}

/// A cluster of which nothing is known but that it is there.
fn formed() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.cluster.initialize = Initialize::Done(SystemId(1));
    snapshot
}

fn seen(hold: Hold) -> Snapshot {
    let mut snapshot = formed();
    (snapshot.hold, snapshot.hold_revision) = (hold, 7);
    snapshot
}

#[test]
fn what_is_planned_waits_for_a_hold_unless_told_otherwise() {
    assert_eq!(pass(&formed(), now(), false), Ok(Pass { condition: Condition::under_hold(0), ignored: None }));
    let refused = pass(&held("h1"), now(), false).unwrap_err();
    assert_eq!(refused.kind, Kind::Held);
    let told = refused.text();
    assert!(told.contains("held by anna@db1 until 2026-11-22 10:30:00Z (another 30m): flyway V42"), "{told}");
    assert!(told.contains("--ignore-hold"), "{told}");
    let ignored = Some("anna@db1: flyway V42".to_owned());
    assert_eq!(pass(&held("h1"), now(), true), Ok(Pass { condition: Condition::under_hold(7), ignored }));
    // One that has ended is in nobody's way, and is still what is to be found there.
    let later = now() + SignedDuration::from_mins(30);
    assert_eq!(pass(&held("h1"), later, false), Ok(Pass { condition: Condition::under_hold(7), ignored: None }));
}

#[test]
fn a_hold_that_nobody_can_read_forbids_the_same_and_names_its_mend() {
    let snapshot = seen(Hold::Unreadable("EOF".to_owned()));
    assert!(pass(&snapshot, now(), false).unwrap_err().text().contains("pgvigil release"));
    assert_eq!(pass(&snapshot, now(), true).unwrap().condition.hold, Some(7));
    assert!(in_the_way(&snapshot, "h2", now()).unwrap().contains("pgvigil release"));
}

#[test]
fn a_hold_waits_for_what_was_planned_before_it() {
    let free = Snapshot::default;
    assert_eq!(in_the_way(&free(), "h2", now()), None);
    assert!(in_the_way(&held("h1"), "h2", now()).unwrap().contains("one hold at a time"));
    assert_eq!(in_the_way(&held("h1"), "h1", now()), None, "it is its own");
    let request = FailoverRecord { member: Some("pg2".to_owned()), ..FailoverRecord::default() };
    let mut asked = free();
    asked.request_record = Some(request);
    assert!(in_the_way(&asked, "h1", now()).unwrap().starts_with("switchover to pg2 by somebody waits"));
    let ordered = |order: &str, registered: bool| {
        let mut snapshot = free();
        let record = OrderRecord { order: order.to_owned(), requested_by: "anna".into(), ..OrderRecord::default() };
        snapshot.order_records.insert(name("pg3"), record);
        if registered {
            snapshot.cluster.members.insert(name("pg3"), standby("pg3"));
        }
        in_the_way(&snapshot, "h1", now())
    };
    assert!(ordered("restart", true).unwrap().starts_with("restart of pg3 by anna waits"));
    assert_eq!(ordered("reload", true), None, "nothing is stopped for it");
    assert_eq!(ordered("restart", false), None, "nobody is there to obey it");
    let mut moving = free();
    moving.config.site.remote = Remote::parse("west", 5432).ok();
    assert!(in_the_way(&moving, "h1", now()).unwrap().contains("a change of sites"));
}

#[test]
fn what_is_under_way_is_told_and_what_was_never_closed_is_not() {
    let record = |kind: &str, outcome: &str, started_at: &str| Transition {
        id: "o-5".to_owned(),
        kind: kind.to_owned(),
        outcome: outcome.to_owned(),
        started_at: started_at.to_owned(),
        from: Some("pg2".to_owned()),
        to: Some("pg2".to_owned()),
        ..Transition::default()
    };
    for (kind, outcome, started_at, is) in [
        ("restart", "in_progress", "2026-11-22T09:59:00Z", true),
        ("reinit", "in_progress", "2026-11-22T09:30:00Z", true),
        ("restart", "done", "2026-11-22T09:59:00Z", false),
        ("degrade", "in_progress", "2026-11-22T09:59:00Z", false),
        ("restart", "in_progress", "2026-11-22T08:59:00Z", false),
        ("restart", "in_progress", "", false),
    ] {
        let records = [record(kind, outcome, started_at)];
        let found = under_way(&records, &Snapshot::default(), now()).map(told);
        assert_eq!(found, is.then(|| format!("{kind} o-5 of pg2 is under way")), "{outcome} {started_at}");
    }
    // A copy that takes longer says so itself; one that nobody makes any more does not.
    for (kind, state, is) in [
        ("reinit", "creating replica", true),
        ("reinit", "starting", true),
        ("reinit", "running", false),
        ("restart", "creating replica", false),
    ] {
        let mut seen = Snapshot::default();
        let says = MemberRecord { state: state.to_owned(), ..MemberRecord::default() };
        seen.member_records.insert(name("pg2"), says);
        let records = [record(kind, "in_progress", "2026-11-22T04:00:00Z")];
        assert_eq!(under_way(&records, &seen, now()).is_some(), is, "{kind} {state}");
    }
}

#[test]
fn what_was_done_against_a_hold_says_so() {
    let pass = Pass { condition: Condition::under_hold(7), ignored: Some("anna@db1: flyway V42".to_owned()) };
    let told = "against the hold of anna@db1: flyway V42";
    assert_eq!(reason_against(Some("it burns"), &pass), Some(format!("it burns ({told})")));
    assert_eq!(reason_against(None, &pass).as_deref(), Some(told));
    assert_eq!(reason_against(Some("it burns"), &Pass::default()).as_deref(), Some("it burns"));
}

#[test]
fn what_is_planned_waits_where_nobody_knows_whether_the_cluster_is_paused() {
    let from = |settings_from, mut seen: Snapshot| {
        seen.settings_from = settings_from;
        seen
    };
    let unknown = from(SettingsFrom::Nowhere, formed());
    let told = pass(&unknown, now(), false).unwrap_err();
    assert!(told.kind == Kind::Held && told.text().contains("nobody can read the settings"), "{}", told.text());
    let ignored = pass(&unknown, now(), true).unwrap().ignored.unwrap();
    assert!(ignored.contains("settings"), "{ignored}");
    let both = pass(&from(SettingsFrom::Nowhere, held("h1")), now(), false).unwrap_err();
    assert!(both.text().contains("flyway V42"), "somebody's hold says more: {}", both.text());
    for known in [SettingsFrom::Stored, SettingsFrom::Before, SettingsFrom::Row(3)] {
        assert!(pass(&from(known, formed()), now(), false).is_ok(), "{known:?}");
    }
}
