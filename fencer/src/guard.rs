//! What the fencer does, and when. It is idle, or armed with a deadline, or killing, and once it has begun to kill nothing stops it
//! before nobody is left. Time comes in as a number and processes behind a trait, so that every case is a test.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::ns;
use crate::family::Family;
use crate::protocol::{Arm, Device, Order, Report, State, WatchdogOrder};
use crate::voice::Voice;
use crate::watchdog::Watchdog;

/// Between two strikes: time for the struck to die. Most need one strike; who was forked meanwhile needs a second.
const BETWEEN_STRIKES: Duration = Duration::from_millis(2);
/// Who is not dead by then hangs in the kernel, as a rule on a dead disk. It dies when the disk comes back, or with the host.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// Between two strikes at those.
const BETWEEN_LATE_STRIKES: Duration = Duration::from_millis(100);
/// Aim is taken so long before the deadline. It comes so near only when renewals have failed for seconds.
const AIMS_BEFORE: Duration = Duration::from_millis(250);
/// The watchdog is to strike so long before the lease ends.
const BEFORE_LEASE_END: Duration = Duration::from_millis(100);
/// The watchdog is kept alive so many times in its timeout.
const BEATS: u64 = 3;

/// How a watchdog is made from an order.
pub type MakeWatchdog = fn(&WatchdogOrder) -> Box<dyn Watchdog>;

/// The fencer's mind.
#[derive(Debug)]
pub struct Guard<F> {
    family: F,
    voice: Voice,
    make_watchdog: MakeWatchdog,
    phase: Phase,
    aim: Aim,
    watchdog: Option<Kept>,
    seq: u64,
    kills: u64,
    last_strike_ns: u64,
    last_kill_ns: u64,
}

/// How far the preparations for a strike have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// Nothing that a strike needs has been used yet in this arming.
    Cold,
    /// Everything has been used once: its code and its memory are there.
    Rehearsed,
    /// Taken for the deadline that is near.
    Taken,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Armed(Arm),
    Killing { arm: Arm, struck: usize, left: usize, next_ns: u64, told: bool },
}

/// A watchdog and how it is kept.
#[derive(Debug)]
struct Kept {
    order: WatchdogOrder,
    device: Box<dyn Watchdog>,
    state: Device,
    runs: bool,
    next_ns: Option<u64>,
}

