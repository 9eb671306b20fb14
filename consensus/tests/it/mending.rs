//! What somebody has put in the place of a record is written over by its owner, and by nobody else.

use consensus::records::{MemberRecord, Secrets};
use consensus::{Nonsense, Outcome, Store};
use decision::names::Term;

use crate::etcd::{Etcd, claim, name};

/// `pg1` leads term 1.
async fn led(etcd: &Etcd) -> Store {
    let store = etcd.store();
    let lease = etcd.lease(30).await;
    assert!(store.acquire(&name("pg1"), lease, &claim(0, "pg2"), 0).await.unwrap().applied());
    store
}

#[tokio::test]
async fn a_lock_that_is_no_leaders_is_taken_again_by_the_leader_alone() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    let (pg1, pg2) = (name("pg1"), name("pg2"));
    let nonsense: [&[u8]; 5] = [b"\xff\xfe", b"no name", b"{}", b"pg2", b"pg1"];
    for value in nonsense {
        // Without a lease, whoever it names.
        etcd.client().await.put(store.keys().leader(), value, None).await.unwrap();
        let seen = store.read().await.unwrap();
        assert_eq!((seen.cluster.leader.clone(), seen.problems.len()), (None, 1));
        let lease = etcd.lease(30).await;
        let of_another = claim(1, "pg1");
        assert_eq!(store.acquire(&pg2, lease, &of_another, seen.sync_revision).await, Ok(Outcome::Refused));
        let record = seen.cluster.sync.clone().unwrap();
        assert_eq!(store.resume(lease, &record, seen.sync_revision, 0).await, Ok(Outcome::Refused), "it is there");
        let resumed = store.resume(lease, &record, seen.sync_revision, seen.leader_revision).await;
        assert!(resumed.unwrap().applied());
        let seen = store.read().await.unwrap();
        assert_eq!((seen.cluster.leader, seen.leader_lease, seen.problems.len()), (Some(pg1.clone()), lease, 0));
    }
}

#[tokio::test]
async fn the_leader_puts_its_term_and_its_record_right_and_nobody_else_does() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    let (pg1, pg2) = (name("pg1"), name("pg2"));
    let record = store.read().await.unwrap().cluster.sync.unwrap();
    let (term, sync) = (store.keys().term(), store.keys().sync());
    for keys in [vec![&term], vec![&sync], vec![&term, &sync]] {
        for key in keys {
            etcd.client().await.put(key.as_str(), "nonsense", None).await.unwrap();
        }
        let seen = store.read().await.unwrap();
        let (at, nonsense) = (seen.sync_revision, seen.nonsense);
        assert!(!nonsense.is_empty());
        assert_eq!(store.put_right(&pg2, &record, at, nonsense).await, Ok(Outcome::Refused), "it does not lead");
        let older = Nonsense { term: nonsense.term.min(1), ..nonsense };
        assert!(nonsense.term == 0 || store.put_right(&pg1, &record, at, older).await == Ok(Outcome::Refused));
        assert_eq!(store.put_right(&pg1, &record, at - 1, nonsense).await, Ok(Outcome::Refused), "another record");
        assert!(store.put_right(&pg1, &record, at, nonsense).await.unwrap().applied());
        let seen = store.read().await.unwrap();
        assert_eq!((seen.cluster.term, seen.cluster.sync.as_ref(), seen.problems.len()), (Term(1), Some(&record), 0));
    }
}

#[tokio::test]
async fn a_member_writes_over_what_is_bound_to_no_lease_and_never_over_another_agent() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg1, key) = (name("pg1"), store.keys().member(&name("pg1")));
    let record = MemberRecord { conn_url: MemberRecord::conn_url_of("h", 5432), ..MemberRecord::default() };
    let (mine, another) = (etcd.lease(30).await, etcd.lease(30).await);
    assert!(store.register_member(&pg1, &record, mine).await.unwrap().applied());
    etcd.client().await.put(key.as_str(), "nonsense", None).await.unwrap();
    assert_eq!(store.read().await.unwrap().problems.len(), 1);
    assert!(store.register_member(&pg1, &record, mine).await.unwrap().applied());
    assert_eq!(store.read().await.unwrap().member_leases[&pg1], mine);
    assert_eq!(store.register_member(&pg1, &record, another).await, Ok(Outcome::Refused));
}

#[tokio::test]
async fn passwords_that_nobody_can_read_are_told_without_a_word_of_them_and_written_anew_by_the_leader() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    let secrets = Secrets { replication_password: "a".to_owned(), rewind_password: "b".to_owned() };
    let key = store.keys().replication_secrets();
    etcd.client().await.put(key.as_str(), "{\"replication_password\": \"hush\"", None).await.unwrap();
    let problems = store.problems_beside().await.unwrap();
    assert!(problems.len() == 1 && problems[0].key == key && !problems[0].why.contains("hush"), "{problems:?}");
    let at = problems[0].revision;
    assert_eq!(store.put_secrets_right(&name("pg2"), Term(1), &secrets, at).await, Ok(Outcome::Refused));
    assert!(store.put_secrets_right(&name("pg1"), Term(1), &secrets, at).await.unwrap().applied());
    assert_eq!((store.secrets().await, store.problems_beside().await), (Ok(Some(secrets)), Ok(Vec::new())));
}
