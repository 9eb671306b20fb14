//! Postgres is started, stopped and pointed at a leader. A primary runs only behind an armed fence, and whatever runs as anything else has
//! none.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use consensus::{Outcome, Snapshot};
use decision::action::{StartAs, StopMode};
use decision::view::{SyncRecord, Upstream};
use pg_control::pidfile::Status;

use super::Effect;
use super::durability::my_sync;
use crate::ballots;
use crate::hands::Hands;

/// How long a clean shutdown may take before it is cut short.
pub(super) const FAST_STOP_WITHIN: Duration = Duration::from_secs(30);
/// A start that has lasted this long has not failed.
const SURVIVES_AFTER: Duration = Duration::from_millis(1500);
/// How long a repointing may take.
const FOLLOW_WITHIN: Duration = Duration::from_secs(5);

/// Before Postgres is anything but a primary here: what is left of the last one ends, and there is nothing to fence until the next
/// arming. A fence that went on would kill the standby with the old lease.
pub(super) async fn end_what_was_fenced(hands: &Hands) -> Result<()> {
    if hands.fence.is_armed() && hands.instance.postmaster().is_none() {
        hands.instance.kill_all().await?;
        hands.fence.disarm();
    }
    Ok(())
}

pub(super) async fn start(hands: &Hands, seen: &Snapshot, how: StartAs) -> Result<Effect> {
    hands.configure_for_start(seen, matches!(how, StartAs::Primary { .. })).await;
    let mut effect = Effect::LOCAL;
    if let StartAs::Primary { record_anew: true, .. } = how {
        match write_record_anew(hands, seen).await {
            Ok(Outcome::Applied { revision }) => effect = Effect { revision },
            Ok(Outcome::Refused) => return Ok(Effect::LOCAL),
            Err(error) if error.is::<consensus::Error>() => {
                // Nothing is wrong with Postgres, which others would lead for: the next picture of etcd tells what to do.
                tracing::warn!(%error, "Postgres is not started before its record has been written anew");
                return Ok(Effect::LOCAL);
            }
            Err(error) => return Err(error),
        }
    }
    let Err(mut error) = launch(hands, seen, &how).await else { return Ok(effect) };
    let is_of_postgres = |error: &anyhow::Error| {
        matches!(error.downcast_ref(), Some(pg_control::Error::StartFailed(_) | pg_control::Error::Host { .. }))
    };
    if is_of_postgres(&error) && hands.instance.may_fall_back() {
        // A port that is still taken, or a disk that was full, is no fault of the parameters.
        let Err(again) = launch(hands, seen, &how).await else { return Ok(effect) };
        error = again;
    }
    if is_of_postgres(&error)
        && let Some(before) = hands.instance.fall_back(&format!("{error:#}")).await?
    {
        if launch(hands, seen, &how).await.is_ok() {
            return Ok(effect);
        }
        hands.instance.as_before(before).await?;
    }
    Err(error)
}

/// Starts the server, and sees it survive that.
async fn launch(hands: &Hands, seen: &Snapshot, how: &StartAs) -> Result<()> {
    match how {
        StartAs::Primary { term, quorum, .. } => {
            hands.fence.arm_confirmed().await?;
            hands.recorder.restarting(false);
            // What is written on the way may hang with its disk for longer than the fence gives, and nothing that is not there is struck.
            hands.instance.start_as_primary(quorum, *term, || hands.fence.is_confirmed()).await?;
        }
        StartAs::Standby(upstream) => {
            end_what_was_fenced(hands).await?;
            if let Some(upstream) = upstream {
                let term = if upstream.is_another_site() { seen.cluster.term } else { upstream.term };
                ballots::none_is_on_its_way(hands, seen, term).await?;
                hands.ensure_secrets().await?;
                hands.copy_logical_slots(seen, upstream).await;
                // Whoever comes back under another leader has nothing to measure any more.
                hands.recorder.abandon();
            }
            hands.instance.start_as_standby(upstream.as_ref()).await?;
        }
    }
    survives_its_start(hands).await?;
    Ok(hands.instance.runs_well().await?)
}

/// The record of my term as it is, so that whatever this reign has sent to etcd over it before can never come true.
async fn write_record_anew(hands: &Hands, seen: &Snapshot) -> Result<Outcome> {
    let sync = SyncRecord { heir: None, ..my_sync(hands, seen)? };
    let outcome = hands.store.record_sync(hands.me(), sync.term, &sync, seen.sync_revision).await?;
    if outcome.applied() {
        hands.promises.reign.renewed();
    }
    Ok(outcome)
}

/// A server that dies while it starts (a taken port, a library that is not there) has failed, and is not started over and over. One that
/// takes longer than this to start is recovering, and is only watched.
async fn survives_its_start(hands: &Hands) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < SURVIVES_AFTER {
        match hands.instance.postmaster().map(|postmaster| postmaster.status) {
            None => return Err(hands.instance.why_it_did_not_start().into()),
            Some(Status::Ready | Status::StandbyWithoutConnections) => break,
            Some(Status::Starting | Status::Stopping) => tokio::time::sleep(Duration::from_millis(3)).await,
        }
    }
    Ok(())
}

pub(super) async fn stop(hands: &Hands, mode: StopMode) -> Result<Effect> {
    let stopped = match mode {
        StopMode::Fast => hands.instance.stop_fast(FAST_STOP_WITHIN).await,
        StopMode::Kill => hands.instance.kill_all().await.map(|_| ()),
    };
    if stopped.is_err() && mode == StopMode::Fast {
        hands.instance.kill_all().await?;
    } else {
        stopped?;
    }
    hands.fence.disarm();
    Ok(Effect::LOCAL)
}

pub(super) async fn follow(hands: &Hands, seen: &Snapshot, upstream: &Upstream) -> Result<Effect> {
    let leads_its_site = upstream.is_another_site();
    let term = if leads_its_site { seen.cluster.term } else { upstream.term };
    ballots::none_is_on_its_way(hands, seen, term).await?;
    hands.ensure_secrets().await?;
    hands.instance.follow(upstream, FOLLOW_WITHIN).await?;
    // Only a standby follows, and the lease that it might have led with is given back below.
    hands.fence.disarm();
    hands.noting(move |promises| promises.book.follows(term, false)).await?;
    if leads_its_site {
        hands.recorder.leads_a_follower();
        // It holds the lock, under the very lease that it may have stood ready with.
        hands.spare_lease.store(0, Ordering::SeqCst);
        return Ok(Effect::LOCAL);
    }
    hands.recorder.abandon();
    if hands.spare_lease.load(Ordering::SeqCst) == 0 {
        hands.drop_spare_lease().await;
    }
    Ok(Effect::LOCAL)
}
