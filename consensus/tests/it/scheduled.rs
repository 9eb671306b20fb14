//! What is scheduled is moved to where it is carried out once and whole, or not at all: by its leader, under what that leader has seen.

use consensus::records::{Planned, PlannedRestart, PlannedSwitchover, Transition};
use consensus::{Begin, Condition, Lead, Outcome, Snapshot, Store, Subject, Write};
use decision::names::{MemberName, Term};

use crate::etcd::Etcd;

const AT: &str = r#""at":"2026-11-29T02:00:00Z","window_s":600,"requested_by":"anna""#;
const TERM: Term = Term(7);

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

/// `pg1` leads, and its switchover is scheduled.
async fn planned(store: &Store) -> Planned<PlannedSwitchover> {
    let keys = store.keys();
    let reign = [Write::put(keys.leader(), "pg1"), Write::put(keys.term(), TERM.to_string())];
    store.commit(&[], &reign).await.unwrap();
    let record = PlannedSwitchover::from_json(&format!(r#"{{{AT},"leader":"pg1"}}"#)).unwrap();
    let Outcome::Applied { revision } = store.plan_switchover(&record).await.unwrap() else {
        panic!("nobody is in the way")
    };
    Planned { record, revision }
}

async fn begun(store: &Store, planned: &Planned<PlannedSwitchover>, me: &str, seen: &Snapshot) -> bool {
    let begin = Begin::Switchover(planned.request(&name("pg2"), None));
    let condition = Condition::under_hold(seen.hold_revision);
    store.begin_planned((&name(me), TERM), &begin, planned.revision, &condition, seen).await.unwrap().applied()
}

#[tokio::test]
async fn it_begins_once_and_leaves_nothing_behind() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let planned = planned(&store).await;
    let seen = store.read().await.unwrap();
    assert_eq!(seen.scheduled.switchover.as_ref(), Some(&planned));
    assert!(!store.plan_switchover(&planned.record).await.unwrap().applied(), "one at a time");
    assert!(begun(&store, &planned, "pg1", &seen).await);
    assert!(!begun(&store, &planned, "pg1", &seen).await, "twice");
    let now = store.read().await.unwrap();
    assert_eq!((now.scheduled.switchover, now.request_record.unwrap().id), (None, Some(planned.id())));
    assert!(now.cluster.request.is_some_and(|request| request.to == Some(name("pg2"))));
    let record = Transition { id: planned.id(), ..Transition::default() };
    let cancelled = store.cancel_planned(&Subject::Switchover, planned.revision, &record).await.unwrap();
    assert_eq!(cancelled, Outcome::Refused, "it has begun");
}

#[tokio::test]
async fn what_came_between_the_look_and_the_beginning_forbids_it() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (planned, keys) = (planned(&store).await, store.keys().clone());
    let seen = store.read().await.unwrap();
    assert!(!begun(&store, &planned, "pg2", &seen).await, "somebody else leads");
    for (key, value, back, why) in [
        (keys.term(), "8", Write::put(keys.term(), TERM.to_string()), "the reign is over"),
        (keys.hold(), "{", Write::delete(keys.hold()), "planned actions are held"),
        (keys.config(), r#"{"pause":true}"#, Write::delete(keys.config()), "the settings have changed"),
        (keys.failover(), r#"{"member":"pg3"}"#, Write::delete(keys.failover()), "another request waits"),
        (keys.order(&name("pg3")), r#"{"order":"restart"}"#, Write::put(keys.history(), "[]"), "pg3 is restarted"),
    ] {
        store.commit(&[], &[Write::put(&key, value)]).await.unwrap();
        assert!(!begun(&store, &planned, "pg1", &seen).await, "{why}");
        store.commit(&[], &[back]).await.unwrap();
    }
    // Given and taken up since the look: it is under way.
    let order = store.read().await.unwrap().cluster.orders[&name("pg3")].revision;
    let seen = store.read().await.unwrap();
    let record = Transition { id: "o-1".to_owned(), ..Transition::default() };
    assert!(store.take_order(&name("pg3"), order, &record).await.unwrap().applied());
    assert!(!begun(&store, &planned, "pg1", &seen).await, "its restart is under way");
    let seen = store.read().await.unwrap();
    store.commit(&[], &[Write::put(keys.failover(), "{}")]).await.unwrap();
    assert!(begun(&store, &planned, "pg1", &seen).await, "nothing is in the way, and `{{}}` asks for nothing");
}

#[tokio::test]
async fn what_does_not_begin_is_dropped_by_its_leader_with_a_record() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let planned = planned(&store).await;
    let record = Transition { id: planned.id(), ..Transition::default() };
    let drop = async |me: &str, revision: i64| {
        let by = (&name(me), TERM);
        store.drop_planned(by, &Subject::Switchover, revision, &record).await.unwrap().applied()
    };
    assert!(!drop("pg2", planned.revision).await, "it does not lead");
    assert!(!drop("pg1", planned.revision + 1).await, "that is another");
    assert!(drop("pg1", planned.revision).await);
    assert!(store.transition(&planned.id()).await.unwrap().is_some());
    assert_eq!(store.read().await.unwrap().scheduled.switchover, None);
}

#[tokio::test]
async fn a_restart_is_planned_while_it_leads_who_must_and_becomes_an_order_where_none_waits() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    planned(&store).await;
    let pg3 = name("pg3");
    let record = PlannedRestart::from_json(&format!("{{{AT}}}")).unwrap();
    let under = |leader: &str| Lead::Of(name(leader));
    assert!(!store.plan_restart(&pg3, &record, &under("pg2")).await.unwrap().applied());
    let planned = store.plan_restart(&pg3, &record, &under("pg1")).await.unwrap();
    let Outcome::Applied { revision } = planned else { panic!("pg1 leads") };
    let restart = Planned { record, revision };
    let begin = Begin::Restart(pg3.clone(), restart.order(None));
    let by = (&name("pg1"), TERM);
    let seen = store.read().await.unwrap();
    store.give_order(&name("pg2"), &restart.record.order()).await.unwrap();
    let begun = async |seen: &Snapshot| {
        store.begin_planned(by, &begin, revision, &Condition::under_hold(0), seen).await.unwrap().applied()
    };
    assert!(!begun(&seen).await, "another server is restarted since the look");
    store.commit(&[], &[Write::delete(store.keys().order(&name("pg2")))]).await.unwrap();
    store.give_order(&pg3, &restart.record.order()).await.unwrap();
    assert!(!begun(&store.read().await.unwrap()).await, "another order waits");
    store.commit(&[], &[Write::delete(store.keys().order(&pg3))]).await.unwrap();
    let seen = store.read().await.unwrap();
    store.commit(&[], &[Write::put(store.keys().failover(), r#"{"member":"pg3"}"#)]).await.unwrap();
    assert!(!begun(&seen).await, "a switchover was asked for since the look");
    store.commit(&[], &[Write::delete(store.keys().failover())]).await.unwrap();
    assert!(begun(&store.read().await.unwrap()).await);
    let now = store.read().await.unwrap();
    assert!(now.scheduled.restarts.is_empty() && now.cluster.orders.contains_key(&pg3));
}
