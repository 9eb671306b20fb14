//! A site comes to follow another, or leaves it to lead by itself; and the lock of one that follows goes from node to node. In the order that
//! keeps two sites from writing at once: the primary ends before anybody is told that this site follows, and the other site is left before the
//! lead is claimed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use consensus::records::Transition;
use consensus::{HandOver, Outcome, Snapshot};
use decision::action::{StartAs, StopMode};
use decision::durability::Quorum;
use decision::names::MemberName;
use decision::settings::Mode;
use decision::site::Token;
use decision::view::{Initialize, SyncRecord, Upstream};

use super::Effect;
use super::durability::my_sync;
use super::running::{FAST_STOP_WITHIN, start, stop};
use crate::handover::begun;
use crate::hands::Hands;
use crate::task::crash_point;

/// How long one of the checkpoints beforehand may take; clients write meanwhile.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(300);
/// How long replay of what has come from the other site may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// Follows the other site no more, and replays what has come from there.
///
/// # Errors
/// The stream does not end, or what has come is not replayed in time.
pub(super) async fn leave(hands: &Hands) -> Result<Effect> {
    let standby = hands.instance.pledge(LEAVE_WITHIN).await?;
    ensure!(standby.replay_done, "what has come from the other site is not replayed yet");
    tracing::info!(replayed = %standby.replayed, timeline = %standby.timeline, "has left the other site");
    Ok(Effect::LOCAL)
}

/// Stops the primary, records how far it has come and that this site follows, and starts it as the standby of the other.
///
/// # Errors
/// It does not stop cleanly, or the record cannot be written: this site leads on, and its Postgres is started again.
pub(super) async fn demote(hands: &Hands, seen: &Snapshot, to: Upstream) -> Result<Effect> {
    let before = my_sync(hands, seen)?;
    let Initialize::Done(system_id) = seen.cluster.initialize else { bail!("the cluster has no identity") };
    for _ in 0..2 {
        // The second one writes what has become dirty during the first; clients still write.
        hands.instance.checkpoint(CHECKPOINT_WITHIN).await?;
    }
    crash_point("demote_site", "prepared");
    stop(hands, StopMode::Fast).await?;
    let lsn = hands.instance.shutdown_checkpoint(FAST_STOP_WITHIN).await.context("it was not shut down cleanly")?;
    crash_point("demote_site", "stopped");
    let token = Token { system_id, timeline: before.timeline, lsn };
    let sync = SyncRecord {
        mode: Mode::Async,
        policies: vec![Quorum::none()],
        released: false,
        reclaimed: false,
        handover_lsn: None,
        heir: None,
        follows: true,
        ..before
    };
    hands.renounce_promises(seen.sync_revision);
    let outcome = hands.store.demote_site(hands.me(), &sync, seen.sync_revision, &token).await?;
    let Outcome::Applied { revision } = outcome else {
        bail!("this site could not be recorded as following: the cluster changed meanwhile");
    };
    crash_point("demote_site", "recorded");
    tracing::info!(%token, to = %to.host, "this site follows another one from here on");
    let record = demotion(hands, seen, &sync, revision, &token, &to);
    if let Err(error) = hands.store.create_transition(&record).await {
        tracing::warn!(%error, "the demotion is not on record");
    }
    start(hands, seen, StartAs::Standby(Some(to))).await?;
    Ok(Effect { revision })
}

fn demotion(
    hands: &Hands,
    seen: &Snapshot,
    sync: &SyncRecord,
    revision: i64,
    token: &Token,
    to: &Upstream,
) -> Transition {
    let me = Some(hands.me().to_string());
    Transition {
        id: format!("w-{revision}"),
        kind: "site_demotion".into(),
        cause: "operator".into(),
        cause_text: format!("an operator wants this site to follow {}; it ended at {token}", to.host),
        from: me.clone(),
        to: me,
        term_before: seen.cluster.term.0,
        term_after: seen.cluster.term.0,
        timeline_before: Some(sync.timeline.0),
        timeline_after: Some(sync.timeline.0),
        started_at: jiff::Timestamp::now().to_string(),
        outcome: "done".into(),
        lost: "none".into(),
        lost_bytes_bound: Some(0),
        ..Transition::default()
    }
}

/// The lock of a site that follows goes over to `to`: nobody writes, so nothing is waited for.
///
/// # Errors
/// `to` has gone, or etcd does not answer.
pub(super) async fn hand_over(hands: &Hands, seen: &Snapshot, to: &MemberName, request: i64) -> Result<Effect> {
    let before = my_sync(hands, seen)?;
    let candidate = seen.cluster.members.get(to).context("the candidate is not registered any more")?;
    let sync = SyncRecord { leader: to.clone(), term: before.term.next(), released: false, reclaimed: false, ..before };
    let order = HandOver {
        me: hands.me().clone(),
        term: seen.cluster.term,
        to: to.clone(),
        to_lease: candidate.lock_lease,
        new_term: sync.term,
        sync,
        sync_revision: seen.sync_revision,
        request_revision: Some(request),
    };
    let record = handed_over(hands, seen, to, request);
    hands.store.create_transition(&record).await?;
    let outcome = hands.store.hand_over(&order).await;
    let handed = matches!(outcome, Ok(Outcome::Applied { .. }));
    let close = |record: &mut Transition| record.outcome = if handed { "done" } else { "failed" }.to_owned();
    hands.store.amend_transition(&record.id, close).await?;
    let outcome = outcome?;
    if handed {
        hands.fence.disarm();
        hands.authority.unbind();
        hands.spare_lease.store(0, Ordering::SeqCst);
    }
    Ok(Effect::of(outcome))
}

/// No timeline begins or ends by it.
fn handed_over(hands: &Hands, seen: &Snapshot, to: &MemberName, request: i64) -> Transition {
    Transition {
        cause_text: format!("an operator asked {to} to lead this site, which follows another"),
        timeline_before: None,
        timeline_after: None,
        ..begun(hands, seen, to, request)
    }
}
