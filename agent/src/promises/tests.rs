//! On what ground a leader stands, as etcd shows it picture after picture, and what its disk tells its next life.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::time::Duration;

use consensus::{BootInstant, Lease, LeaseState, Snapshot};
use decision::durability::Quorum;
use decision::names::{MemberName, SystemId, Term, Timeline};
use decision::settings::Mode;
use decision::view::{Cluster, Initialize, SyncRecord};

use super::Reign;
use super::ask::proves_little;

fn pg1() -> MemberName {
    MemberName::new("pg1").unwrap()
}

fn waits_for(k: u32) -> Vec<Quorum> {
    let voters = ["pg2", "pg3"].map(|text| MemberName::new(text).unwrap());
    vec![Quorum { k, voters: voters.into() }]
}

/// pg1 leads term 7; its record was written at `revision`.
fn picture(revision: i64) -> Snapshot {
    let sync = SyncRecord::of_reign(pg1(), Term(7), Mode::Quorum, waits_for(1), Timeline(1));
    let cluster = Cluster {
        initialize: Initialize::Done(SystemId(1)),
        leader: Some(pg1()),
        term: Term(7),
        sync: Some(sync),
        ..Cluster::default()
    };
    let mut picture = Snapshot::default();
    (picture.cluster, picture.sync_revision) = (cluster, revision);
    picture
}

fn reign(dir: &Path) -> Reign {
    Reign::open(dir, pg1())
}

fn records(reign: &Reign) -> Option<usize> {
    reign.ground().map(|ground| ground.records.len())
}

#[test]
fn notes_that_were_never_written_are_not_missing_and_those_that_were_deleted_are() {
    let dir = tempfile::tempdir().unwrap();
    let (life, file) = (reign(dir.path()), dir.path().join("reign.json"));
    assert!(life.see(&picture(10), true) && !life.keep().unwrap() && !file.exists(), "it is about to be written");
    life.write().unwrap();
    for life in [life, reign(dir.path())] {
        std::fs::remove_file(&file).unwrap();
        assert!(life.keep().unwrap() && file.exists() && !life.keep().unwrap());
    }
}

#[test]
fn whoever_may_have_let_the_lock_go_stands_on_no_ground_until_its_record_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = reign(dir.path());
    assert!(first.see(&picture(10), true) && records(&first) == Some(1));
    first.end(10).unwrap();
    for life in [first, reign(dir.path())] {
        for old in [9, 10] {
            assert!(!life.see(&picture(old), true) && life.ground().is_none(), "{old}");
        }
    }
    let next = reign(dir.path());
    assert!(next.see(&picture(11), true) && next.ground().is_some());
    next.end(11).unwrap();
    next.renewed();
    assert!(next.see(&picture(11), true) && next.ground().is_some(), "nothing that was sent before can come true");
}

#[test]
fn what_may_be_on_its_way_to_etcd_is_heeded_until_its_time_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let first = reign(dir.path());
    first.may_record(&picture(10), Mode::Quorum, waits_for(2)).unwrap();
    assert!(first.see(&picture(10), true));
    assert_eq!(records(&first), Some(2), "written before there was a ground");
    first.write().unwrap();
    let second = reign(dir.path());
    assert_eq!(records(&second), Some(2));
    let _ = second.see(&picture(10), true);
    let _ = second.see(&picture(10), true);
    assert_eq!(records(&second), Some(2), "written by an earlier life");
    assert!(second.see(&picture(11), true));
    assert_eq!(records(&second), Some(1), "the record has been written since, so that one never comes");
    for life in [first, reign(dir.path())] {
        life.renewed();
        let _ = life.see(&picture(12), true);
        assert_eq!(records(&life), Some(1));
    }
}

#[test]
fn peers_are_asked_when_the_lease_is_not_renewed_and_when_nobody_sees_what_is_bound_to_it() {
    let (ttl, quiet) = (Duration::from_secs(5), Duration::from_secs(2));
    let renewed_ago = |ago| {
        let expires_at = (BootInstant::now() + ttl).minus(ago);
        let state = LeaseState { id: 7, ttl, expires_at, renewal_latency: ttl, renewals: 1, failures: 0 };
        Lease::Alive(state)
    };
    for (asks, lease, out_of_sight) in [
        (false, renewed_ago(Duration::ZERO), false),
        (true, renewed_ago(Duration::ZERO), true),
        (true, renewed_ago(quiet), false),
        (true, Lease::Lost(7), false),
    ] {
        assert_eq!(proves_little(&lease, out_of_sight, quiet), asks, "{lease:?} {out_of_sight}");
    }
}
