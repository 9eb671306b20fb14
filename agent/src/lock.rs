//! Taking the leader lock and letting go of it. A claim rests on a lease under a fence that is armed before the lock is taken; it ends, for
//! the fence and for the promises of peers alike, before anybody else may lead without ballots.

use anyhow::Result;
use consensus::{Outcome, Snapshot};
use decision::action::{Claim, ClaimKind};
use decision::names::Term;
use decision::view::SyncRecord;

use crate::execute::{Effect, my_sync};
use crate::hands::Hands;
use crate::transitions::forced;

/// Takes the lock as `claim` says.
///
/// # Errors
/// No lease, no fence, or etcd does not answer.
pub async fn acquire(hands: &Hands, claim: &Claim, seen: &Snapshot) -> Result<Effect> {
    // A primary that runs goes on under the claim that it has, until it has a better one. Where it has none, and no fence stands over it (it was
    // adopted, or its lease ended in a pause), there is no deadline but that of the lease that it gets now: any other would be over.
    let claims = hands.authority.granted().is_some() || hands.fence.bound().borrow().is_some();
    let runs = claim.kind == ClaimKind::Reclaim && hands.instance.postmaster().is_some() && claims;
    let mut lease = armed_lease(hands, runs).await?;
    let begun = forced(claim, seen.request_record.as_ref(), hands.me());
    let mut outcome = hands.store.acquire_on_record(hands.me(), lease, claim, seen.sync_revision, begun.as_ref()).await;
    if let Err(consensus::Error::LeaseGone(why)) = &outcome {
        // etcd may revoke leases that nobody gave back (etcd-io/etcd issue 15247). Nothing was written: once more, under a new one.
        tracing::warn!(lease, why, "the lease for the lock is gone: getting another");
        hands.leases.lock_lease_is_gone(lease).await;
        lease = armed_lease(hands, runs).await?;
        outcome = hands.store.acquire_on_record(hands.me(), lease, claim, seen.sync_revision, begun.as_ref()).await;
    }
    match &outcome {
        Ok(Outcome::Applied { .. }) => hands.authority.bind(lease),
        // Whoever disarms before the claim goes is never struck: a standby that was not quick enough is needed again at once.
        Ok(Outcome::Refused) if !runs => {
            hands.fence.disarm();
            hands.authority.unbind();
        }
        Ok(Outcome::Refused) | Err(_) => {}
    }
    // Promises that carried an earlier term of mine do not carry one that may have begun now.
    if matches!(outcome, Ok(Outcome::Applied { .. }) | Err(consensus::Error::Unknown(_))) {
        let over = seen.sync_revision;
        hands.noting(move |promises| promises.reign.end(over)).await?;
    }
    let outcome = outcome?;
    if outcome.applied() {
        hands.recorder.acquired(claim, seen);
        tracing::info!(term = %claim.term, kind = ?claim.kind, "took the leader lock");
    } else {
        tracing::info!(term = %claim.term, "another candidate was faster, or the ballots changed");
    }
    Ok(Effect::of(outcome))
}

/// A lease to hold the lock, under a fence that is armed before the lock is taken: a node whose fence cannot be armed leaves it to others.
async fn armed_lease(hands: &Hands, runs: bool) -> Result<i64> {
    let lease = hands.leases.ensure_lock_lease().await?;
    if !runs {
        hands.authority.bind(lease);
    }
    hands.fence.arm_confirmed().await?;
    Ok(lease)
}

