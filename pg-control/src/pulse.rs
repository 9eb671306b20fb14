//! Is the primary alive? Asked several times a second on a connection that is kept for that alone, so that neither full slots nor locks nor
//! a long checkpoint look like death; and where it does not answer, the postmaster is asked as well, and a new login tried, for one backend
//! may be stuck alone. The answers tell whether writes go on, too. Time in which this process itself did not run counts as nobody's silence.
//! A thread and a runtime of its own: whatever else the agent waits for, this goes on.

mod door;
mod writes;

use std::cell::Cell;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use decision::view::Stuck;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use self::writes::{Answer, Writes};
use crate::error::Error;
use crate::instance::Instance;
use crate::sql::Session;

/// How often a healthy server is asked.
const EVERY: Duration = Duration::from_millis(150);
/// An answer that takes longer is late: the postmaster is asked, too.
const LATE: Duration = Duration::from_millis(100);
/// How often the waiting is looked at. A look that comes much later than this tells that this process was starved, not that Postgres is.
const TICK: Duration = Duration::from_millis(25);
/// One question to the postmaster.
const DOOR_WITHIN: Duration = Duration::from_millis(250);
/// A question that has been unanswered for so long is asked on a new connection as well. So early that its slot is not taken yet by clients
/// that pile up because nobody else is answered, either.
const LOGIN_AFTER: Duration = Duration::from_millis(300);
/// A login that the server has refused is tried again after so long.
const LOGIN_AGAIN: Duration = Duration::from_millis(250);
/// `SSLRequest`: the smallest packet that a live postmaster answers, with one byte and without any authentication.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What the probes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// For how long neither the kept connection nor the postmaster has answered, this process' own lateness left out.
    pub silent_for: Duration,
    /// For how long neither the kept connection nor a whole new login has come to an end, though the postmaster may answer.
    pub logins_stuck_for: Duration,
    /// For how long no write has come to an end although processes wait for one, and nobody is at the disk.
    pub writes_stuck_for: Duration,
    /// For how long the postmaster has let nobody in.
    pub door_shut_for: Duration,
    /// When the last answer came, of whatever kind.
    pub answered_at: Option<std::time::Instant>,
    /// When the WAL that is safe on disk was last seen to have grown: the disk took a write then.
    pub flushed_at: Option<std::time::Instant>,
    /// How many times the kept connection has been cut by the server: all sessions end when one of its processes dies.
    pub cuts: u64,
}

impl Heartbeat {
    /// What hangs and for how long, if anything seems to: the worst, each measured by what it is given.
    pub fn hang(&self) -> Option<(Stuck, Duration)> {
        let all = [
            (Stuck::Server, self.silent_for),
            (Stuck::Logins, self.logins_stuck_for),
            (Stuck::Writes, self.writes_stuck_for),
            (Stuck::Door, self.door_shut_for),
        ];
        let seeming = all.into_iter().filter(|(_, since)| !since.is_zero());
        seeming.max_by_key(|(stuck, since)| *since / stuck.patience())
    }

    /// Nothing hangs that could be asked.
    fn calm(&mut self) {
        (self.silent_for, self.logins_stuck_for) = (Duration::ZERO, Duration::ZERO);
    }
}

