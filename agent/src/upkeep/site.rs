//! Another site is asked who it is and what it writes, where that decides something: before this site begins to follow it, and while a server
//! here does not stream, for then the two may have gone apart.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use decision::view::{Cluster, Lock, Server, View};

use crate::chore::Chore;
use crate::hands::Hands;
use crate::look::HeardSite;

const ASK_EVERY: Duration = Duration::from_secs(1);

/// The chore.
pub struct AnotherSite {
    hands: Arc<Hands>,
    chore: Chore,
}

impl AnotherSite {
    /// It has not been asked.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("what the other site says of itself") }
    }

    /// Asks, if the answer would decide something.
    pub fn see(&mut self, view: &View, cluster: &Cluster, server: &Server, heard: &Arc<Mutex<Option<HeardSite>>>) {
        let Some(remote) = cluster.site.remote.clone() else { return };
        let streams = server.as_standby().is_some_and(|standby| standby.streaming);
        let is_to_follow = cluster.site.promote.is_none() && matches!(view.lock, Lock::Held { .. });
        let decides = if cluster.follows() { !streams } else { is_to_follow };
        if !decides || view.settings.paused {
            return;
        }
        let (hands, heard) = (Arc::clone(&self.hands), Arc::clone(heard));
        self.chore.begin(ASK_EVERY, async move {
            hands.ensure_secrets().await?;
            let seen = hands.instance.ask_remote(&remote.upstream()).await?;
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some((remote, seen, Instant::now()));
            hands.look_now.notify_one();
            Ok(())
        });
    }
}
