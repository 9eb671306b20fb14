//! What is stored: corrupt values, transition records, history, secrets.

use consensus::Outcome;
use consensus::records::{HistoryRow, Secrets, Transition};
use decision::durability::proven;
use decision::names::{Lsn, Term, Timeline};
use decision::view::Initialize;

use crate::etcd::{Etcd, claim, name};

#[tokio::test]
async fn a_corrupt_value_in_any_key_spoils_nothing_else() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let mut client = etcd.client().await;
    let keys = store.keys();
    let (pg1, pg2) = (name("pg1"), name("pg2"));
    let all = [
        keys.leader(),
        keys.term(),
        keys.initialize(),
        keys.sync(),
        keys.status(),
        keys.history(),
        keys.stray_timeline(),
        keys.failover(),
        keys.config(),
        keys.member(&pg1),
        keys.ballot(&pg1),
        keys.floor(&pg1),
        format!("{}members/no name", keys.base()),
    ];
    // A megabyte in each key is more than a client takes in one answer unless it is told to.
    let (long, deep) = (vec![b'x'; 1 << 20], vec![b'['; 100_000]);
    let garbage: [&[u8]; 6] = [b"{\"half\":", b"\xff\xfe\x00", b"[[1],{}]", b"-1 or/so", &deep, &long];
    client.put(keys.floor(&pg2), "{\"lsn\":\"0/10\"}", None).await.unwrap();
    client.put(format!("{}optime/leader", keys.base()), "somebody else's", None).await.unwrap();
    for bad in garbage {
        for key in &all {
            client.put(key.as_str(), bad, None).await.unwrap();
        }
        let seen = store.read().await.unwrap();
        let complained: Vec<&String> = seen.problems.iter().map(|problem| &problem.key).collect();
        assert!(all.iter().all(|key| complained.contains(&key)), "{:?}", seen.problems);
        assert_eq!(seen.problems.len(), all.len());
        let longest = seen.problems.iter().map(|problem| problem.why.len()).max();
        assert!(longest < Some(2000), "what is told has {longest:?} bytes");
        assert_eq!(seen.cluster.floors[&pg2], Lsn(16), "what is good is still read");
        assert_eq!(seen.cluster.floors[&pg1], Lsn(u64::MAX), "nobody counts by mistake");
        assert_eq!(seen.cluster.initialize, Initialize::InProgress, "nobody bootstraps by mistake");
        let sync = seen.cluster.sync.expect("there is one, though unreadable");
        assert!(!proven(&sync.policies, &[pg1.clone(), pg2.clone()].into()), "nothing is proven by mistake");
        let lease = etcd.lease(30).await;
        assert_eq!(store.acquire(&pg1, lease, &claim(0, "pg2"), seen.sync_revision).await, Ok(Outcome::Refused));
    }
}

#[tokio::test]
async fn transition_records_are_amended_by_many_and_bounded() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    for term in 1..=5 {
        let (outcome, write_outage_ms) =
            (if term == 5 { "in_progress" } else { "done" }.to_owned(), (term == 2).then_some(7.0));
        let id = format!("t-{term}");
        let record = Transition { id, term_after: term, outcome, write_outage_ms, ..Transition::default() };
        assert!(store.create_transition(&record).await.unwrap().applied());
        assert_eq!(store.create_transition(&record).await, Ok(Outcome::Refused));
    }
    let note = |text: &'static str| {
        let store = store.clone();
        async move { store.amend_transition("t-5", |record| record.notes.push(text.to_owned())).await.unwrap() }
    };
    let (first, second) = tokio::join!(note("one"), note("two"));
    assert!(first.applied() && second.applied());
    assert_eq!(store.transition("t-5").await.unwrap().map(|record| record.notes.len()), Some(2));
    assert_eq!(store.amend_transition("t-6", |_| {}).await, Ok(Outcome::Refused));
    let done = Transition { id: "t-5".to_owned(), term_after: 5, outcome: "done".to_owned(), ..Transition::default() };
    assert!(store.finish_transition(&done).await.unwrap().applied());
    assert!(note("three").await.applied());
    assert!(store.finish_transition(&done).await.unwrap().applied(), "the answer to the first was lost");
    assert_eq!(store.transition("t-5").await.unwrap().map(|record| record.notes.len()), Some(1), "nothing is undone");
    let other = store.keys().transition("t-0.5");
    etcd.client().await.put(other.as_str(), "not json", None).await.unwrap();
    assert_eq!(store.transitions().await.unwrap().1.len(), 1);
    assert_eq!(store.prune_transitions(3).await, Ok(3));
    let (left, _) = store.transitions().await.unwrap();
    let left: Vec<&str> = left.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(left, ["t-2", "t-5"], "what cost writes stays the longest");
    assert_eq!(store.prune_transitions(3).await, Ok(0));
    let under_way = Transition { id: "o-6".to_owned(), ..Transition::default() };
    assert!(store.create_transition(&under_way).await.unwrap().applied());
    assert_eq!(store.prune_transitions(0).await, Ok(3));
    let (left, _) = store.transitions().await.unwrap();
    assert_eq!(left, [under_way], "none goes that is under way");
    assert_eq!(store.read().await.unwrap().problems, Vec::new(), "bulk is no part of the picture");
}

