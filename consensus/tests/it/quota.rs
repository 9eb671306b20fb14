//! etcd without space: leases live on and reads go on, so a leader stays; writes are refused with a message that names the mend.

use std::time::Duration;

use consensus::{Adopted, ClusterWatch, Error, LeaseKeeper};
use decision::names::{Lsn, Term};
use tokio::time::sleep;

use crate::etcd::{Etcd, claim, name, within};

#[tokio::test]
async fn without_space_the_leader_stays_and_everybody_is_told_why_nobody_can_take_over() {
    let etcd = Etcd::spawn(1, "http", &["--quota-backend-bytes", "500000"]);
    let store = etcd.store();
    within(Duration::from_secs(20), "etcd answers", async || store.read().await.is_ok()).await;
    let heartbeat = Duration::from_millis(300);
    let keeper = LeaseKeeper::start(etcd.options(), Duration::from_secs(2), heartbeat, Adopted::default()).unwrap();
    let lock = keeper.ensure_lock_lease().await.unwrap();
    assert!(store.acquire(&name("pg1"), lock, &claim(0, "pg2"), 0).await.unwrap().applied());
    let mut client = etcd.client().await;
    while client.put("filling", vec![b'x'; 50_000], None).await.is_ok() {}
    let refused = store.write_status(&name("pg1"), Term(1), Lsn(7), None).await;
    let Err(Error::Rejected(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("etcdctl alarm disarm"), "{why}");
    let watch = ClusterWatch::start(etcd.store(), heartbeat);
    let views = watch.views();
    let told = async || {
        let snapshot = views.borrow().snapshot.clone();
        snapshot.is_some_and(|snapshot| snapshot.problems.iter().any(|problem| problem.why.contains("no space left")))
    };
    within(Duration::from_secs(10), "the alarm is told", told).await;
    sleep(Duration::from_secs(4)).await;
    let seen = store.read().await.unwrap();
    assert_eq!((seen.cluster.leader, seen.leader_lease), (Some(name("pg1")), lock));
    assert!(keeper.lock().borrow().alive().is_some_and(|state| !state.expires_at.remaining().is_zero()));
}
