//! The agent's side of the fence. The fencer, a process of its own, kills Postgres when this node may not rely on its leadership any
//! more, whatever has become of the agent (crate `fencer`). Here it is found or started, armed before Postgres may become primary, and
//! given each new deadline; `keeper.rs` is the thread that does so, `wire.rs` the connection. As long as the agent is alive it is a fence as
//! well: `guard.rs`.

mod guard;
mod keeper;
mod program;
mod replacement;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use consensus::BootInstant;
use tokio::sync::{Notify, watch};

use crate::authority::Authority;
use crate::config::Config;

pub use program::find as find_program;

/// How long arming may take: a fencer that does not answer is replaced within it.
const ARM_WITHIN: Duration = Duration::from_secs(3);

/// What the fence needs to know.
#[derive(Clone, Debug)]
pub struct FenceOptions {
    /// Where the fencer's socket is.
    pub state_dir: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The program.
    pub program: PathBuf,
    /// How long before the lease ends Postgres must be dead.
    pub safety_margin: Duration,
    /// The time to live of the lease.
    pub ttl: Duration,
    /// The kernel's watchdog behind the fencer.
    pub watchdog: crate::config::Watchdog,
}

impl FenceOptions {
    /// From the configuration.
    ///
    /// # Errors
    /// The program is not there.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            state_dir: config.state_dir.clone(),
            data_dir: config.postgres.data_dir.clone(),
            program: find_program()?,
            safety_margin: config.timing.safety_margin,
            ttl: config.timing.ttl,
            watchdog: config.watchdog.clone(),
        })
    }
}

/// What the loop wants of the fencer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Wanted {
    /// What it was told in an earlier life of the agent stands, until this one knows whether it leads.
    #[default]
    Inherited,
    /// To kill what works in this directory at the deadline.
    Armed(PathBuf),
    /// To do nothing.
    Disarmed,
}

/// How the fence stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why this node must not become primary: no fencer, or no watchdog where one is required.
    pub trouble: Option<String>,
    /// The deadline that a fencer has confirmed; at that instant it kills.
    pub armed_until: Option<BootInstant>,
    /// A later agent of this node has taken over.
    pub superseded: bool,
    /// Why the next agent would not find the fencer, where the way to it was deleted and no other could be put in its place.
    pub out_of_reach: Option<String>,
    /// Whether the kernel's watchdog can be used; `None`: it is off.
    pub watchdog: Option<bool>,
}

impl Standing {
    fn is_confirmed(&self) -> bool {
        let in_time = |until: BootInstant| !until.remaining().is_zero();
        self.trouble.is_none() && self.armed_until.is_some_and(in_time)
    }
}

/// The fence of this node.
pub struct Fence {
    data_dir: PathBuf,
    wanted: watch::Sender<Wanted>,
    standing: watch::Receiver<Standing>,
    bound: watch::Sender<Option<BootInstant>>,
    out_of_reach: Arc<Notify>,
    ttl: Duration,
}

impl Fence {
    /// Finds the fencer of an earlier life, or starts one, and keeps it on a thread of its own. It is left as it is until
    /// [`Fence::arm`] or [`Fence::disarm`].
    ///
    /// # Errors
    /// There is no fencer and none can be started.
    pub fn start(options: FenceOptions, authority: Authority) -> Result<Self> {
        let (data_dir, ttl, margin) = (options.data_dir.clone(), options.ttl, options.safety_margin);
        let (wanted, _) = watch::channel(Wanted::Inherited);
        let (telling, standing) = watch::channel(Standing::default());
        let (bound, _) = watch::channel(None);
        let fenced = authority.clone().fenced_by(bound.subscribe());
        guard::start(wanted.clone(), fenced, margin)?;
        let out_of_reach = Arc::new(Notify::new());
        let channels = keeper::Channels {
            orders: wanted.clone(),
            standing: telling,
            bound: bound.clone(),
            out_of_reach: Arc::clone(&out_of_reach),
        };
        keeper::start(options, authority, channels)?;
        Ok(Self { data_dir, wanted, standing, bound, out_of_reach, ttl })
    }

    /// The instant beyond which no fencer has confirmed that it will kill; `None` while it need not.
    pub fn bound(&self) -> watch::Receiver<Option<BootInstant>> {
        self.bound.subscribe()
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// From now on Postgres dies with this node's authority. Returns at once.
    pub fn arm(&self) {
        if matches!(*self.wanted.borrow(), Wanted::Armed(_)) {
            return;
        }
        // The whole name without links, as the kernel tells it; asked while the disk still answers.
        let data_dir = std::fs::canonicalize(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
        // Adopted without a fencer, it leads for so long while one is started and armed, and not an instant longer without.
        let until = BootInstant::now() + self.ttl;
        self.bound.send_if_modified(|bound| bound.is_none() && bound.replace(until).is_none());
        self.wanted.send_replace(Wanted::Armed(data_dir));
    }

    /// As [`Fence::arm`], and returns when the fencer has confirmed a deadline that is still to come. Before Postgres may become primary.
    ///
    /// # Errors
    /// It has not, and this node must not lead.
    pub async fn arm_confirmed(&self) -> Result<()> {
        self.arm();
        let mut standing = self.standing.clone();
        let armed = standing.wait_for(Standing::is_confirmed);
        if let Ok(Ok(_)) = tokio::time::timeout(ARM_WITHIN, armed).await {
            return Ok(());
        }
        let why = self.standing().trouble.unwrap_or_else(|| "the fencer does not confirm a deadline".to_owned());
        bail!("not without a fence: {why}")
    }

    /// Whether a fencer has confirmed a deadline that is still to come.
    pub fn is_confirmed(&self) -> bool {
        self.standing.borrow().is_confirmed()
    }

    /// Whether Postgres is to die with this node's authority, or may be so by an order of an earlier life.
    pub fn is_armed(&self) -> bool {
        !matches!(*self.wanted.borrow(), Wanted::Disarmed)
    }

    /// How long Postgres has where nobody renews the deadline any more; `None`: nothing of it is fenced.
    pub fn kills_in(&self) -> Option<Duration> {
        let until = self.standing.borrow().armed_until.filter(|_| self.is_armed())?;
        Some(until.remaining())
    }

    /// Postgres is known not to accept writes any more.
    pub fn disarm(&self) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != Wanted::Disarmed;
            *wanted = Wanted::Disarmed;
            changed
        });
    }

    /// The way to the fencer was deleted: another is to take its place.
    pub fn is_out_of_reach(&self) {
        self.out_of_reach.notify_one();
    }

    /// Resolves when a later agent of this node has taken over.
    pub async fn superseded(&self) {
        let mut standing = self.standing.clone();
        if standing.wait_for(|standing| standing.superseded).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What follows where the agent of a primary ends that is not fenced, for the cluster is paused.
pub const LAST_WORDS_IN_A_PAUSE: &str = "agent ends; this node leads, and in the pause nothing fences Postgres: it goes on, and load balancers find no primary. \
     Start the agent again before the pause ends, or switch over first";

/// What follows where the agent of a primary ends: its fencer stays, and does what was promised.
pub fn last_words(kills_in: Duration) -> String {
    let left = decision::reason::span(kills_in);
    format!(
        "agent ends; this node leads: the fencer kills Postgres in {left} unless an agent is back (pgvigil switchover or pause first)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_an_agent_on_a_primary_say_how_long_it_has() {
        let told = last_words(Duration::from_millis(4210));
        assert!(told.starts_with("agent ends; this node leads: the fencer kills Postgres in 4.2 s unless"), "{told}");
    }
}
