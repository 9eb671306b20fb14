//! What a leader does about members that have been taken out of the cluster.

use std::sync::Arc;

use anyhow::Result;
use consensus::Outcome;
use decision::departure::{self, Parting};
use decision::names::Term;
use decision::view::Cluster;

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;

/// One of them at a time.
pub struct Departures {
    hands: Arc<Hands>,
    chore: Chore,
}

impl Departures {
    /// Nobody leaves.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("members that leave") }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, cluster: &Cluster, term: Term) {
        if departure::next(cluster).is_some() {
            let hands = Arc::clone(&self.hands);
            self.chore.begin(AGAIN_AFTER, async move { part(&hands, term).await });
        }
    }
}

async fn part(hands: &Hands, term: Term) -> Result<()> {
    let (store, me) = (&hands.store, hands.me());
    let seen = store.read().await?;
    let Some(parting) = departure::next(&seen.cluster).filter(|_| seen.cluster.term == term) else { return Ok(()) };
    let outcome = match &parting {
        Parting::CameBack(member) => store.void_departure(me, term, member).await?,
        Parting::Done(member) => store.finish_departure(me, term, member, &seen).await?,
        Parting::ForgetBallot(member) => store.forget_ballot(me, term, member, &seen).await?,
    };
    if matches!(outcome, Outcome::Applied { .. }) {
        match parting {
            Parting::CameBack(member) => {
                tracing::info!(%member, "came back under the name of a member that had been removed: it counts again")
            }
            Parting::Done(member) => {
                tracing::info!(%member, "was removed by an operator: nothing counts on it any more")
            }
            Parting::ForgetBallot(member) => tracing::debug!(%member, "the last ballot of a removed member is gone"),
        }
    }
    Ok(())
}
