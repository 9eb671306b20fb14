//! What an operator has set by SQL against what this system promises: looked for now and then on a primary that leads, logged when it
//! appears and when it is gone, and shown to whoever asks. Nothing is undone here: it may be meant.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use decision::durability::mode_in_force;
use decision::settings::Mode;
use decision::view::{Lock, Server, View};
use pg_control::{Overruled, Undoes};

use crate::chore::Chore;
use crate::hands::Hands;

/// How often is looked. One question that touches two small catalogues.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is set against the promises, as last seen.
pub struct Overrulings {
    hands: Arc<Hands>,
    chore: Chore,
    found: Arc<Mutex<Vec<Overruled>>>,
}

impl Overrulings {
    /// Nothing is known yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("settings against the promises"), found: Arc::default() }
    }

    /// What was found last.
    pub fn now(&self) -> Vec<Overruled> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks, where it is time. In `async` mode commits wait for nobody in any case.
    pub fn see(&mut self, view: &View) {
        let server = view.postgres.now().map(|postgres| &postgres.server);
        let (Some(Server::Primary(_)), Lock::Held { .. }) = (server, view.lock) else {
            // Whose site was made to follow another holds its lock on, as a standby, where nothing is promised.
            if view.lock == Lock::NotHeld || matches!(server, Some(Server::Standby(_))) {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            return;
        };
        let waits = view.cluster.last().is_some_and(|cluster| mode_in_force(&view.settings, cluster) != Mode::Async);
        let (hands, found) = (Arc::clone(&self.hands), Arc::clone(&self.found));
        self.chore.begin(LOOK_EVERY, async move {
            let mut seen = hands.instance.overruled().await?;
            seen.retain(|one| waits || one.undoes != Undoes::Waiting);
            let before = std::mem::replace(&mut *found.lock().unwrap_or_else(PoisonError::into_inner), seen.clone());
            for new in seen.iter().filter(|one| !before.contains(one)) {
                tracing::warn!(set = new.what, mend = new.mend, "{}", consequence(new.undoes));
            }
            for gone in before.iter().filter(|one| !seen.contains(one)) {
                tracing::info!(was = gone.what, "a setting that undid what is promised is gone");
            }
            Ok(())
        });
    }
}

/// The stable code of a problem.
pub fn code(undoes: Undoes) -> &'static str {
    match undoes {
        Undoes::Waiting | Undoes::Disk => "durability_overruled",
        Undoes::Writes => "writes_forbidden",
    }
}

/// What follows from such a setting.
pub fn consequence(undoes: Undoes) -> &'static str {
    match undoes {
        Undoes::Waiting => {
            "commits are acknowledged before a voter has them: a failover would lose them, and not count them"
        }
        Undoes::Disk => "a crash of the host may destroy what this server has on disk",
        Undoes::Writes => "every write of a client fails, unless its session allows itself to write",
    }
}
