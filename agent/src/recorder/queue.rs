//! What is to be written about transitions, one after the other, until etcd has it. A record that is measured once must not be lost because etcd is
//! away just then, as it often is in the very outage that the record tells of.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::Instant;

/// As many may wait; a cluster has no more transitions while its etcd is away.
const PENDING_MAX: usize = 20;

type Written = Pin<Box<dyn Future<Output = Result<(), consensus::Error>> + Send>>;
type Write = Box<dyn FnMut() -> Written + Send>;

/// How long is waited between two attempts, and until when they are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
    pub(super) gives_up_after: Duration,
}

/// As for etcd that is away: an evening's outage is recorded, and one of days is somebody's to remember.
pub(super) const PATIENCE: Patience = Patience {
    first_pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(30),
    gives_up_after: Duration::from_secs(6 * 3600),
};

/// Writes in the order in which it was asked to, so that what completes a record finds it there.
#[derive(Clone)]
pub(super) struct Queue(Sender<(String, Write)>);

impl Queue {
    /// Begins to write, on this runtime, until nobody can ask any more.
    pub(super) fn start(runtime: &Handle, patience: Patience) -> Self {
        let (sender, waiting) = mpsc::channel(PENDING_MAX);
        runtime.spawn(write_all(waiting, patience));
        Self(sender)
    }

    /// Has this written. It may be tried again after an attempt whose answer was lost, and must not count twice then.
    pub(super) fn write<F>(&self, id: &str, write: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), consensus::Error>> + Send + 'static,
    {
        let write: Write = Box::new(move || Box::pin(write()));
        if self.0.try_send((id.to_owned(), write)).is_err() {
            tracing::warn!(id, "{PENDING_MAX} transitions wait for etcd: this one is not recorded there");
        }
    }
}

async fn write_all(mut waiting: Receiver<(String, Write)>, patience: Patience) {
    while let Some((id, mut write)) = waiting.recv().await {
        let (since, mut pause) = (Instant::now(), patience.first_pause);
        while let ControlFlow::Continue(()) = attempt(&id, &mut write, since, pause, patience).await {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(patience.longest_pause);
        }
    }
}

/// Whether it must be tried again.
async fn attempt(id: &str, write: &mut Write, since: Instant, pause: Duration, patience: Patience) -> ControlFlow<()> {
    let is_first = pause == patience.first_pause;
    match write().await {
        Ok(()) if is_first => ControlFlow::Break(()),
        Ok(()) => {
            tracing::info!(id, late_by = ?since.elapsed(), "the transition is recorded in etcd after all");
            ControlFlow::Break(())
        }
        Err(error) if !may_pass(&error) || since.elapsed() >= patience.gives_up_after => {
            tracing::warn!(id, %error, "the transition could not be recorded in etcd");
            ControlFlow::Break(())
        }
        Err(error) => {
            if is_first {
                tracing::warn!(id, %error, "the transition cannot be recorded in etcd yet: it is tried again");
            }
            ControlFlow::Continue(())
        }
    }
}

/// Whether the same may succeed later: nobody mends a value that cannot be understood by writing beside it.
fn may_pass(error: &consensus::Error) -> bool {
    !matches!(error, consensus::Error::Corrupt { .. } | consensus::Error::Misconfigured(_))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use consensus::Error;

    use super::*;

    const AT_ONCE: Patience = Patience {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        gives_up_after: Duration::from_millis(100),
    };

    /// Who was tried how often.
    type Tried = Arc<Mutex<Vec<&'static str>>>;

    fn ask(queue: &Queue, tried: &Tried, id: &'static str, ends: fn(usize) -> Result<(), Error>) {
        let tried = Arc::clone(tried);
        queue.write(id, move || {
            let mut tried = tried.lock().expect("nobody panics");
            tried.push(id);
            let ended = ends(tried.iter().filter(|one| **one == id).count());
            async move { ended }
        });
    }

    #[tokio::test]
    async fn what_etcd_does_not_take_now_is_tried_until_it_does_and_in_order() {
        let (queue, tried) = (Queue::start(&Handle::current(), AT_ONCE), Tried::default());
        let away = |times| if times < 4 { Err(Error::Unreachable("away".into())) } else { Ok(()) };
        ask(&queue, &tried, "t-8", away);
        ask(&queue, &tried, "redundancy of t-8", |_| Ok(()));
        ask(&queue, &tried, "nonsense", |_| Err(Error::Corrupt { key: "k".into(), why: "no JSON".into() }));
        ask(&queue, &tried, "never", |_| Err(Error::Unreachable("away".into())));
        ask(&queue, &tried, "t-9", |_| Ok(()));
        let ended = async {
            while tried.lock().expect("nobody panics").last() != Some(&"t-9") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("what is never taken is given up");
        let mut tried = tried.lock().expect("nobody panics").clone();
        assert!(tried.iter().filter(|id| **id == "never").count() > 4, "{tried:?}");
        tried.dedup();
        assert_eq!(tried, ["t-8", "redundancy of t-8", "nonsense", "never", "t-9"]);
    }

    #[tokio::test]
    async fn no_more_wait_than_there_is_room_for() {
        let (queue, tried) = (Queue::start(&Handle::current(), AT_ONCE), Tried::default());
        // Nothing is taken up before this test waits.
        (0..PENDING_MAX).for_each(|_| ask(&queue, &tried, "waits", |_| Ok(())));
        ask(&queue, &tried, "one too many", |_| Ok(()));
        drop(queue);
        while Arc::strong_count(&tried) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(*tried.lock().expect("nobody panics"), vec!["waits"; PENDING_MAX]);
    }
}
