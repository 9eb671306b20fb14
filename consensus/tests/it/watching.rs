//! The picture of the cluster: prompt, fresh, cheap, and right again after every disturbance.

use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::{Adopted, BootInstant, ClusterView, ClusterWatch, LeaseKeeper, Write};
use decision::names::{Lsn, Term};
use decision::view::Seen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::etcd::{Etcd, claim, name, store_at};
use crate::proxy::Proxy;

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Waits for a picture, and returns how long that took.
pub async fn until(
    views: &mut watch::Receiver<ClusterView>,
    wanted: impl Fn(&decision::view::Cluster) -> bool,
) -> Duration {
    let began = Instant::now();
    let seen = |view: &ClusterView| view.snapshot.as_ref().is_some_and(|snapshot| wanted(&snapshot.cluster));
    timeout(Duration::from_secs(10), views.wait_for(seen)).await.expect("in time").unwrap();
    began.elapsed()
}

#[tokio::test]
async fn a_change_of_leader_arrives_at_once() {
    let etcd = Etcd::start(1).await;
    let watch = ClusterWatch::start(etcd.store(), HEARTBEAT * 10);
    let mut views = watch.views();
    until(&mut views, |cluster| cluster.leader.is_none()).await;
    sleep(Duration::from_millis(300)).await;
    let lease = etcd.lease(30).await;
    etcd.store().acquire(&name("pg1"), lease, &claim(0, "pg2"), 0).await.unwrap();
    let took = until(&mut views, |cluster| cluster.leader == Some(name("pg1")) && cluster.term == Term(1)).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    etcd.client().await.lease_revoke(lease).await.unwrap();
    let took = until(&mut views, |cluster| cluster.leader.is_none()).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn slow_facts_wake_nobody_and_arrive_with_the_heartbeat() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store();
    let watch = ClusterWatch::start(etcd.store(), HEARTBEAT);
    let mut views = watch.views();
    until(&mut views, |_| true).await;
    store.commit(&[], &[Write::put(store.keys().status(), r#"{"optime":7}"#)]).await.unwrap();
    let took = until(&mut views, |cluster| cluster.leader_lsn == Some(Lsn(7))).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    store.commit(&[], &[Write::put(store.keys().status(), r#"{"optime":8}"#)]).await.unwrap();
    watch.refresh();
    let took = until(&mut views, |cluster| cluster.leader_lsn == Some(Lsn(8))).await;
    assert!(took < Duration::from_millis(600), "asked for: {took:?}");
}

#[tokio::test]
async fn a_compaction_under_a_watch_is_survived() {
    let etcd = Etcd::start(1).await;
    let proxy = Proxy::before(&etcd.urls()[0]).await;
    proxy.faults.delay_requests_ms.store(250, Ordering::SeqCst);
    let watch = ClusterWatch::start(store_at(std::slice::from_ref(&proxy.url)), HEARTBEAT * 10);
    let mut views = watch.views();
    until(&mut views, |_| true).await;
    // The picture is there and the watch that follows it is still on its way: its first revision is compacted before it arrives.
    let store = etcd.store();
    for lsn in 1..=5 {
        store.set_floor(&name("pg1"), Lsn(lsn)).await.unwrap();
    }
    let revision = store.read().await.unwrap().cluster.revision;
    etcd.client().await.compact(revision, None).await.unwrap();
    let took = until(&mut views, |cluster| cluster.floors.get(&name("pg1")) == Some(&Lsn(5))).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    store.set_floor(&name("pg1"), Lsn(6)).await.unwrap();
    let took = until(&mut views, |cluster| cluster.floors.get(&name("pg1")) == Some(&Lsn(6))).await;
    assert!(took < Duration::from_secs(4), "the next watch works: {took:?}");
}

#[tokio::test]
async fn an_old_picture_says_how_old_it_is() {
    let etcd = Etcd::start(1).await;
    let proxy = Proxy::before(&etcd.urls()[0]).await;
    let watch = ClusterWatch::start(store_at(std::slice::from_ref(&proxy.url)), HEARTBEAT / 4);
    let mut views = watch.views();
    let seen = |views: &watch::Receiver<ClusterView>| views.borrow().seen(BootInstant::now(), HEARTBEAT);
    assert!(matches!(seen(&views), Seen::Never { .. }));
    until(&mut views, |_| true).await;
    assert!(matches!(seen(&views), Seen::Now(_)));
    proxy.faults.lose_answers.store(true, Ordering::SeqCst);
    timeout(Duration::from_secs(8), views.wait_for(|view| view.last_error.is_some())).await.unwrap().unwrap();
    sleep(HEARTBEAT).await;
    assert!(matches!(seen(&views), Seen::Before { age, .. } if age > HEARTBEAT));
    proxy.faults.refuse.store(true, Ordering::SeqCst);
    etcd.store().set_floor(&name("pg1"), Lsn(1)).await.unwrap();
    sleep(HEARTBEAT).await;
    proxy.faults.lose_answers.store(false, Ordering::SeqCst);
    proxy.faults.refuse.store(false, Ordering::SeqCst);
    until(&mut views, |cluster| cluster.floors.contains_key(&name("pg1"))).await;
    assert!(matches!(seen(&views), Seen::Now(_)));
    assert_eq!(views.borrow().last_error, None);
}

#[tokio::test]
async fn an_idle_cluster_writes_nothing_and_reads_little() {
    let etcd = Etcd::start(1).await;
    let keeper = LeaseKeeper::start(etcd.options(), Duration::from_secs(5), HEARTBEAT, Adopted::default()).unwrap();
    keeper.ensure_lock_lease().await.unwrap();
    let watch = ClusterWatch::start(etcd.store(), HEARTBEAT);
    let mut views = watch.views();
    until(&mut views, |_| true).await;
    let (revision, reads) = (etcd.store().read().await.unwrap().cluster.revision, reads(&etcd).await);
    let confirmed_at = views.borrow().confirmed_at;
    sleep(HEARTBEAT * 4).await;
    let reads = self::reads(&etcd).await - reads;
    assert!(reads <= 5, "{reads} reads in 4 heartbeats");
    assert_eq!(etcd.store().read().await.unwrap().cluster.revision, revision);
    let confirmed = views.borrow().confirmed_at.since(confirmed_at);
    assert!(confirmed > HEARTBEAT * 2, "{confirmed:?}");
}

/// How many ranges etcd has read since it started.
async fn reads(etcd: &Etcd) -> u64 {
    let mut stream = TcpStream::connect(etcd.urls()[0].trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let line = page
        .lines()
        .find(|line| line.starts_with("etcd_mvcc_range_total") || line.starts_with("etcd_debugging_mvcc_range_total"));
    let value: f64 = line.expect("the metric").rsplit(' ').next().unwrap().parse().unwrap();
    value as u64
}
