//! What a leader writes anew where somebody has put nonsense in its place: the number of its term, its durability record, the passwords between
//! members. It is the one who knows them, and nobody can take the lock meanwhile. What else it owns has its own file.

use std::sync::Arc;

use anyhow::Result;
use consensus::records::Secrets;
use consensus::{Nonsense, Snapshot};
use decision::names::Term;
use decision::view::{Primary, SyncRecord};

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;

/// The record of this reign as it was last read, for when nobody can read it any more.
pub struct Mending {
    hands: Arc<Hands>,
    chore: Chore,
    last: Option<SyncRecord>,
}

impl Mending {
    /// Nothing has been read.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("nonsense in the place of the term or the record"), last: None }
    }

    /// Remembers what is good, and puts it in the place of what is not.
    ///
    /// **Invariant: Postgres waits only for what a record says that this node has seen.** So the record that was seen last covers everything
    /// that has been acknowledged, whatever was written over it since.
    pub fn see(&mut self, seen: &Arc<Snapshot>, primary: &Primary) {
        let nonsense = seen.nonsense;
        if nonsense.is_empty() {
            self.last = seen.cluster.sync.clone().filter(|sync| sync.leader == self.hands.config.name);
            return;
        }
        let readable = seen.cluster.sync.clone().filter(|_| nonsense.sync == 0);
        let Some(sync) = readable.or_else(|| self.last.clone()) else { return };
        // A record of another reign, or one under which the lock was to move, is nobody's to write anew.
        let mine = sync.leader == self.hands.config.name && sync.term == primary.marked_term;
        if !mine || sync.released || sync.heir.is_some() || sync.follows {
            return;
        }
        let (hands, seen) = (Arc::clone(&self.hands), Arc::clone(seen));
        self.chore.begin(AGAIN_AFTER, async move { put_right(&hands, seen, sync, nonsense).await });
    }
}

async fn put_right(hands: &Hands, seen: Arc<Snapshot>, sync: SyncRecord, nonsense: Nonsense) -> Result<()> {
    tracing::warn!(term = %sync.term, "somebody has put nonsense in the place of the term or of the durability record: writing them anew");
    let (mode, policies, sync_revision) = (sync.mode, sync.policies.clone(), seen.sync_revision);
    hands.noting(move |promises| promises.reign.may_record(&seen, mode, policies)).await?;
    hands.store.put_right(hands.me(), &sync, sync_revision, nonsense).await?;
    Ok(())
}

/// Nobody could join a cluster whose passwords nobody can read.
pub async fn passwords(hands: &Hands, term: Term) -> Result<()> {
    let key = hands.store.keys().replication_secrets();
    let Some(problem) = hands.ledger.problems().into_iter().find(|problem| problem.key == key) else { return Ok(()) };
    let Ok(known) = hands.instance.secrets() else { return Ok(()) };
    tracing::warn!(key, "somebody has put nonsense in the place of the passwords between members: writing them anew");
    let secrets = Secrets { replication_password: known.replication_password, rewind_password: known.rewind_password };
    hands.store.put_secrets_right(hands.me(), term, &secrets, problem.revision).await?;
    Ok(())
}
