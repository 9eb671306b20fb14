//! A standby becomes primary: it stands ready while the old leader still leads, is promoted when it holds the lock, and proves its reign by a
//! marker.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use consensus::Snapshot;
use decision::durability::{Quorum, quorum_for_new_leader};
use decision::names::{Term, Timeline};
use decision::view::SyncRecord;

use super::Effect;
use super::durability::{APPLY_WITHIN, MARK_WITHIN, my_sync};
use crate::hands::Hands;

/// How long a promotion may take; it has to replay what was received.
const PROMOTE_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn stand_ready(hands: &Hands, seen: &Snapshot) -> Result<Effect> {
    let lease = hands.leases.ensure_lock_lease().await?;
    // Where another site is followed the lock alone changes hands, and nobody is promoted.
    if !seen.cluster.follows() {
        // The old leader will wait until everything is replayed here, and writes wait with it.
        hands.instance.clear_the_way_for_replay().await?;
        let quorum = quorum_for_new_leader(hands.me(), &seen.cluster, &hands.settings(seen));
        hands.instance.expect_promotion(&quorum, seen.cluster.term.next(), APPLY_WITHIN).await?;
    }
    hands.spare_lease.store(lease, Ordering::SeqCst);
    Ok(Effect::LOCAL)
}

pub(super) async fn stand_down(hands: &Hands) -> Result<Effect> {
    hands.drop_spare_lease().await;
    hands.instance.expect_no_promotion(APPLY_WITHIN).await?;
    Ok(Effect::LOCAL)
}

pub(super) async fn promote(
    hands: &Hands,
    seen: &Snapshot,
    term: Term,
    timeline: Timeline,
    quorum: &Quorum,
) -> Result<Effect> {
    hands.fence.arm_confirmed().await?;
    hands.spare_lease.store(0, Ordering::SeqCst);
    if let Some(standby) = hands.instance.observe().await?.postgres.server.as_standby() {
        let newest = hands.instance.newest_timeline(standby.timeline)?;
        if newest >= timeline {
            // A promotion that was cut off has used the number up. It must not serve twice, so the record takes the next one first.
            return renumber(hands, seen, Timeline(newest.0 + 1)).await;
        }
        hands.instance.reserve_timeline(standby.timeline, timeline)?;
    }
    hands.instance.promote(quorum, term, PROMOTE_WITHIN).await?;
    hands.recorder.lap("promote");
    Ok(Effect::LOCAL)
}

async fn renumber(hands: &Hands, seen: &Snapshot, timeline: Timeline) -> Result<Effect> {
    let sync = SyncRecord { timeline, ..my_sync(hands, seen)? };
    tracing::info!(%timeline, "the new timeline takes another number");
    Ok(Effect::of(hands.store.record_sync(hands.me(), sync.term, &sync, seen.sync_revision).await?))
}

pub(super) async fn mark(hands: &Hands, seen: &Snapshot, term: Term) -> Result<Effect> {
    hands.instance.mark(term, hands.me(), MARK_WITHIN).await?;
    hands.recorder.writable();
    match seen.cluster.sync.clone().filter(|sync| sync.reclaimed && sync.term == term) {
        Some(sync) => {
            let settled = SyncRecord { reclaimed: false, ..sync };
            Ok(Effect::of(hands.store.record_sync(hands.me(), term, &settled, seen.sync_revision).await?))
        }
        None => Ok(Effect::LOCAL),
    }
}
