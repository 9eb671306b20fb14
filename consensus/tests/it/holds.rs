//! Holds and what is planned: each is refused where the other came first, whichever of them was seen; and nobody's claim waits for either.

use consensus::records::{ConfigRevision, DepartureRecord, FailoverRecord, Hold, HoldRecord, OrderRecord, Transition};
use consensus::{Condition, ConfigChange, Lead, Outcome, Snapshot, Store, Write};
use decision::names::MemberName;
use jiff::{SignedDuration, Timestamp};

use crate::etcd::Etcd;

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn hold(id: &str) -> HoldRecord {
    let since = Timestamp::now();
    let until = since + SignedDuration::from_mins(30);
    HoldRecord { id: id.into(), by: "anna@db1".into(), reason: "flyway V42".into(), since, until, host: "db1".into() }
}

fn restart() -> OrderRecord {
    OrderRecord { order: "restart".to_owned(), ..OrderRecord::default() }
}

fn switchover() -> FailoverRecord {
    FailoverRecord { leader: Some("pg1".to_owned()), ..FailoverRecord::default() }
}

async fn taken(store: &Store, id: &str, seen: &Snapshot) -> bool {
    store.take_hold(&hold(id), None, seen, &Lead::Whoever).await.unwrap().applied()
}

#[tokio::test]
async fn what_came_between_the_look_and_the_hold_refuses_it() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg2, keys) = (name("pg2"), store.keys().clone());
    let seen = store.read().await.unwrap();
    let asked = store.request_while(&switchover(), &Condition::under_hold(seen.hold_revision)).await.unwrap();
    assert!(!taken(&store, "h1", &seen).await, "a request came first");
    let Outcome::Applied { revision } = asked else { panic!("nothing holds it up") };
    store.remove_request(revision).await.unwrap();

    // An order that was given and taken up in between has left nothing but its record.
    let seen = store.read().await.unwrap();
    let Outcome::Applied { revision } =
        store.give_order_while(&Condition::under_hold(0), &pg2, &restart()).await.unwrap()
    else {
        panic!("nothing holds it up")
    };
    assert!(!taken(&store, "h1", &seen).await, "an order came first");
    let record = Transition { id: format!("o-{revision}"), ..Transition::default() };
    assert!(store.take_order(&pg2, revision, &record).await.unwrap().applied());
    assert!(!taken(&store, "h1", &seen).await, "it is being obeyed");

    // A site that is asked to follow another stops its primary as well.
    let seen = store.read().await.unwrap();
    store.commit(&[], &[Write::put(keys.config(), r#"{"ttl": 30}"#)]).await.unwrap();
    assert!(!taken(&store, "h1", &seen).await, "the settings have changed");

    let seen = store.read().await.unwrap();
    assert!(taken(&store, "h1", &seen).await, "nothing is in the way");
    assert!(!taken(&store, "h2", &seen).await, "one at a time");
    assert_eq!(store.hold_id().await.unwrap().as_deref(), Some("h1"));
}

#[tokio::test]
async fn what_is_planned_waits_for_a_hold_and_what_is_not_does_not() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg1, pg2, pg3, keys) = (name("pg1"), name("pg2"), name("pg3"), store.keys().clone());
    store.commit(&[], &[Write::put(keys.leader(), "pg1")]).await.unwrap();
    let before = store.read().await.unwrap();
    assert!(taken(&store, "h1", &before).await);
    let refused = Outcome::Refused;
    assert_eq!(
        store.request_while(&switchover(), &Condition::under_hold(before.hold_revision)).await.unwrap(),
        refused
    );
    assert_eq!(
        store.give_order_while(&Condition::under_hold(before.hold_revision), &pg2, &restart()).await.unwrap(),
        refused
    );
    let word = DepartureRecord { by: "anna@db1".to_owned(), ..DepartureRecord::default() };
    assert_eq!(store.let_leave(&pg3, &pg1, &word, before.hold_revision).await.unwrap(), refused);

    let seen = store.read().await.unwrap();
    let Hold::Taken(record) = &seen.hold else { panic!("{:?}", seen.hold) };
    assert_eq!(record.by_and_why(), "anna@db1: flyway V42");
    // With open eyes everything goes; and a failover never looks.
    assert!(
        store.give_order_while(&Condition::under_hold(seen.hold_revision), &pg2, &restart()).await.unwrap().applied()
    );
    assert!(store.let_leave(&pg3, &pg1, &word, seen.hold_revision).await.unwrap().applied());
    let Outcome::Applied { revision } = store.request_failover(&FailoverRecord::default()).await.unwrap() else {
        panic!("a failover waits for a hold")
    };
    store.remove_request(revision).await.unwrap();

    assert!(store.release_hold(seen.hold_revision, &Lead::Whoever).await.unwrap().applied());
    assert_eq!(store.release_hold(seen.hold_revision, &Lead::Whoever).await.unwrap(), refused, "it is gone");
    assert_eq!(
        store.request_while(&switchover(), &Condition::under_hold(seen.hold_revision)).await.unwrap(),
        refused,
        "look again"
    );
    assert!(store.request_while(&switchover(), &Condition::under_hold(0)).await.unwrap().applied());
}

