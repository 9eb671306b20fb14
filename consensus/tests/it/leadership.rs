//! Who may write what: the lock, its terms, and the guards that keep former leaders out.

use std::time::Duration;

use consensus::records::{FailoverRecord, MemberRecord};
use consensus::{Bootstrap, Error, Guard, HandOver, Outcome, Store, Write};
use decision::names::{Lsn, SystemId, Term, Timeline};
use decision::settings::Mode;
use decision::view::{Ballot, Initialize, RequestKind, SyncRecord};

use crate::etcd::{Etcd, claim, name, within};

fn sync_of(leader: &str, term: u64) -> SyncRecord {
    SyncRecord::of_reign(name(leader), Term(term), Mode::Quorum, claim(0, "pg3").policies, Timeline(1))
}

fn ballot(revoked: u64) -> Ballot {
    Ballot {
        revoked: Term(revoked),
        wal_term: Term(revoked),
        received: Lsn(77),
        timeline: Timeline(1),
        late: false,
        revision: 0,
    }
}

async fn register(store: &Store, member: &str, lease: i64, lock_lease: i64) -> Outcome {
    let record =
        MemberRecord { conn_url: MemberRecord::conn_url_of(member, 5432), lock_lease, ..MemberRecord::default() };
    store.register_member(&name(member), &record, lease).await.unwrap()
}

/// A lock that pg1 holds in term 1; returns its lease.
async fn pg1_leads(etcd: &Etcd, store: &Store) -> i64 {
    let lease = etcd.lease(30).await;
    assert!(store.acquire(&name("pg1"), lease, &claim(0, "pg2"), 0).await.unwrap().applied());
    lease
}

fn revision(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Applied { revision } => revision,
        Outcome::Refused => panic!("refused"),
    }
}

#[tokio::test]
async fn one_node_bootstraps_and_becomes_the_first_leader() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (member_lease, lock_lease, other) = (etcd.lease(30).await, etcd.lease(30).await, etcd.lease(30).await);
    assert!(store.begin_bootstrap(member_lease).await.unwrap().applied());
    assert_eq!(store.begin_bootstrap(other).await, Ok(Outcome::Refused));
    assert_eq!(store.read().await.unwrap().cluster.initialize, Initialize::InProgress);
    let mut bootstrap = Bootstrap {
        me: name("pg1"),
        member_lease: other,
        lock_lease,
        system_id: SystemId(7_268_616_322_854_375_442),
        after: Term(0),
        term: Term(1),
        sync: sync_of("pg1", 1),
        config: Some(serde_json::json!({"ttl": 30})),
    };
    assert_eq!(store.finish_bootstrap(&bootstrap).await, Ok(Outcome::Refused), "somebody else's bootstrap");
    bootstrap.member_lease = member_lease;
    assert!(store.finish_bootstrap(&bootstrap).await.unwrap().applied());
    let snapshot = store.read().await.unwrap();
    assert_eq!(snapshot.cluster.initialize, Initialize::Done(bootstrap.system_id));
    assert_eq!((snapshot.cluster.leader, snapshot.leader_lease), (Some(name("pg1")), lock_lease));
    assert_eq!((snapshot.cluster.term, snapshot.cluster.sync), (Term(1), Some(bootstrap.sync)));
    assert_eq!((snapshot.config.raw["ttl"].as_i64(), snapshot.problems), (Some(30), Vec::new()));
    etcd.client().await.lease_revoke(member_lease).await.unwrap();
    assert!(
        matches!(store.read().await.unwrap().cluster.initialize, Initialize::Done(_)),
        "the identity outlives its maker"
    );
}

#[tokio::test]
async fn a_bootstrap_that_crashes_is_free_again() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let lease = etcd.lease(30).await;
    assert!(store.begin_bootstrap(lease).await.unwrap().applied());
    etcd.client().await.lease_revoke(lease).await.unwrap();
    assert_eq!(store.read().await.unwrap().cluster.initialize, Initialize::Absent);
    let lease = etcd.lease(30).await;
    assert!(store.begin_bootstrap(lease).await.unwrap().applied());
    assert!(store.abandon_bootstrap(lease).await.unwrap().applied());
    assert_eq!(store.read().await.unwrap().cluster.initialize, Initialize::Absent);
}

