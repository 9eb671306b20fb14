//! The one action under way: begun, watched, cancelled, and its result taken in. An action that fails is not tried again at once, and
//! decisions wait until they can see what an action has written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use consensus::{BootInstant, Snapshot};
use decision::action::Action;
use decision::view::Job;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::execute::{Effect, act};
use crate::hands::Hands;

/// A failed action is not tried again before this, so that a failing disk does not make a busy loop.
pub const BREATHER: Duration = Duration::from_millis(200);

/// How an action ended; the outer error: it ended without a result.
pub type Ended = Result<Result<Effect>, oneshot::error::RecvError>;

struct Running {
    action: Action,
    began: Instant,
    cancel: CancellationToken,
    result: oneshot::Receiver<Result<Effect>>,
}

/// An action that has failed, since when none has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its stable word.
    pub action: &'static str,
    /// Why.
    pub error: String,
    /// When it ended.
    pub at: Instant,
}

/// What is under way, and how the last action ended.
pub struct Tasks {
    hands: Arc<Hands>,
    running: Option<Running>,
    failed: Option<(Action, Failed)>,
    just_failed: Option<&'static str>,
    own_revision: i64,
    own_write_at: BootInstant,
}

impl Tasks {
    /// Nothing is under way.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self {
            hands,
            running: None,
            failed: None,
            just_failed: None,
            own_revision: 0,
            own_write_at: BootInstant::now(),
        }
    }

    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// The stable word of what is under way.
    pub fn code(&self) -> Option<&'static str> {
        self.running.as_ref().map(|running| running.action.code())
    }

    /// What is under way, as a decision sees it.
    pub fn job(&self) -> Option<Job> {
        let running = self.running.as_ref()?;
        let from = match &running.action {
            Action::Clone { from, .. } | Action::Rewind { from, .. } | Action::Reinit { from, .. } => {
                Some(from.member.clone())
            }
            _ => None,
        };
        Some(Job { action: running.action.code().to_owned(), age: running.began.elapsed(), from })
    }

    /// Begins `action`, decided from `seen`, unless something is under way or the same action has only just failed. `Cancel` breaks
    /// off what is under way.
    pub fn begin(&mut self, action: &Action, seen: Arc<Snapshot>) {
        if *action == Action::Cancel
            && let Some(running) = self.running.as_ref().filter(|running| !running.cancel.is_cancelled())
        {
            tracing::info!(action = running.action.code(), "what was begun ends: something else is called for now");
            running.cancel.cancel();
        }
        let idle = self.running.is_none() && !matches!(action, Action::Wait | Action::Cancel);
        let rests = self
            .failed
            .as_ref()
            .is_some_and(|(action_before, failed)| action_before == action && failed.at.elapsed() < BREATHER);
        if !idle || rests {
            return;
        }
        crash_point(action.code(), "before");
        tracing::debug!(action = action.code(), own = self.own_revision, seen = seen.cluster.revision, "begins");
        let cancel = CancellationToken::new();
        let (send, result) = oneshot::channel();
        let work = act(Arc::clone(&self.hands), action.clone(), seen, cancel.clone());
        let (break_off, tidies_up) = (cancel.clone(), tidies_up(action));
        let work = async move {
            let ended = tokio::select! {
                ended = work => ended,
                () = break_off.cancelled(), if !tidies_up => Err(anyhow::anyhow!("broken off")),
            };
            // Nobody listens any more when the agent ends; the work is done all the same.
            let _ = send.send(ended);
        };
        // Files are read and written on the way, and may hang with their disk: not on a thread that others need.
        let runtime = tokio::runtime::Handle::current();
        self.hands.works.spawn_blocking(move || runtime.block_on(work));
        self.running = Some(Running { action: action.clone(), began: Instant::now(), cancel, result });
    }

    /// Ends the children of what is under way, where it has any: nobody else would.
    pub fn end_children(&self) {
        if let Some(running) = self.running.as_ref().filter(|running| tidies_up(&running.action)) {
            running.cancel.cancel();
        }
    }

    /// Resolves with the result of what is under way; never, where nothing is.
    pub async fn ended(&mut self) -> Ended {
        match &mut self.running {
            Some(running) => (&mut running.result).await,
            None => std::future::pending().await,
        }
    }

    /// Takes in how the action ended; says whether it succeeded.
    pub fn collect(&mut self, ended: Ended) -> bool {
        let Some(Running { action, began, .. }) = self.running.take() else { return false };
        let (code, took) = (action.code(), began.elapsed());
        crash_point(code, "after");
        let failure = match ended {
            Ok(Ok(effect)) => {
                self.hands.metrics.acted(code, "done");
                tracing::debug!(action = code, ?took, "action done");
                self.own_revision = self.own_revision.max(effect.revision);
                self.own_write_at = BootInstant::now();
                self.failed = None;
                return true;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "it ended without a result".to_owned(),
        };
        self.hands.metrics.acted(code, "failed");
        tracing::warn!(action = code, ?took, error = failure, "action failed");
        self.failed = Some((action, Failed { action: code, error: failure, at: Instant::now() }));
        self.just_failed = Some(code);
        false
    }

    /// What has failed last, unless something has succeeded since.
    pub fn failed(&self) -> Option<&Failed> {
        self.failed.as_ref().map(|(_, failed)| failed)
    }

    /// The action that has failed since this was last asked, by its stable word.
    pub fn just_failed(&mut self) -> Option<&'static str> {
        self.just_failed.take()
    }

    /// Whether a picture of etcd at this revision, confirmed by a read that was sent at `confirmed_at`, shows what this agent has written
    /// itself. Never by time alone: not every action is a guarded write, and a durability change that is decided from the record before
    /// the last one lets Postgres wait for a quorum that etcd knows nothing of. (A restored etcd may have a lower revision for good; a
    /// read that was sent after the write tells what is so all the same.)
    pub fn caught_up(&self, revision: i64, confirmed_at: BootInstant) -> bool {
        revision >= self.own_revision || confirmed_at > self.own_write_at
    }
}

/// Actions with child processes take the cancellation themselves, and end their children. Any other may stop between any two steps,
/// for it must survive the death of the agent there as well.
fn tidies_up(action: &Action) -> bool {
    matches!(
        action,
        Action::Bootstrap | Action::Clone { .. } | Action::Rewind { .. } | Action::Reinit { .. } | Action::FindEndOfWal
    )
}

/// In debug builds a test may name an action, before or after which the agent dies as by SIGKILL: `PGVIGIL_CRASH_AT=acquire:after`.
pub(crate) fn crash_point(action: &str, moment: &str) {
    if cfg!(debug_assertions)
        && std::env::var("PGVIGIL_CRASH_AT").is_ok_and(|wanted| wanted == format!("{action}:{moment}"))
    {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
