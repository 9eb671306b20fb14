//! Two things are timed for whoever watches: how soon etcd confirms a lease, and, where `write_probe.every` asks for it, how soon a commit on this
//! primary is acknowledged. Both run beside the decisions, which are taken on other signs.

use std::sync::Arc;
use std::time::Duration;

use consensus::Lease;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::hands::Hands;
use crate::published::Board;

/// A commit that has not been acknowledged within this is a failure; another may follow.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// Begins to time both.
pub fn start(hands: &Arc<Hands>, board: &Arc<Board>) {
    tokio::spawn(renewals(Arc::clone(hands), "member", hands.leases.member()));
    tokio::spawn(renewals(Arc::clone(hands), "leader", hands.leases.lock()));
    if let Some(every) = hands.config.write_probe_every {
        tokio::spawn(writes(Arc::clone(hands), Arc::clone(board), every));
    }
}

/// Counts what the keeper of the leases says of each renewal.
async fn renewals(hands: Arc<Hands>, which: &'static str, mut lease: watch::Receiver<Lease>) {
    let (mut renewed, mut failed) = (0, 0);
    while lease.changed().await.is_ok() {
        let Some(now) = lease.borrow_and_update().alive() else { continue };
        if now.renewals > renewed {
            hands.metrics.lease_renewed(which, now.renewal_latency);
        }
        if now.failures > failed {
            hands.metrics.lease_unanswered(which, now.failures - failed);
        }
        (renewed, failed) = (now.renewals, now.failures);
    }
}

/// Tries a commit again and again, while this node says of itself that it takes writes.
async fn writes(hands: Arc<Hands>, board: Arc<Board>, every: Duration) {
    let mut turn = interval(every);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        if !board.load().writable() {
            continue;
        }
        let probed = hands.instance.write_probe(ACKNOWLEDGED_WITHIN).await;
        // A server that was told to stop meanwhile has not failed anybody.
        if probed.is_err() && !board.load().writable() {
            continue;
        }
        if let Err(error) = &probed {
            tracing::warn!(%error, "a probe of writes was not acknowledged");
        }
        hands.metrics.write_probed(probed.ok());
    }
}
