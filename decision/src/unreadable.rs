//! Somebody has put what nobody can read in the place of the keys on which a reign rests. It says neither that nobody leads nor that somebody
//! else does. Nobody can take a lock over it, for every claim compares what it has read; so each server stays as it is until the key has been
//! put right, and a primary for no longer than its lease or its fence allows.

use crate::action::Action;
use crate::decide::{Choice, wait};
use crate::names::Term;
use crate::reason::Reason;
use crate::vacancy;
use crate::view::{Cluster, Lock, Postgres, Server, View};

/// What to do where this decides anything.
pub(crate) fn decide(view: &View, cluster: &Cluster, postgres: &Postgres) -> Option<Choice> {
    let keys = cluster.unreadable;
    let decides = match &postgres.server {
        Server::Primary(_) => goes_on(view, cluster) && !resumes(view, cluster, postgres),
        Server::Starting { .. } => goes_on(view, cluster),
        // Nobody can lead instead: a ballot, or a start, would only cost the leader an acknowledgement.
        Server::Standby(_) | Server::Stopped => keys.leader || (keys.term && keys.sync),
        Server::Stopping | Server::Hung { .. } => false,
    };
    decides.then(|| wait(Reason::KeysUnreadable { keys: keys.keys() }))
}

/// Whether a primary is none the less this node's to keep: nothing that can be read says that another leads, and until its lease ends by its own
/// clock nobody else can. An agent that has just been started does not know its lease yet; the fence that it has found does.
pub(crate) fn goes_on(view: &View, cluster: &Cluster) -> bool {
    let keys = cluster.unreadable;
    let held = matches!(view.lock, Lock::Held { left, .. } if !left.is_zero());
    let covered = held || view.fence.covers.is_some_and(|left| !left.is_zero());
    match &cluster.leader {
        Some(leader) => *leader == view.me && keys.sync && held,
        None => keys.leader && covered && nobody_has_led_since(view, cluster),
    }
}

/// As far as can be read: the record is of this node's reign, or the term is no later one.
fn nobody_has_led_since(view: &View, cluster: &Cluster) -> bool {
    let keys = cluster.unreadable;
    let mine = match (view.lock, view.postgres.last().map(|postgres| &postgres.server)) {
        (Lock::Held { term, .. }, _) => term,
        (Lock::NotHeld, Some(Server::Primary(primary))) => primary.marked_term,
        (Lock::NotHeld, _) => Term::default(),
    };
    let by_record = keys.sync || (cluster.last_led_by(&view.me) && !cluster.follows());
    by_record && (keys.term || cluster.term <= mine)
}

/// Where the lock alone cannot be read, its leader takes it again by itself.
fn resumes(view: &View, cluster: &Cluster, postgres: &Postgres) -> bool {
    let keys = cluster.unreadable;
    let alone = keys.leader && !keys.term && !keys.sync;
    alone && matches!(vacancy::decide(view, cluster, postgres).0, Action::Resume { .. })
}
