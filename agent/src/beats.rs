//! Listening to the leader: its agent tells a beat ten times a second, and when one is missing, its Postgres is asked as well.
//! Two kinds of evidence, because either process may die alone: a dead agent over a living Postgres is no reason to take over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::feed::Feed;
use crate::peers::is_refusal;

/// How often the leader tells a beat.
pub const EVERY: Duration = Duration::from_millis(100);
/// How long a beat is waited for on one connection once one is missing. Longer than the interval, so that a slow one is late and not lost.
const BEAT_WITHIN: Duration = Duration::from_millis(400);
/// When a beat that was due is late enough to ask Postgres as well.
const LATE: Duration = Duration::from_millis(150);
/// How long Postgres may take to answer the first packet of a connection.
const PORT_WITHIN: Duration = Duration::from_millis(200);

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
    /// When it was last heard.
    pub heard: Option<Instant>,
    /// Since when it has been silent, where a word of it is missing.
    pub unanswered_since: Option<Instant>,
    /// The last question was refused: nobody is there. Evidence at once, where silence takes time.
    pub refused: bool,
}

impl Ear {
    fn heard_at(&mut self, at: Instant) {
        *self = Self { heard: Some(at), unanswered_since: None, refused: false };
    }

    /// The age of `heard` stays, so that it is known that there was once an answer.
    fn missed(&mut self, since: Instant, refused: bool) {
        self.unanswered_since.get_or_insert(since);
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
    /// When its Postgres was last known to live: its port has answered, or its agent has said that it is a primary.
    pub alive: Option<Instant>,
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

    /// Whether it is the leader of `term` that is listened to.
    pub fn hears_of(&self, term: u64) -> bool {
        self.target.borrow().as_ref().is_some_and(|target| target.term == term)
    }

    /// What has been heard of whoever is listened to.
    pub fn heard(&self) -> Heard {
        *lock(&self.heard)
    }

    /// What has been heard of the leader of `term`; nothing, while another is listened to.
    pub fn heard_of(&self, term: u64) -> Heard {
        if self.hears_of(term) { self.heard() } else { Heard::default() }
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
    let mut feed = Feed::default();
    let mut last = Instant::now();
    loop {
        let target = targets.borrow_and_update().clone();
        let Some(target) = target else {
            feed.close();
            if targets.changed().await.is_err() {
                return;
            }
            last = Instant::now();
            continue;
        };
        tokio::select! {
            // While something is missing every round is news: the loop decides on the age of the silence.
            missing = next_beat(&mut feed, &target, &heard, &mut last) => if missing { news.notify_one() },
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                last = Instant::now();
            }
        }
    }
}

/// Waits for the next beat after the one at `last`. Says whether anything is, or had been, missing.
async fn next_beat(feed: &mut Feed, target: &Target, heard: &Mutex<Heard>, last: &mut Instant) -> bool {
    let begun = Instant::now();
    let doubt = lock(heard).agent.unanswered_since.is_some();
    if !doubt && begun > *last + EVERY {
        // This thread comes late: what it could not hear meanwhile is not missing.
        *last = begun;
    }
    let patience = if doubt { BEAT_WITHIN } else { *last + EVERY + LATE - begun };
    let beat = tokio::time::timeout(patience, feed.next(&target.api_url, "/beats"));
    let (beat, ()) = tokio::join!(beat, async {
        if doubt {
            note_port(target, heard).await;
        }
    });
    match beat {
        Ok(Ok(beat)) => {
            let at = Instant::now();
            *last = at;
            let mut now = lock(heard);
            take_in(&mut now, &beat, at, target.term, doubt);
            return doubt || now.dead;
        }
        Ok(Err(error)) => {
            if !doubt {
                note_port(target, heard).await;
            }
            lock(heard).agent.missed(*last, is_refusal(&error));
            tokio::time::sleep_until((begun + EVERY).into()).await;
        }
        Err(_) if !doubt && begun.elapsed() > patience + LATE => return false,
        Err(_) => {
            lock(heard).agent.missed(*last, false);
            // The first silence is no reason yet to hang up.
            if doubt {
                feed.close();
            }
        }
    }
    true
}

/// What the leader of `term` says, heard `at`.
fn take_in(heard: &mut Heard, beat: &Value, at: Instant, term: u64, doubt: bool) {
    heard.agent.heard_at(at);
    if !doubt {
        heard.postgres = Ear::default();
    }
    if beat.get("role").and_then(Value::as_str) == Some("primary") {
        heard.alive = Some(at);
    }
    let says = |key: &str| beat.get(key).and_then(Value::as_bool) == Some(true);
    let number = |key: &str| beat.get(key).and_then(Value::as_u64);
    // A leader that has given up and let go leads no more, and is no less dead for it.
    let gives_up = says("dead") && number("term") == Some(term);
    heard.dead = gives_up || (heard.dead && !says("leader"));
    match number("worked_ago_ms").and_then(|ago| at.checked_sub(Duration::from_millis(ago))) {
        // What was believed of the time since then was not so.
        Some(worked) => (heard.writable, heard.stalled) = (Some(worked), true),
        None if heard.dead => {}
        None if says("writable") => (heard.writable, heard.stalled) = (Some(at), false),
        None => {}
    }
}

/// Asks the leader's Postgres, and notes how it went.
async fn note_port(target: &Target, heard: &Mutex<Heard>) {
    let sent = Instant::now();
    let answer = ask_port(&target.postgres).await;
    let mut now = lock(heard);
    match answer {
        Ok(()) => {
            now.postgres.heard_at(sent);
            now.alive = Some(sent);
        }
        Err(error) => now.postgres.missed(sent, error.kind() == std::io::ErrorKind::ConnectionRefused),
    }
}

/// Whether a live postmaster answers at `address`.
async fn ask_port(address: &str) -> std::io::Result<()> {
    let ask = async {
        let stream = TcpStream::connect(address).await?;
        pg_control::opens(stream).await
    };
    tokio::time::timeout(PORT_WITHIN, ask).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn target() -> (tokio::net::TcpListener, Target) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        (listener, Target { api_url: format!("http://{address}"), postgres: address, term: 1 })
    }

