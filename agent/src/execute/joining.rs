//! A data directory becomes fit to follow the leader: by a copy, by a rewind, by reading how far it goes. What this forgets is written down in
//! etcd before it is forgotten.

use std::sync::Arc;

use anyhow::Result;
use consensus::Snapshot;
use decision::names::Lsn;
use decision::view::Upstream;
use pg_control::Copying;
use tokio_util::sync::CancellationToken;

use super::Effect;
use super::running::end_what_was_fenced;
use crate::copying::{methods, options};
use crate::discard;
use crate::hands::Hands;

/// A floor goes to etcd before anything is forgotten, so that this node cannot vote with less than it once had, and the number of a timeline
/// that nobody else knows, so that it is not used again.
async fn before_forgetting(hands: &Hands, seen: &Snapshot, from: &Upstream, floor: Lsn) -> Result<()> {
    end_what_was_fenced(hands).await?;
    hands.ensure_secrets().await?;
    if !seen.cluster.follows() {
        // A site that follows another goes from timeline to timeline as that does, and records none of them.
        discard::note_timeline(hands, seen).await?;
    }
    let leader_has = hands.instance.source_position(from, seen.cluster.follows()).await?;
    hands.store.set_floor(hands.me(), floor.max(leader_has)).await?;
    Ok(())
}

/// Whether a copy could be made: asked before anything is stopped for it.
pub(super) async fn could_clone(
    hands: &Hands,
    seen: &Snapshot,
    from: &Upstream,
    cancel: &CancellationToken,
) -> Result<()> {
    hands.ensure_secrets().await?;
    let (local, me) = (hands.local.load_full(), hands.me());
    let (methods, options) = (methods(&local.clone, me, seen, from), options(&local.clone));
    let copying = Copying { leader: from, methods: &methods, options: &options, progress: &hands.copying, cancel };
    Ok(hands.instance.could_be_copied(&copying).await?)
}

pub(super) async fn clone(
    hands: &Hands,
    seen: &Snapshot,
    from: &Upstream,
    floor: Lsn,
    cancel: &CancellationToken,
) -> Result<Effect> {
    before_forgetting(hands, seen, from, floor).await?;
    hands.slots.store(Arc::default());
    let (local, me) = (hands.local.load_full(), hands.me());
    let cloning = &local.clone;
    let (methods, options) = (methods(cloning, me, seen, from), options(cloning));
    anyhow::ensure!(
        !methods.is_empty(),
        "no way to make a copy is possible now: [clone] methods, and tags.clonefrom of others"
    );
    let copying = Copying { leader: from, methods: &methods, options: &options, progress: &hands.copying, cancel };
    let method = hands.instance.clone_by(&copying).await?;
    hands.begun.has_copied();
    tracing::info!(method, "the copy is made; what was here before is kept until it streams");
    Ok(Effect::LOCAL)
}

pub(super) async fn rewind(
    hands: &Hands,
    seen: &Snapshot,
    from: &Upstream,
    floor: Lsn,
    cancel: &CancellationToken,
) -> Result<Effect> {
    before_forgetting(hands, seen, from, floor).await?;
    let counted = discard::count(hands, seen, cancel).await;
    hands.slots.store(Arc::default());
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
pub(super) async fn find_end_of_wal(hands: &Hands, cancel: &CancellationToken) -> Result<Effect> {
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

pub(super) async fn clear_floor(hands: &Hands, seen: &Snapshot) -> Result<Effect> {
    let Some(floor) = seen.cluster.floors.get(hands.me()) else { return Ok(Effect::LOCAL) };
    Ok(Effect::of(hands.store.clear_floor(hands.me(), *floor).await?))
}
