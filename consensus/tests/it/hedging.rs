//! One of three members frozen, slow or cut off from the other two: renewals go on through the others, and do not go back to it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::{Adopted, EtcdOptions, LeaseKeeper, LeaseState};
use tokio::time::{Instant, sleep};

use crate::etcd::Etcd;
use crate::proxy::Proxy;

const TTL: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What a busy machine may add to a renewal that goes through the second endpoint.
const BUSY: Duration = Duration::from_millis(900);

struct Scene {
    etcd: Etcd,
    proxies: Vec<Proxy>,
    keeper: LeaseKeeper,
}

impl Scene {
    /// Three members behind proxies; the keeper asks `first` first.
    async fn set(first: usize) -> Self {
        let etcd = Etcd::start(3).await;
        let mut proxies = Vec::new();
        for url in etcd.urls() {
            proxies.push(Proxy::before(url).await);
        }
        let mut endpoints: Vec<String> = proxies.iter().map(|proxy| proxy.url.clone()).collect();
        endpoints.rotate_left(first);
        let options = EtcdOptions { endpoints, ..etcd.options() };
        let keeper = LeaseKeeper::start(options, TTL, HEARTBEAT, Adopted::default()).unwrap();
        keeper.ensure_lock_lease().await.unwrap();
        Self { etcd, proxies, keeper }
    }

    fn lock(&self) -> LeaseState {
        self.keeper.lock().borrow().alive().expect("the lock lease lives")
    }

    /// The least time that was left of the lease within `span`, and how many questions went unanswered.
    async fn least_left(&self, span: Duration) -> (Duration, u64) {
        let (began, before) = (Instant::now(), self.lock());
        let mut least = TTL;
        while began.elapsed() < span {
            least = least.min(self.lock().expires_at.remaining());
            sleep(Duration::from_millis(10)).await;
        }
        let after = self.lock();
        assert_eq!(after.id, before.id);
        assert!(after.renewals > before.renewals, "{before:?}, {after:?}");
        (least, after.failures - before.failures)
    }
}

#[tokio::test]
async fn a_slow_member_costs_a_tenth_of_a_second_once() {
    let scene = Scene::set(0).await;
    scene.proxies[0].faults.delay_requests_ms.store(400, Ordering::SeqCst);
    let (least, failures) = scene.least_left(Duration::from_secs(6)).await;
    println!("slow member: {least:?} left at least, {failures} questions unanswered");
    assert!(least > TTL - HEARTBEAT - BUSY, "{least:?}");
    assert_eq!(failures, 0, "the slow member was left before its answer was late");
}

#[tokio::test]
async fn a_member_that_swallows_everything_is_not_asked_again() {
    let scene = Scene::set(0).await;
    for faults in [&scene.proxies[0].faults, &scene.proxies[1].faults] {
        faults.lose_requests.store(true, Ordering::SeqCst);
        let (least, failures) = scene.least_left(Duration::from_secs(4)).await;
        println!("silent member: {least:?} left at least, {failures} questions unanswered");
        assert!(least > TTL - HEARTBEAT - BUSY, "{least:?}");
        faults.lose_requests.store(false, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_frozen_follower_costs_a_tenth_of_a_second_once() {
    let scene = Scene::set(0).await;
    let follower = (scene.etcd.leader().await + 1) % 3;
    scene.etcd.freeze(follower);
    let (least, failures) = scene.least_left(Duration::from_secs(6)).await;
    println!("frozen follower: {least:?} left at least, {failures} questions unanswered");
    assert!(least > TTL - HEARTBEAT - BUSY, "{least:?}");
}

#[tokio::test]
async fn a_frozen_leader_costs_no_more_than_its_election() {
    let scene = Scene::set(0).await;
    let leader = scene.etcd.leader().await;
    scene.etcd.freeze(leader);
    let (least, failures) = scene.least_left(Duration::from_secs(8)).await;
    println!("frozen leader: {least:?} left at least, {failures} questions unanswered");
    // Elections take 0.5 to 1 s here; a renewal that hangs on the frozen leader is followed by another one.
    assert!(least > Duration::from_secs(1), "{least:?}");
}
