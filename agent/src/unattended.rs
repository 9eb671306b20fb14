//! A node that nobody watched: its agent was told to end while it led, and the next one finds that nobody leads. What lies between the two is part of
//! the outage. It is counted on the host's clock since its boot, which no clock of another host and no step of the wall clock can spoil.

use std::time::Duration;

use consensus::BootInstant;
use serde::{Deserialize, Serialize};

/// Until when Postgres here may have taken writes after its agent had ended, at most: the fence ends it then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LedUntil {
    /// The boot of the host of which that is.
    boot: String,
    /// In nanoseconds since that.
    at_ns: u64,
}

impl LedUntil {
    /// Nobody watches from now on, and the fence strikes in so long.
    pub fn in_so_long(fenced_in: Duration) -> Option<Self> {
        let boot = boot()?;
        Some(Self { boot, at_ns: (BootInstant::now() + fenced_in).0 })
    }

    /// For how long writes have certainly not worked here; `None`: the host was started since, and that cannot be told.
    pub fn elapsed(&self) -> Option<Duration> {
        (boot()? == self.boot).then(|| BootInstant(self.at_ns).elapsed()).filter(|elapsed| !elapsed.is_zero())
    }
}

/// A kernel that does not tell its boot tells nothing of the time between two lives, either.
fn boot() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_fenced_and_what_is_of_another_boot_tells_of_no_outage() {
        let Some(led) = LedUntil::in_so_long(Duration::from_secs(60)) else { return };
        assert_eq!(led.elapsed(), None, "it may still take writes");
        let ended = LedUntil { at_ns: BootInstant::now().minus(Duration::from_secs(7)).0, ..led };
        assert!(ended.elapsed().is_some_and(|elapsed| elapsed >= Duration::from_secs(7)), "{ended:?}");
        assert_eq!(LedUntil { boot: "another".to_owned(), ..ended }.elapsed(), None);
    }
}