#[tokio::test]
async fn a_former_leader_can_write_nothing() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg1, pg2) = (name("pg1"), name("pg2"));
    let lease = pg1_leads(&etcd, &store).await;
    assert!(store.write_status(&pg1, Term(1), Lsn(5), None).await.unwrap().applied());
    let second = etcd.lease(30).await;
    let sync_revision = store.read().await.unwrap().sync_revision;
    assert_eq!(store.acquire(&pg2, second, &claim(1, "pg3"), sync_revision).await, Ok(Outcome::Refused), "it is held");
    etcd.client().await.lease_revoke(lease).await.unwrap();
    assert!(store.acquire(&pg2, second, &claim(1, "pg3"), sync_revision).await.unwrap().applied());
    let before = store.read().await.unwrap();
    assert_eq!(store.write_status(&pg1, Term(1), Lsn(9), None).await, Ok(Outcome::Refused));
    assert_eq!(store.release(&pg1, Term(1), &sync_of("pg1", 1), before.sync_revision).await, Ok(Outcome::Refused));
    assert_eq!(store.record_sync(&pg1, Term(1), &sync_of("pg1", 1), before.sync_revision).await, Ok(Outcome::Refused));
    assert_eq!(store.rebind_leader(&pg1, Term(1), second).await, Ok(Outcome::Refused));
    assert_eq!(store.write_as_leader(&pg2, Term(1), &[Write::delete(store.keys().sync())]).await, Ok(Outcome::Refused));
    assert_eq!(store.read().await.unwrap(), before);
    assert_eq!((before.cluster.term, before.cluster.leader_lsn), (Term(2), Some(Lsn(5))));
}

#[tokio::test]
async fn a_claim_fails_when_anything_it_counted_on_has_changed() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg1, pg2, pg3) = (name("pg1"), name("pg2"), name("pg3"));
    let lock = pg1_leads(&etcd, &store).await;
    etcd.client().await.lease_revoke(lock).await.unwrap();
    let lease = etcd.lease(30).await;
    let ballot_revision = revision(store.put_ballot(&pg3, &ballot(1)).await.unwrap());
    assert_eq!(
        store.put_ballot(&pg3, &ballot(0)).await,
        Ok(Outcome::Refused),
        "a ballot against a term that has passed"
    );
    let request = FailoverRecord { member: Some("pg2".to_owned()), ..FailoverRecord::default() };
    let request_revision = revision(store.request_failover(&request).await.unwrap());
    assert_eq!(store.request_failover(&request).await, Ok(Outcome::Refused), "one request at a time");
    let snapshot = store.read().await.unwrap();
    assert_eq!(snapshot.cluster.ballots[&pg3].revision, ballot_revision);
    assert_eq!(
        snapshot.cluster.request.map(|request| (request.kind, request.revision)),
        Some((RequestKind::Failover, request_revision))
    );
    let good = {
        let mut good = claim(1, "pg3");
        (good.ballots, good.request) = (vec![(pg3.clone(), ballot_revision)], Some(request_revision));
        good
    };
    let mut stale_ballot = good.clone();
    stale_ballot.ballots[0].1 -= 1;
    let mut stale_request = good.clone();
    stale_request.request = Some(request_revision - 1);
    let mut stale_term = good.clone();
    (stale_term.after, stale_term.term) = (Term(0), Term(1));
    for stale in [stale_ballot, stale_request, stale_term] {
        assert_eq!(store.acquire(&pg2, lease, &stale, snapshot.sync_revision).await, Ok(Outcome::Refused), "{stale:?}");
    }
    assert_eq!(store.acquire(&pg2, lease, &good, snapshot.sync_revision - 1).await, Ok(Outcome::Refused));
    assert!(store.acquire(&pg2, lease, &good, snapshot.sync_revision).await.unwrap().applied());
    let after = store.read().await.unwrap();
    assert_eq!((after.cluster.leader, after.cluster.term, after.cluster.request), (Some(pg2), Term(2), None));
    let counted = Ballot { revision: ballot_revision, ..ballot(1) };
    assert_eq!(store.withdraw_ballot(&pg3, &counted).await, Ok(Outcome::Refused), "it has been counted");
    assert_eq!(store.put_ballot(&pg1, &ballot(1)).await, Ok(Outcome::Refused));
}