/// The lock under a new lease and the old term: nothing else changes, for clients or for standbys. Whatever this reign has sent to etcd and
/// is still on its way comes to nothing, a hand-over that was broken off as well.
///
/// # Errors
/// No lease, or etcd does not answer.
pub async fn resume(hands: &Hands, seen: &Snapshot, term: Term) -> Result<Effect> {
    let sync = SyncRecord { heir: None, ..my_sync(hands, seen)? };
    anyhow::ensure!(sync.term == term, "the record is of {}, not of {term}", sync.term);
    let mut lease = hands.leases.ensure_lock_lease().await?;
    // What cannot be a leader's name counts for nobody.
    let nonsense = if seen.cluster.leader.is_none() { seen.leader_revision } else { 0 };
    let mut outcome = hands.store.resume(lease, &sync, seen.sync_revision, nonsense).await;
    if matches!(outcome, Err(consensus::Error::LeaseGone(_))) {
        hands.leases.lock_lease_is_gone(lease).await;
        lease = hands.leases.ensure_lock_lease().await?;
        outcome = hands.store.resume(lease, &sync, seen.sync_revision, nonsense).await;
    }
    let outcome = outcome?;
    if outcome.applied() {
        hands.promises.reign.renewed();
        hands.authority.bind(lease);
        hands.recorder.abandon();
        tracing::info!(%term, lease, "the leader lock is bound to a lease again; nobody has led meanwhile");
    }
    Ok(Effect::of(outcome))
}

/// The lock is given up only when no write can follow it: every Postgres process is gone, orphans included. And only where etcd can be told:
/// without it nobody else could be elected, and a write that is on its way would cost the promises by which Postgres can be started again here.
///
/// # Errors
/// Some process lives, or etcd does not answer.
pub async fn release(hands: &Hands, seen: &Snapshot) -> Result<Effect> {
    let before = my_sync(hands, seen)?;
    let Some(over) = last_words_replace(hands, seen, before.term).await else { return Ok(Effect::LOCAL) };
    hands.instance.kill_all().await?;
    hands.fence.disarm();
    hands.renounce(over);
    let sync = SyncRecord { released: true, ..before };
    let outcome = hands.store.release(hands.me(), sync.term, &sync, over).await?;
    hands.drop_spare_lease().await;
    Ok(Effect::of(outcome))
}

/// The voters are told and Postgres is killed at the same time: whoever pledges acknowledges nothing more to it, dead or not. The lock
/// follows once nothing can be written any more, where nobody has taken it by then. As with [`release`], nothing is given up before etcd has
/// answered.
///
/// # Errors
/// Some process lives, or etcd does not answer.
pub async fn abdicate(hands: &Hands, seen: &Snapshot) -> Result<Effect> {
    let sync = SyncRecord { released: true, heir: None, ..my_sync(hands, seen)? };
    let Some(over) = last_words_replace(hands, seen, sync.term).await else { return Ok(Effect::LOCAL) };
    // Whoever has promised is free as soon as it hears of it, so from here on no promise carries this reign.
    hands.renounce_promises(over);
    let report = hands.store.record_sync(hands.me(), sync.term, &sync, over);
    let (told, killed) = tokio::join!(report, hands.instance.kill_all());
    killed?;
    hands.fence.disarm();
    let outcome = match told {
        Ok(Outcome::Applied { revision }) => {
            hands.renounce(revision);
            hands.store.let_go(hands.me(), sync.term, revision).await?
        }
        Ok(Outcome::Refused) | Err(_) => {
            hands.renounce(over);
            hands.store.release(hands.me(), sync.term, &sync, over).await?
        }
    };
    hands.drop_spare_lease().await;
    Ok(Effect::of(outcome))
}

/// The revision of the record that the last words of this reign replace; `None`: etcd does not answer.
///
/// **Invariant: Postgres waits only for what a record says that this node has seen.** Its own last write may be there unseen, where the answer
/// was lost. Nothing was done about it, so the record that was seen covers all that was acknowledged, and takes its place: with one that
/// waits for nobody, which was never so, no voter could take over from a leader that is not there to ask.
async fn last_words_replace(hands: &Hands, seen: &Snapshot, term: Term) -> Option<i64> {
    let present = hands.asked_of_etcd(hands.store.sync_record()).await?;
    let mine = present.filter(|(sync, _)| sync.leader == *hands.me() && sync.term == term);
    Some(mine.map_or(seen.sync_revision, |(_, revision)| revision.max(seen.sync_revision)))
}
