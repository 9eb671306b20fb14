//! The thread that keeps the fencer: it connects to it or starts it, sends it what is wanted and each new deadline, replaces it when it
//! dies or does not answer.

use std::process::Child;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use consensus::BootInstant;
use fencer::protocol::{Answer, Arm, Device, Order, Report, State, VERSION, WatchdogOrder, version_of};
use pg_control::process::reap_orphans;
use tokio::sync::{Notify, watch};

use super::wire::Wire;
use super::{FenceOptions, Standing, Wanted, program};
use crate::authority::Authority;
use crate::config::WatchdogMode;

/// How long a fencer may take to be there after it was started, on a busy host.
const STARTS_WITHIN: Duration = Duration::from_secs(2);
/// How often a connection to one that was just started is tried.
const LOOKS_EVERY: Duration = Duration::from_millis(2);
/// Between two attempts to have a fencer.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often a fencer that has nothing to do is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(10);

/// What the thread hears and tells.
pub(super) struct Channels {
    pub(super) orders: watch::Sender<Wanted>,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) bound: watch::Sender<Option<BootInstant>>,
    /// Rung when the way to the fencer was deleted.
    pub(super) out_of_reach: Arc<Notify>,
}

/// Starts the thread, and returns when there is a fencer.
pub(super) fn start(options: FenceOptions, authority: Authority, channels: Channels) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (first, there) = mpsc::channel();
    let keep = move || {
        let mut keeper = Keeper::new(options, authority, channels);
        runtime.block_on(async {
            let found = keeper.have_a_fencer().await;
            let good = found.is_ok();
            let _ = first.send(found);
            if good {
                keeper.keep().await;
            }
        });
    };
    thread::Builder::new().name("fence".into()).spawn(keep)?;
    there.recv().context("its thread has ended")?
}

pub(super) struct Keeper {
    pub(super) options: FenceOptions,
    authority: Authority,
    channels: Channels,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) wire: Option<Wire>,
    /// The fencer, where this agent has started it: to be reaped.
    pub(super) child: Option<Child>,
    watchdog: Result<Option<WatchdogOrder>, String>,
    /// The last order that was sent on this connection.
    pub(super) sent: Option<Order>,
    pub(super) report: Report,
    /// Why the next agent would not find the fencer.
    pub(super) out_of_reach: Option<String>,
    /// Why there is no fencer.
    missing: Option<String>,
    try_again_at: Instant,
    /// How often in a row an answer was overdue.
    overdue: u8,
    pub(super) superseded: bool,
}

impl Keeper {
    fn new(options: FenceOptions, authority: Authority, channels: Channels) -> Self {
        let watchdog = program::watchdog(&options.watchdog, options.ttl, options.safety_margin);
        let watchdog = watchdog.map_err(|error| format!("{error:#}"));
        if let Err(why) = &watchdog {
            tracing::warn!(why, "no watchdog stands behind the fencer");
        }
        Self {
            wanted: channels.orders.subscribe(),
            options,
            authority,
            channels,
            wire: None,
            child: None,
            watchdog,
            sent: None,
            report: Report::default(),
            out_of_reach: None,
            missing: None,
            try_again_at: Instant::now(),
            overdue: 0,
            superseded: false,
        }
    }

