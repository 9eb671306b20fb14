//! The clock by which leases are counted: it goes on while the host is suspended, as etcd's own does.

use std::ops::Add;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// An instant on `CLOCK_BOOTTIME` of this host, in nanoseconds since boot. Never compared with another host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(pub u64);

impl BootInstant {
    /// This instant.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has CLOCK_BOOTTIME");
        Self(u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long until this instant; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.since(Self::now())
    }

    /// How long ago this instant was; zero when it is still to come.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// The time from `earlier` to this instant; zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant so much earlier; the boot itself where that would be before it.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_has_no_time_left() {
        let now = BootInstant::now();
        assert_eq!(now.remaining(), Duration::ZERO);
        let later = now + Duration::from_secs(5);
        assert_eq!(later.since(now), Duration::from_secs(5));
        assert!(later.remaining() > Duration::from_secs(4));
        assert_eq!(later.elapsed(), Duration::ZERO);
        assert_eq!(later.minus(Duration::from_secs(5)), now);
        assert_eq!(now.minus(Duration::MAX), BootInstant(0));
    }
}
