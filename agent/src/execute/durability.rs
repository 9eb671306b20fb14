//! What the leader changes about who must acknowledge: the record in etcd, the list of Postgres, and the commit that proves it, each a step of
//! its own.

use std::time::Duration;

use anyhow::{Context, Result};
use consensus::Snapshot;
use decision::durability::{Policies, Quorum};
use decision::settings::Mode;
use decision::view::SyncRecord;

use super::Effect;
use crate::hands::Hands;

/// How long a marker waits for its acknowledgement before the loop looks again at who is there to acknowledge.
pub(super) const MARK_WITHIN: Duration = Duration::from_secs(2);
/// How long Postgres may take to wait for others.
pub(super) const APPLY_WITHIN: Duration = Duration::from_secs(3);

/// The durability record of my own term, to be changed.
pub fn my_sync(hands: &Hands, seen: &Snapshot) -> Result<SyncRecord> {
    let sync = seen.cluster.sync.clone().filter(|sync| sync.leader == *hands.me());
    sync.context("the durability record is not mine to change")
}

pub(super) async fn record_sync(hands: &Hands, seen: &Snapshot, mode: Mode, policies: Policies) -> Result<Effect> {
    let before = my_sync(hands, seen)?;
    may_record(hands, seen, mode, &policies).await?;
    // No hand-over is under way while this is done, and whoever records anything leads on.
    let sync = SyncRecord { mode, policies, heir: None, released: false, ..before };
    Ok(Effect::of(hands.store.record_sync(hands.me(), sync.term, &sync, seen.sync_revision).await?))
}

async fn may_record(hands: &Hands, seen: &Snapshot, mode: Mode, policies: &Policies) -> Result<()> {
    let (seen, policies) = (seen.clone(), policies.clone());
    hands.noting(move |promises| promises.reign.may_record(&seen, mode, policies)).await
}

pub(super) async fn apply_sync(hands: &Hands, seen: &Snapshot, quorum: &Quorum) -> Result<Effect> {
    let term = my_sync(hands, seen)?.term;
    hands.instance.apply_sync(quorum, term, APPLY_WITHIN).await?;
    Ok(Effect::LOCAL)
}

pub(super) async fn prove_sync(hands: &Hands, seen: &Snapshot, mode: Mode, quorum: Quorum) -> Result<Effect> {
    let before = my_sync(hands, seen)?;
    hands.instance.prove(before.term, MARK_WITHIN).await?;
    let k = quorum.k;
    let policies = vec![quorum];
    may_record(hands, seen, mode, &policies).await?;
    let sync = SyncRecord { mode, policies, handover_lsn: None, reclaimed: false, ..before };
    let outcome = hands.store.record_sync(hands.me(), sync.term, &sync, seen.sync_revision).await?;
    if k > 0 && outcome.applied() {
        hands.recorder.redundant();
    }
    Ok(Effect::of(outcome))
}
