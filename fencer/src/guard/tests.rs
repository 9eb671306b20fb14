//! Deadlines, kills and the watchdog, with numbers for time.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::*;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// So many processes, of which each strike kills so many.
#[derive(Debug, Default, Clone)]
struct Herd {
    alive: Rc<Cell<usize>>,
    die_at_a_strike: usize,
    strikes: Rc<Cell<usize>>,
    aims: Rc<Cell<usize>>,
}

impl Family for Herd {
    fn strike(&mut self, _: &Path) -> usize {
        let alive = self.alive.get();
        self.strikes.set(self.strikes.get() + 1);
        self.alive.set(alive.saturating_sub(self.die_at_a_strike));
        alive
    }

    fn aim(&mut self, _: &Path) -> usize {
        self.aims.set(self.aims.get() + 1);
        self.alive.get()
    }
}

fn guard(alive: usize, die_at_a_strike: usize) -> (Guard<Herd>, Herd) {
    let herd = Herd { alive: Rc::new(Cell::new(alive)), die_at_a_strike, strikes: Rc::default(), aims: Rc::default() };
    (Guard::new(herd.clone(), stand_in, Voice::mute()), herd)
}

fn arm(until_s: u64) -> Order {
    let data_dir = PathBuf::from("/data");
    Order::Arm(Arm { until_ns: until_s * SECOND, lease_end_ns: until_s * SECOND + SECOND / 2, data_dir })
}

#[test]
fn an_armed_guard_kills_at_the_deadline_and_not_before() {
    let (mut guard, herd) = guard(101, 101);
    guard.order(1, arm(5), SECOND);
    assert!(!guard.tick(SECOND), "nothing to tell before the deadline");
    assert_eq!((guard.wake_at(), herd.aims.get()), (Some(5 * SECOND - 250 * MS), 1));
    assert!(!guard.tick(5 * SECOND - 250 * MS));
    assert_eq!((guard.wake_at(), herd.aims.get()), (Some(5 * SECOND), 2), "it aims before the deadline");
    assert!(!guard.tick(5 * SECOND - 1));
    assert_eq!(herd.strikes.get(), 0);
    assert!(guard.tick(5 * SECOND));
    assert_eq!(guard.report().state, State::Killing { left: 101 });
    let next = guard.wake_at().expect("it looks again");
    assert!(next > 5 * SECOND && next < 5 * SECOND + 50 * MS, "{next}");
    assert!(guard.tick(next));
    assert_eq!((guard.report().state, guard.report().kills), (State::Idle, 1));
    assert!(guard.report().last_kill_ns >= next - 5 * SECOND);
}

#[test]
fn a_deadline_moves_both_ways_and_one_in_the_past_kills_at_once() {
    let (mut guard, herd) = guard(1, 1);
    guard.order(1, arm(5), SECOND);
    guard.order(2, arm(9), 2 * SECOND);
    assert!(!guard.tick(6 * SECOND));
    guard.order(3, arm(7), 6 * SECOND);
    assert_eq!(guard.wake_at(), Some(7 * SECOND - 250 * MS));
    guard.order(4, arm(1), 6 * SECOND);
    assert!(guard.tick(6 * SECOND));
    assert_eq!(herd.strikes.get(), 1);
}

#[test]
fn who_was_aimed_at_before_the_deadline_moved_is_aimed_at_anew() {
    let (mut guard, herd) = guard(1, 1);
    guard.order(1, arm(5), SECOND);
    guard.tick(SECOND);
    guard.tick(5 * SECOND - 100 * MS);
    guard.order(2, arm(9), 5 * SECOND - 50 * MS);
    guard.tick(5 * SECOND - 50 * MS);
    assert_eq!((guard.wake_at(), herd.aims.get()), (Some(9 * SECOND - 250 * MS), 2));
    guard.tick(9 * SECOND - 250 * MS);
    assert_eq!((herd.aims.get(), herd.strikes.get()), (3, 0));
}

#[test]
fn a_host_that_slept_over_the_deadline_kills_as_soon_as_it_wakes() {
    let (mut guard, herd) = guard(10, 10);
    guard.order(1, arm(5), SECOND);
    assert!(guard.tick(3600 * SECOND));
    assert_eq!(herd.strikes.get(), 1);
}

#[test]
fn a_disarmed_guard_kills_nobody() {
    let (mut guard, herd) = guard(10, 10);
    guard.order(1, arm(5), SECOND);
    guard.order(2, Order::Disarm, SECOND);
    assert!(!guard.tick(100 * SECOND));
    assert_eq!((guard.wake_at(), herd.strikes.get(), guard.is_idle()), (None, 0, true));
}

#[test]
fn once_it_kills_no_order_stops_it_before_nobody_is_left() {
    let (mut guard, herd) = guard(10, 4);
    guard.order(1, arm(5), SECOND);
    let mut now = 5 * SECOND;
    guard.tick(now);
    for order in [arm(100), Order::Disarm, Order::Hello(None), Order::Ping] {
        guard.order(2, order, now);
        assert!(matches!(guard.report().state, State::Killing { .. }));
    }
    while !guard.is_idle() {
        now = guard.wake_at().expect("it strikes again");
        guard.tick(now);
    }
    assert_eq!((herd.strikes.get(), herd.alive.get()), (4, 0));
    guard.order(3, arm(200), now);
    assert_eq!(guard.report().state, State::Armed { until_ns: 200 * SECOND });
}