#[tokio::test]
async fn a_ballot_that_comes_late_finds_its_place_taken() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    pg1_leads(&etcd, &store).await;
    let pg2 = name("pg2");
    let late = ballot(1);
    assert!(store.void_ballot(&pg2, Term(1), 0).await.unwrap().applied());
    assert_eq!(store.put_ballot(&pg2, &late).await, Ok(Outcome::Refused), "it was to be the first");
    let seen = async || store.read().await.unwrap().cluster.ballots.get(&name("pg2")).cloned().unwrap();
    let empty = seen().await;
    assert_eq!(empty.revoked, Term(0));
    let again = decision::view::Ballot { revision: empty.revision, ..ballot(1) };
    assert!(store.put_ballot(&pg2, &again).await.unwrap().applied());
    assert_eq!(store.void_ballot(&pg2, Term(1), empty.revision).await, Ok(Outcome::Refused), "it has appeared");
    let there = seen().await;
    assert!(store.withdraw_ballot(&pg2, &there).await.unwrap().applied());
    assert_eq!(store.put_ballot(&pg2, &late).await, Ok(Outcome::Refused), "nor does it come after it was withdrawn");
    assert_eq!(store.put_ballot(&pg2, &again).await, Ok(Outcome::Refused));
    assert_eq!(
        store.void_ballot(&pg2, Term(0), seen().await.revision).await,
        Ok(Outcome::Refused),
        "a term that has passed"
    );
}

#[tokio::test]
async fn a_withdrawn_ballot_is_never_counted() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let lock = pg1_leads(&etcd, &store).await;
    let mut mine = ballot(1);
    mine.revision = revision(store.put_ballot(&name("pg2"), &mine).await.unwrap());
    assert!(store.withdraw_ballot(&name("pg2"), &mine).await.unwrap().applied());
    etcd.client().await.lease_revoke(lock).await.unwrap();
    let mut counting = claim(1, "pg2");
    counting.ballots = vec![(name("pg2"), mine.revision)];
    let sync_revision = store.read().await.unwrap().sync_revision;
    let lease = etcd.lease(30).await;
    assert_eq!(store.acquire(&name("pg3"), lease, &counting, sync_revision).await, Ok(Outcome::Refused));
}

#[tokio::test]
async fn a_hand_over_leaves_no_gap_and_needs_a_living_candidate() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg1, pg2) = (name("pg1"), name("pg2"));
    let old_lease = pg1_leads(&etcd, &store).await;
    let (member_lease, to_lease) = (etcd.lease(30).await, etcd.lease(30).await);
    let record = FailoverRecord { leader: Some("pg1".to_owned()), ..FailoverRecord::default() };
    let request_revision = Some(revision(store.request_failover(&record).await.unwrap()));
    let sync = SyncRecord { handover_lsn: Some(Lsn(99)), ..sync_of("pg2", 2) };
    let (me, to, term, new_term) = (pg1.clone(), pg2.clone(), Term(1), Term(2));
    let sync_revision = store.read().await.unwrap().sync_revision;
    let mut hand_over = HandOver { me, term, to, to_lease, new_term, sync, sync_revision, request_revision };
    assert_eq!(store.hand_over(&hand_over).await, Ok(Outcome::Refused), "the candidate is not there");
    assert!(register(&store, "pg2", member_lease, to_lease).await.applied());
    hand_over.to_lease = 12_345;
    assert!(matches!(store.hand_over(&hand_over).await, Err(Error::LeaseGone(_))));
    assert_eq!(store.read().await.unwrap().cluster.leader, Some(pg1.clone()));
    hand_over.to_lease = to_lease;
    // Whoever leads on writes the record anew first, so that a hand-over that is still on its way comes to nothing.
    let anew = store.record_sync(&pg1, term, &sync_of("pg1", 1), sync_revision).await.unwrap();
    assert_eq!(store.hand_over(&hand_over).await, Ok(Outcome::Refused), "the record was written since");
    assert_eq!(store.let_go(&pg1, term, sync_revision).await, Ok(Outcome::Refused), "as above");
    hand_over.sync_revision = revision(anew);
    assert!(store.hand_over(&hand_over).await.unwrap().applied());
    assert_eq!(store.hand_over(&hand_over).await, Ok(Outcome::Refused), "once is enough");
    etcd.client().await.lease_revoke(old_lease).await.unwrap();
    let after = store.read().await.unwrap();
    assert_eq!((after.cluster.leader, after.leader_lease), (Some(pg2.clone()), to_lease));
    assert_eq!((after.cluster.term, after.cluster.sync, after.cluster.request), (Term(2), Some(hand_over.sync), None));
    let third = etcd.lease(30).await;
    assert!(store.rebind_leader(&pg2, Term(2), third).await.unwrap().applied());
    assert_eq!(store.read().await.unwrap().leader_lease, third);
}

