//! A client that does not go through HAProxy but sticks to one node, and writes there whenever it lets it: the client that would
//! notice a second primary first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent::demo::session::Session;
use agent::demo::writer::Acknowledged;
use tokio::task::JoinHandle;

/// Its rows are numbered from here on, so that the other writer's are not in the way.
const FIRST_ROW: i64 = 1 << 40;
const PACE: Duration = Duration::from_millis(20);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Longer than any freeze: a commit that waits for its acknowledgement is not given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The client at work.
pub struct DirectWriter {
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    work: JoinHandle<()>,
}

impl DirectWriter {
    /// Begins to write on the Postgres with this port.
    pub fn start(port: u16) -> Self {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let work = tokio::spawn(write(port, Arc::clone(&acknowledged)));
        Self { acknowledged, work }
    }

    /// How many rows it has got acknowledged.
    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stops, and says what was acknowledged.
    pub fn stop(self) -> Vec<Acknowledged> {
        self.work.abort();
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn write(port: u16, acknowledged: Arc<Mutex<Vec<Acknowledged>>>) {
    let mut id = FIRST_ROW;
    loop {
        tokio::time::sleep(PACE).await;
        let Ok(session) = Session::open(port, CONNECT_WITHIN).await else { continue };
        loop {
            id += 1;
            let statement = format!("INSERT INTO rows (id) VALUES ({id})");
            let insert = session.batch_execute(&statement);
            let Ok(Ok(())) = tokio::time::timeout(ANSWER_WITHIN, insert).await else { break };
            let row = Acknowledged { id, at: Instant::now() };
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(row);
            tokio::time::sleep(PACE).await;
        }
    }
}