#[tokio::test]
async fn a_hold_goes_with_its_lease_and_one_that_nobody_can_read_is_told() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let seen = store.read().await.unwrap();
    let lease = etcd.client().await.lease_grant(30, None).await.unwrap().id();
    assert!(store.take_hold(&hold("h1"), Some(lease), &seen, &Lead::Whoever).await.unwrap().applied());
    etcd.client().await.lease_revoke(lease).await.unwrap();
    let gone = store.read().await.unwrap();
    assert_eq!((gone.hold, gone.hold_revision), (Hold::Nothing, 0));

    store.commit(&[], &[Write::put(store.keys().hold(), "{")]).await.unwrap();
    let seen = store.read().await.unwrap();
    assert!(matches!(seen.hold, Hold::Unreadable(_)) && seen.hold_revision > 0);
    assert!(seen.problems.iter().any(|problem| problem.key == store.keys().hold() && problem.why.contains("release")));
    assert_eq!(store.hold_id().await.unwrap().as_deref(), Some(""));
}

#[tokio::test]
async fn what_an_operator_asks_of_one_leader_is_not_written_under_another() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg2, keys) = (name("pg2"), store.keys().clone());
    let under = |lead: &Lead| Condition { lead: lead.clone(), hold: None };
    let change = |lead: &Lead| ConfigChange {
        before: serde_json::Value::Null,
        revision: 0,
        after: serde_json::json!({"pause": true}),
        condition: under(lead),
        made: ConfigRevision::default(),
    };
    let (pg1s, pg2s) = (Lead::Of(name("pg1")), Lead::Of(pg2.clone()));
    for (leader, wrong) in [(Some("pg1"), &pg2s), (None, &pg1s), (Some("pg1"), &Lead::VacantSince(0))] {
        let write = leader.map_or(Write::delete(keys.leader()), |leader| Write::put(keys.leader(), leader));
        store.commit(&[], &[write]).await.unwrap();
        let seen = store.read().await.unwrap();
        let refused = Outcome::Refused;
        assert_eq!(store.request_while(&switchover(), &under(wrong)).await.unwrap(), refused, "{wrong:?}");
        assert_eq!(store.give_order_while(&under(wrong), &pg2, &restart()).await.unwrap(), refused, "{wrong:?}");
        assert_eq!(store.take_hold(&hold("h1"), None, &seen, wrong).await.unwrap(), refused, "{wrong:?}");
        assert_eq!(store.change_config(&change(wrong)).await.unwrap().0, refused, "{wrong:?}");
        assert_eq!(store.read().await.unwrap().cluster.revision, seen.cluster.revision, "something was written");
    }
    let seen = store.read().await.unwrap();
    assert!(store.take_hold(&hold("h1"), None, &seen, &pg1s).await.unwrap().applied());
    let held = store.read().await.unwrap().hold_revision;
    assert_eq!(store.release_hold(held, &pg2s).await.unwrap(), Outcome::Refused);
    assert!(store.release_hold(held, &pg1s).await.unwrap().applied());
    assert!(store.request_while(&switchover(), &under(&pg1s)).await.unwrap().applied());
    assert!(store.give_order_while(&under(&pg1s), &pg2, &restart()).await.unwrap().applied());
    assert!(store.change_config(&change(&pg1s)).await.unwrap().0.applied());
    // A failover of an operator: nobody leads, and nobody has led since the record that was seen.
    store.remove_request(store.read().await.unwrap().failover_revision).await.unwrap();
    store.commit(&[], &[Write::delete(keys.leader()), Write::put(keys.sync(), "{}")]).await.unwrap();
    let since = store.read().await.unwrap().sync_revision;
    assert_eq!(
        store.request_while(&switchover(), &under(&Lead::VacantSince(since - 1))).await.unwrap(),
        Outcome::Refused
    );
    assert!(store.request_while(&switchover(), &under(&Lead::VacantSince(since))).await.unwrap().applied());
}