#[tokio::test]
async fn a_release_frees_the_lock_and_says_so() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    pg1_leads(&etcd, &store).await;
    let released = SyncRecord { released: true, ..sync_of("pg1", 1) };
    let revision = store.read().await.unwrap().sync_revision;
    let late = store.release(&name("pg1"), Term(1), &released, revision - 1).await;
    assert_eq!(late, Ok(Outcome::Refused), "a record that has been replaced meanwhile is not overwritten");
    assert!(store.release(&name("pg1"), Term(1), &released, revision).await.unwrap().applied());
    let snapshot = store.read().await.unwrap();
    assert_eq!((snapshot.cluster.leader, snapshot.cluster.sync), (None, Some(released)));
    assert_eq!(snapshot.cluster.term, Term(1), "terms never go back");
}

#[tokio::test]
async fn an_expired_lease_frees_the_lock_and_the_member() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let lease = etcd.lease(2).await;
    assert!(store.acquire(&name("pg1"), lease, &claim(0, "pg2"), 0).await.unwrap().applied());
    assert!(register(&store, "pg1", lease, lease).await.applied());
    let free =
        async || store.read().await.is_ok_and(|seen| seen.cluster.leader.is_none() && seen.cluster.members.is_empty());
    within(Duration::from_secs(8), "the lock is free", free).await;
}

#[tokio::test]
async fn a_second_agent_under_the_same_name_is_turned_away() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (mine, other) = (etcd.lease(30).await, etcd.lease(30).await);
    assert!(register(&store, "pg1", mine, 0).await.applied());
    assert!(register(&store, "pg1", mine, 5).await.applied(), "I may say more about myself");
    assert_eq!(register(&store, "pg1", other, 0).await, Outcome::Refused);
    let seen = store.read().await.unwrap();
    assert_eq!((seen.member_leases[&name("pg1")], seen.cluster.members[&name("pg1")].lock_lease), (mine, 5));
}

#[tokio::test]
async fn floors_requests_and_settings_change_only_from_what_was_seen() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let pg1 = name("pg1");
    assert!(store.set_floor(&pg1, Lsn(50)).await.unwrap().applied());
    assert_eq!(store.clear_floor(&pg1, Lsn(40)).await, Ok(Outcome::Refused));
    assert_eq!(store.read().await.unwrap().cluster.floors[&pg1], Lsn(50));
    assert!(store.clear_floor(&pg1, Lsn(50)).await.unwrap().applied());
    store.commit(&[], &[Write::put(store.keys().failover(), "{}")]).await.unwrap();
    let request = FailoverRecord { member: Some("pg2".to_owned()), ..FailoverRecord::default() };
    let asked = revision(store.request_failover(&request).await.unwrap());
    assert_eq!(store.remove_request(asked - 1).await, Ok(Outcome::Refused));
    assert!(store.remove_request(asked).await.unwrap().applied());
    let absent = Guard::absent(store.keys().failover());
    assert!(store.commit(&[absent], &[]).await.unwrap().applied());
}
