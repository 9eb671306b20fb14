//! etcd is out of sight. A standby keeps what it has. A primary may go on for as long as its lease lasts by its own clock, and not
//! an instant longer: after that somebody else may lead.

use crate::action::{Action, StopMode};
use crate::decide::{Choice, wait};
use crate::reason::Reason;
use crate::view::{Lock, Postgres, Seen, Server, View};

/// What to do while etcd does not answer.
pub(crate) fn decide(view: &View, postgres: &Postgres) -> Choice {
    let silent = |lease_left| match &view.cluster {
        Seen::Never { tried_for } => Reason::EtcdNeverSeen { tried_for: *tried_for },
        Seen::Before { age, .. } => Reason::EtcdSilent { age: *age, lease_left },
        Seen::Now(_) => Reason::EtcdSilent { age: std::time::Duration::ZERO, lease_left },
    };
    if view.settings.paused {
        return wait(silent(None));
    }
    match (view.lock, accepts_writes(&postgres.server)) {
        (Lock::Held { left, .. }, _) if !left.is_zero() => wait(silent(Some(left))),
        (_, false) => wait(silent(None)),
        (Lock::NotHeld, true) if just_started(view) => wait(silent(view.fence.covers)),
        (Lock::NotHeld | Lock::Held { .. }, true) => match &view.job {
            Some(job) if job.is_a_stop() => wait(silent(None)),
            Some(_) => (Action::Cancel, Reason::LockLost {}),
            None => (Action::Stop(StopMode::Kill), Reason::LockLost {}),
        },
    }
}

/// An agent that has only just started asks etcd first: the Postgres that it found may be covered by a lease that it will adopt. An armed
/// fence tells how long that may take, and kills when it is over; without one the agent's earlier life is over for nobody knows how long.
fn just_started(view: &View) -> bool {
    let Seen::Never { tried_for } = view.cluster else { return false };
    let soon = tried_for < view.settings.timing.request_timeout * 2;
    view.fence.covers.map_or(soon, |left| !left.is_zero())
}

/// A server that is not known to be in recovery may accept writes.
pub(crate) fn accepts_writes(server: &Server) -> bool {
    match server {
        Server::Primary(_) => true,
        // A hung or starting server may have been a standby all along; its own rules deal with it once etcd is back. The fence of
        // the agent that held the lock kills it at the deadline in any case.
        Server::Standby(_) | Server::Stopped | Server::Stopping | Server::Starting { .. } | Server::Hung { .. } => {
            false
        }
    }
}
