//! What a rewind throws away is counted before it goes: only the returning member knows how much it had for itself. The count goes on
//! the record of the transition that ended its timeline, so that "what was lost?" has a number and not a bound.

use anyhow::Result;
use consensus::Snapshot;
use consensus::records::{Discarded, Transition};
use decision::names::Timeline;
use decision::shared_up_to;
use decision::view::Data;
use tokio_util::sync::CancellationToken;

use crate::hands::Hands;

/// Counts what is beyond the fork. `None`: the fork is not known.
///
/// # Errors
/// The WAL cannot be read; the rewind will tell more.
pub async fn count(
    hands: &Hands,
    seen: &Snapshot,
    cancel: &CancellationToken,
) -> Result<Option<(Timeline, Discarded)>> {
    let Data::Present(disk) = hands.instance.observe().await?.postgres.data else { return Ok(None) };
    let ancestors = hands.instance.local_history(disk.timeline).unwrap_or_default();
    let ancestors: Vec<_> = ancestors.iter().map(|fork| (fork.timeline, fork.ended_at)).collect();
    let Some(fork) = shared_up_to(&seen.cluster, disk.timeline, &ancestors) else { return Ok(None) };
    let beyond = hands.instance.beyond(fork, cancel).await?;
    let member = hands.me().to_string();
    Ok(Some((disk.timeline, Discarded { member, bytes: beyond.bytes, transactions: beyond.transactions })))
}

/// Before a directory goes that has a timeline above every number in etcd, its number is noted there: no promotion may take it again.
///
/// # Errors
/// The directory cannot be looked at, or etcd does not answer.
pub async fn note_timeline(hands: &Hands, seen: &Snapshot) -> Result<()> {
    let Data::Present(disk) = hands.instance.observe().await?.postgres.data else { return Ok(()) };
    let recorded = seen.cluster.sync.as_ref().map_or(Timeline(0), |sync| sync.timeline);
    if disk.timeline > recorded.max(seen.cluster.stray_timeline) {
        tracing::warn!(timeline = %disk.timeline, "a promotion that nobody ordered began a timeline here; its number is not used again");
        hands.store.note_stray_timeline(disk.timeline).await?;
    }
    Ok(())
}

/// Puts the count on the record of the transition that ended `timeline`; where none did, for the timeline is a promotion's that nobody
/// ordered or that did not last, on a record of its own.
///
/// # Errors
/// etcd does not answer.
pub async fn record(hands: &Hands, seen: &Snapshot, timeline: Timeline, discarded: Discarded) -> Result<()> {
    let (records, _) = hands.store.transitions().await?;
    let ended = |record: &&Transition| {
        record.timeline_before == Some(timeline.0) && !["restart", "discard"].contains(&record.kind.as_str())
    };
    let id = match records.iter().rev().find(ended) {
        Some(record) => record.id.clone(),
        None => {
            let own = of_its_own(hands, seen, timeline, &discarded);
            hands.store.create_transition(&own).await?;
            own.id
        }
    };
    hands
        .store
        .amend_transition(&id, |record| {
            record.discarded.retain(|known| known.member != discarded.member);
            record.discarded.push(discarded.clone());
        })
        .await?;
    Ok(())
}

fn of_its_own(hands: &Hands, seen: &Snapshot, timeline: Timeline, discarded: &Discarded) -> Transition {
    let (cluster, me) = (&seen.cluster, hands.me());
    let leader = cluster.leader.as_ref().map(ToString::to_string);
    Transition {
        id: format!("d-{timeline}-{me}"),
        kind: "discard".into(),
        cause: "stray_timeline".into(),
        cause_text: format!(
            "timeline {timeline} of {me} is in no history: nobody ordered its promotion, or it did not last"
        ),
        from: leader.clone(),
        to: leader,
        term_before: cluster.term.0,
        term_after: cluster.term.0,
        timeline_before: Some(timeline.0),
        timeline_after: cluster.sync.as_ref().map(|sync| sync.timeline.0),
        started_at: jiff::Timestamp::now().to_string(),
        outcome: "done".into(),
        lost: "bounded".into(),
        lost_bytes_bound: Some(discarded.bytes),
        ..Transition::default()
    }
}