/// The probing of one server. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Pulse {
    wanted: watch::Sender<bool>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    beat: Mutex<Heartbeat>,
    news: Notify,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Heartbeat)) {
        change(&mut self.beat.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Pulse {
    /// Starts the thread; it probes nothing until it is told to.
    ///
    /// # Errors
    /// No thread or runtime can be made.
    pub fn start(instance: Instance) -> std::io::Result<Self> {
        let (wanted, told) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let mine = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let probe = move || {
            let backend = Cell::new(None);
            let door = door::keep_watch(&instance, told.clone(), &mine, &backend);
            runtime.block_on(async { tokio::join!(live(&instance, told, &mine, &backend), door) })
        };
        std::thread::Builder::new().name("pulse".into()).spawn(probe)?;
        Ok(Self { wanted, shared })
    }

    /// Whether the server is to be probed from now on.
    pub fn watch(&self, wanted: bool) {
        self.wanted.send_if_modified(|present| std::mem::replace(present, wanted) != wanted);
    }

    /// What the probes say now.
    pub fn heartbeat(&self) -> Heartbeat {
        *self.shared.beat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when an answer is missing, and at each look until it comes; and when the server has cut the connection.
    pub async fn news(&self) {
        self.shared.news.notified().await;
    }
}

async fn live(instance: &Instance, mut told: watch::Receiver<bool>, shared: &Shared, backend: &Cell<Option<i32>>) {
    let (mut session, mut writes, mut heard) = (None, Writes::default(), Instant::now());
    loop {
        if !*told.borrow_and_update() {
            (session, writes) = (None, Writes::default());
            shared.change(|beat| {
                beat.calm();
                beat.writes_stuck_for = Duration::ZERO;
            });
            if told.changed().await.is_err() {
                return;
            }
            continue;
        }
        let asked = Instant::now();
        let kept = session.take();
        let had_one = kept.is_some();
        let question = writes.question();
        tokio::select! {
            (answer, again) = patiently(question, kept, instance, shared) => {
                session = again;
                backend.set(session.as_ref().map(|session| session.pid));
                let cut = had_one && matches!(answer, Err(Error::Down(_)));
                let since_last = heard.elapsed().min(EVERY * 2);
                heard = Instant::now();
                let grown = match answer {
                    Ok(answer) => writes.hear(answer, since_last),
                    Err(_) => {
                        writes = Writes::default();
                        false
                    }
                };
                shared.change(|beat| {
                    beat.calm();
                    beat.writes_stuck_for = writes.stuck_for;
                    beat.answered_at = Some(std::time::Instant::now());
                    if grown {
                        beat.flushed_at = beat.answered_at;
                    }
                    beat.cuts += u64::from(cut);
                });
                if cut || !writes.stuck_for.is_zero() {
                    shared.news.notify_one();
                }
            }
            changed = told.changed() => if changed.is_err() { return } else { continue },
        }
        sleep(EVERY.saturating_sub(asked.elapsed())).await;
    }
}

/// What came of a question, and the connection if it is good for another.
type Asked = (Result<Answer, Error>, Option<Session>);

/// One question on the kept connection, or on a new one where there is none. Whatever the server says, it lives; only silence tells.
async fn ask(question: &str, instance: &Instance, kept: Option<Session>) -> Asked {
    let session = match kept {
        Some(session) => session,
        None => loop {
            match instance.open_session().await {
                Ok(session) => break session,
                // Nobody took the connection from the full backlog of the socket: that is silence, and goes on.
                Err(Error::Timeout { .. }) => {}
                Err(error) => return (Err(error), None),
            }
        },
    };
    match session.client.simple_query(question).await {
        Ok(rows) => (Ok(Answer::read(question, &rows)), Some(session)),
        Err(error) => (Err(error.into()), None),
    }
}

/// Waits for the answer, and once it is late says for how long it has been missing, while the postmaster's door is knocked at and the same is
/// asked on a new connection. Where that is answered the old one is given up: its backend is stuck alone.
async fn patiently(question: &str, kept: Option<Session>, instance: &Instance, shared: &Shared) -> Asked {
    let mut asking = pin!(ask(question, instance, kept));
    if let Ok(answer) = timeout(LATE, &mut asking).await {
        return answer;
    }
    let (mut silence, mut at_door, mut at_login) = (Silence(LATE), Silence(LATE), Silence(LATE));
    let (opened, refused) = (Cell::new(false), Cell::new(false));
    let mut knocking = pin!(keep_knocking(socket_of(instance), &opened));
    let mut entering = pin!(keep_entering(question, instance, &refused));
    loop {
        let looked = Instant::now();
        tokio::select! {
            biased;
            answer = &mut asking => return answer,
            answer = &mut entering => return answer,
            () = &mut knocking => {}
            () = sleep(TICK) => {}
        }
        [&mut silence, &mut at_door, &mut at_login].into_iter().for_each(|silence| silence.passed(looked.elapsed()));
        if opened.take() {
            at_door = Silence::default();
        }
        if refused.take() {
            at_login = Silence::default();
        }
        shared.change(|beat| {
            beat.silent_for = silence.0.min(at_door.0);
            beat.logins_stuck_for = silence.0.min(at_login.0);
        });
        shared.news.notify_one();
    }
}

/// Asks on a new connection. Whoever is refused has been answered, and tries again; only a login or a question that never ends is silence.
async fn keep_entering(question: &str, instance: &Instance, refused: &Cell<bool>) -> Asked {
    sleep(LOGIN_AFTER.saturating_sub(LATE)).await;
    loop {
        match ask(question, instance, None).await {
            (Err(_), _) => refused.set(true),
            answered => return answered,
        }
        sleep(LOGIN_AGAIN).await;
    }
}

/// Silence that counts: a stretch in which nobody looked counts as one look.
#[derive(Clone, Copy, Default)]
struct Silence(Duration);

impl Silence {
    fn passed(&mut self, elapsed: Duration) {
        self.0 += elapsed.min(TICK * 2);
    }
}

fn socket_of(instance: &Instance) -> PathBuf {
    instance.config().socket_dir.join(format!(".s.PGSQL.{}", instance.port()))
}

/// Resolves when whoever is at the other end has answered as a live postmaster does.
///
/// # Errors
/// The connection has ended without.
pub async fn opens(mut door: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    door.write_all(&SSL_REQUEST).await?;
    door.read_u8().await.map(|_| ())
}

/// Goes on for ever, and says whenever somebody opens.
async fn keep_knocking(socket: PathBuf, opened: &Cell<bool>) {
    loop {
        if knock(&socket).await {
            opened.set(true);
        }
        sleep(TICK).await;
    }
}

/// Whether the postmaster answers at its socket, or is not there at all: what is gone does not hang, and is noticed elsewhere.
async fn knock(socket: &std::path::Path) -> bool {
    let ask = async {
        let stream = UnixStream::connect(socket).await?;
        opens(stream).await
    };
    match timeout(DOOR_WITHIN, ask).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => error.kind() != std::io::ErrorKind::WouldBlock,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_in_which_nobody_looked_is_not_the_servers_silence() {
        let mut silence = Silence::default();
        (0..10).for_each(|_| silence.passed(TICK));
        assert_eq!(silence.0, TICK * 10);
        silence.passed(Duration::from_secs(30));
        assert_eq!(silence.0, TICK * 12);
    }
}
