//! Three etcd members, one of which is frozen or killed: leases, watches and writes carry on with the others.

use std::time::Duration;

use consensus::{Adopted, ClusterWatch, EtcdOptions, LeaseKeeper, Outcome, Store};
use decision::names::Lsn;
use tokio::time::{Instant, sleep};

use crate::etcd::{Etcd, REQUEST_TIMEOUT, claim, name, store_at};
use crate::watching::until;

const TTL: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The fault strikes the member that everything of ours is connected to.
async fn life_goes_on(etcd: &Etcd, struck: usize, strike: impl Fn(&Etcd, usize)) {
    let mut urls = etcd.urls().to_vec();
    urls.rotate_left(struck);
    let options = EtcdOptions { endpoints: urls.clone(), ..etcd.options() };
    let keeper = LeaseKeeper::start(options, TTL, HEARTBEAT, Adopted::default()).unwrap();
    let lock = keeper.ensure_lock_lease().await.unwrap();
    let store = store_at(&urls);
    let watch = ClusterWatch::start(store_at(&urls), HEARTBEAT);
    let mut views = watch.views();
    assert!(store.acquire(&name("pg1"), lock, &claim(0, "pg2"), 0).await.unwrap().applied());
    until(&mut views, |cluster| cluster.leader == Some(name("pg1"))).await;

    strike(etcd, struck);
    let began = Instant::now();
    sleep(Duration::from_millis(50)).await;
    let elsewhere = store_at(&urls[1..]);
    write_until_applied(&elsewhere, 1).await;
    let regained = began.elapsed();
    until(&mut views, |cluster| cluster.floors.get(&name("pg9")) == Some(&Lsn(1))).await;
    let noticed = began.elapsed();
    write_until_applied(&store, 2).await;
    println!(
        "struck member {struck}: written elsewhere after {regained:?}, seen after {noticed:?}, written by us after {:?}",
        began.elapsed()
    );
    assert!(noticed < regained.max(HEARTBEAT + REQUEST_TIMEOUT * 2) + Duration::from_secs(2), "{noticed:?}");

    while began.elapsed() < TTL + HEARTBEAT * 2 {
        let state = keeper.lock().borrow().alive().expect("the lock lease lives");
        assert!(!state.expires_at.remaining().is_zero(), "the lock ran out {:?} after the fault", began.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    let seen = store.read().await.unwrap();
    assert_eq!((seen.cluster.leader, seen.leader_lease), (Some(name("pg1")), lock));
    let before = Instant::now();
    write_until_applied(&store, 3).await;
    until(&mut views, |cluster| cluster.floors.get(&name("pg9")) == Some(&Lsn(3))).await;
    assert!(before.elapsed() < Duration::from_secs(1), "the watch is prompt again: {:?}", before.elapsed());
}

async fn write_until_applied(store: &Store, lsn: u64) {
    let began = Instant::now();
    loop {
        match store.set_floor(&name("pg9"), Lsn(lsn)).await {
            Ok(Outcome::Applied { .. }) => return,
            Ok(Outcome::Refused) => panic!("nothing was guarded"),
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_frozen_follower_is_left_behind() {
    let etcd = Etcd::start(3).await;
    let follower = (etcd.leader().await + 1) % 3;
    life_goes_on(&etcd, follower, Etcd::freeze).await;
}

#[tokio::test]
async fn a_frozen_etcd_leader_is_left_behind() {
    let etcd = Etcd::start(3).await;
    let leader = etcd.leader().await;
    life_goes_on(&etcd, leader, Etcd::freeze).await;
}

#[tokio::test]
async fn a_killed_etcd_leader_is_left_behind() {
    let etcd = Etcd::start(3).await;
    let leader = etcd.leader().await;
    life_goes_on(&etcd, leader, Etcd::kill).await;
}
