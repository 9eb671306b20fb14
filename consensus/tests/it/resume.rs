//! The lock bound to a lease again, only while nobody has led since; and the list of those who may lead without proof.

use std::collections::{BTreeMap, BTreeSet};

use consensus::Outcome;
use decision::action::Claim;
use decision::names::Term;
use decision::view::SyncRecord;

use crate::etcd::{Etcd, claim, name};

#[tokio::test]
async fn a_leader_whose_lease_was_revoked_resumes_under_its_term_unless_somebody_has_led_since() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (first, second) = (etcd.lease(60).await, etcd.lease(60).await);
    assert!(store.acquire(&name("pg1"), first, &claim(0, "pg2"), 0).await.unwrap().applied());
    let before = store.read().await.unwrap();
    let (record, over) = (before.cluster.sync.unwrap(), before.sync_revision);
    assert_eq!(store.resume(second, &record, over, 0).await, Ok(Outcome::Refused), "the lock is held");
    etcd.client().await.lease_revoke(first).await.unwrap();
    assert!(store.resume(second, &record, over, 0).await.unwrap().applied());
    let seen = store.read().await.unwrap();
    assert_eq!((seen.cluster.leader, seen.cluster.term), (Some(name("pg1")), Term(1)));
    assert_eq!((seen.leader_lease, seen.cluster.sync.as_ref()), (second, Some(&record)));
    let late = store.release(&name("pg1"), Term(1), &SyncRecord { released: true, ..record.clone() }, over).await;
    assert_eq!(late, Ok(Outcome::Refused), "what was sent before comes to nothing");
    etcd.client().await.lease_revoke(second).await.unwrap();
    let third = etcd.lease(60).await;
    assert!(store.acquire(&name("pg2"), third, &claim(1, "pg1"), seen.sync_revision).await.unwrap().applied());
    etcd.client().await.lease_revoke(third).await.unwrap();
    let fourth = etcd.lease(60).await;
    let now = store.read().await.unwrap().sync_revision;
    for over in [seen.sync_revision, now] {
        assert_eq!(store.resume(fourth, &record, over, 0).await, Ok(Outcome::Refused), "pg2 has led");
    }
}

#[tokio::test]
async fn a_claim_without_proof_fails_when_the_list_has_changed_and_only_the_leader_changes_it() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let lease = etcd.lease(60).await;
    assert!(store.acquire(&name("pg1"), lease, &claim(0, "pg2"), 0).await.unwrap().applied());
    let listed = |names: &[&str]| -> BTreeMap<_, _> {
        names.iter().map(|text| (name(text), format!("http://{text}:8008/patroni"))).collect()
    };
    assert_eq!(store.write_failsafe(&name("pg2"), Term(1), &listed(&["pg2"]), 0).await, Ok(Outcome::Refused));
    assert!(store.write_failsafe(&name("pg1"), Term(1), &listed(&["pg1", "pg2"]), 0).await.unwrap().applied());
    let seen = store.read().await.unwrap();
    assert_eq!(seen.cluster.failsafe, Some(BTreeSet::from([name("pg1"), name("pg2")])));
    assert_eq!(seen.failsafe_urls.get(&name("pg2")).map(String::as_str), Some("http://pg2:8008/patroni"));
    let old = Claim { failsafe_revision: Some(seen.cluster.failsafe_revision), ..claim(1, "pg1") };
    let change = store.write_failsafe(&name("pg1"), Term(1), &listed(&["pg1"]), seen.cluster.failsafe_revision).await;
    assert!(change.unwrap().applied());
    etcd.client().await.lease_revoke(lease).await.unwrap();
    let lease = etcd.lease(60).await;
    assert_eq!(store.acquire(&name("pg2"), lease, &old, seen.sync_revision).await, Ok(Outcome::Refused));
    let revision = store.read().await.unwrap().cluster.failsafe_revision;
    let fresh = Claim { failsafe_revision: Some(revision), ..old };
    assert!(store.acquire(&name("pg2"), lease, &fresh, seen.sync_revision).await.unwrap().applied());
    etcd.client().await.put("/service/demo/failsafe", "nonsense", None).await.unwrap();
    let seen = store.read().await.unwrap();
    assert_eq!(seen.cluster.failsafe, Some(BTreeSet::new()), "a list that cannot be read bars everybody");
    assert_eq!(seen.problems.len(), 1);
}
