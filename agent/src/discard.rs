//! What a rewind throws away is counted before it goes: only the returning member knows how much it had for itself. The count goes on
//! the record of the transition that ended its timeline, so that "what was lost?" has a number and not a bound.

use anyhow::{Context, Result};
use consensus::Snapshot;
use consensus::records::{Discarded, Transition};
use decision::names::{Lsn, Timeline};
use decision::view::Data;
use tokio_util::sync::CancellationToken;

use crate::hands::Hands;

/// Counts what is beyond the fork. `None`: the fork is not known, as on a timeline that never was in the leader's history.
///
/// # Errors
/// The WAL cannot be read; the rewind will tell more.
pub async fn count(
    hands: &Hands,
    seen: &Snapshot,
    cancel: &CancellationToken,
) -> Result<Option<(Timeline, Discarded)>> {
    let Data::Present(disk) = hands.instance.observe().await?.postgres.data else { return Ok(None) };
    let Some(fork) = ended_at(seen, disk.timeline) else { return Ok(None) };
    let beyond = hands.instance.beyond(fork, cancel).await?;
    let member = hands.me().to_string();
    Ok(Some((disk.timeline, Discarded { member, bytes: beyond.bytes, transactions: beyond.transactions })))
}

/// Where the timeline ended, by the newest row about it.
fn ended_at(seen: &Snapshot, timeline: Timeline) -> Option<Lsn> {
    seen.cluster.history.iter().rev().find(|entry| entry.timeline == timeline).map(|entry| entry.ended_at)
}

/// Puts the count on the record of the transition that ended `timeline`.
///
/// # Errors
/// etcd does not answer, or has no such record any more.
pub async fn record(hands: &Hands, timeline: Timeline, discarded: Discarded) -> Result<()> {
    let (records, _) = hands.store.transitions().await?;
    let ended = |record: &&Transition| record.timeline_before == Some(timeline.0) && record.kind != "restart";
    let ending = records.iter().rev().find(ended).context("no transition record names the timeline that ended")?;
    hands
        .store
        .amend_transition(&ending.id, |record| {
            record.discarded.retain(|known| known.member != discarded.member);
            record.discarded.push(discarded.clone());
        })
        .await?;
    Ok(())
}