#[tokio::test]
async fn history_grows_only_under_the_leader() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let pg1 = name("pg1");
    let row = |timeline: u32| HistoryRow {
        timeline: Timeline(timeline),
        ended_at: Lsn(100),
        reason: "no recovery target specified".to_owned(),
        timestamp: None,
        new_leader: Some(pg1.clone()),
    };
    assert_eq!(store.append_history(&pg1, Term(1), &[], &row(1)).await, Ok(Outcome::Refused));
    let lease = etcd.lease(30).await;
    store.acquire(&pg1, lease, &claim(0, "pg2"), 0).await.unwrap();
    for timeline in [1, 2, 2] {
        assert!(store.append_history(&pg1, Term(1), &[row(9)], &row(timeline)).await.unwrap().applied());
    }
    assert_eq!(store.read().await.unwrap().history_rows, [row(1), row(2)]);
    etcd.client().await.put(store.keys().history(), "garbage", None).await.unwrap();
    assert_eq!(store.read().await.unwrap().problems.len(), 1);
    assert!(store.append_history(&pg1, Term(1), &[row(1), row(2)], &row(3)).await.unwrap().applied());
    let mended = store.read().await.unwrap();
    assert_eq!((mended.history_rows, mended.problems), (vec![row(1), row(2), row(3)], Vec::new()));
}

#[tokio::test]
async fn a_number_of_a_timeline_that_is_taken_is_only_raised() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    for (noted, known) in [(5, 5), (3, 5), (6, 6)] {
        store.note_stray_timeline(Timeline(noted)).await.unwrap();
        assert_eq!(store.read().await.unwrap().cluster.stray_timeline, Timeline(known));
    }
    etcd.client().await.put(store.keys().stray_timeline(), "nonsense", None).await.unwrap();
    assert!(store.note_stray_timeline(Timeline(7)).await.unwrap().applied());
    assert_eq!(store.read().await.unwrap().cluster.stray_timeline, Timeline(7));
}

#[tokio::test]
async fn secrets_are_made_once() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let secrets = |word: &str| Secrets { replication_password: word.to_owned(), rewind_password: word.to_owned() };
    assert_eq!(store.secrets().await, Ok(None));
    assert!(store.create_secrets(&secrets("a")).await.unwrap().applied());
    assert_eq!(store.create_secrets(&secrets("b")).await, Ok(Outcome::Refused));
    assert_eq!(store.secrets().await, Ok(Some(secrets("a"))));
    assert_eq!(format!("{:?}", secrets("a")), "Secrets(***)");
}

#[tokio::test]
async fn a_dump_has_every_key_and_no_password() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let mut client = etcd.client().await;
    let secrets = Secrets { replication_password: "tellnobody1".to_owned(), rewind_password: "tellnobody2".to_owned() };
    assert!(store.create_secrets(&secrets).await.unwrap().applied());
    for key in ["config", "term", "transitions/t-1", "zzz"] {
        client.put(format!("{}{key}", store.keys().base()), "value", None).await.unwrap();
    }
    client.put("/service/demo2/term", "another's", None).await.unwrap();
    let stored = store.dump().await.unwrap();
    let names: Vec<&str> = stored.iter().filter_map(|one| store.keys().strip(&one.key)).collect();
    assert_eq!(names, ["config", "secrets/replication", "term", "transitions/t-1", "zzz"]);
    assert!(!format!("{stored:?}").contains("tellnobody"), "{stored:?}");
    assert!(stored.iter().all(|one| one.value.is_some() != one.key.contains("secrets")));
}

#[tokio::test]
async fn a_dump_may_be_larger_than_an_answer_of_etcd_usually_is() {
    let etcd = Etcd::start(1).await;
    let (store, mut client) = (etcd.store(), etcd.client().await);
    for number in 0..5 {
        client.put(format!("{}transitions/{number}", store.keys().base()), vec![b'x'; 1 << 20], None).await.unwrap();
    }
    assert_eq!(store.dump().await.unwrap().len(), 5);
}

#[tokio::test]
async fn whatever_changes_beside_the_picture_changes_its_fingerprint_and_nothing_else_does() {
    let etcd = Etcd::start(1).await;
    let (store, mut client) = (etcd.store(), etcd.client().await);
    let fingerprint = async || store.fingerprint_of_bulk().await.unwrap();
    let mut known = vec![fingerprint().await];
    for key in ["config_history/0000000001", "secrets/replication", "transitions/t-1"] {
        let key = format!("{}{key}", store.keys().base());
        for value in ["one", "another"] {
            client.put(key.as_str(), value, None).await.unwrap();
            known.push(fingerprint().await);
        }
    }
    client.delete(format!("{}transitions/t-1", store.keys().base()), None).await.unwrap();
    known.push(fingerprint().await);
    assert!(known.windows(2).all(|pair| pair[0] != pair[1]), "{known:?}");
    client.put(store.keys().status(), "{}", None).await.unwrap();
    assert_eq!(Some(&fingerprint().await), known.last(), "a position is no part of it");
}
