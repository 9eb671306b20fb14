//! A client of one way, which writes a row each few milliseconds and notes when each was acknowledged. An error is counted, and it goes on: on the
//! same connection where that is still there, else on another at once.

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent::demo::session::Session;
use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Between two rows.
const PACE: Duration = Duration::from_millis(5);
/// Before the next connection where one could not be had.
const BREATHER: Duration = Duration::from_millis(5);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A pooler may hold its client for as long; whoever is cut off hears of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What one client knows.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Its way.
    pub way: &'static str,
    /// Acknowledged rows, and when.
    pub acknowledged: Vec<(i64, Instant)>,
    /// When there was an error.
    pub errors: Vec<Instant>,
}

impl Log {
    /// The longest time without an acknowledgement that ended after the fault and began before `steady`.
    pub fn outage(&self, fault: Instant, steady: Instant) -> Option<Duration> {
        let pairs = self.acknowledged.windows(2).map(|pair| (pair[0].1, pair[1].1));
        pairs.filter(|(last, next)| *next > fault && *last < steady).map(|(last, next)| next - last).max()
    }
}

/// One at work.
pub struct Writing {
    log: Arc<Mutex<Log>>,
    work: JoinHandle<()>,
}

fn open(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writing {
    /// By a loopback port.
    pub fn through(way: &'static str, port: u16) -> Self {
        Self::start(way, async move |log| by_port(way, port, &log).await)
    }

    /// By libpq, with psql as the program around it.
    pub fn by_libpq(way: &'static str, psql: Command, uri: String) -> Self {
        let psql = Arc::new(Mutex::new(psql));
        Self::start(way, async move |log| by_psql(way, &psql, &uri, &log).await)
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        way: &'static str,
        work: impl FnOnce(Arc<Mutex<Log>>) -> F + Send + 'static,
    ) -> Self {
        let log = Arc::new(Mutex::new(Log { way, ..Log::default() }));
        let work = tokio::spawn(work(Arc::clone(&log)));
        Self { log, work }
    }

    /// How many rows are acknowledged.
    pub fn count(&self) -> usize {
        open(&self.log).acknowledged.len()
    }

    /// Rows are acknowledged again after a break, or have been for long enough that there was none.
    pub fn is_back(&self, fault: Instant) -> bool {
        let log = open(&self.log);
        let last = log.acknowledged.last().map(|(_, at)| *at);
        last.is_some_and(|last| {
            last > fault + Duration::from_millis(1500) && last.elapsed() < Duration::from_millis(200)
        })
    }

    /// Ends it, and what it knows.
    pub fn stop(self) -> Log {
        self.work.abort();
        open(&self.log).clone()
    }
}

async fn by_port(way: &str, port: u16, log: &Mutex<Log>) {
    let mut i = 0;
    loop {
        let session = match Session::open(port, CONNECT_WITHIN).await {
            Ok(session) => session,
            Err(_) => {
                open(log).errors.push(Instant::now());
                sleep(BREATHER).await;
                continue;
            }
        };
        while !session.is_closed() {
            i += 1;
            let insert = format!("INSERT INTO routed VALUES ('{way}', {i})");
            match timeout(ANSWER_WITHIN, session.batch_execute(&insert)).await {
                Ok(Ok(())) => open(log).acknowledged.push((i, Instant::now())),
                _ => open(log).errors.push(Instant::now()),
            }
            sleep(PACE).await;
        }
    }
}

async fn by_psql(way: &str, psql: &Mutex<Command>, uri: &str, log: &Mutex<Log>) {
    let mut i = 0;
    loop {
        let _ = with_one(way, psql, uri, log, &mut i).await;
        open(log).errors.push(Instant::now());
        sleep(BREATHER).await;
    }
}

/// Writes for as long as its connection lasts.
async fn with_one(way: &str, psql: &Mutex<Command>, uri: &str, log: &Mutex<Log>, i: &mut i64) -> Result<()> {
    let mut child = {
        let mut psql = psql.lock().unwrap_or_else(PoisonError::into_inner);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()
    }
    .with_context(|| format!("running psql with {uri}"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut stdin, stdout) = (stdin.context("its input")?, stdout.context("its output")?);
    let mut lines = BufReader::new(stdout).lines();
    loop {
        *i += 1;
        stdin.write_all(format!("INSERT INTO routed VALUES ('{way}', {i}) RETURNING i;\n").as_bytes()).await?;
        stdin.flush().await?;
        let line = timeout(ANSWER_WITHIN, lines.next_line()).await??.context("it has ended")?;
        ensure!(line.trim() == i.to_string(), "it says {line}");
        open(log).acknowledged.push((*i, Instant::now()));
        sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outage_is_the_longest_silence_around_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let acknowledged = [0, 700, 990, 1010, 2010, 2020, 9000].iter().zip(1..).map(|(ms, i)| (i, at(*ms))).collect();
        let log = Log { acknowledged, ..Log::default() };
        assert_eq!(log.outage(at(1000), at(2015)), Some(Duration::from_millis(1000)));
        assert_eq!(Log::default().outage(start, start), None);
    }
}
