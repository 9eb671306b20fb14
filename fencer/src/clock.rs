//! The clock by which deadlines are counted: nanoseconds since boot, suspend included.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot on `CLOCK_BOOTTIME`.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// A duration in nanoseconds.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