#[test]
fn processes_that_hang_in_the_kernel_are_struck_for_as_long_as_they_are_there() {
    let (mut guard, herd) = guard(2, 0);
    guard.order(1, arm(5), SECOND);
    let mut now = 5 * SECOND;
    while now < 20 * SECOND {
        guard.tick(now);
        now = guard.wake_at().expect("it never gives up");
    }
    assert!(herd.strikes.get() > 100);
    herd.alive.set(0);
    assert!(guard.tick(now), "they are dead at last");
    assert!(guard.is_idle());
}

thread_local! {
    static PETTED: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    static BROKEN: Cell<bool> = const { Cell::new(false) };
    static NO_WAY_OUT: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
struct StandIn;

fn stand_in(_: &WatchdogOrder) -> Box<dyn Watchdog> {
    Box::new(StandIn)
}

fn note(what: &'static str) {
    PETTED.with_borrow_mut(|notes| notes.push(what));
}

impl Watchdog for StandIn {
    fn check(&self) -> Result<(), String> {
        if BROKEN.get() { Err("broken".to_owned()) } else { Ok(()) }
    }
    fn start(&mut self) -> Result<(), String> {
        note("start");
        self.check()
    }
    fn keep_alive(&mut self) -> Result<(), String> {
        note("alive");
        self.check()
    }
    fn stop(&mut self) -> bool {
        note("stop");
        !NO_WAY_OUT.get()
    }
}

fn watched(timeout_s: u64) -> Guard<Herd> {
    let (mut guard, _) = guard(10, 10);
    guard.order(1, Order::Hello(Some(WatchdogOrder { timeout_s, device: "/dev/w".into() })), 0);
    guard
}

/// Lets time pass until `end`, and returns when the watchdog was kept alive.
fn petted_until(guard: &mut Guard<Herd>, mut now: u64, end: u64) -> Vec<u64> {
    let mut at = Vec::new();
    while now <= end {
        let before = PETTED.with_borrow(|notes| notes.iter().filter(|note| **note == "alive").count());
        guard.tick(now);
        let after = PETTED.with_borrow(|notes| notes.iter().filter(|note| **note == "alive").count());
        at.extend((before..after).map(|_| now));
        now += 10 * MS;
    }
    at
}

#[test]
fn the_watchdog_would_strike_after_the_deadline_and_before_the_lease_ends() {
    for timeout_s in [1, 2, 3, 4] {
        let mut guard = watched(timeout_s);
        // Renewed at 0: the deadline is 4.5 s, the lease ends at 5 s. Nobody renews again, and the fencer stops for ever at some time.
        let order = Order::Arm(Arm { until_ns: 9 * SECOND / 2, lease_end_ns: 5 * SECOND, data_dir: "/data".into() });
        guard.order(2, order, 0);
        let mut petted = vec![0];
        petted.extend(petted_until(&mut guard, 0, 9 * SECOND / 2 - MS));
        let strikes_at: Vec<u64> = petted.iter().map(|at| at + timeout_s * SECOND).collect();
        assert!(strikes_at.iter().all(|at| *at <= 5 * SECOND), "{timeout_s}: {strikes_at:?}");
        assert!(strikes_at.last().is_some_and(|last| *last > 9 * SECOND / 2), "{timeout_s}: {strikes_at:?}");
        // In between it is never forgotten for so long that it strikes.
        assert!(petted.windows(2).all(|pair| pair[1] - pair[0] < timeout_s * SECOND), "{timeout_s}: {petted:?}");
    }
}

#[test]
fn the_watchdog_runs_while_something_is_at_stake_and_stops_when_nothing_is() {
    let mut guard = watched(2);
    assert!(PETTED.take().is_empty(), "not started before it is needed");
    guard.order(2, arm(5), SECOND);
    assert_eq!(PETTED.take(), ["start", "alive"]);
    guard.order(3, Order::Disarm, 2 * SECOND);
    assert_eq!(PETTED.take(), ["stop"]);
    guard.order(4, arm(9), 5 * SECOND);
    assert_eq!(PETTED.take(), ["start", "alive"]);
    guard.tick(9 * SECOND);
    let next = guard.wake_at().expect("it looks again");
    assert_eq!(PETTED.take(), [""; 0], "it is not kept alive while somebody may still commit");
    guard.tick(next);
    assert_eq!(PETTED.take(), ["stop"], "nobody is left");
}

#[test]
fn a_watchdog_that_cannot_be_stopped_is_kept_alive_while_nothing_is_at_stake() {
    NO_WAY_OUT.set(true);
    let mut guard = watched(3);
    guard.order(2, arm(5), SECOND);
    guard.order(3, Order::Disarm, 2 * SECOND);
    let petted = petted_until(&mut guard, 2 * SECOND, 60 * SECOND);
    assert!(petted.len() > 55 && petted.windows(2).all(|pair| pair[1] - pair[0] <= SECOND + 10 * MS), "{petted:?}");
}

#[test]
fn a_watchdog_that_does_not_work_is_told() {
    BROKEN.set(true);
    let mut guard = watched(2);
    assert_eq!(guard.report().device, Device::Unusable("broken".to_owned()));
    guard.order(2, arm(5), SECOND);
    assert_eq!(guard.report().device, Device::Unusable("broken".to_owned()));
    assert_eq!(guard.report().state, State::Armed { until_ns: 5 * SECOND }, "the fencer itself works");
    BROKEN.set(false);
    guard.order(3, Order::Hello(Some(WatchdogOrder { timeout_s: 2, device: "/dev/w".into() })), SECOND);
    assert_eq!(guard.report().device, Device::Ready);
}

#[test]
fn a_watchdog_slower_than_the_lease_is_not_started() {
    let mut guard = watched(60);
    PETTED.take();
    guard.order(2, arm(5), SECOND);
    assert!(!PETTED.take().contains(&"start"));
    assert!(matches!(guard.report().device, Device::Unusable(_)));
}
