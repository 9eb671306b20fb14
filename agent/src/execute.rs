//! Carrying out one action: one match, and nothing left to choose. Each arm persists before it acts and may be repeated.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use consensus::records::{FailoverRecord, Transition};
use consensus::{Bootstrap, Outcome, Snapshot};
use decision::action::{Action, StartAs, StopMode};
use decision::durability::{Policies, Quorum, quorum_for_new_leader};
use decision::names::{Lsn, MemberName, SystemId, Term, Timeline};
use decision::settings::Mode;
use decision::view::{SyncRecord, Upstream};
use pg_control::pidfile::Status;
use tokio_util::sync::CancellationToken;

use crate::ballots;
use crate::discard;
use crate::handover;
use crate::hands::Hands;
use crate::lock;
use crate::transitions;

/// How long a clean shutdown may take before it is cut short.
const FAST_STOP_WITHIN: Duration = Duration::from_secs(30);
/// A start that has lasted this long has not failed.
const SURVIVES_AFTER: Duration = Duration::from_millis(1500);
/// How long a repointing may take.
const FOLLOW_WITHIN: Duration = Duration::from_secs(5);
/// How long a promotion may take; it has to replay what was received.
const PROMOTE_WITHIN: Duration = Duration::from_secs(60);
/// How long a marker waits for its acknowledgement before the loop looks again at who is there to acknowledge.
const MARK_WITHIN: Duration = Duration::from_secs(2);
/// How long Postgres may take to wait for others.
const APPLY_WITHIN: Duration = Duration::from_secs(3);

/// What an action leaves to be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The etcd revision that it made; decisions wait until they see it.
    pub revision: i64,
}

impl Effect {
    /// Nothing in etcd has changed.
    pub const LOCAL: Effect = Effect { revision: 0 };

    /// What became of a guarded write: applied, or refused because the world had moved on, which the next look will show.
    pub fn of(outcome: Outcome) -> Effect {
        match outcome {
            Outcome::Applied { revision } => Effect { revision },
            Outcome::Refused => Effect::LOCAL,
        }
    }
}

/// Carries out `action`, decided from `seen`.
///
/// # Errors
/// Whatever went wrong, for the log; the next decision starts from what is then seen.
pub async fn act(hands: Arc<Hands>, action: Action, seen: Arc<Snapshot>, cancel: CancellationToken) -> Result<Effect> {
    match action {
        Action::Wait | Action::Cancel => Ok(Effect::LOCAL),
        Action::Bootstrap => bootstrap(&hands, &seen, &cancel).await,
        Action::Clone { from, floor } => clone(&hands, &seen, &from, floor, &cancel).await,
        Action::Rewind { from, floor } => rewind(&hands, &seen, &from, floor, &cancel).await,
        Action::FindEndOfWal => find_end_of_wal(&hands, &cancel).await,
        Action::Start(how) => start(&hands, &seen, how).await,
        Action::Stop(mode) => stop(&hands, mode).await,
        Action::Follow(upstream) => follow(&hands, &seen, &upstream).await,
        Action::Pledge { revoked } => ballots::pledge(&hands, &seen, revoked).await,
        Action::Withdraw { revoked } => ballots::withdraw(&hands, &seen, revoked).await,
        Action::ClearFloor => clear_floor(&hands, &seen).await,
        Action::StandReady => stand_ready(&hands, &seen).await,
        Action::StandDown => stand_down(&hands).await,
        Action::Acquire(claim) => lock::acquire(&hands, &claim, &seen).await,
        Action::Resume { term } => lock::resume(&hands, &seen, term).await,
        Action::Promote { term, timeline, quorum } => promote(&hands, &seen, term, timeline, &quorum).await,
        Action::Mark { term } => mark(&hands, &seen, term).await,
        Action::RecordSync { mode, policies } => record_sync(&hands, &seen, mode, policies).await,
        Action::ApplySync(quorum) => apply_sync(&hands, &seen, &quorum).await,
        Action::ProveSync { mode, quorum } => prove_sync(&hands, &seen, mode, quorum).await,
        Action::HandOver { to, request } => handover::hand_over(&hands, &seen, &to, request).await,
        Action::Release => lock::release(&hands, &seen).await,
        Action::Abdicate => lock::abdicate(&hands, &seen).await,
        Action::AskSwitchover { to, why } => ask_switchover(&hands, &to, why).await,
        Action::RefuseRequest { request, why } => refuse(&hands, &seen, request, why).await,
    }
}

