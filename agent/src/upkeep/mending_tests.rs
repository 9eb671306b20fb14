//! What is put back over nonsense, by whom, and from what.

use std::collections::BTreeMap;

use consensus::Snapshot;
use decision::names::SystemId;

use super::*;
use crate::promises::Record;

fn name(text: &str) -> MemberName {
    MemberName::new(text).expect("good name")
}

fn any(k: u32, voters: &[&str]) -> Quorum {
    Quorum::of(k, voters.iter().map(|text| name(text)).collect())
}

fn record(leader: &str, term: u64) -> SyncRecord {
    SyncRecord::of_reign(name(leader), Term(term), Mode::Quorum, vec![any(1, &["pg2", "pg3"])], Timeline(4))
}

/// pg1 leads term 7 under lease 9; these keys hold nonsense.
fn seen(keys: &str) -> Snapshot {
    let at = |key| i64::from(keys.split('+').any(|one| one == key)) * 50;
    let mut seen = Snapshot::default();
    seen.nonsense = Nonsense { leader: at("leader"), term: at("term"), sync: at("sync") };
    seen.cluster.leader = (seen.nonsense.leader == 0).then(|| name("pg1"));
    (seen.leader_lease, seen.cluster.term) = (if seen.nonsense.leader == 0 { 9 } else { 0 }, Term(7));
    seen.cluster.sync = (seen.nonsense.sync == 0).then(|| record("pg1", 7));
    seen
}

/// What the leader knows, and Postgres waits for nothing.
fn own() -> Known {
    let own = Own { record: record("pg1", 7), lease: 9 };
    Known { noted: Some(own.record.clone()), own: Some(own), running: None }
}

fn unknown() -> Known {
    Known::default()
}

/// What stood there in `keys`, pg1 leading.
fn remembered_by_etcd(keys: &str) -> Mend {
    let is = |key| keys.split('+').any(|one| one == key);
    Mend {
        leader: is("leader").then(|| Holder::Member(name("pg1"), 9)),
        term: is("term").then_some(Term(7)),
        sync: is("sync").then(|| record("pg1", 7)),
        sync_is_behind: false,
    }
}

const WHERE: [&str; 7] = ["leader", "term", "sync", "leader+term", "leader+sync", "term+sync", "leader+term+sync"];

#[test]
fn what_etcd_remembers_is_put_back_whole_by_the_leader_and_all_but_the_record_by_others() {
    for keys in WHERE {
        let before = remembered_by_etcd(keys);
        assert_eq!(to_put_back(&name("pg1"), &seen(keys), before.clone(), &unknown()), before, "{keys}");
        let others = Mend { sync: None, ..before.clone() };
        assert_eq!(to_put_back(&name("pg2"), &seen(keys), before, &unknown()), others, "{keys}");
    }
}

#[test]
fn a_record_is_not_put_back_once_another_has_led() {
    let of_mine = remembered_by_etcd("sync");
    let put_back = |seen: &Snapshot, before: &Mend| to_put_back(&name("pg1"), seen, before.clone(), &unknown()).sync;
    assert!(put_back(&seen("sync"), &of_mine).is_some());
    let mut later = seen("sync");
    later.cluster.term = Term(8);
    assert_eq!(put_back(&later, &of_mine), None);
    let mut of_another = seen("sync");
    of_another.cluster.leader = Some(name("pg2"));
    assert_eq!(put_back(&of_another, &of_mine), None);
    let taken = Mend { leader: Some(Holder::Member(name("pg2"), 5)), term: Some(Term(8)), ..of_mine.clone() };
    assert_eq!(put_back(&seen("leader+term+sync"), &taken), None);
    let vacant = Mend { leader: Some(Holder::Nobody), ..of_mine };
    assert!(put_back(&seen("leader+sync"), &vacant).is_some(), "it was the last leader");
}

#[test]
fn what_etcd_has_forgotten_the_leader_knows_while_one_key_says_that_it_leads() {
    for keys in WHERE {
        let put_back = to_put_back(&name("pg1"), &seen(keys), Mend::default(), &own());
        let all = if keys == "leader+term+sync" { Mend::default() } else { remembered_by_etcd(keys) };
        assert_eq!(put_back, all, "{keys}");
        assert!(to_put_back(&name("pg1"), &seen(keys), Mend::default(), &unknown()).is_empty());
    }
    let mut raised = seen("sync");
    raised.cluster.term = Term(8);
    let mut under_another_lease = seen("term+sync");
    under_another_lease.leader_lease = 10;
    let mut of_another = seen("leader+term");
    of_another.cluster.sync = Some(record("pg2", 8));
    for seen in [raised, under_another_lease, of_another] {
        assert!(to_put_back(&name("pg1"), &seen, Mend::default(), &own()).is_empty(), "{seen:?}");
    }
}

