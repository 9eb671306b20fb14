//! The identity of the cluster in etcd: whoever leads knows it and puts it back, and an attempt at one that was cut off is given up.

use std::sync::Arc;

use consensus::Write;
use decision::names::Term;
use decision::view::{Cluster, Data, Initialize, Postgres};

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;

/// Both touch the same key, so only one of them is under way.
pub struct Identity {
    hands: Arc<Hands>,
    chore: Chore,
}

impl Identity {
    /// Nothing is under way.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("identity of the cluster") }
    }

    /// Without its identity in etcd a cluster could not elect anybody. Whoever leads it knows it, and puts it back: what stands there instead was
    /// written by hand, for the lock, the term and the record are those of this very reign.
    pub fn restore(&mut self, postgres: &Postgres, cluster: &Cluster, term: Term) {
        let Data::Present(disk) = &postgres.data else { return };
        if cluster.initialize == Initialize::Done(disk.system_id) || !cluster.last_led_by(&self.hands.config.name) {
            return;
        }
        let (hands, system_id) = (Arc::clone(&self.hands), disk.system_id);
        self.chore.begin(AGAIN_AFTER, async move {
            tracing::warn!(%system_id, "the identity of the cluster is missing in etcd, or another: putting it back");
            let identity = Write::put(hands.store.keys().initialize(), system_id.to_string());
            hands.store.write_as_leader(hands.me(), term, &[identity]).await?;
            Ok(())
        });
    }

    /// An earlier life of this agent was creating the cluster when it died, and this one has taken its lease over: nobody else could
    /// begin before it lets go. Guarded by that lease, so it touches no other node's attempt.
    pub fn give_up_unfinished_bootstrap(&mut self) {
        let hands = Arc::clone(&self.hands);
        self.chore.begin(AGAIN_AFTER, async move {
            let lease = hands.leases.member().borrow().id();
            if let Some(lease) = lease {
                hands.store.abandon_bootstrap(lease).await?;
            }
            Ok(())
        });
    }
}
