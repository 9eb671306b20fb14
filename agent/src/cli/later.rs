//! For when something is asked for: at once, unless a time is said.

use std::time::Duration;

use clap::Args;

/// A later time.
#[derive(Clone, Debug, Default, Args)]
pub struct Later {
    /// Not at once but at this time, which says its zone: 2026-11-29T03:00:00+01:00, or 2026-11-29T03:00[Europe/Berlin].
    #[arg(long, value_name = "TIME", group = "time")]
    pub at: Option<String>,
    /// Not at once but so long from now.
    #[arg(long = "in", value_name = "DURATION", value_parser = humantime::parse_duration, group = "time")]
    pub within: Option<Duration>,
    /// For how long after that time it may still begin, should something be in the way; then it is dropped (default 10m).
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "time")]
    pub window: Option<Duration>,
}

impl Later {
    /// Whether a later time is said.
    pub fn is_said(&self) -> bool {
        self.at.is_some() || self.within.is_some()
    }
}
