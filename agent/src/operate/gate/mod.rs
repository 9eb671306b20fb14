//! May a planned change, of the schema as a rule, begin now? What is known is gathered from etcd, from every agent and from the leader's Postgres
//! (`facts`), judged by rules that only look at it (`rules`), and told to people and to programs (`verdict`). What is not known is no go.

mod facts;
mod rules;
#[cfg(test)]
mod rules_tests;
mod verdict;

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use super::words;
use super::world::Reach;
use crate::config::Size;

pub use verdict::{Verdict, Word};

/// How far a standby may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// So long may it take to replay what was on the leader's disk at the time of asking.
    Time(Duration),
    /// So much WAL may be left to replay.
    Bytes(u64),
}

/// The longest lag that may be asked for: it is measured by waiting.
const LONGEST_LAG: Duration = Duration::from_secs(30);

impl FromStr for Lag {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(Size(bytes)) = text.parse() {
            return Ok(Lag::Bytes(bytes));
        }
        match humantime::parse_duration(text) {
            Ok(time) if time <= LONGEST_LAG => Ok(Lag::Time(time)),
            Ok(_) => Err(format!("at most {}, for it is measured by waiting", words::length(LONGEST_LAG))),
            Err(_) => Err("a time such as 2s or an amount of WAL such as 16MB".to_owned()),
        }
    }
}

/// What is to be kept to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How far standbys may be behind.
    pub lag: Lag,
    /// Commits must wait for a standby.
    pub require_sync: bool,
    /// How old the oldest transaction may be.
    pub transaction: Duration,
    /// How many standbys must be near enough; `None`: all.
    pub min_replicas: Option<usize>,
    /// The hold of whoever asks.
    pub hold: Option<String>,
}

impl Default for Limits {
    fn default() -> Self {
        let (lag, transaction) = (Lag::Time(Duration::from_secs(2)), Duration::from_secs(300));
        Self { lag, require_sync: false, transaction, min_replicas: None, hold: None }
    }
}

impl Limits {
    /// For programs.
    pub fn to_json(&self) -> Value {
        let mut limits = json!({
            "require_sync": self.require_sync,
            "max_transaction_seconds": self.transaction.as_secs_f64(),
            "min_replicas": self.min_replicas,
        });
        match self.lag {
            Lag::Time(time) => limits["max_lag_seconds"] = json!(time.as_secs_f64()),
            Lag::Bytes(bytes) => limits["max_lag_bytes"] = json!(bytes),
        }
        limits
    }
}

/// Looks at everything and judges it. Takes as long as the lag that is allowed, where a standby has more than that, and a second or two else.
pub async fn migrate(reach: &Reach, limits: &Limits) -> Verdict {
    let facts = facts::gather(reach, limits).await;
    Verdict::new(&reach.config.cluster, limits, facts.leader().cloned(), rules::judge(&facts, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_a_time_or_an_amount() {
        assert_eq!("2s".parse(), Ok(Lag::Time(Duration::from_secs(2))));
        assert_eq!("16MB".parse(), Ok(Lag::Bytes(16 << 20)));
        for nonsense in ["", "2", "1h", "MB", "two"] {
            assert!(nonsense.parse::<Lag>().is_err(), "{nonsense}");
        }
    }
}
