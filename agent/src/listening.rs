//! Whether Postgres listens where everybody looks for it. Another program may have its port on one address when it starts; then Postgres runs
//! on what is left, and whoever asks it over its socket or another address is content. Looked at once for each postmaster and rarely
//! afterwards, beside the decisions, so that it holds nobody up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use decision::view::{Server, View};

use crate::chore::Chore;
use crate::hands::Hands;

/// How often is looked again: addresses of the host come and go, the sockets of a postmaster do not.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is known of it.
pub struct Listening {
    hands: Arc<Hands>,
    chore: Chore,
    looked_at: Option<i32>,
    found: Arc<Mutex<Option<Missed>>>,
}

/// An address at which a server does not listen, though it was told to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missed {
    postmaster: i32,
    address: String,
}

impl Listening {
    /// Nothing is known yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("where Postgres listens"), looked_at: None, found: Arc::default() }
    }

    /// Looks, where this is another postmaster or it is time.
    pub fn see(&mut self, postmaster: Option<i32>) {
        let Some(postmaster) = postmaster else { return };
        let every = if self.looked_at == Some(postmaster) { LOOK_EVERY } else { Duration::ZERO };
        let (hands, found) = (Arc::clone(&self.hands), Arc::clone(&self.found));
        let begun = self.chore.begin(every, async move {
            let host = hands.config.postgres.advertise.host.clone();
            let seen = hands.instance.listening().await?;
            // Names may take as long as their servers do.
            let missed = tokio::task::spawn_blocking(move || {
                let address = seen.as_ref().map(|seen| format!("{host}:{}", seen.port));
                let missed = seen.filter(|seen| seen.misses(&host)).zip(address);
                missed.map(|(seen, address)| Missed { postmaster: seen.postmaster, address })
            });
            let missed = missed.await?;
            let before = std::mem::replace(&mut *found.lock().unwrap_or_else(PoisonError::into_inner), missed.clone());
            if let Some(missed) = missed.filter(|missed| before.as_ref() != Some(missed)) {
                tracing::error!("{}: {}", problem(&missed.address), hint(&missed.address, hands.me().as_str()));
                hands.look_now.notify_one();
            }
            Ok(())
        });
        if begun {
            self.looked_at = Some(postmaster);
        }
    }

    /// The address at which Postgres does not listen, of the server that is seen now. A standby that streams from it has found its way in.
    pub fn now(&self, view: &View, postmaster: Option<i32>) -> Option<String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = found.as_ref().filter(|missed| Some(missed.postmaster) == postmaster)?;
        let streamed_from = match view.postgres.last().map(|postgres| &postgres.server) {
            Some(Server::Primary(primary)) => primary.standbys.iter().any(|standby| standby.caught_up),
            _ => false,
        };
        (!streamed_from).then(|| missed.address.clone())
    }
}

/// What is wrong.
pub fn problem(address: &str) -> String {
    format!(
        "Postgres does not listen on {address}, where clients and members look for it: another program had that port when it started"
    )
}

/// What to do about it.
pub fn hint(address: &str, member: &str) -> String {
    let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
    format!("ss -ltnp 'sport = :{port}' on its host names who has it; stop that, then pgvigil restart {member}")
}
