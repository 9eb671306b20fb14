//! Settings that nobody can read: what is in force instead, from what etcd and the history remember.

use std::time::Duration;

use consensus::records::ConfigRevision;
use consensus::{ClusterWatch, Condition, ConfigChange, SettingsFrom, Snapshot, Store};
use decision::settings::Mode;
use serde_json::{Value, json};

use crate::etcd::{Etcd, claim, name, within};

const NONSENSE: [&str; 4] = ["", "nonsense", "[]", "7"];

async fn set(store: &Store, after: Value) {
    let seen = store.read().await.unwrap();
    let made = ConfigRevision { at: "2026-11-29T10:00:00Z".to_owned(), ..ConfigRevision::default() };
    let condition = Condition::default();
    let (before, revision) = (seen.config.raw, seen.config_revision);
    let change = ConfigChange { before, revision, after, condition, made };
    assert!(store.change_config(&change).await.unwrap().0.applied());
}

async fn put(etcd: &Etcd, key: &str, value: &str) {
    etcd.client().await.put(format!("/service/demo/{key}"), value, None).await.unwrap();
}

async fn forget(etcd: &Etcd, store: &Store) {
    let now = store.read().await.unwrap().cluster.revision;
    etcd.client().await.compact(now, None).await.unwrap();
}

fn work_mem(seen: &Snapshot) -> Option<&str> {
    seen.config.parameters.get("work_mem").map(String::as_str)
}

fn with_work_mem(value: &str) -> Value {
    json!({"pause": true, "postgresql": {"parameters": {"work_mem": value}}})
}

#[tokio::test]
async fn settings_that_nobody_can_read_leave_those_in_force_that_stood_there_before() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    put(&etcd, "config", "nonsense").await;
    let seen = store.read().await.unwrap();
    assert_eq!((seen.settings_from, seen.config.raw), (SettingsFrom::Before, Value::Null), "nothing was ever set");
    set(&store, with_work_mem("5MB")).await;
    // As another tool changes them, which writes no history.
    put(&etcd, "config", &with_work_mem("6MB").to_string()).await;
    for value in NONSENSE {
        put(&etcd, "config", value).await;
        let seen = store.read().await.unwrap();
        assert_eq!((work_mem(&seen), seen.settings_from), (Some("6MB"), SettingsFrom::Before), "{value}");
        assert!(seen.config.pause.is_some());
        assert!(seen.problems[0].why.contains("stay in force"), "{:?}", seen.problems);
    }
}

#[tokio::test]
async fn where_etcd_has_forgotten_them_the_newest_row_that_can_be_read_is_in_force() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    for value in ["5MB", "6MB"] {
        set(&store, with_work_mem(value)).await;
    }
    // More than travel at once.
    for number in 3..30 {
        put(&etcd, &format!("config_history/{number:010}"), "nonsense").await;
    }
    put(&etcd, "config", "nonsense").await;
    forget(&etcd, &store).await;
    let seen = store.read().await.unwrap();
    assert_eq!((work_mem(&seen), seen.settings_from), (Some("6MB"), SettingsFrom::Row(2)));
    assert!(seen.problems[0].why.contains("revision 2 of the history"), "{:?}", seen.problems);
}

#[tokio::test]
async fn where_nobody_remembers_any_settings_the_record_says_what_is_promised() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let lease = etcd.lease(30).await;
    let mut strict = claim(0, "pg2");
    strict.mode = Mode::Strict;
    assert!(store.acquire(&name("pg1"), lease, &strict, 0).await.unwrap().applied());
    put(&etcd, "config", "nonsense").await;
    forget(&etcd, &store).await;
    let seen = store.read().await.unwrap();
    let durability = seen.config.durability.unwrap();
    assert_eq!((durability.mode, durability.acknowledgers), (Mode::Strict, 1));
    assert_eq!(seen.settings_from, SettingsFrom::Nowhere);
    assert!(seen.config.slots.doubtful, "no slot is dropped for it");
    assert!(seen.problems[0].why.contains("planned actions wait"), "{:?}", seen.problems);
}

#[tokio::test]
async fn whoever_has_seen_the_settings_keeps_them_whatever_etcd_forgets() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    put(&etcd, "config", &with_work_mem("6MB").to_string()).await;
    let watch = ClusterWatch::start(etcd.store(), Duration::from_millis(100));
    let shown = || watch.views().borrow().snapshot.clone().unwrap_or_default();
    within(Duration::from_secs(10), "the settings are seen", async || work_mem(&shown()) == Some("6MB")).await;
    put(&etcd, "config", "nonsense").await;
    within(Duration::from_secs(10), "so is the nonsense", async || !shown().problems.is_empty()).await;
    forget(&etcd, &store).await;
    put(&etcd, "config", "more nonsense").await;
    let newest = store.read().await.unwrap();
    assert_eq!(newest.settings_from, SettingsFrom::Nowhere, "for whoever has not");
    let revision = newest.config_revision;
    within(Duration::from_secs(10), "that as well", async || shown().config_revision == revision).await;
    assert_eq!((work_mem(&shown()), shown().settings_from), (Some("6MB"), SettingsFrom::Before));
}

#[tokio::test]
async fn settings_that_somebody_has_changed_meanwhile_go_over_those_that_are_remembered() {
    for forgotten in [false, true] {
        let etcd = Etcd::start(1).await;
        let store = etcd.store();
        set(&store, with_work_mem("5MB")).await;
        let watch = ClusterWatch::start(etcd.store(), Duration::from_millis(100));
        let shown = || watch.views().borrow().snapshot.clone().unwrap_or_default();
        within(Duration::from_secs(10), "the settings are seen", async || work_mem(&shown()) == Some("5MB")).await;
        // This runtime stands still meanwhile, so whoever watches on it sees nothing in between.
        std::thread::scope(|scope| {
            let meanwhile = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let store = etcd.store();
                    set(&store, with_work_mem("6MB")).await;
                    put(&etcd, "config", "nonsense").await;
                    if forgotten {
                        forget(&etcd, &store).await;
                    }
                });
            };
            scope.spawn(meanwhile);
        });
        within(Duration::from_secs(10), "the nonsense is seen", async || !shown().problems.is_empty()).await;
        let from = if forgotten { SettingsFrom::Row(2) } else { SettingsFrom::Before };
        assert_eq!((work_mem(&shown()), shown().settings_from), (Some("6MB"), from), "forgotten: {forgotten}");
    }
}
