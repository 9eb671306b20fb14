//! What lies under one namespace: all of it at one revision however many pages it takes, and nothing for whoever may not see it.

use consensus::fleet::{Owner, list};
use consensus::{Endpoints, Error, EtcdOptions, Keys};
use etcd_client::{Permission, Txn, TxnOp};

use crate::etcd::Etcd;

/// etcd takes so many operations in one transaction.
const AT_ONCE: usize = 100;

#[tokio::test]
async fn every_scope_is_found_over_many_pages_and_told_apart() {
    let etcd = Etcd::start(1).await;
    let mut client = etcd.client().await;
    let mut keys: Vec<String> = (0..60)
        .flat_map(|cluster| (0..40).map(move |id| format!("/service/db{cluster:02}/transitions/t-{id:03}")))
        .collect();
    keys.extend(["leader", "initialize", "members/x"].map(|key| format!("/service/patronis/{key}")));
    keys.extend(["/service/lonely", "/services/other/term", "/service/forming/members/pg1"].map(str::to_owned));
    for some in keys.chunks(AT_ONCE) {
        let puts: Vec<TxnOp> = some.iter().map(|key| TxnOp::put(key.as_str(), "{}", None)).collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    let store = etcd.store();
    let found = list(store.endpoints(), "/service/").await.unwrap();
    let owners = |owner| found.scopes.values().filter(|found| **found == owner).count();
    assert_eq!((found.scopes.len(), owners(Owner::Ours), owners(Owner::Patroni)), (62, 60, 2));

    let forming = store.beside(Keys::new("service", "forming"));
    assert_eq!(forming.has_member_of_ours(found.revision).await, Ok(false));
    client.put("/service/forming/members/pg1", "{\"pgvigil\":\"0.1.0\"}", None).await.unwrap();
    assert_eq!(forming.has_member_of_ours(0).await, Ok(true));
    assert_eq!(forming.has_member_of_ours(found.revision).await, Ok(false), "it was not so at that revision");
}

#[tokio::test]
async fn a_cluster_is_read_as_it_was_when_it_was_listed() {
    let etcd = Etcd::start(1).await;
    let mut client = etcd.client().await;
    client.put("/service/demo/term", "7", None).await.unwrap();
    let store = etcd.store();
    let found = list(store.endpoints(), "service").await.unwrap();
    client.put("/service/demo/term", "8", None).await.unwrap();
    assert_eq!(store.read_at(found.revision).await.unwrap().cluster.term.0, 7);
    assert_eq!(store.read().await.unwrap().cluster.term.0, 8);
}

#[tokio::test]
async fn whoever_may_only_see_one_cluster_is_turned_away_and_knows_it() {
    let etcd = Etcd::start(1).await;
    let mut root = etcd.client().await;
    root.user_add("root", "secret", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.role_add("demo").await.unwrap();
    let demo = Permission::read_write("/service/demo/").with_prefix();
    root.role_grant_permission("demo", demo).await.unwrap();
    root.user_add("node", "word", None).await.unwrap();
    root.user_grant_role("node", "demo").await.unwrap();
    root.auth_enable().await.unwrap();
    let options = EtcdOptions { username: Some("node".into()), password: Some("word".into()), ..etcd.options() };
    let endpoints = Endpoints::new(options).unwrap();
    let store = consensus::Store::new(endpoints.clone(), Keys::new("service", "demo"));
    assert!(store.read().await.is_ok());
    assert!(!endpoints.turned_away());
    let refused = list(&endpoints, "service").await;
    assert!(matches!(&refused, Err(Error::Unauthorised(why)) if why.contains("permission")), "{refused:?}");
    assert!(endpoints.turned_away());
    assert!(store.read().await.is_ok());
    assert!(!endpoints.turned_away(), "what is allowed is not spoiled by what is not");
}
