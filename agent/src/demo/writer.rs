//! A client that writes numbered rows one after another and remembers every one that was acknowledged, and when. Its silence is the
//! outage: from the last acknowledgement before to the first after, on one monotonic clock. A row whose fate it never heard of is not
//! counted, and its number is not used again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::Statement;

use super::session::Session;

/// At most this often, so that a small machine has time for the cluster too.
const PACE: Duration = Duration::from_millis(2);
/// Without an answer in this time the connection is given up.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
const CONNECT_WITHIN: Duration = Duration::from_millis(300);
/// A refused connection is tried again after this.
const BREATHER: Duration = Duration::from_millis(5);

/// The table it writes to.
pub const TABLE: &str =
    "CREATE TABLE rows (id bigint PRIMARY KEY, written_at timestamptz NOT NULL DEFAULT clock_timestamp())";
const INSERT: &str = "INSERT INTO rows (id) VALUES ($1)";

/// One acknowledged row.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Its number.
    pub id: i64,
    /// When the acknowledgement came.
    pub at: Instant,
}

/// What the writer knows.
#[derive(Clone, Debug, Default)]
pub struct Logbook {
    /// The acknowledged rows, in their order.
    pub acknowledged: Vec<Acknowledged>,
    /// Rows of which it never heard.
    pub unknown: u64,
    /// When it opened the connection that it uses.
    pub connected_at: Option<Instant>,
}

impl Logbook {
    /// The longest silence between two acknowledgements, among those of which the instants of the two say so.
    pub fn silence(&self, among: impl Fn(Instant, Instant) -> bool) -> Option<Duration> {
        let pairs = self.acknowledged.iter().zip(self.acknowledged.iter().skip(1));
        let wanted = pairs.filter(|(last, next)| among(last.at, next.at));
        wanted.map(|(last, next)| next.at.duration_since(last.at)).max()
    }

    /// How long no write was acknowledged: the longest silence that ended after the fault and began before writes had been back for a while.
    pub fn outage(&self, fault: Instant, back: Instant) -> Option<Duration> {
        self.silence(|last, next| next > fault && last < back)
    }

    /// Whether rows are acknowledged again on a connection that was opened after the fault.
    pub fn is_back(&self, fault: Instant) -> bool {
        let last = self.acknowledged.last().map(|row| row.at);
        self.connected_at.is_some_and(|connected| connected > fault && last.is_some_and(|last| last > connected))
    }
}

/// The writer at work.
pub struct Writer {
    logbook: Arc<Mutex<Logbook>>,
    work: JoinHandle<()>,
}

impl Writer {
    /// Begins to write through a loopback port that leads to the primary.
    pub fn start(port: u16) -> Self {
        let logbook = Arc::new(Mutex::new(Logbook::default()));
        let work = tokio::spawn(write(port, Arc::clone(&logbook)));
        Self { logbook, work }
    }

    /// How many rows are acknowledged so far. Cheap.
    pub fn count(&self) -> usize {
        open(&self.logbook).acknowledged.len()
    }

    /// Asks something of the logbook.
    pub fn read<T>(&self, question: impl Fn(&Logbook) -> T) -> T {
        question(&open(&self.logbook))
    }

    /// Counts on, from anywhere.
    pub fn counter(&self) -> impl Fn() -> usize + Send + 'static {
        let logbook = Arc::clone(&self.logbook);
        move || open(&logbook).acknowledged.len()
    }

    /// Stops writing and hands the logbook over.
    pub fn stop(self) -> Logbook {
        self.work.abort();
        open(&self.logbook).clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.work.abort();
    }
}

fn open(logbook: &Mutex<Logbook>) -> MutexGuard<'_, Logbook> {
    logbook.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(port: u16, logbook: Arc<Mutex<Logbook>>) {
    let mut id = 0;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let Ok(Ok((session, insert))) = timeout(CONNECT_WITHIN, connect(port)).await else {
            sleep(BREATHER).await;
            continue;
        };
        open(&logbook).connected_at = Some(Instant::now());
        loop {
            pace.tick().await;
            id += 1;
            match timeout(ANSWER_WITHIN, session.execute(&insert, &[&id])).await {
                Ok(Ok(_)) => open(&logbook).acknowledged.push(Acknowledged { id, at: Instant::now() }),
                _ => break,
            }
        }
        open(&logbook).unknown += 1;
    }
}

async fn connect(port: u16) -> Result<(Session, Statement)> {
    let session = Session::open(port, CONNECT_WITHIN).await?;
    let insert = session.prepare(INSERT).await.context("preparing the insert")?;
    Ok((session, insert))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(at_ms: &[u64], start: Instant) -> Logbook {
        let row = |(id, at): (i64, &u64)| Acknowledged { id, at: start + Duration::from_millis(*at) };
        Logbook { acknowledged: (1..).zip(at_ms).map(row).collect(), ..Logbook::default() }
    }

    #[test]
    fn the_outage_is_the_longest_silence_around_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let logbook = rows(&[0, 700, 990, 1010, 3010, 3100, 9000, 9010], start);
        assert_eq!(logbook.outage(at(1000), at(3050)), Some(Duration::from_millis(2000)));
        assert_eq!(logbook.outage(at(1000), at(4000)), Some(Duration::from_millis(5900)));
        let stalled_before = rows(&[0, 900, 1010, 1020], start);
        assert_eq!(stalled_before.outage(at(1000), at(1500)), Some(Duration::from_millis(110)));
    }

    #[test]
    fn a_silence_that_has_not_ended_is_no_number() {
        let start = Instant::now();
        let fault = start + Duration::from_millis(30);
        assert_eq!(rows(&[0, 10, 20], start).outage(fault, fault), None);
        assert_eq!(rows(&[], start).outage(start, fault), None);
    }

    #[test]
    fn an_acknowledgement_on_an_old_connection_is_no_return() {
        let start = Instant::now();
        let fault = start + Duration::from_millis(15);
        let mut logbook = rows(&[10, 20], start);
        logbook.connected_at = Some(start);
        assert!(!logbook.is_back(fault));
        logbook.connected_at = Some(fault + Duration::from_millis(1));
        assert!(logbook.is_back(fault));
    }
}
