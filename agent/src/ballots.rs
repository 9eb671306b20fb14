//! Giving a ballot and taking it back. From before it is sent until its fate is known a ballot binds this node: it promises nothing to the leader
//! that it is against, and does not follow it again before the ballot is gone for certain.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use consensus::{Outcome, Snapshot};
use decision::names::Term;
use decision::promise::{Promise, is_released};
use decision::view::{Ballot, Cluster, Standby};

use crate::execute::Effect;
use crate::hands::Hands;

/// How long replay may take to come to its end; after that a ballot is given all the same, where it is known what has been received.
const PLEDGE_WITHIN: Duration = Duration::from_secs(3);

/// The lease that may be needed to lead is fetched while the pledge is made, so that the election does not wait for it.
///
/// # Errors
/// A promise forbids it, replay has not ended, or etcd does not answer.
pub async fn pledge(hands: &Hands, seen: &Arc<Snapshot>, revoked: Term) -> Result<Effect> {
    let may_lead = !hands.local.load().tags.never_leads();
    let lease = async {
        if may_lead && let Err(error) = hands.leases.ensure_lock_lease().await {
            tracing::debug!(%error, "no lease for the lock yet");
        }
    };
    let known = Arc::clone(seen);
    let released = move |promise: &Promise| is_released(&known.cluster, promise);
    // A promise forbids it; and what is noted first keeps this node from promising, also in its next life.
    hands.noting(move |promises| promises.book.revoke(revoked, released)).await?;
    let etcd = async {
        let (mut lease, mut answers) = (pin!(lease), pin!(hands.etcd_answers()));
        tokio::select! {
            () = &mut lease => answers.await,
            // Without etcd there is no lease either, and the leader may wait for this node's promise.
            answers = &mut answers => {
                if answers {
                    lease.await;
                }
                answers
            }
        }
    };
    let (standby, told) = tokio::join!(hands.instance.pledge(PLEDGE_WITHIN), etcd);
    if !told {
        return forget_pledge(hands, seen, revoked).await;
    }
    let standby = standby?;
    if !standby.replay_done && !knows_what_it_has(&standby, &seen.cluster) {
        bail!("no ballot yet: replay has come to {} and has not ended", standby.replayed);
    }
    let ballot = Ballot {
        revoked,
        wal_term: standby.wal_term,
        received: standby.received,
        timeline: standby.timeline,
        late: !standby.replay_done,
        revision: seen.cluster.ballots.get(hands.me()).map_or(0, |before| before.revision),
    };
    // Before it is sent: this job may be broken off while the ballot is on its way.
    let before = hands.promises.book.unsure(revoked);
    let outcome = hands.store.put_ballot(hands.me(), &ballot).await;
    if is_certain(&outcome) {
        hands.promises.book.certain_again(before);
    }
    let outcome = outcome?;
    hands.recorder.lap("pledge");
    tracing::info!(%revoked, received = %ballot.received, timeline = %ballot.timeline, wal_term = %ballot.wal_term, "pledged: follows that term no more");
    Ok(Effect::of(outcome))
}

/// Whether all that was received is known though it is not replayed yet (`recovery_min_apply_delay`, a long backlog): a walreceiver has run in this life of
/// the server, for nothing else is ever ahead of replay, and what it has received is of the timeline on record, which replay has reached. A server that
/// was restarted knows only what it has replayed, and its ballot would tell too little.
fn knows_what_it_has(standby: &Standby, cluster: &Cluster) -> bool {
    let of_this_reign = cluster.sync.as_ref().is_some_and(|sync| sync.timeline == standby.timeline);
    of_this_reign && !cluster.follows() && standby.received > standby.replayed
}

/// Whether the fate of a ballot is known. A refusal may have been read off what stood under its guards when its answer had been lost, and whoever
/// keeps it for uncertain has to make one empty ballot more before it follows that term again.
fn is_certain(outcome: &Result<Outcome, consensus::Error>) -> bool {
    !matches!(outcome, Ok(Outcome::Refused) | Err(consensus::Error::Unknown(_)))
}

/// Where etcd does not answer nobody can be elected, and the leader may need this node's promise. **Invariant: a pledge is forgotten only
/// while no ballot for it can be in etcd or on its way there.**
async fn forget_pledge(hands: &Hands, seen: &Snapshot, revoked: Term) -> Result<Effect> {
    let balloted = seen.cluster.ballots.get(hands.me()).is_some_and(|ballot| ballot.revoked == revoked);
    if !balloted {
        hands.noting(move |promises| promises.book.follows(revoked, false)).await?;
    }
    Ok(Effect::LOCAL)
}

/// A ballot against `term` whose answer was lost may still be on its way. It would be counted with what had been received then, while this node
/// follows the term again and acknowledges more: first it is made certain that it never appears.
///
/// # Errors
/// It has appeared, or etcd does not answer.
pub async fn none_is_on_its_way(hands: &Hands, seen: &Snapshot, term: Term) -> Result<()> {
    if !hands.promises.book.may_have_balloted(term) {
        return Ok(());
    }
    let revision = seen.cluster.ballots.get(hands.me()).map_or(0, |before| before.revision);
    if !hands.store.void_ballot(hands.me(), term, revision).await?.applied() {
        bail!("a ballot whose answer was lost has appeared, or its term has passed: looking again");
    }
    hands.noting(move |promises| promises.book.follows(term, true)).await
}

/// Takes the ballot against `revoked` back, after which that term may be followed again.
///
/// # Errors
/// etcd does not answer.
pub async fn withdraw(hands: &Hands, seen: &Snapshot, revoked: Term) -> Result<Effect> {
    let Some(ballot) = seen.cluster.ballots.get(hands.me()).filter(|ballot| ballot.revoked == revoked) else {
        return Ok(Effect::LOCAL);
    };
    let outcome = hands.store.withdraw_ballot(hands.me(), ballot).await?;
    if outcome.applied() {
        hands.noting(move |promises| promises.book.follows(revoked, true)).await?;
    }
    Ok(Effect::of(outcome))
}

#[cfg(test)]
mod tests {
    use consensus::Error;

    use super::*;

    #[test]
    fn only_a_ballot_that_is_there_or_was_never_sent_is_certain() {
        let of = |why: &str| why.to_owned();
        for (certain, outcome) in [
            (true, Ok(Outcome::Applied { revision: 7 })),
            (true, Err(Error::Unreachable(of("nobody was asked")))),
            (false, Ok(Outcome::Refused)),
            (false, Err(Error::Unknown(of("the answer was lost")))),
        ] {
            assert_eq!(is_certain(&outcome), certain, "{outcome:?}");
        }
    }
}
