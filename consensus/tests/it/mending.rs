//! What somebody has put in the place of a record is written over by its owner, and by nobody else.

use consensus::records::{MemberRecord, Secrets};
use consensus::{Error, Guard, Holder, Mend, Outcome, Snapshot, Store, Write};
use decision::action::Claim;
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

const WHERE: [&[&str]; 7] = [
    &["leader"],
    &["term"],
    &["sync"],
    &["leader", "term"],
    &["leader", "sync"],
    &["term", "sync"],
    &["leader", "term", "sync"],
];

async fn put_nonsense(etcd: &Etcd, keys: &[&str]) {
    for key in keys {
        for value in ["nonsense", "007"] {
            etcd.client().await.put(format!("/service/demo/{key}"), value, None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_stood_in_the_place_of_nonsense_is_put_back_as_it_was() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    let good = store.read().await.unwrap();
    for keys in WHERE {
        put_nonsense(&etcd, keys).await;
        let seen = store.read().await.unwrap();
        assert_eq!((seen.problems.len(), seen.cluster.unreadable.keys().len()), (keys.len(), keys.len()), "{keys:?}");
        let mend = store.before_nonsense(&seen).await.unwrap();
        let is_there = [mend.leader.is_some(), mend.term.is_some(), mend.sync.is_some()];
        assert_eq!(is_there, ["leader", "term", "sync"].map(|key| keys.contains(&key)), "{keys:?}");
        assert!(store.put_right(&seen, &mend).await.unwrap().applied());
        let now = store.read().await.unwrap();
        let reign =
            |of: &Snapshot| (of.cluster.leader.clone(), of.leader_lease, of.cluster.term, of.cluster.sync.clone());
        assert_eq!((reign(&now), now.problems.len()), (reign(&good), 0), "{keys:?}");
    }
}

#[tokio::test]
async fn nothing_is_put_back_over_what_came_after_the_nonsense_was_read() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    for written in ["leader", "term", "sync"] {
        put_nonsense(&etcd, &["leader", "term", "sync"]).await;
        let seen = store.read().await.unwrap();
        let mend = store.before_nonsense(&seen).await.unwrap();
        put_nonsense(&etcd, &[written]).await;
        assert_eq!(store.put_right(&seen, &mend).await, Ok(Outcome::Refused), "{written}");
        let seen = store.read().await.unwrap();
        assert_eq!(store.before_nonsense(&seen).await.as_ref(), Ok(&mend));
        assert!(store.put_right(&seen, &mend).await.unwrap().applied());
    }
}

#[tokio::test]
async fn a_claim_that_came_before_the_nonsense_is_what_is_put_back() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    let before = store.read().await.unwrap();
    let lease = etcd.lease(30).await;
    let deposing = Claim { depose: Some(name("pg1")), ..claim(1, "pg1") };
    assert!(store.acquire(&name("pg2"), lease, &deposing, before.sync_revision).await.unwrap().applied());
    put_nonsense(&etcd, &["leader", "term", "sync"]).await;
    let seen = store.read().await.unwrap();
    let mend = store.before_nonsense(&seen).await.unwrap();
    assert_eq!((mend.leader, mend.term), (Some(Holder::Member(name("pg2"), lease)), Some(Term(2))));
    assert_eq!(mend.sync.map(|sync| (sync.leader, sync.term)), Some((name("pg2"), Term(2))));
    assert!(mend.sync_is_behind, "two values lie over it");
}

#[tokio::test]
async fn a_ballot_whose_answer_was_lost_is_unknown_over_nonsense_for_the_term_is_put_back() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    let key = store.keys().ballot(&name("pg2"));
    let writes = [Write::put(&key, "a ballot against term 1")];
    let lost = "the answer was lost";
    let of_term = [Guard::unchanged(&key, 0), store.term_guard(Term(1))];
    let of_reign = store.leadership_guard(Term(1), &name("pg1"));
    for (what, guards) in [("term", of_term.as_slice()), ("leader", of_reign.as_slice())] {
        put_nonsense(&etcd, &[what]).await;
        let unknown = store.read_back(guards, &writes, lost).await;
        assert!(matches!(unknown, Err(Error::Unknown(_))), "{what}: {unknown:?}");
        let seen = store.read().await.unwrap();
        let mend = store.before_nonsense(&seen).await.unwrap();
        assert!(store.put_right(&seen, &mend).await.unwrap().applied());
    }
    assert!(store.commit(&of_term, &writes).await.unwrap().applied(), "it comes after all");
    let another = [Guard::is(store.keys().term(), "2")];
    assert_eq!(store.read_back(&another, &[Write::put(&key, "b")], lost).await, Ok(Outcome::Refused), "a term is told");
}

