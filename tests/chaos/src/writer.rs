//! A client at every node: it asks the node whether it takes writes, a few hundred times a second, and writes where it does, so that a new
//! primary is found in milliseconds and two of them cannot hide. An answer that is late is still waited for while a new connection is
//! tried; a success with a warning is none, for Postgres releases a cancelled wait for standbys in that way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::demo::session::{DATABASE, USER};
use anyhow::{Result, anyhow};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};

use crate::ledger::{Ledger, Row};
use crate::system::Spot;

/// The table it writes to.
pub const TABLE: &str = "CREATE TABLE rows (id bigint PRIMARY KEY)";
/// The timeline is that of the very record that is written.
const INSERT: &str = "INSERT INTO rows (id) VALUES ($1) \
     RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";
const ASK: &str = "SELECT NOT pg_is_in_recovery()";

/// Between two rows, and between two questions.
const PACE: Duration = Duration::from_millis(3);
const CONNECT_WITHIN: Duration = Duration::from_millis(300);
/// Beyond this another connection is tried beside the one that is waited for.
const LATE_AFTER: Duration = Duration::from_millis(700);
/// Beyond this nobody waits for an answer any more.
const LOST_AFTER: Duration = Duration::from_secs(60);
const MOST_LATE: usize = 8;
/// Numbers of one node begin at its index times this.
pub const NUMBERS: i64 = 1 << 40;

/// The writers at work.
pub struct Writers {
    ledger: Arc<Ledger>,
    work: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Begins to write.
    pub fn start(spots: &[Spot]) -> Self {
        let ledger = Arc::new(Ledger::default());
        let write = |(node, spot): (usize, &Spot)| {
            let writer = Writer {
                node,
                address: spot.host.address().to_string(),
                port: spot.port,
                next: Arc::new(AtomicI64::new(i64::try_from(node).unwrap_or(0) * NUMBERS)),
                late: Arc::new(AtomicUsize::new(0)),
                ledger: Arc::clone(&ledger),
            };
            tokio::spawn(writer.write())
        };
        let work = spots.iter().enumerate().map(write).collect();
        Self { ledger, work }
    }

    /// What they know.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.work.iter().for_each(JoinHandle::abort);
    }
}

struct Writer {
    node: usize,
    address: String,
    port: u16,
    next: Arc<AtomicI64>,
    late: Arc<AtomicUsize>,
    ledger: Arc<Ledger>,
}

/// A connection with its statements, and how many warnings it has brought.
struct Line {
    client: Client,
    ask: Statement,
    insert: Statement,
    warnings: Arc<AtomicUsize>,
    io: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.io.abort();
    }
}

impl Writer {
    async fn write(self) {
        loop {
            let Ok(Ok(line)) = timeout(CONNECT_WITHIN, self.connect()).await else {
                sleep(PACE).await;
                continue;
            };
            let line = Arc::new(line);
            while self.one(&line).await {
                sleep(PACE).await;
            }
        }
    }

    /// Asks, and writes one row if it may. Says whether the connection is good for another.
    async fn one(&self, line: &Arc<Line>) -> bool {
        match timeout(LATE_AFTER, line.client.query_one(&line.ask, &[])).await {
            Ok(Ok(row)) if row.get(0) => {}
            Ok(Ok(_)) => return true,
            _ => return false,
        }
        // One connection goes on at the pace while rows are taken; the question is asked anew only where one is refused.
        loop {
            let mut row = tokio::spawn(insert(
                Arc::clone(line),
                self.node,
                self.next.fetch_add(1, Ordering::Relaxed),
                Arc::clone(&self.ledger),
            ));
            match timeout(LATE_AFTER, &mut row).await {
                Ok(Ok(true)) => sleep(PACE).await,
                Ok(_) => return false,
                Err(_) => {
                    self.leave(row).await;
                    return false;
                }
            }
        }
    }

    /// Lets a row be waited for by somebody else.
    async fn leave(&self, row: JoinHandle<bool>) {
        let late = Arc::clone(&self.late);
        late.fetch_add(1, Ordering::Relaxed);
        let abort = row.abort_handle();
        tokio::spawn(async move {
            if timeout(LOST_AFTER, row).await.is_err() {
                abort.abort();
            }
            late.fetch_sub(1, Ordering::Relaxed);
        });
        while self.late.load(Ordering::Relaxed) >= MOST_LATE {
            sleep(PACE).await;
        }
    }

    async fn connect(&self) -> Result<Line> {
        let mut config = Config::new();
        config.host(&self.address).port(self.port).user(USER).dbname(DATABASE).application_name("chaos");
        let (client, mut connection) = config.connect(NoTls).await?;
        let warnings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&warnings);
        let io = tokio::spawn(async move {
            let next = async |connection: &mut tokio_postgres::Connection<_, _>| {
                std::future::poll_fn(|context| connection.poll_message(context)).await
            };
            // A warning comes before the success that it belongs to, and is counted before that is handed on.
            while let Some(Ok(message)) = next(&mut connection).await {
                if let AsyncMessage::Notice(_) = message {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let prepared = async { anyhow::Ok((client.prepare(ASK).await?, client.prepare(INSERT).await?)) };
        match prepared.await {
            Ok((ask, insert)) => Ok(Line { client, ask, insert, warnings, io }),
            Err(error) => {
                io.abort();
                Err(anyhow!(error))
            }
        }
    }
}

/// Says whether the row was acknowledged.
async fn insert(line: Arc<Line>, node: usize, id: i64, ledger: Arc<Ledger>) -> bool {
    let (warnings, sent) = (line.warnings.load(Ordering::SeqCst), Instant::now());
    let Ok(answer) = line.client.query_one(&line.insert, &[&id]).await else { return false };
    let at = Instant::now();
    if line.warnings.load(Ordering::SeqCst) != warnings {
        return false;
    }
    ledger.push(Row { id, node, timeline: answer.get(0), sent, at });
    true
}
