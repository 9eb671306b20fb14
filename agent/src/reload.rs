//! The node's file is read again: at a SIGHUP, and at an operator's order. It is checked as a whole first, and where it has a mistake everything
//! stays as it was. What counts at once is in `hands.local`; everybody who goes by it looks there each time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use consensus::Snapshot;
use consensus::records::Transition;
use decision::view::View;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;

use crate::chore::Chore;
use crate::config;
use crate::execute::order_record;
use crate::hands::Hands;
use crate::logging;

/// How soon an order that could not be taken is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

impl Hands {
    /// Takes the file of this node up again, aside from what must not wait for the disk, and says what came of it.
    ///
    /// # Errors
    /// Every mistake in it, told to the log as well; nothing has changed then.
    pub async fn reload(self: &Arc<Self>) -> Result<Vec<String>> {
        let hands = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || hands.read_again()).await?;
        if let Err(errors) = &read {
            tracing::error!("the file has a mistake, and everything stays as it was: {errors:#}");
        }
        read
    }

    fn read_again(&self) -> Result<Vec<String>> {
        // One after another: the older file must not be taken up last.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.config.path;
        let fresh = config::load(path, std::env::vars()).map_err(|errors| anyhow!("{errors}"))?;
        let reread = self.config.reread(&self.local.load(), fresh);
        if reread.taken_up.contains(&"log.filter") {
            logging::filter(&reread.config.log.filter)?;
        }
        let told = reread.sentences();
        tracing::info!(file = %path.display(), "read again: {}", told.join("; "));
        self.instance.cascade_from(reread.config.tags.replicatefrom.clone());
        self.local.store(Arc::new(reread.config));
        self.look_now.notify_one();
        Ok(told)
    }
}

/// Reads the file again at each of these signals, for ever.
pub async fn at_each(mut hangup: Signal, hands: Arc<Hands>) {
    while hangup.recv().await.is_some() {
        let mut begins = vec![NotifyState::Reloading];
        begins.extend(NotifyState::monotonic_usec_now().ok());
        let _ = sd_notify::notify(&begins);
        // What went wrong is told there; whoever sends a signal hears nothing.
        let _ = hands.reload().await;
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }
}

/// Orders to do so.
pub struct Reloading {
    hands: Arc<Hands>,
    chore: Chore,
}

impl Reloading {
    /// None is known yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("the node's file") }
    }

    /// Looks whether there is one. It changes nothing that anybody waits for, so it is obeyed whatever else is under way.
    pub fn see(&mut self, view: &View, snapshot: Option<&Arc<Snapshot>>) {
        let Some(seen) = snapshot.filter(|seen| seen.reloads.contains_key(&view.me) && view.cluster.now().is_some())
        else {
            return;
        };
        let (hands, seen) = (Arc::clone(&self.hands), Arc::clone(seen));
        self.chore.begin(AGAIN_AFTER, async move { hands.obey_reload(&seen).await });
    }
}

impl Hands {
    /// Reads the file, and only then takes the order away, in one step with the record of how it went: done twice, it is done as well.
    async fn obey_reload(self: &Arc<Self>, seen: &Snapshot) -> Result<()> {
        let Some(order) = seen.reloads.get(self.me()).copied() else { return Ok(()) };
        let read = self.reload().await;
        let outcome = if read.is_ok() { "done" } else { "failed" }.to_owned();
        let notes = read.unwrap_or_else(|errors| vec![format!("{errors:#}")]);
        let record = Transition { outcome, notes, ..order_record(self, seen, order, "reload") };
        self.store.take_order(self.me(), order, &record).await?;
        Ok(())
    }
}
