//! Members that leave for good: when the word can be given, and what is removed when.

use consensus::records::{DepartureRecord, MemberRecord, OrderRecord};
use consensus::{Outcome, Write};
use decision::departure::{Parting, next};
use decision::names::{Lsn, MemberName, Term};
use serde_json::json;

use crate::etcd::Etcd;

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

#[tokio::test]
async fn a_member_leaves_while_it_is_away_and_is_welcome_back() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let (pg1, pg3) = (name("pg1"), name("pg3"));
    let keys = store.keys().clone();
    let sync = |k: u32, voters: &[&str]| json!({"leader":"pg1","term":1,"mode":"quorum","policies":[{"k":k,"voters":voters}],"timeline":1});
    let record = DepartureRecord { by: "anna@db1".to_owned(), ..DepartureRecord::default() };
    let begin = [
        Write::put(keys.term(), "1"),
        Write::put(keys.leader(), "pg1"),
        Write::put(keys.sync(), sync(1, &["pg2", "pg3"]).to_string()),
        Write::put(
            keys.member(&pg3),
            MemberRecord { conn_url: "postgres://h:1/postgres".to_owned(), ..MemberRecord::default() }.to_json(),
        ),
    ];
    assert!(store.commit(&[], &begin).await.unwrap().applied());
    assert_eq!(store.let_leave(&pg3, &pg1, &record, 0).await.unwrap(), Outcome::Refused, "it is there");
    store.commit(&[], &[Write::delete(keys.member(&pg3))]).await.unwrap();
    assert_eq!(store.let_leave(&pg3, &name("pg2"), &record, 0).await.unwrap(), Outcome::Refused, "another leads");
    assert!(store.let_leave(&pg3, &pg1, &record, 0).await.unwrap().applied());
    assert_eq!(store.let_leave(&pg3, &pg1, &record, 0).await.unwrap(), Outcome::Refused, "once is enough");

    store.set_floor(&pg3, Lsn(77)).await.unwrap();
    store.give_order(&pg3, &OrderRecord { order: "restart".to_owned(), ..OrderRecord::default() }).await.unwrap();
    let counted = store.read().await.unwrap();
    assert_eq!(next(&counted.cluster), None);
    store.commit(&[], &[Write::put(keys.sync(), sync(1, &["pg2"]).to_string())]).await.unwrap();
    // What was decided from an older record is refused.
    assert_eq!(store.finish_departure(&pg1, Term(1), &pg3, &counted).await.unwrap(), Outcome::Refused);
    let seen = store.read().await.unwrap();
    assert_eq!(next(&seen.cluster), Some(Parting::Done(pg3.clone())));
    assert_eq!(store.finish_departure(&name("pg2"), Term(1), &pg3, &seen).await.unwrap(), Outcome::Refused);
    assert!(store.finish_departure(&pg1, Term(1), &pg3, &seen).await.unwrap().applied());
    let seen = store.read().await.unwrap();
    assert!(seen.cluster.floors.is_empty() && seen.cluster.orders.is_empty());
    assert_eq!(seen.departure_records[&pg3], record.done_in(Term(1)));

    let here = MemberRecord { conn_url: "postgres://h:1/postgres".to_owned(), ..MemberRecord::default() };
    assert_eq!(store.void_departure(&pg1, Term(1), &pg3).await.unwrap(), Outcome::Refused, "it has not come");
    store.commit(&[], &[Write::put(keys.member(&pg3), here.to_json())]).await.unwrap();
    assert_eq!(store.forget_ballot(&pg1, Term(1), &pg3, &seen).await.unwrap(), Outcome::Refused, "it is there");
    assert!(store.void_departure(&pg1, Term(1), &pg3).await.unwrap().applied());
    assert!(store.read().await.unwrap().cluster.departures.is_empty());
}
