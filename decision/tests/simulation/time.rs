//! Time without clocks: a count of microseconds that only the simulation moves, and each host's own idea of it, which runs a little fast
//! or slow and stands still while the host's virtual machine is paused.

use std::time::Duration;

/// Microseconds of true time, or of one host's clock.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// The clock of one host.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// How much faster it runs than true time, in millionths.
    pub drift_ppm: i64,
    /// For how long it has stood still altogether.
    stood: Micros,
    stands_since: Option<Micros>,
}

impl Clock {
    pub fn new(drift_ppm: i64) -> Self {
        Self { drift_ppm, ..Self::default() }
    }

    /// What this clock shows at a true instant.
    pub fn shows(&self, now: Micros) -> Micros {
        let until = self.stands_since.unwrap_or(now).min(now);
        scaled(until.saturating_sub(self.stood), 1_000_000 + self.drift_ppm, 1_000_000)
    }

    /// How much true time passes while this clock counts `span`.
    pub fn true_span(&self, span: Micros) -> Micros {
        scaled(span, 1_000_000, 1_000_000 + self.drift_ppm)
    }

    pub fn stop(&mut self, now: Micros) {
        self.stands_since.get_or_insert(now);
    }

    pub fn go_on(&mut self, now: Micros) {
        if let Some(since) = self.stands_since.take() {
            self.stood += now - since;
        }
    }
}

fn scaled(span: Micros, times: i64, over: i64) -> Micros {
    let exact = i128::from(span) * i128::from(times) / i128::from(over);
    Micros::try_from(exact).unwrap_or(Micros::MAX)
}

pub fn duration(span: Micros) -> Duration {
    Duration::from_micros(span)
}

pub fn micros(span: Duration) -> Micros {
    Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX)
}
