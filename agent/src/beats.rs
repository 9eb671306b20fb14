//! Listening to the leader: its agent is asked for `/beat` ten times a second, and when it misses one, its Postgres is asked as well.
//! Two kinds of evidence, because either process may die alone: a dead agent over a living Postgres is no reason to take over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::peers::{Line, is_refusal};

/// How often the leader is asked.
pub const EVERY: Duration = Duration::from_millis(100);
/// How long one answer may take. Longer than the interval, so that a slow answer is late and not lost.
const BEAT_WITHIN: Duration = Duration::from_millis(400);
/// When an answer is late enough to ask Postgres as well, and not to wait for its end.
const LATE: Duration = Duration::from_millis(150);
/// How long Postgres may take to answer the first packet of a connection.
const PORT_WITHIN: Duration = Duration::from_millis(200);
/// `SSLRequest`: the smallest packet that a live postmaster answers, with one byte and without any authentication.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Whom to listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The base URL of its health API.
    pub api_url: String,
    /// `host:port` of its Postgres.
    pub postgres: String,
    /// Its term: another term is another reign, heard anew.
    pub term: u64,
}

/// What one source has been heard to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ear {
    /// When the last answered question was sent.
    pub heard: Option<Instant>,
    /// When the first unanswered question since was sent.
    pub unanswered_since: Option<Instant>,
    /// The last question was refused: nobody is there. Evidence at once, where silence takes time.
    pub refused: bool,
}

impl Ear {
    fn answered(&mut self, sent: Instant) {
        *self = Self { heard: Some(sent), unanswered_since: None, refused: false };
    }

    /// The age of `heard` stays, so that it is known that there was once an answer.
    fn missed(&mut self, sent: Instant, refused: bool) {
        self.unanswered_since.get_or_insert(sent);
        self.refused = refused;
    }
}

/// Both sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The leader's agent.
    pub agent: Ear,
    /// The leader's Postgres.
    pub postgres: Ear,
    /// When the leader's agent last said that writes work: the last moment at which the database was certainly up.
    pub writable: Option<Instant>,
    /// The leader's agent has said that its Postgres is done for, and not taken it back.
    pub dead: bool,
    /// The leader's agent has said that writes do not work, and until when they did: `writable` is that, whatever else is heard.
    pub stalled: bool,
}

/// The listener of one agent.
pub struct Beats {
    target: watch::Sender<Option<Target>>,
    heard: Arc<Mutex<Heard>>,
    news: Arc<Notify>,
}

impl Beats {
    /// Starts listening, to nobody yet, on a thread of its own: nothing that the agent does elsewhere makes a leader seem silent, and an
    /// answer wakes this thread and no other (on shared workers each wakes a second one that finds nothing to do).
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start() -> std::io::Result<Self> {
        let (target, targets) = watch::channel(None);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let news = Arc::new(Notify::new());
        let listening = listen(targets, Arc::clone(&heard), Arc::clone(&news));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("beats".into()).spawn(move || runtime.block_on(listening))?;
        Ok(Self { target, heard, news })
    }

    /// Listens to `target` from now on; nothing is known of it yet.
    pub fn listen_to(&self, target: Option<Target>) {
        self.target.send_if_modified(|present| {
            let changed = *present != target;
            if changed {
                *lock(&self.heard) = Heard::default();
                present.clone_from(&target);
            }
            changed
        });
    }

    /// What has been heard of whoever is listened to.
    pub fn heard(&self) -> Heard {
        *lock(&self.heard)
    }

    /// What has been heard of the leader of `term`; nothing, while another is listened to.
    pub fn heard_of(&self, term: u64) -> Heard {
        let same = self.target.borrow().as_ref().is_some_and(|target| target.term == term);
        if same { self.heard() } else { Heard::default() }
    }