#[tokio::test]
async fn a_lock_whose_lease_has_ended_under_nonsense_is_nobodys() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    put_nonsense(&etcd, &["leader", "sync"]).await;
    let lease = store.before_nonsense(&store.read().await.unwrap()).await.unwrap().leader;
    let Some(Holder::Member(_, lease)) = lease else { panic!("{lease:?}") };
    etcd.client().await.lease_revoke(lease).await.unwrap();
    let seen = store.read().await.unwrap();
    let mend = store.before_nonsense(&seen).await.unwrap();
    assert!(store.put_right(&seen, &mend).await.unwrap().applied());
    let now = store.read().await.unwrap();
    assert_eq!((now.cluster.leader.clone(), now.leader_revision, now.problems.len()), (None, 0, 0));
    put_nonsense(&etcd, &["leader"]).await;
    let mend = store.before_nonsense(&store.read().await.unwrap()).await.unwrap();
    assert_eq!(mend, Mend { leader: Some(Holder::Nobody), ..Mend::default() }, "nobody led");
}

#[tokio::test]
async fn what_etcd_has_compacted_is_not_made_up() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    put_nonsense(&etcd, &["leader", "term", "sync"]).await;
    let seen = store.read().await.unwrap();
    etcd.client().await.compact(seen.cluster.revision, None).await.unwrap();
    assert_eq!(store.before_nonsense(&seen).await, Ok(Mend::default()));
}

#[tokio::test]
async fn a_term_is_a_number_written_in_one_way() {
    let etcd = Etcd::start(1).await;
    let store = led(&etcd).await;
    let key = store.keys().term();
    for bad in ["0", "+7", "007", " 7", "7\n", "-1", "", "4611686018427387904", "18446744073709551615"] {
        etcd.client().await.put(key.as_str(), bad, None).await.unwrap();
        let seen = store.read().await.unwrap();
        assert_eq!((seen.problems.len(), seen.cluster.term), (1, Term(1)), "{bad:?}: the record's stands for it");
        assert_eq!(store.before_nonsense(&seen).await.unwrap().term, Some(Term(1)));
    }
    etcd.client().await.put(key.as_str(), "4611686018427387903", None).await.unwrap();
    assert!(store.read().await.unwrap().problems.is_empty());
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
    etcd.client().await.put(key.as_str(), "nonsense", None).await.unwrap();
    let at = store.problems_beside().await.unwrap()[0].revision;
    let stood = Secrets { replication_password: "a".to_owned(), rewind_password: "b".to_owned() };
    assert_eq!(store.secrets_before(at).await, Ok(Some(stood)), "what members without a file go by");
    etcd.client().await.compact(at, None).await.unwrap();
    assert_eq!(store.secrets_before(at).await, Ok(None));
    // serde quotes what it did not expect.
    let quoted = r#"{"replication_password": {"hush": 1}, "rewind_password": "hush"}"#;
    for bad in [quoted, r#"{"replication_password": "a", "rewind_password": 7070}"#, "[]"] {
        etcd.client().await.put(key.as_str(), bad, None).await.unwrap();
        let said = store.secrets().await.unwrap_err().to_string();
        assert!(!said.contains("hush") && !said.contains("7070") && said.contains(&key), "{said}");
    }
}
