//! Proof that a server process has taken a reload. `SHOW` proves it for one's own backend only, yet commits wait only once the checkpointer
//! has raised a flag in shared memory, and each WAL sender releases waiters by its own copy of the settings. A process that
//! sleeps in its main loop with no SIGHUP pending has read the file: the signal's handler sets the latch that it sleeps on.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use procfs::process::Process;
use tokio::time::{Duration, Instant, sleep};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::process;
use crate::status::Status;

/// Where the processes in question sleep after they have looked for a reload (PostgreSQL 15: `CheckpointerMain`, `CheckpointWriteDelay`,
/// `WalSndLoop`).
const MAIN_LOOPS: [&str; 3] = ["CheckpointerMain", "CheckpointWriteDelay", "WalSenderMain"];

/// If the process sleeps and has no SIGHUP to take: how often it has been switched to and away. An equal count later means that it
/// has not run in between.
pub(crate) fn asleep(pid: i32) -> Option<u64> {
    let status = Process::new(pid).ok()?.status().ok()?;
    let hangup = 1_u64 << (Signal::SIGHUP as u64 - 1);
    let settled = status.state.starts_with('S') && (status.shdpnd | status.sigpnd) & hangup == 0;
    settled.then_some(status.voluntary_ctxt_switches? + status.nonvoluntary_ctxt_switches?)
}

impl Instance {
    /// The process ids of the server's processes of one kind (`backend_type`).
    pub(crate) async fn processes(&self, kind: &str) -> Result<Vec<i32>> {
        let rows = self.ask("SELECT pid FROM pg_stat_get_activity(NULL) WHERE backend_type = $1", &[&kind]).await?;
        rows.iter().map(|row| row.try_get(0).map_err(Error::from)).collect()
    }

    /// Signals these processes to reload and waits until each has. Returns those that have not by the deadline; the dead have.
    pub(crate) async fn reload_surely(&self, pids: &[i32], deadline: Instant) -> Result<Vec<i32>> {
        let Some(postmaster) = self.postmaster() else { return Err(Error::Down("nothing to reload".to_owned())) };
        // The postmaster passes SIGHUP on, but nobody knows when: signal them directly, so that it is pending from here on.
        process::send_to_children(postmaster.pid, pids, Signal::SIGHUP);
        let mut waiting = pids.to_vec();
        loop {
            let before: BTreeMap<i32, Option<u64>> = waiting.iter().map(|pid| (*pid, asleep(*pid))).collect();
            let sql = "SELECT pid, wait_event FROM pg_stat_get_activity(NULL) WHERE pid = ANY($1)";
            let rows = self.ask(sql, &[&waiting]).await?;
            let mut alive = BTreeMap::new();
            for row in &rows {
                alive.insert(row.try_get::<_, i32>(0)?, row.try_get::<_, Option<String>>(1)?);
            }
            waiting.retain(|pid| match alive.get(pid) {
                None => false,
                Some(event) => !has_read(*pid, before[pid], event.as_deref()),
            });
            if waiting.is_empty() || Instant::now() >= deadline {
                return Ok(waiting);
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Reloads the server and waits until the checkpointer has taken that: only then do commits wait for the names that are configured.
    /// A few milliseconds, unless it is in the last phase of a checkpoint.
    ///
    /// # Errors
    /// `Timeout` when it has not by the deadline.
    pub(crate) async fn reload_commits(&self, deadline: Instant) -> Result<Status> {
        let begin = Instant::now();
        let postmaster = self.postmaster().ok_or_else(|| Error::Down("nothing to reload".to_owned()))?.pid;
        let Some(checkpointer) = self.status().await?.checkpointer else {
            return Err(Error::NotAccepting("it has no checkpointer".to_owned()));
        };
        // It comes first: what the postmaster then lets everybody do at once keeps the processors busy for a while.
        process::send_to_children(postmaster, &[checkpointer], Signal::SIGHUP);
        self.reload()?;
        loop {
            let before = asleep(checkpointer);
            let status = self.status().await?;
            // One that is new has read the file when it began.
            let new = status.checkpointer.is_some_and(|pid| pid != checkpointer);
            if new || has_read(checkpointer, before, status.checkpointer_waits.as_deref()) {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(Error::timeout("waiting for the checkpointer to take the new names", begin.elapsed()));
            }
            if begin.elapsed() > Duration::from_millis(10) {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// Whether the process has slept in its main loop since `before`, the moment between being its wait event's.
fn has_read(pid: i32, before: Option<u64>, wait_event: Option<&str>) -> bool {
    let in_loop = wait_event.is_some_and(|event| MAIN_LOOPS.contains(&event));
    in_loop && before.is_some() && asleep(pid) == before
}
