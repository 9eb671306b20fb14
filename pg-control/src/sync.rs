//! Changing whom commits wait for. A setting in a file is not yet a promise: it counts once the checkpointer has raised its flag, every WAL
//! sender that can release a waiter goes by the new names, and those that are no voters any more have been cut off.

use std::time::Duration;

use decision::durability::Quorum;
use decision::names::Term;
use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::status::{Sender, Status};

/// How long a busy WAL sender may take to be seen at rest before it is made to connect again.
const COME_TO_REST: Duration = Duration::from_millis(200);

impl Instance {
    /// Lets the running primary wait for `quorum` under the names of `term`. Returns once every commit from then on does. Safe to repeat.
    ///
    /// An empty quorum releases everybody who waits as acknowledged: record that first.
    ///
    /// # Errors
    /// `Timeout` when a process does not take the change (a checkpoint in its last phase may take long): call again.
    pub async fn apply_sync(&self, quorum: &Quorum, term: Term, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let before = self.status().await?.sync;
        let wanted = quorum.standby_names(term);
        let names = wanted.clone();
        self.update_conf(move |conf| {
            conf.sync = names;
            conf.term = term;
        })
        .await?;
        self.reload_commits(deadline).await?;
        let senders = self.status_with_names(&wanted, deadline, within).await?.senders();
        let listed = |names: &str, sender: &Sender| names.contains(&format!("\"{}\"", sender.application_name));
        let (stay, others): (Vec<_>, Vec<_>) = senders.iter().partition(|sender| listed(&wanted, sender));
        let voted =
            |sender: &&&Sender| listed(&before, sender) || sender.sync_priority.is_some_and(|priority| priority > 0);
        let mut end: Vec<i32> = others.iter().filter(voted).map(|sender| sender.pid).collect();
        // One that cannot be seen at rest may still go by the old names as well.
        let patience = deadline.min(Instant::now() + COME_TO_REST);
        let stay: Vec<i32> = stay.iter().map(|sender| sender.pid).collect();
        end.extend(self.reload_surely(&stay, patience).await?);
        self.end_senders(&end, deadline, within).await
    }

    /// The status, once the observing connection shows the names as well.
    async fn status_with_names(&self, wanted: &str, deadline: Instant, within: Duration) -> Result<Status> {
        loop {
            let status = self.status().await?;
            if status.sync == wanted {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(Error::timeout("waiting for synchronous_standby_names to be taken", within));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends WAL senders and sees them gone. Their standbys connect again, by the new names.
    async fn end_senders(&self, pids: &[i32], deadline: Instant, within: Duration) -> Result<()> {
        loop {
            let left = self.processes("walsender").await?;
            let left: Vec<i32> = left.into_iter().filter(|pid| pids.contains(pid)).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::timeout("waiting for WAL senders of former voters to go", within));
            }
            self.end_backends(&left);
            sleep(Duration::from_millis(1)).await;
        }
    }
}