async fn bootstrap(hands: &Hands, seen: &Snapshot, cancel: &CancellationToken) -> Result<Effect> {
    let member_lease = hands.leases.member().borrow().id().context("no member lease yet")?;
    if !hands.store.begin_bootstrap(member_lease).await?.applied() {
        return Ok(Effect::LOCAL);
    }
    tracing::info!("creating the cluster: initdb");
    let made = match make_database(hands, cancel).await {
        Ok(system_id) => publish_cluster(hands, seen, member_lease, system_id).await,
        Err(error) => Err(error),
    };
    let Err(error) = &made else { return made };
    hands.instance.kill_all().await?;
    if matches!(error.downcast_ref(), Some(consensus::Error::Unknown(_))) {
        // The cluster may have been created with this very database: the next look at etcd tells.
        return made;
    }
    // A database that no cluster knows of would stand in the way of the next attempt.
    hands.instance.condemn("bootstrap")?;
    let _ = hands.store.abandon_bootstrap(member_lease).await;
    made
}

async fn make_database(hands: &Hands, cancel: &CancellationToken) -> Result<SystemId> {
    hands.create_secrets().await?;
    Ok(hands.instance.bootstrap(cancel).await?)
}

async fn publish_cluster(hands: &Hands, seen: &Snapshot, member_lease: i64, system_id: SystemId) -> Result<Effect> {
    let lock_lease = hands.leases.ensure_lock_lease().await?;
    hands.authority.bind(lock_lease);
    hands.fence.arm_confirmed().await?;
    let me = hands.me().clone();
    let after = seen.cluster.term;
    let sync = SyncRecord {
        leader: me.clone(),
        term: after.next(),
        mode: match hands.config.durability.mode {
            Mode::Auto => Mode::Async,
            mode => mode,
        },
        policies: vec![Quorum::none()],
        timeline: Timeline(1),
        released: false,
        reclaimed: false,
        handover_lsn: None,
        heir: None,
    };
    let term = sync.term;
    let config = (seen.config_revision == 0).then(|| serde_json::json!({}));
    let done = Bootstrap { me, member_lease, lock_lease, system_id, after, term, sync, config };
    let outcome = hands.store.finish_bootstrap(&done).await?;
    if !outcome.applied() {
        bail!("another node created the cluster meanwhile");
    }
    hands.recorder.took_lock("bootstrap", "create_cluster", None, after, term);
    Ok(Effect::of(outcome))
}

/// A floor goes to etcd before anything is forgotten, so that this node cannot vote with less than it once had, and the number of a timeline
/// that nobody else knows, so that it is not used again.
async fn before_forgetting(hands: &Hands, seen: &Snapshot, from: &Upstream, floor: Lsn) -> Result<()> {
    end_what_was_fenced(hands).await?;
    hands.ensure_secrets().await?;
    discard::note_timeline(hands, seen).await?;
    let leader_has = hands.instance.source_position(from).await?;
    hands.store.set_floor(hands.me(), floor.max(leader_has)).await?;
    Ok(())
}

async fn clone(
    hands: &Hands,
    seen: &Snapshot,
    from: &Upstream,
    floor: Lsn,
    cancel: &CancellationToken,
) -> Result<Effect> {
    before_forgetting(hands, seen, from, floor).await?;
    hands.instance.clone_from(from, cancel).await?;
    Ok(Effect::LOCAL)
}

