//! What a standby does for itself: it clears away what its copy has replaced, it is held back from acknowledging anything on its own, and it
//! asks for WAL that it waits for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use decision::names::MemberName;
use decision::view::{Cluster, Server, Standby, Upstream, View};

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;
use crate::look::Lacking;

/// A standby that streams nothing for so long asks whether its leader has the WAL that it needs.
const ASK_FOR_WAL_AFTER: Duration = Duration::from_secs(30);
/// How often a standby is looked after that could acknowledge something on its own, and how long it may take to read its names.
const LOOK_AFTER_NAMES_EVERY: Duration = Duration::from_secs(30);
const HELD_BACK_WITHIN: Duration = Duration::from_secs(5);

/// The chores of a standby.
pub struct AsStandby {
    hands: Arc<Hands>,
    copies: Chore,
    held_back: Chore,
    wal: Chore,
    copies_removed: bool,
}

impl AsStandby {
    /// Nothing has been looked after yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self {
            hands,
            copies: Chore::new("old copies"),
            held_back: Chore::new("names of a standby"),
            wal: Chore::new("WAL of the upstream"),
            copies_removed: false,
        }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, view: &View, cluster: &Cluster, server: &Server, upstream_lacks: &Arc<Mutex<Lacking>>) {
        match server {
            Server::Standby(standby) => {
                let streams = !self.hands.config.tags.nostream;
                if streams && view.ages.not_streaming.is_some_and(|since| since >= ASK_FOR_WAL_AFTER) {
                    self.ask_for_wal(cluster, standby, upstream_lacks);
                }
                if standby.streaming {
                    self.streams();
                }
            }
            Server::Stopped => self.copies_removed = false,
            _ => {}
        }
    }

    /// What was moved aside for its copy is not needed any more; and one that an older version has started is held back from acknowledging
    /// anything, were it promoted by hand.
    fn streams(&mut self) {
        if !self.copies_removed {
            let hands = Arc::clone(&self.hands);
            let remove = async move {
                hands.instance.end_fetching().await?;
                Ok(hands.instance.remove_old_copies().await.map(|_| ())?)
            };
            self.copies_removed = self.copies.begin(AGAIN_AFTER, remove);
        }
        let hands = Arc::clone(&self.hands);
        let hold_back = async move { Ok(hands.instance.hold_back(HELD_BACK_WITHIN).await?) };
        self.held_back.begin(LOOK_AFTER_NAMES_EVERY, hold_back);
    }

    /// A standby that has streamed nothing for a while may need WAL that its leader has not any more. Then it waits for ever.
    fn ask_for_wal(&mut self, cluster: &Cluster, standby: &Standby, upstream_lacks: &Arc<Mutex<Lacking>>) {
        let leads = |member: &MemberName| cluster.leader.as_ref() == Some(member);
        let asked = |upstream: &Upstream| leads(&upstream.member) || upstream.is_another_site();
        let Some(upstream) = standby.follows.clone().filter(asked) else { return };
        let (hands, position) = (Arc::clone(&self.hands), standby.received);
        let lacks = Arc::clone(upstream_lacks);
        self.wal.begin(ASK_FOR_WAL_AFTER, async move {
            if !hands.instance.source_still_has(&upstream, position).await? {
                tracing::warn!(%upstream.member, %position, "the leader has removed WAL that this standby needs");
                *lacks.lock().unwrap_or_else(PoisonError::into_inner) = Some((upstream.member, position));
            }
            Ok(())
        });
    }
}
