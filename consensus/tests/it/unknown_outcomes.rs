//! Lost answers: what is not known is looked up, and never guessed.

use std::sync::atomic::Ordering;

use consensus::{Error, Guard, Outcome, Write};

use crate::etcd::{Etcd, store_at};
use crate::proxy::Proxy;

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_found_applied() {
    let etcd = Etcd::start(1).await;
    let proxy = Proxy::before(&etcd.urls()[0]).await;
    let store = store_at(&[proxy.url.clone(), etcd.urls()[0].clone()]);
    let before = store.read().await.unwrap().cluster.revision;
    proxy.faults.lose_answers.store(true, Ordering::SeqCst);
    let key = store.keys().leader();
    let outcome = store.commit(&[Guard::absent(&key)], &[Write::put(&key, "pg1")]).await;
    assert_eq!(outcome, Ok(Outcome::Applied { revision: before + 1 }));
    assert_eq!(store.endpoints().current(), 1, "the silent endpoint is left");
}

#[tokio::test]
async fn a_write_that_was_lost_on_the_way_is_unknown_and_one_that_cannot_hold_is_refused() {
    let etcd = Etcd::start(1).await;
    let proxy = Proxy::before(&etcd.urls()[0]).await;
    let urls = [proxy.url.clone(), etcd.urls()[0].clone()];
    let (first, second) = (store_at(&urls), store_at(&urls));
    let key = first.keys().leader();
    first.read().await.unwrap();
    second.read().await.unwrap();
    proxy.faults.lose_requests.store(true, Ordering::SeqCst);
    let unknown = first.commit(&[Guard::absent(&key)], &[Write::put(&key, "pg1")]).await;
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
    etcd.client().await.put(key.as_str(), "pg2", None).await.unwrap();
    let refused = second.commit(&[Guard::absent(&key)], &[Write::put(&key, "pg1")]).await;
    assert_eq!(refused, Ok(Outcome::Refused));
}

#[tokio::test]
async fn a_write_of_what_was_there_already_is_told_by_its_revision() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let key = store.keys().sync();
    let writes = [Write::put(&key, "the same")];
    let Ok(Outcome::Applied { revision: first }) = store.commit(&[], &writes).await else { panic!("not written") };
    let over_first = [Guard::unchanged(&key, first)];
    let unknown = store.read_back(&over_first, &writes, "the answer was lost").await;
    assert!(matches!(unknown, Err(Error::Unknown(_))), "it may still come: {unknown:?}");
    let second = store.commit(&over_first, &writes).await;
    assert!(second.as_ref().is_ok_and(|outcome| outcome.applied()), "{second:?}");
    assert_eq!(store.read_back(&over_first, &writes, "the answer was lost").await, second);
}

#[tokio::test]
async fn without_any_endpoint_left_to_ask_it_is_unknown() {
    let etcd = Etcd::start(1).await;
    let proxy = Proxy::before(&etcd.urls()[0]).await;
    let store = store_at(std::slice::from_ref(&proxy.url));
    store.read().await.unwrap();
    proxy.faults.lose_answers.store(true, Ordering::SeqCst);
    let unknown = store.commit(&[], &[Write::put(store.keys().term(), "9")]).await;
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
    proxy.faults.lose_answers.store(false, Ordering::SeqCst);
    proxy.faults.refuse.store(true, Ordering::SeqCst);
    let unreachable = store.read().await;
    assert!(matches!(unreachable, Err(Error::Unreachable(_))), "{unreachable:?}");
}

#[tokio::test]
async fn a_write_is_sent_on_when_its_endpoint_is_dead() {
    let etcd = Etcd::start(1).await;
    // Port 1 refuses; nothing listens there.
    let store = store_at(&["http://127.0.0.1:1".to_owned(), etcd.urls()[0].clone()]);
    let outcome = store.commit(&[], &[Write::put(store.keys().term(), "9")]).await;
    assert!(matches!(outcome, Ok(Outcome::Applied { .. })), "{outcome:?}");
    let dead = store_at(&["http://127.0.0.1:1".to_owned()]);
    let outcome = dead.commit(&[], &[Write::put(store.keys().term(), "10")]).await;
    assert!(matches!(outcome, Err(Error::Unreachable(_))), "nothing was sent: {outcome:?}");
}