async fn rewind(
    hands: &Hands,
    seen: &Snapshot,
    from: &Upstream,
    floor: Lsn,
    cancel: &CancellationToken,
) -> Result<Effect> {
    before_forgetting(hands, seen, from, floor).await?;
    let counted = discard::count(hands, seen, cancel).await;
    hands.instance.rewind(from, None, cancel).await?;
    let noted = async {
        let Some((timeline, discarded)) = counted? else { return anyhow::Ok(()) };
        tracing::info!(%timeline, bytes = discarded.bytes, transactions = discarded.transactions, "rewound; this is what was here alone");
        discard::record(hands, seen, timeline, discarded).await
    };
    // Counting is for people: a rewind that worked has worked.
    if let Err(error) = noted.await {
        tracing::warn!(error = format!("{error:#}"), "what the rewind threw away is not on record");
    }
    Ok(Effect::LOCAL)
}

/// WAL that cannot even be read cannot be rewound or replayed: only a copy helps, and the old directory is moved aside for it.
async fn find_end_of_wal(hands: &Hands, cancel: &CancellationToken) -> Result<Effect> {
    end_what_was_fenced(hands).await?;
    match hands.instance.find_end_of_wal(cancel).await {
        Ok(_) => {}
        Err(error @ pg_control::Error::NeedsClone(_)) => {
            tracing::warn!(%error, "giving up on this data directory; it will be copied anew and moved aside");
            hands.instance.condemn("crash")?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Effect::LOCAL)
}

/// Before Postgres is anything but a primary here: what is left of the last one ends, and there is nothing to fence until the next
/// arming. A fence that went on would kill the standby with the old lease.
async fn end_what_was_fenced(hands: &Hands) -> Result<()> {
    if hands.fence.is_armed() && hands.instance.postmaster().is_none() {
        hands.instance.kill_all().await?;
        hands.fence.disarm();
    }
    Ok(())
}

async fn start(hands: &Hands, seen: &Snapshot, how: StartAs) -> Result<Effect> {
    let mut effect = Effect::LOCAL;
    match how {
        StartAs::Primary { term, quorum, record_anew } => {
            if record_anew {
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
            hands.fence.arm_confirmed().await?;
            hands.recorder.restarting();
            // What is written on the way may hang with its disk for longer than the fence gives, and nothing that is not there is struck.
            hands.instance.start_as_primary(&quorum, term, || hands.fence.is_confirmed()).await?;
        }
        StartAs::Standby(upstream) => {
            end_what_was_fenced(hands).await?;
            if let Some(upstream) = &upstream {
                ballots::none_is_on_its_way(hands, seen, upstream.term).await?;
                hands.ensure_secrets().await?;
                // Whoever comes back under another leader has nothing to measure any more.
                hands.recorder.abandon();
            }
            hands.instance.start_as_standby(upstream.as_ref()).await?;
        }
    }
    survives_its_start(hands).await?;
    Ok(effect)
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
            None => {
                bail!("Postgres ended while it started: see {}", hands.config.state_dir.join("postgres.log").display())
            }
            Some(Status::Ready | Status::StandbyWithoutConnections) => break,
            Some(Status::Starting | Status::Stopping) => tokio::time::sleep(Duration::from_millis(3)).await,
        }
    }
    Ok(())
}

