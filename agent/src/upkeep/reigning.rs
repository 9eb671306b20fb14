//! What a leader owes its own reign: the proof after a restart, its role and its table, the position that it publishes.

use std::sync::Arc;
use std::time::Duration;

use decision::names::{Lsn, Term};
use decision::settings::Mode;
use decision::slots::Published;
use decision::view::{Cluster, Primary, View};

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;

/// In `async` mode a failover judges lag by the published position, so it is fresh; elsewhere it is only shown.
const POSITION_EVERY_ASYNC: Duration = Duration::from_secs(1);
const POSITION_EVERY: Duration = Duration::from_secs(10);
/// How long the first commit after a restart may wait for its voters before it is tried again.
const PROOF_WITHIN: Duration = Duration::from_secs(2);
/// How often a leader looks whether its role and table are as they were.
const LOOK_AFTER_OWN_EVERY: Duration = Duration::from_secs(10);

/// The chores of a leader for itself.
pub struct Reigning {
    hands: Arc<Hands>,
    proof: Chore,
    own: Chore,
    position: Chore,
    published: (Lsn, Option<Published>),
    /// The reign of which a record is known to tell.
    accounted_for: Term,
}

impl Reigning {
    /// Nothing is proven or published yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self {
            hands,
            proof: Chore::new("proof after a restart"),
            own: Chore::new("the agent's own role and table"),
            position: Chore::new("position"),
            published: (Lsn(0), None),
            accounted_for: Term::default(),
        }
    }

    /// A primary that was restarted is no place for clients before this; where it lives on promises, etcd has no part in it.
    pub fn prove(&mut self, primary: &Primary, term: Term) {
        if primary.marked_term == term && self.hands.recorder.awaits_proof() {
            let hands = Arc::clone(&self.hands);
            self.proof.begin(Duration::ZERO, async move {
                hands.instance.prove(term, PROOF_WITHIN).await?;
                hands.recorder.writable();
                Ok(())
            });
        }
    }

    /// An earlier life of this agent may have ended right before or after the first proven write.
    pub fn account(&mut self, cluster: &Cluster, term: Term) {
        if self.accounted_for != term && self.hands.recorder.accounts_for_reign(cluster.sync.as_ref(), term) {
            self.accounted_for = term;
        }
    }

    /// The role and the table of the agent are needed at once by the next reign, and not before: what somebody has dropped or revoked of them
    /// is put back now, and reaches the standbys.
    pub fn keep_own(&mut self, primary: &Primary, term: Term, equipped: bool) {
        // A reign that has no marker yet mends it when it writes that.
        if primary.marked_term != term {
            return;
        }
        let hands = Arc::clone(&self.hands);
        self.own.begin(if equipped { LOOK_AFTER_OWN_EVERY } else { AGAIN_AFTER }, async move {
            if hands.instance.is_equipped().await? {
                return Ok(());
            }
            tracing::warn!("the agent's own role or table was dropped or revoked by somebody: putting it back");
            let mended = hands.instance.equip(term, hands.me()).await;
            if mended.is_ok() && hands.instance.is_equipped().await? {
                // Whoever adopts this server later finds the marker of this reign acknowledged.
                hands.instance.mark(term, hands.me(), PROOF_WITHIN).await?;
                return Ok(());
            }
            let why = mended.err().map_or_else(|| "something is still missing".to_owned(), |error| error.to_string());
            tracing::warn!(why, "the agent's own role or table could not be put back");
            tokio::time::sleep(LOOK_AFTER_OWN_EVERY).await;
            Ok(())
        });
    }

    /// How far this leader has come, and those whom its slots keep WAL for.
    pub fn publish_position(&mut self, view: &View, cluster: &Cluster, primary: &Primary, term: Term) {
        let mode = cluster.sync.as_ref().map_or(Mode::Async, |sync| sync.mode);
        let every = match cluster.leader_lsn {
            // Nobody can read what is there, if anything is.
            None => AGAIN_AFTER,
            Some(_) if mode == Mode::Async => POSITION_EVERY_ASYNC,
            Some(_) => POSITION_EVERY,
        };
        let (lsn, slots) = (primary.flushed, self.hands.slots.load().to_publish(&view.me, primary.flushed));
        // Whom a slot keeps WAL for comes to rest after the leader does, and then both rest.
        let now = (lsn, slots.clone());
        if now == self.published && cluster.leader_lsn.is_some() {
            return;
        }
        let hands = Arc::clone(&self.hands);
        let publish = async move {
            // What is written is news to the others, so it is fresh.
            let slots = hands.refreshed_slots().await.map_or(slots, |known| known.to_publish(hands.me(), lsn));
            hands.store.write_status(hands.me(), term, lsn, slots.as_ref()).await?;
            Ok(())
        };
        if self.position.begin(every.max(view.settings.timing.heartbeat), publish) {
            self.published = now;
        }
    }
}
