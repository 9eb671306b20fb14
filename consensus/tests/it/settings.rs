//! The cluster-wide settings and their history.

use consensus::records::ConfigRevision;
use consensus::{Condition, ConfigChange, Outcome, Store, Write};
use serde_json::{Value, json};

use crate::etcd::Etcd;

fn made(by: &str) -> ConfigRevision {
    ConfigRevision { by: Some(by.to_owned()), at: "2026-11-28T05:00:00Z".to_owned(), ..ConfigRevision::default() }
}

async fn change(store: &Store, after: Value, by: &str) -> (Outcome, u64) {
    let seen = store.read().await.unwrap();
    let change = ConfigChange {
        before: seen.config.raw,
        revision: seen.config_revision,
        after,
        condition: Condition::default(),
        made: made(by),
    };
    store.change_config(&change).await.unwrap()
}

#[tokio::test]
async fn every_change_has_its_row_and_what_others_wrote_gets_one() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (outcome, number) = change(&store, json!({"ttl": 30}), "anna@db1").await;
    assert!(outcome.applied());
    assert_eq!(number, 1);
    // Patroni's own tool, say.
    store.commit(&[], &[Write::put(store.keys().config(), r#"{"ttl":20}"#)]).await.unwrap();
    let (outcome, number) = change(&store, json!({"ttl": 10}), "bert@db2").await;
    assert!(outcome.applied());
    assert_eq!(number, 3);
    let (rows, _) = store.config_history().await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.number, row.by.as_deref(), row.config["ttl"].as_i64())).collect();
    assert_eq!(told, [(1, Some("anna@db1"), Some(30)), (2, None, Some(20)), (3, Some("bert@db2"), Some(10))]);
    assert_eq!(store.read().await.unwrap().config.raw, json!({"ttl": 10}));
}

#[tokio::test]
async fn of_two_changes_of_the_same_state_one_is_refused_and_leaves_no_row() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let first = ConfigChange {
        before: Value::Null,
        revision: 0,
        after: json!({"a": 1}),
        condition: Condition::default(),
        made: made("anna"),
    };
    let second = ConfigChange { after: json!({"b": 2}), made: made("bert"), ..first.clone() };
    assert!(store.change_config(&first).await.unwrap().0.applied());
    assert_eq!(store.change_config(&second).await.unwrap().0, Outcome::Refused);
    assert_eq!(store.config_history().await.unwrap().0.len(), 1);
    assert_eq!(store.read().await.unwrap().config.raw, json!({"a": 1}));
}

#[tokio::test]
async fn only_so_many_states_are_kept_and_a_picture_of_the_cluster_carries_none_of_them() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    for state in 1..=103 {
        assert!(change(&store, json!({"state": state}), "anna").await.0.applied());
    }
    let (rows, _) = store.config_history().await.unwrap();
    assert_eq!((rows.len(), rows[0].number, rows[99].number), (100, 4, 103));
    // A row that nobody can read is nobody's problem who does not ask for the history.
    store.commit(&[], &[Write::put(store.keys().config_revision(104), "nonsense")]).await.unwrap();
    assert!(store.read().await.unwrap().problems.is_empty());
    let (rows, problems) = store.config_history().await.unwrap();
    assert_eq!(rows.len(), 100);
    assert!(problems.len() == 1 && problems[0].key.ends_with("config_history/0000000104"), "{problems:?}");
    // Its number is taken, and settings can be changed all the same.
    assert_eq!(change(&store, json!({"state": 105}), "anna").await.1, 105);
}