async fn stop(hands: &Hands, mode: StopMode) -> Result<Effect> {
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

async fn follow(hands: &Hands, seen: &Snapshot, upstream: &Upstream) -> Result<Effect> {
    ballots::none_is_on_its_way(hands, seen, upstream.term).await?;
    hands.ensure_secrets().await?;
    hands.instance.follow(upstream, FOLLOW_WITHIN).await?;
    // Only a standby follows, and the lease that it might have led with is given back below.
    hands.fence.disarm();
    let term = upstream.term;
    hands.noting(move |promises| promises.book.follows(term, false)).await?;
    hands.recorder.abandon();
    if hands.spare_lease.load(Ordering::SeqCst) == 0 {
        hands.drop_spare_lease().await;
    }
    Ok(Effect::LOCAL)
}

async fn clear_floor(hands: &Hands, seen: &Snapshot) -> Result<Effect> {
    let Some(floor) = seen.cluster.floors.get(hands.me()) else { return Ok(Effect::LOCAL) };
    Ok(Effect::of(hands.store.clear_floor(hands.me(), *floor).await?))
}

async fn stand_ready(hands: &Hands, seen: &Snapshot) -> Result<Effect> {
    let lease = hands.leases.ensure_lock_lease().await?;
    // The old leader will wait until everything is replayed here, and writes wait with it.
    hands.instance.clear_the_way_for_replay().await?;
    let quorum = quorum_for_new_leader(hands.me(), &seen.cluster, &hands.settings(seen));
    hands.instance.expect_promotion(&quorum, seen.cluster.term.next(), APPLY_WITHIN).await?;
    hands.spare_lease.store(lease, Ordering::SeqCst);
    Ok(Effect::LOCAL)
}

async fn stand_down(hands: &Hands) -> Result<Effect> {
    hands.drop_spare_lease().await;
    hands.instance.expect_no_promotion(APPLY_WITHIN).await?;
    Ok(Effect::LOCAL)
}

async fn promote(hands: &Hands, seen: &Snapshot, term: Term, timeline: Timeline, quorum: &Quorum) -> Result<Effect> {
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

async fn mark(hands: &Hands, seen: &Snapshot, term: Term) -> Result<Effect> {
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

/// The durability record of my own term, to be changed.
pub fn my_sync(hands: &Hands, seen: &Snapshot) -> Result<SyncRecord> {
    let sync = seen.cluster.sync.clone().filter(|sync| sync.leader == *hands.me());
    sync.context("the durability record is not mine to change")
}

async fn record_sync(hands: &Hands, seen: &Snapshot, mode: Mode, policies: Policies) -> Result<Effect> {
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

async fn apply_sync(hands: &Hands, seen: &Snapshot, quorum: &Quorum) -> Result<Effect> {
    let term = my_sync(hands, seen)?.term;
    hands.instance.apply_sync(quorum, term, APPLY_WITHIN).await?;
    Ok(Effect::LOCAL)
}

async fn prove_sync(hands: &Hands, seen: &Snapshot, mode: Mode, quorum: Quorum) -> Result<Effect> {
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

async fn ask_switchover(hands: &Hands, to: &MemberName, why: String) -> Result<Effect> {
    tracing::warn!(%to, why, "asking to be relieved");
    let record = FailoverRecord {
        leader: Some(hands.me().to_string()),
        member: Some(to.to_string()),
        requested_by: Some(format!("pgvigil on {}", hands.me())),
        reason: Some(why),
        ..FailoverRecord::default()
    };
    Ok(Effect::of(hands.store.request_failover(&record).await?))
}

async fn refuse(hands: &Hands, seen: &Snapshot, request: i64, why: String) -> Result<Effect> {
    tracing::warn!(request, why, "refused an operator's request");
    let asked = seen.request_record.clone().unwrap_or_default();
    let refused = Transition {
        from: seen.cluster.leader.as_ref().map(ToString::to_string).or_else(|| asked.leader.clone()),
        ..transitions::refused(request, &asked, "request_refused", why, seen.cluster.term)
    };
    if !hands.store.create_transition(&refused).await?.applied() {
        // It had been begun, perhaps by an earlier life of this agent.
        let close = |record: &mut Transition| {
            if record.outcome == "in_progress" {
                record.outcome = "failed".into();
                record.notes.push(refused.cause_text.clone());
            }
        };
        hands.store.amend_transition(&refused.id, close).await?;
    }
    Ok(Effect::of(hands.store.remove_request(request).await?))
}
