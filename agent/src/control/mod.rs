//! The control API: what may be asked of this node's agent by programs and people who are not at its command line. Who it is and what they may
//! do is settled before anything else (`guard`, `access`), each attempt leaves an audit record (`audit`), and the work is that of the command line.

mod access;
mod answer;
mod audit;
mod body;
mod credentials;
mod elsewhere;
mod encryption;
mod guard;
mod impatient;
mod listen;
mod standing;
mod tokens;
mod v1;
mod verbs;

use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, channel};
use utoipa::OpenApi;

use self::access::Access;
use self::listen::Doors;
use crate::config::Config;
use crate::hands::Hands;
use crate::http::Arrived;
use crate::operate::world::Reach;
use crate::published::Board;
use crate::scheduler::Scheduler;

pub use access::Peer;
pub use elsewhere::{Elsewhere, not_here};
pub use encryption::{Encryption, server as tls_server};
pub use standing::Standing;
pub use verbs::role;

/// What the handlers work with.
#[derive(Clone)]
pub struct Control {
    hands: Arc<Hands>,
    board: Arc<Board>,
    reach: Arc<Reach>,
    access: Arc<Access>,
    encryption: Option<Arc<Encryption>>,
    /// Room for answers that go on.
    streams: Arc<Semaphore>,
    doors: Doors,
    /// Of the thread on which all of this runs, wherever it was asked for.
    thread: Handle,
}

impl Control {
    /// For the agent with these hands, which shows itself on this board. It runs on a thread of its own and asks etcd on connections of its own:
    /// whatever is asked for here holds up nothing that the agent does, and no health check.
    ///
    /// # Errors
    /// What is needed to ask etcd cannot be had, or the thread.
    pub fn new(hands: Arc<Hands>, board: Arc<Board>) -> anyhow::Result<Self> {
        let access = Arc::new(Access::new(&hands.config.control));
        let reach = Arc::new(Reach::of(hands.config.clone())?);
        let tls = hands.config.control.tls.clone();
        let encryption = tls.map(Encryption::open).map(Arc::new);
        let streams = Arc::new(Semaphore::new(v1::STREAMS_MAX));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (doors, on_it) = (Doors::new(&hands.metrics), runtime.handle().clone());
        thread::Builder::new()
            .name("control-api".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Self { hands, board, reach, access, encryption, streams, doors, thread: on_it })
    }

    /// Where another listener hands over those who begin with TLS, so that shaking hands with them costs it nothing; `None`: there is no TLS here.
    pub fn takes_encrypted(&self, router: Router) -> Option<Sender<Arrived>> {
        let encryption = self.encryption.clone()?;
        let (sender, receiver) = channel(listen::CONNECTIONS_MAX);
        self.thread.spawn(self.doors.clone().take_over(receiver, router, encryption));
        Some(sender)
    }

    /// Sees to what was asked for by whoever asked for a later time.
    pub fn keep_schedule(&self) {
        let (hands, board, reach) = (Arc::clone(&self.hands), Arc::clone(&self.board), Arc::clone(&self.reach));
        self.thread.spawn(Scheduler::new(hands, board, reach).run());
    }

    /// What this API has beside the paths that everybody may read, for those who may.
    pub fn own(&self) -> Router {
        self.guarded(self.own_paths())
    }

    /// Listens wherever the configuration says, for ever. `reading` are the paths that only look. A place where nobody can listen is told, and
    /// tried again: no agent ends for it.
    pub fn listen(&self, reading: Router) {
        let router = self.guarded(reading.merge(self.own_paths()));
        let control = self.hands.config.control.clone();
        self.thread.spawn(self.doors.clone().open(control, router, self.encryption.clone()));
    }

    fn own_paths(&self) -> Router {
        verbs::router(self.clone()).merge(v1::router(self.clone()))
    }

    fn guarded(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), guard::guard))
    }
}

/// All that changes something, as `POST /v1/pause`.
#[cfg(test)]
pub fn verbs() -> impl Iterator<Item = String> {
    let changes = |verb: &&verbs::Verb| ![axum::http::Method::GET, axum::http::Method::HEAD].contains(&verb.method);
    verbs::all().filter(changes).map(|verb| format!("{} {}", verb.method, verb.path))
}

/// What is said of all of it in the OpenAPI document.
pub fn described() -> utoipa::openapi::OpenApi {
    let mut all = v1::Native::openapi();
    all.merge(verbs::Patronis::openapi());
    all
}

/// Where control is to be found, for whoever asks for it where it is not.
pub fn whereabouts(config: &Config) -> String {
    let control = &config.control;
    let on_tcp =
        control.listen.as_ref().map(|listen| format!(", and {listen} for those who are known")).unwrap_or_default();
    format!(
        "this listener only reads; control is the unix socket {} on the host of {}{on_tcp}, and the pgvigil command line \
         ([control] on_health_listener = true would carry it here)",
        control.socket.display(),
        config.name
    )
}