    /// Resolves when something has gone missing or has come back.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(mut targets: watch::Receiver<Option<Target>>, heard: Arc<Mutex<Heard>>, news: Arc<Notify>) {
    let mut line = Line::default();
    loop {
        let target = targets.borrow_and_update().clone();
        let Some(target) = target else {
            if targets.changed().await.is_err() {
                return;
            }
            continue;
        };
        let next = Instant::now() + EVERY;
        let missing = tokio::select! {
            missing = ask(&mut line, &target, &heard) => missing,
            changed = targets.changed() => if changed.is_err() { return } else { continue },
        };
        // While something is missing every answer is news: the loop decides on the age of the silence.
        if missing {
            news.notify_one();
        }
        tokio::time::sleep_until(next.into()).await;
    }
}

/// One round. Says whether anything was, or had been, missing.
async fn ask(line: &mut Line, target: &Target, heard: &Mutex<Heard>) -> bool {
    let sent = Instant::now();
    let doubt = lock(heard).agent.unanswered_since.is_some();
    let beat = line.get(&target.api_url, "/beat", BEAT_WITHIN);
    tokio::pin!(beat);
    let early = if doubt { None } else { tokio::time::timeout(LATE, &mut beat).await.ok() };
    let beat = match early {
        Some(Ok(beat)) => Ok(beat),
        Some(Err(error)) => {
            note_port(target, heard).await;
            Err(error)
        }
        None => {
            lock(heard).agent.missed(sent, false);
            tokio::join!(beat, note_port(target, heard)).0
        }
    };
    let mut now = lock(heard);
    match beat {
        Ok(beat) => {
            now.agent.answered(sent);
            if !doubt {
                now.postgres = Ear::default();
            }
            let says = |key: &str| beat.get(key).and_then(serde_json::Value::as_bool) == Some(true);
            now.dead = says("dead") && beat.get("term").and_then(serde_json::Value::as_u64) == Some(target.term);
            let worked_ago = beat.get("worked_ago_ms").and_then(serde_json::Value::as_u64).map(Duration::from_millis);
            match worked_ago.and_then(|ago| sent.checked_sub(ago)) {
                // What was believed of the time since then was not so.
                Some(worked) => (now.writable, now.stalled) = (Some(worked), true),
                None if now.dead => {}
                None if says("writable") => (now.writable, now.stalled) = (Some(sent), false),
                None => {}
            }
        }
        Err(error) => now.agent.missed(sent, is_refusal(&error)),
    }
    doubt || now.dead || now.agent.unanswered_since.is_some()
}

/// Asks the leader's Postgres, and notes how it went.
async fn note_port(target: &Target, heard: &Mutex<Heard>) {
    let sent = Instant::now();
    let answer = ask_port(&target.postgres).await;
    let mut now = lock(heard);
    match answer {
        Ok(()) => now.postgres.answered(sent),
        Err(error) => now.postgres.missed(sent, error.kind() == std::io::ErrorKind::ConnectionRefused),
    }
}

/// Whether a live postmaster answers at `address`.
async fn ask_port(address: &str) -> std::io::Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await.map(|_| ())
    };
    tokio::time::timeout(PORT_WITHIN, ask).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn target() -> (tokio::net::TcpListener, Target) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        (listener, Target { api_url: format!("http://{address}"), postgres: address, term: 1 })
    }

    #[tokio::test]
    async fn a_closed_port_is_evidence_at_once_and_silence_takes_time() {
        let (listener, target) = target().await;
        let heard = Mutex::new(Heard::default());
        // The kernel accepts, nobody answers: silence.
        assert!(ask(&mut Line::default(), &target, &heard).await);
        let silent = *lock(&heard);
        assert!(silent.agent.unanswered_since.is_some() && !silent.agent.refused);
        assert!(ask_port(&target.postgres).await.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut));
        drop(listener);
        assert!(ask(&mut Line::default(), &target, &heard).await);
        let refused = *lock(&heard);
        assert!(refused.agent.refused && refused.postgres.refused, "{refused:?}");
        assert_eq!(refused.agent.unanswered_since, silent.agent.unanswered_since, "the silence began before");
    }
}