    async fn keep(&mut self) {
        while !self.superseded {
            if self.wire.is_none() && self.try_again_at <= Instant::now() {
                self.missing = match self.have_a_fencer().await {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::error!("no fencer: {error:#}");
                        Some(format!("{error:#}"))
                    }
                };
                self.try_again_at = Instant::now() + RETRY_AFTER;
            }
            self.order();
            self.publish();
            self.wait().await;
        }
        self.publish();
    }

    /// Waits for whatever comes first, and takes in what the fencer says.
    async fn wait(&mut self) {
        let nap = self.nap();
        let answer = async {
            match &mut self.wire {
                Some(wire) => wire.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // An answer that is there counts before the time that it took: both may have been frozen.
            biased;
            answer = answer => match answer {
                Ok(answer) => self.hear(answer),
                Err(error) => self.lose(&format!("{error:#}")),
            },
            () = self.authority.changed() => {}
            _ = self.wanted.changed() => {}
            () = self.channels.out_of_reach.notified() => self.replace_what_is_out_of_reach().await,
            () = tokio::time::sleep(nap) => {
                if self.wire.as_ref().and_then(Wire::patience).is_some_and(|left| left.is_zero()) {
                    self.replace_what_hangs();
                }
            }
        }
    }

    /// How long to wait at most.
    fn nap(&self) -> Duration {
        let next = match &self.wire {
            Some(wire) => wire.patience().unwrap_or(PING_EVERY),
            None => self.try_again_at.saturating_duration_since(Instant::now()),
        };
        next.max(Duration::from_millis(1))
    }

    /// Connects to the fencer that is there, or starts one.
    pub(super) async fn have_a_fencer(&mut self) -> Result<()> {
        if let Ok(wire) = Wire::connect(&self.options.state_dir) {
            let before = self.greet(wire).await;
            if before.is_ok() || self.superseded {
                return before;
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.try_wait();
        }
        let begin = Instant::now();
        let mut child = program::spawn(&self.options.program, &self.options.state_dir)?;
        loop {
            if let Ok(wire) = Wire::connect(&self.options.state_dir) {
                // It may be one that another start of this agent has left.
                self.child = Some(child);
                return self.greet(wire).await;
            }
            if let Some(status) = child.try_wait()? {
                if status.code() == Some(i32::from(fencer::ANOTHER_IS_THERE)) && begin.elapsed() < STARTS_WITHIN {
                    // The last one is on its way out.
                    tokio::time::sleep(LOOKS_EVERY).await;
                    child = program::spawn(&self.options.program, &self.options.state_dir)?;
                    continue;
                }
                bail!("{} has ended with {status}: see its message in the log", self.options.program.display());
            }
            if begin.elapsed() > STARTS_WITHIN {
                let _ = child.kill().and_then(|()| child.wait().map(|_| ()));
                bail!("{} does not listen within {STARTS_WITHIN:?}", self.options.program.display());
            }
            tokio::time::sleep(LOOKS_EVERY).await;
        }
    }

    /// Says hello. One that does not answer is stopped or starved: it is killed, for it keeps the place of a better one.
    async fn greet(&mut self, mut wire: Wire) -> Result<()> {
        let watchdog = self.watchdog.as_ref().ok().cloned().flatten();
        let answer = match wire.send(&Order::Hello(watchdog)) {
            Ok(_) => wire.answer().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Answer::Report(report)) => {
                tracing::info!(pid = wire.pid, state = ?report.state, build = report.build, "a fencer stands guard");
                self.bind(&report);
                (self.report, self.wire, self.sent) = (report, Some(wire), None);
                Ok(())
            }
            Ok(Answer::Superseded) => {
                self.superseded = true;
                bail!("a later agent of this node gives the orders")
            }
            Err(error) => {
                kill_fencer(wire.pid);
                Err(error.context(format!("fencer {} was killed, to be replaced", wire.pid)))
            }
        }
    }

    /// Sends what is wanted, if that is not what was sent last.
    pub(super) fn order(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        // In this order: whoever disarms before the lease goes is never struck.
        let granted = self.authority.granted();
        let wanted = self.wanted.borrow_and_update().clone();
        let order = match wanted {
            Wanted::Inherited => None,
            Wanted::Disarmed => Some(Order::Disarm),
            Wanted::Armed(data_dir) => {
                // No claim any more: the deadline is now.
                let until = granted.unwrap_or(BootInstant(1));
                let lease_end = until + self.options.safety_margin;
                Some(Order::Arm(Arm { until_ns: until.0, lease_end_ns: lease_end.0, data_dir }))
            }
        };
        let order = match order {
            Some(order) if self.sent.as_ref() != Some(&order) => {
                self.sent = Some(order.clone());
                order
            }
            _ if wire.is_answered() && wire.quiet_for() >= PING_EVERY => Order::Ping,
            _ => return,
        };
        if let Err(error) = wire.send(&order) {
            self.lose(&format!("{error:#}"));
        }
    }

    pub(super) fn hear(&mut self, answer: Answer) {
        self.overdue = 0;
        let Answer::Report(report) = answer else {
            tracing::error!("another agent of this node was started after this one, and gives the orders now");
            self.superseded = true;
            return;
        };
        if report.kills > self.report.kills {
            let [struck, gone] = [report.last_strike_ns, report.last_kill_ns].map(Duration::from_nanos);
            tracing::error!(
                ?struck,
                ?gone,
                "the fencer has killed Postgres: this node may not rely on its leadership any more"
            );
            self.struck();
        }
        if self.report.device != report.device
            && let Device::Unusable(why) = &report.device
        {
            tracing::warn!(why, "no watchdog stands behind the fencer");
        }
        self.bind(&report);
        if matches!(self.sent, Some(Order::Arm(_))) && matches!(report.state, State::Armed { .. }) {
            self.dismiss_others();
        }
        self.report = report;
    }

    /// Nobody is left of that Postgres: until the next arming there is nothing to do.
    fn struck(&self) {
        reap_orphans();
        self.channels.orders.send_if_modified(|wanted| {
            let armed = matches!(wanted, Wanted::Armed(_));
            if armed {
                *wanted = Wanted::Disarmed;
            }
            armed
        });
    }

    /// This node's authority reaches no further than a fencer has confirmed. Losing the fencer leaves the last word of it standing.
    fn bind(&self, report: &Report) {
        let confirmed = match (report.state, &*self.wanted.borrow()) {
            (State::Armed { until_ns }, Wanted::Inherited | Wanted::Armed(_)) => Some(BootInstant(until_ns)),
            (State::Idle | State::Killing { .. }, Wanted::Armed(_)) => return,
            _ => None,
        };
        self.channels.bound.send_if_modified(|bound| std::mem::replace(bound, confirmed) != confirmed);
    }

    /// Other versions of the fencer, which an upgrade or a return to an older version has left: this one is armed, so they may go.
    fn dismiss_others(&self) {
        let Ok(entries) = std::fs::read_dir(&self.options.state_dir) else { return };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        for name in names.filter(|name| version_of(name).is_some_and(|version| version != VERSION)) {
            if let Ok(mut wire) = Wire::to(&self.options.state_dir, &name) {
                tracing::info!(socket = name, "a fencer of another version is told to go");
                let _ = wire.send(&Order::Leave);
            } else {
                let _ = std::fs::remove_file(self.options.state_dir.join(name));
            }
        }
    }

    fn lose(&mut self, why: &str) {
        tracing::error!(why, "the fencer is gone: starting another");
        (self.wire, self.sent, self.overdue) = (None, None, 0);
        (self.missing, self.try_again_at) = (Some(why.to_owned()), Instant::now());
    }

    /// Once overdue it has a little more time: after a freeze of the whole host, agent and fencer wake up together.
    fn replace_what_hangs(&mut self) {
        self.overdue += 1;
        if self.overdue == 1 {
            self.wire.iter_mut().for_each(Wire::wait_a_little_more);
            return;
        }
        if let Some(wire) = &self.wire {
            kill_fencer(wire.pid);
        }
        self.lose("it does not answer");
    }

    fn publish(&self) {
        let required = self.options.watchdog.mode == WatchdogMode::Required;
        let unusable = match (&self.watchdog, &self.report.device) {
            (Err(why), _) | (Ok(_), Device::Unusable(why)) => Some(why.clone()),
            _ => None,
        };
        let watchdog = (self.options.watchdog.mode != WatchdogMode::Off).then_some(unusable.is_none());
        let trouble = self.missing.clone().or_else(|| unusable.filter(|_| required));
        let armed_until = match (self.report.state, &self.wire) {
            (State::Armed { until_ns }, Some(_)) => Some(BootInstant(until_ns)),
            _ => None,
        };
        let (superseded, out_of_reach) = (self.superseded, self.out_of_reach.clone());
        let fresh = Standing { trouble, armed_until, superseded, out_of_reach, watchdog };
        self.channels.standing.send_if_modified(|standing| std::mem::replace(standing, fresh.clone()) != fresh);
    }
}

/// Kills a fencer that does not answer, if that process is one.
pub(super) fn kill_fencer(pid: i32) {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    if exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with(fencer::PROGRAM)) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}