    #[tokio::test]
    async fn a_closed_port_is_evidence_at_once_and_silence_takes_time() {
        let (listener, target) = target().await;
        let (heard, mut feed, mut last) = (Mutex::new(Heard::default()), Feed::default(), Instant::now());
        // The kernel accepts, nobody answers: silence.
        assert!(next_beat(&mut feed, &target, &heard, &mut last).await);
        assert!(next_beat(&mut feed, &target, &heard, &mut last).await);
        let silent = *lock(&heard);
        assert!(silent.agent.unanswered_since == Some(last) && !silent.agent.refused, "{silent:?}");
        assert!(silent.postgres.unanswered_since.is_some());
        drop(listener);
        assert!(next_beat(&mut feed, &target, &heard, &mut last).await);
        let refused = *lock(&heard);
        assert!(refused.agent.refused && refused.postgres.refused, "{refused:?}");
        assert_eq!(refused.agent.unanswered_since, silent.agent.unanswered_since, "the silence began before");
    }

    #[test]
    fn what_a_beat_says_of_writes_is_believed_until_it_says_otherwise() {
        let (mut heard, begin) = (Heard::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        take_in(&mut heard, &json!({"writable": true, "term": 3}), at(10), 3, false);
        assert_eq!((heard.writable, heard.stalled, heard.dead), (Some(at(10)), false, false));
        take_in(&mut heard, &json!({"writable": true, "term": 3, "worked_ago_ms": 5000}), at(11), 3, false);
        assert_eq!((heard.writable, heard.stalled), (Some(at(6)), true));
        take_in(&mut heard, &json!({"writable": true, "dead": true, "term": 3}), at(12), 3, false);
        assert_eq!((heard.writable, heard.stalled, heard.dead), (Some(at(6)), true, true));
        take_in(&mut heard, &json!({"leader": false, "term": 3}), at(13), 3, false);
        assert!(heard.dead, "it has let go, and is not well for that");
        take_in(&mut heard, &json!({"leader": true, "writable": true, "term": 3}), at(14), 3, false);
        assert_eq!((heard.writable, heard.stalled, heard.dead), (Some(at(14)), false, false));
        take_in(&mut heard, &json!({"writable": false, "dead": true, "term": 2}), at(15), 3, false);
        assert!(!heard.dead, "that was of an earlier reign");
        assert!(heard.alive.is_none());
        take_in(&mut heard, &json!({"leader": false, "role": "primary", "term": 3}), at(16), 3, false);
        take_in(&mut heard, &json!({"leader": false, "role": "replica", "term": 3}), at(17), 3, false);
        assert_eq!(heard.alive, Some(at(16)));
    }
}
