//! A piece of work beside the decisions, which runs in the background, one at a time, and may fail and come again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

/// One kind of chore: at most one at a time, and not at once again.
pub struct Chore {
    name: &'static str,
    busy: Arc<AtomicBool>,
    began: Option<Instant>,
}

impl Chore {
    /// One that has not run yet.
    pub fn new(name: &'static str) -> Self {
        Self { name, busy: Arc::new(AtomicBool::new(false)), began: None }
    }

    /// Starts the chore unless it runs, or began less than `every` ago. Says whether it did.
    pub fn begin(&mut self, every: Duration, work: impl Future<Output = Result<()>> + Send + 'static) -> bool {
        let rests = self.began.is_some_and(|began| began.elapsed() < every);
        if rests || self.busy.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.began = Some(Instant::now());
        let (busy, name) = (Arc::clone(&self.busy), self.name);
        tokio::spawn(async move {
            if let Err(error) = work.await {
                tracing::debug!(chore = name, error = format!("{error:#}"), "chore failed and will be tried again");
            }
            busy.store(false, Ordering::SeqCst);
        });
        true
    }
}
