//! Leases: kept, adopted, lost and given up.

use std::time::Duration;

use consensus::{Adopted, BootInstant, Error, Lease, LeaseKeeper, Write};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::etcd::{Etcd, within};

const TTL: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_millis(300);

fn keeper(etcd: &Etcd, adopted: Adopted) -> LeaseKeeper {
    LeaseKeeper::start(etcd.options(), TTL, HEARTBEAT, adopted).unwrap()
}

async fn until(lease: &mut watch::Receiver<Lease>, wanted: impl FnMut(&Lease) -> bool) -> Lease {
    *timeout(Duration::from_secs(10), lease.wait_for(wanted)).await.expect("in time").unwrap()
}

#[tokio::test]
async fn the_member_lease_is_kept_and_counted_from_before_it_was_sent() {
    let etcd = Etcd::start(1).await;
    let keeper = keeper(&etcd, Adopted::default());
    let mut member = keeper.member();
    let first = until(&mut member, |lease| lease.alive().is_some()).await.alive().unwrap();
    let later =
        until(&mut member, |lease| lease.alive().is_some_and(|state| state.renewals >= 10)).await.alive().unwrap();
    assert_eq!((first.id, first.ttl, later.failures), (later.id, TTL, 0));
    assert!(later.expires_at > first.expires_at);
    assert!(later.expires_at < BootInstant::now() + TTL, "never later than from now on");
    let left = etcd.client().await.lease_time_to_live(later.id, None).await.unwrap();
    assert!(left.ttl() >= 1, "etcd agrees: {}", left.ttl());
}

#[tokio::test]
async fn the_next_incarnation_adopts_both_leases() {
    let etcd = Etcd::start(1).await;
    let first = keeper(&etcd, Adopted::default());
    let lock = first.ensure_lock_lease().await.unwrap();
    assert_eq!(first.ensure_lock_lease().await, Ok(lock), "one is enough");
    let member = until(&mut first.member(), |lease| lease.alive().is_some()).await.id();
    drop(first);
    let second = keeper(&etcd, Adopted { member, lock: Some(lock) });
    assert_eq!(until(&mut second.member(), |lease| lease.alive().is_some()).await.id(), member);
    let adopted = until(&mut second.lock(), |lease| lease.alive().is_some()).await.alive().unwrap();
    assert_eq!((adopted.id, adopted.ttl), (lock, TTL));
}

#[tokio::test]
async fn leases_that_are_gone_are_not_adopted() {
    let etcd = Etcd::start(1).await;
    let second = keeper(&etcd, Adopted { member: Some(4711), lock: Some(4712) });
    assert_eq!(until(&mut second.lock(), |lease| matches!(lease, Lease::Lost(_))).await, Lease::Lost(4712));
    let member = until(&mut second.member(), |lease| lease.alive().is_some()).await.id();
    assert_ne!(member, Some(4711));
    assert!(second.ensure_lock_lease().await.is_ok(), "a new one on demand");
}

#[tokio::test]
async fn a_lost_lease_is_noticed_and_only_the_member_lease_comes_back_by_itself() {
    let etcd = Etcd::start(1).await;
    let keeper = keeper(&etcd, Adopted::default());
    let lock = keeper.ensure_lock_lease().await.unwrap();
    let member = until(&mut keeper.member(), |lease| lease.alive().is_some()).await.id().unwrap();
    let mut client = etcd.client().await;
    client.lease_revoke(lock).await.unwrap();
    client.lease_revoke(member).await.unwrap();
    assert_eq!(until(&mut keeper.lock(), |lease| lease.alive().is_none()).await, Lease::Lost(lock));
    until(&mut keeper.member(), |lease| lease.id().is_some_and(|id| id != member)).await;
    assert_eq!(*keeper.lock().borrow(), Lease::Lost(lock));
    assert_ne!(keeper.ensure_lock_lease().await.unwrap(), lock);
}

#[tokio::test]
async fn giving_up_the_lock_lease_frees_what_is_bound_to_it() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let keeper = keeper(&etcd, Adopted::default());
    let lock = keeper.ensure_lock_lease().await.unwrap();
    store.commit(&[], &[Write::put_leased(store.keys().leader(), "pg1", lock)]).await.unwrap();
    keeper.drop_lock_lease().await.unwrap();
    assert_eq!(store.read().await.unwrap().cluster.leader, None);
    assert_eq!(*keeper.lock().borrow(), Lease::Idle);
    let member = until(&mut keeper.member(), |lease| lease.alive().is_some()).await.id().unwrap();
    keeper.drop_member_lease().await.unwrap();
    assert_eq!(etcd.client().await.lease_time_to_live(member, None).await.unwrap().ttl(), -1);
}

#[tokio::test]
async fn without_etcd_the_time_runs_out_and_with_it_the_lease_comes_back() {
    let etcd = Etcd::start(1).await;
    let keeper = keeper(&etcd, Adopted::default());
    let mut member = keeper.member();
    let first = until(&mut member, |lease| lease.alive().is_some()).await.id();
    etcd.freeze(0);
    let run_out = async || member.borrow().alive().is_some_and(|state| state.expires_at.remaining().is_zero());
    within(Duration::from_secs(5), "the lease has run out here", run_out).await;
    assert!(matches!(keeper.ensure_lock_lease().await, Err(Error::Unreachable(_))));
    etcd.thaw(0);
    let back =
        until(&mut member, |lease| lease.alive().is_some_and(|state| !state.expires_at.remaining().is_zero())).await;
    assert!(back.alive().unwrap().failures > 0);
    println!("lease {first:?} before, {:?} after", back.id());
}

#[tokio::test]
async fn a_lease_that_a_write_finds_gone_counts_for_nothing_at_once() {
    let etcd = Etcd::start(1).await;
    let long = Duration::from_secs(60);
    let keeper = LeaseKeeper::start(etcd.options(), long, long, Adopted::default()).unwrap();
    let store = etcd.store();
    let lock = keeper.ensure_lock_lease().await.unwrap();
    etcd.client().await.lease_revoke(lock).await.unwrap();
    let written = store.commit(&[], &[Write::put_leased(store.keys().leader(), "pg1", lock)]).await;
    assert!(matches!(written, Err(Error::LeaseGone(_))), "{written:?}");
    assert_eq!(keeper.ensure_lock_lease().await, Ok(lock), "the next renewal is a minute away");
    keeper.lock_lease_is_gone(lock).await;
    assert_eq!(*keeper.lock().borrow(), Lease::Lost(lock));
    let next = keeper.ensure_lock_lease().await.unwrap();
    assert_ne!(next, lock);
    keeper.lock_lease_is_gone(lock).await;
    assert_eq!(keeper.lock().borrow().id(), Some(next), "what is said of another lease does not matter");
}

#[tokio::test]
async fn a_doubt_is_cleared_up_without_waiting_for_the_heartbeat() {
    let etcd = Etcd::start(1).await;
    let long = Duration::from_secs(60);
    let keeper = LeaseKeeper::start(etcd.options(), long, long, Adopted::default()).unwrap();
    let mut member = keeper.member();
    let first = until(&mut member, |lease| lease.alive().is_some()).await.id().unwrap();
    etcd.client().await.lease_revoke(first).await.unwrap();
    keeper.check();
    until(&mut member, |lease| lease.id().is_some_and(|id| id != first)).await;
}