impl<F: Family> Guard<F> {
    /// Idle, without a watchdog.
    pub fn new(family: F, make_watchdog: MakeWatchdog, voice: Voice) -> Self {
        Self {
            family,
            voice,
            make_watchdog,
            phase: Phase::Idle,
            aim: Aim::Cold,
            watchdog: None,
            seq: 0,
            kills: 0,
            last_strike_ns: 0,
            last_kill_ns: 0,
        }
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        let state = match &self.phase {
            Phase::Idle => State::Idle,
            Phase::Armed(arm) => State::Armed { until_ns: arm.until_ns },
            Phase::Killing { left, .. } => State::Killing { left: *left },
        };
        Report {
            seq: self.seq,
            state,
            kills: self.kills,
            last_strike_ns: self.last_strike_ns,
            last_kill_ns: self.last_kill_ns,
            device: self.watchdog.as_ref().map(|kept| kept.state.clone()).unwrap_or_default(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether nothing would be lost if it ended now.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Takes an order of the agent.
    pub fn order(&mut self, seq: u64, order: Order, now_ns: u64) {
        self.seq = seq;
        match order {
            Order::Hello(wanted) => self.use_watchdog(wanted),
            Order::Arm(arm) => self.arm(arm, now_ns),
            Order::Disarm => self.disarm(),
            Order::Ping | Order::Leave => {}
        }
    }

    fn arm(&mut self, arm: Arm, now_ns: u64) {
        if matches!(self.phase, Phase::Killing { .. }) {
            return;
        }
        if let Some(kept) = &mut self.watchdog {
            kept.begin(&arm, now_ns, &self.voice);
        }
        if self.aim == Aim::Taken {
            // The deadline has moved, and who was there may not be by then.
            self.aim = Aim::Rehearsed;
        }
        self.phase = Phase::Armed(arm);
    }

    fn disarm(&mut self) {
        if matches!(self.phase, Phase::Armed(_)) {
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.phase = Phase::Idle;
        self.aim = Aim::Cold;
        if let Some(kept) = &mut self.watchdog {
            kept.end();
        }
    }

    fn use_watchdog(&mut self, wanted: Option<WatchdogOrder>) {
        if self.watchdog.as_ref().map(|kept| &kept.order) == wanted.as_ref() {
            self.watchdog.iter_mut().for_each(Kept::check);
            return;
        }
        if let Some(kept) = &mut self.watchdog {
            kept.end();
        }
        self.watchdog = wanted.map(|order| Kept::new(self.make_watchdog, order));
    }

    /// Ends for good: whoever comes next opens the watchdog again.
    pub fn leave(&mut self) {
        if let Some(kept) = &mut self.watchdog {
            kept.end();
        }
    }

    /// Does what is due at this instant. True when the state is another one than before, and the agent ought to hear of it.
    pub fn tick(&mut self, now_ns: u64) -> bool {
        match &self.phase {
            Phase::Armed(arm) if arm.until_ns <= now_ns => {
                let (arm, late) = (arm.clone(), Duration::from_nanos(now_ns - arm.until_ns.max(1)));
                self.voice.say(format!(
                    "the deadline has passed ({late:?} ago): killing Postgres in {}",
                    arm.data_dir.display()
                ));
                self.phase = Phase::Killing { arm, struck: 0, left: 0, next_ns: now_ns, told: false };
                self.strike(now_ns);
                true
            }
            Phase::Killing { next_ns, .. } if *next_ns <= now_ns => {
                self.strike(now_ns);
                self.is_idle()
            }
            Phase::Killing { .. } => false,
            Phase::Idle | Phase::Armed(_) => {
                let lease_end_ns = match &self.phase {
                    Phase::Armed(arm) => Some(arm.lease_end_ns),
                    _ => None,
                };
                if let Some(kept) = &mut self.watchdog {
                    kept.tick(lease_end_ns, now_ns, &self.voice);
                }
                self.take_aim(now_ns);
                false
            }
        }
    }

    fn take_aim(&mut self, now_ns: u64) {
        let Phase::Armed(arm) = &self.phase else { return };
        let near = arm.until_ns.saturating_sub(ns(AIMS_BEFORE)) <= now_ns;
        let wanted = if near { Aim::Taken } else { Aim::Rehearsed };
        if self.aim == Aim::Cold || near && self.aim != Aim::Taken {
            self.family.aim(&arm.data_dir);
            self.aim = wanted;
        }
    }

    fn strike(&mut self, now_ns: u64) {
        let Phase::Killing { arm, struck, left, next_ns, told } = &mut self.phase else { return };
        let began = Instant::now();
        *left = self.family.strike(&arm.data_dir);
        let took = began.elapsed();
        let late = Duration::from_nanos(now_ns.saturating_sub(arm.until_ns)) + took;
        if *left > *struck {
            (*struck, self.last_strike_ns) = (*left, ns(late));
        }
        if *left > 0 {
            let hangs = late > HANGS_AFTER;
            if hangs && !*told {
                *told = true;
                self.voice.say(format!("{left} processes of Postgres hang in the kernel and are not dead {late:?} after the deadline: trying on; only a reset of this host is certain"));
            }
            // The dying need the processor, too.
            let pause = if hangs { BETWEEN_LATE_STRIKES } else { BETWEEN_STRIKES.max(took * 2) };
            *next_ns = now_ns.saturating_add(ns(took + pause));
            return;
        }
        self.last_kill_ns = ns(late);
        self.kills += 1;
        let strike = Duration::from_nanos(self.last_strike_ns);
        self.voice.say(format!(
            "killed {struck} processes of Postgres {strike:?} after the deadline; the last was gone after {late:?}"
        ));
        self.rest();
    }

    /// When [`Guard::tick`] is to be called next, at the latest.
    pub fn wake_at(&self) -> Option<u64> {
        let due = match &self.phase {
            Phase::Idle => None,
            Phase::Armed(_) if self.aim == Aim::Cold => Some(0),
            Phase::Armed(arm) if self.aim == Aim::Rehearsed => {
                Some(arm.until_ns.saturating_sub(ns(AIMS_BEFORE)).max(1))
            }
            Phase::Armed(arm) => Some(arm.until_ns),
            Phase::Killing { next_ns, .. } => return Some(*next_ns),
        };
        let watchdog = self.watchdog.as_ref().and_then(|kept| kept.next_ns);
        [due, watchdog].into_iter().flatten().min()
    }

    /// What it would kill.
    pub fn data_dir(&self) -> Option<&Path> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Armed(arm) | Phase::Killing { arm, .. } => Some(&arm.data_dir),
        }
    }
}

impl Kept {
    fn new(make: MakeWatchdog, order: WatchdogOrder) -> Self {
        let device = make(&order);
        let mut kept = Self { order, device, state: Device::Off, runs: false, next_ns: None };
        kept.check();
        kept
    }

    fn check(&mut self) {
        self.state = match self.device.check() {
            Ok(()) => Device::Ready,
            Err(why) => Device::Unusable(why),
        };
    }

    fn timeout_ns(&self) -> u64 {
        self.order.timeout_s.saturating_mul(1_000_000_000)
    }

    /// The deadline is set or has moved: the device runs from here on, if it would strike before the lease ends.
    fn begin(&mut self, arm: &Arm, now_ns: u64, voice: &Voice) {
        self.next_ns = Some(now_ns);
        let in_time = now_ns.saturating_add(self.timeout_ns()) <= arm.lease_end_ns;
        if !self.runs {
            let started = if in_time {
                self.device.start()
            } else {
                Err(format!("its timeout of {} s is longer than the lease lasts", self.order.timeout_s))
            };
            match started {
                Ok(()) => (self.runs, self.state) = (true, Device::Ready),
                Err(why) => self.failed(why, voice),
            }
        }
        self.tick(Some(arm.lease_end_ns), now_ns, voice);
    }

    /// Keeps it alive. While a lease runs only as long as it would still strike before that ends, and for the last time as late as
    /// that allows: then it strikes after the deadline. One that cannot be stopped is kept alive while nothing is at stake.
    fn tick(&mut self, lease_end_ns: Option<u64>, now_ns: u64, voice: &Voice) {
        if !self.runs || self.next_ns.is_none_or(|next| next > now_ns) {
            return;
        }
        let timeout = self.timeout_ns();
        let latest = lease_end_ns.map(|end| end.saturating_sub(timeout));
        if latest.is_none_or(|latest| now_ns <= latest)
            && let Err(why) = self.device.keep_alive()
        {
            self.failed(why, voice);
        }
        let usual = now_ns.saturating_add(timeout / BEATS);
        self.next_ns = match latest.map(|latest| latest.saturating_sub(ns(BEFORE_LEASE_END))) {
            None => Some(usual),
            Some(last) if last > now_ns => Some(usual.min(last)),
            Some(_) => None,
        };
    }

    fn failed(&mut self, why: String, voice: &Voice) {
        if self.state == Device::Ready {
            voice.say(format!("the watchdog cannot be used: {why}"));
        }
        self.state = Device::Unusable(why);
    }

    fn end(&mut self) {
        self.runs = self.runs && !self.device.stop();
        self.next_ns = self.runs.then_some(0);
    }
}

#[cfg(test)]
mod tests;
