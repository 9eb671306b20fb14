//! Waiting for whatever comes first: news from etcd, a lease, a beat of the leader that is missed, the postmaster's death, the end of
//! the action, or the heartbeat.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::{ClusterView, Lease, Snapshot};
use decision::Decision;
use decision::action::Action;
use decision::reason::Reason;
use decision::view::{Server, Sound, View};
use tokio::sync::watch;

use crate::body::Body;
use crate::task::{BREATHER, Ended};

/// How often a candidate of a switchover looks at its replay, so that the old leader hears of the last byte at once.
const CLOSE_WATCH: Duration = Duration::from_millis(2);
/// How often a server that is on its way somewhere, or a leader that has fallen silent, is looked at.
const TRANSIENT_WATCH: Duration = Duration::from_millis(10);
/// How long a standby that does not stream yet is looked at that often.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);
/// How often a long action that changes what is seen (start, clone) is looked at.
const JOB_WATCH: Duration = Duration::from_millis(250);

impl Body {
    /// How long to wait when nothing happens.
    pub(crate) fn pause(&self, seen: &View, decision: &Decision) -> Duration {
        let timing = &seen.settings.timing;
        let stands_ready = self.hands.spare_lease.load(Ordering::SeqCst) != 0;
        let asked = seen.cluster.now().is_some_and(|cluster| cluster.request.is_some());
        if matches!(decision.reason, Reason::AwaitingCandidate { .. }) {
            return TRANSIENT_WATCH;
        }
        if stands_ready && asked || matches!(decision.reason, Reason::AwaitingHandover { .. }) {
            return CLOSE_WATCH;
        }
        let transient = matches!(
            seen.postgres.last().map(|postgres| &postgres.server),
            Some(Server::Starting { .. } | Server::Stopping | Server::Hung { .. })
        );
        let silent = matches!(seen.hearing.agent, Sound::Silent { .. } | Sound::Gone);
        // A standby that has just gone over streams within milliseconds, and others may be waiting for that.
        let arriving = seen.ages.not_streaming.is_some_and(|age| age < ARRIVES_WITHIN);
        let mut pause = if transient || silent || arriving { TRANSIENT_WATCH } else { timing.heartbeat };
        if self.tasks.is_busy() {
            pause = pause.min(JOB_WATCH);
        } else if decision.action != Action::Wait {
            pause = pause.min(BREATHER);
        }
        let limits = [
            timing.ballot_window,
            timing.reclaim_after,
            timing.voter_drop_after,
            timing.degrade_after,
            timing.retry_after,
        ];
        // The end of a promise is no event.
        if let Some(promise) = &seen.promise {
            pause = pause.min(promise.left + Duration::from_millis(1));
        }
        let soonest = self.ages.soonest(&limits).map(|left| left + Duration::from_millis(1));
        pause.min(soonest.unwrap_or(pause))
    }

    /// Waits. The result of the action, if that is what came.
    pub(crate) async fn wait(&mut self, pause: Duration) -> Option<Ended> {
        let news = news(self.cluster.views(), self.seen.clone());
        let lease = another_lease(self.hands.leases.lock(), self.lock_seen);
        let died = async {
            match &mut self.death {
                Some((_, death)) => death.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.tasks.ended() => return Some(ended),
            () = news => {}
            () = lease => {}
            () = self.beats.news() => {}
            () = self.hands.look_now.notified() => {}
            () = self.hands.pulse.news() => {}
            () = self.hands.disk.news() => {}
            () = self.look.news() => {}
            () = died => {
                self.death = None;
                if self.led_before {
                    self.hands.recorder.primary_died();
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
        None
    }
}

/// Resolves when the cluster looks different from what was seen, also if that was so before the waiting began. A mere confirmation
/// is no news.
async fn news(mut views: watch::Receiver<ClusterView>, seen: Option<Arc<Snapshot>>) {
    while alike(seen.as_ref(), views.borrow_and_update().snapshot.as_ref()) {
        if views.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn alike(before: Option<&Arc<Snapshot>>, now: Option<&Arc<Snapshot>>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => {
            Arc::ptr_eq(before, now) || (before.cluster == now.cluster && before.config == now.config)
        }
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Resolves when the lock lease is another one than was seen, or none.
async fn another_lease(mut lock: watch::Receiver<Lease>, seen: Option<i64>) {
    while lock.borrow_and_update().id() == seen {
        if lock.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