#[test]
fn a_record_that_is_put_back_covers_what_postgres_waits_for() {
    let running = |voters: &[&str], term| Some((any(1, voters), Term(term)));
    let put_back = |running: Option<(Quorum, Term)>| {
        let before = remembered_by_etcd("sync");
        let known = Known { running, ..unknown() };
        to_put_back(&name("pg1"), &seen("sync"), before, &known).sync.map(|sync| sync.policies)
    };
    let recorded = any(1, &["pg2", "pg3"]);
    assert_eq!(put_back(running(&["pg2", "pg3"], 7)), Some(vec![recorded.clone()]));
    assert_eq!(put_back(running(&["pg2", "pg4"], 6)), Some(vec![recorded.clone()]), "strangers' names");
    assert_eq!(put_back(running(&["pg2", "pg4"], 7)), Some(vec![recorded, any(1, &["pg2", "pg4"])]));
}

#[test]
fn a_record_is_forgotten_with_its_reign() {
    let (pg1, mine) = (name("pg1"), record("pg1", 7));
    assert_eq!(remembered(None, &seen(""), &pg1), Some(mine.clone()));
    for keys in ["sync", "leader+sync", "leader+term+sync"] {
        assert_eq!(remembered(Some(mine.clone()), &seen(keys), &pg1), Some(mine.clone()), "{keys}");
    }
    let mut later = seen("sync");
    later.cluster.term = Term(8);
    assert_eq!(remembered(Some(mine.clone()), &later, &pg1), None);
    let mut of_another = seen("term+sync");
    of_another.cluster.leader = Some(name("pg2"));
    assert_eq!(remembered(Some(mine), &of_another, &pg1), None);
    assert_eq!(remembered(None, &seen(""), &name("pg2")), None);
}

#[test]
fn a_record_made_of_notes_holds_every_quorum_that_may_be_in_force() {
    let noted = |mode, policies: &[Quorum]| Record { mode, policies: policies.to_vec() };
    let (one, other) = (any(1, &["pg2", "pg3"]), any(2, &["pg2", "pg3"]));
    let records =
        vec![noted(Mode::Async, std::slice::from_ref(&one)), noted(Mode::Quorum, &[one.clone(), other.clone()])];
    let ground = Ground { system_id: SystemId(1), term: Term(7), records, lists: Vec::new(), peers: BTreeMap::new() };
    let made = of_ground(&ground, &name("pg1"), Timeline(4));
    assert_eq!(made, Some(SyncRecord { policies: vec![one, other], ..record("pg1", 7) }));
    assert_eq!(of_ground(&Ground { records: Vec::new(), ..ground }, &name("pg1"), Timeline(4)), None);
}

#[test]
fn a_record_that_is_put_back_promises_no_less_than_what_a_newer_version_noted() {
    let put_back = |is_behind, noted: Option<SyncRecord>| {
        let before = Mend { sync_is_behind: is_behind, ..remembered_by_etcd("sync") };
        to_put_back(&name("pg1"), &seen("sync"), before, &Known { noted, ..unknown() }).sync
    };
    let (one, other) = (any(1, &["pg2", "pg3"]), any(1, &["pg4"]));
    let noted = SyncRecord { mode: Mode::Strict, policies: vec![other.clone()], ..record("pg1", 7) };
    for is_behind in [false, true] {
        let back = put_back(is_behind, Some(noted.clone())).expect("notes of this term");
        assert_eq!((back.mode, back.policies), (Mode::Strict, vec![other.clone(), one.clone()]));
        assert_eq!(put_back(is_behind, Some(record("pg1", 7))), Some(record("pg1", 7)), "it is what was noted");
    }
    let of_another_term = Some(SyncRecord { term: Term(6), ..noted });
    assert_eq!(put_back(true, None), None);
    assert_eq!(put_back(true, of_another_term.clone()), None);
    assert_eq!(put_back(false, of_another_term), Some(record("pg1", 7)), "it stood right below");
}

#[test]
fn the_leader_of_an_etcd_that_went_back_puts_its_own_record_back_while_the_lock_is_its_own() {
    let put_back = |seen: &Snapshot| to_put_back(&name("pg1"), seen, Mend::default(), &own()).sync;
    let mut went_back = seen("sync");
    went_back.cluster.term = Term(5);
    assert_eq!(put_back(&went_back), Some(record("pg1", 7)));
    let mut under_another_lease = went_back.clone();
    under_another_lease.leader_lease = 10;
    let mut of_another = went_back.clone();
    of_another.cluster.leader = Some(name("pg2"));
    let mut vacant = went_back.clone();
    (vacant.cluster.leader, vacant.leader_lease) = (None, 0);
    for seen in [under_another_lease, of_another, vacant] {
        assert_eq!(put_back(&seen), None, "{:?}", seen.cluster);
    }
    // What the backup remembers of a later term was never there.
    let later = Mend { sync: Some(record("pg1", 7)), ..Mend::default() };
    assert_eq!(to_put_back(&name("pg1"), &went_back, later, &unknown()).sync, None);
}
