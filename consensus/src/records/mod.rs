//! What is stored in etcd, as JSON that Patroni's tools can read, with our own fields beside theirs. Records are apart from the types
//! of `decision`, so that either side may change alone: unknown fields are ignored (a newer version may have written them), and a
//! value that cannot be understood becomes a [`Problem`] beside the picture instead of spoiling all of it.

pub mod access;
pub mod config;
pub mod config_revision;
pub mod departure;
pub mod hold;
pub mod member;
#[cfg(test)]
mod nonsense;
pub mod order;
pub mod pledge;
pub mod progress;
pub mod request;
pub mod scheduled;
pub mod secrets;
mod slots;
pub mod sync;
pub mod transition;

use decision::names::Lsn;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use access::Access;
pub use config::{ClusterConfig, PauseRecord};
pub use config_revision::ConfigRevision;
pub use departure::DepartureRecord;
pub use hold::{Hold, HoldRecord};
pub use member::{COMPAT_VERSION, Configured, MemberRecord, PendingChange, TagsRecord, api_base};
pub use order::{OrderRecord, order_id, order_of};
pub use progress::HistoryRow;
pub use request::{FailoverRecord, request_id, request_of};
pub use scheduled::{Planned, PlannedRestart, PlannedSwitchover, Schedule, Scheduled, planned_id, planned_of};
pub use secrets::Secrets;
pub use transition::{Discarded, Phase, Transition};

/// A stored value that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The full etcd key.
    pub key: String,
    /// What is wrong, what is assumed instead, and what mends it.
    pub why: String,
    /// The revision at which the value was written; 0: it is no value.
    pub revision: i64,
}

/// A WAL position as text (`0/3000148`) in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct LsnText(pub(crate) Lsn);

impl TryFrom<String> for LsnText {
    type Error = decision::names::BadLsn;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<LsnText> for String {
    fn from(lsn: LsnText) -> Self {
        lsn.0.to_string()
    }
}

/// Reads a record from JSON; the error is a sentence for people. A list is none, though serde would take its items for fields.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.trim_start().starts_with('[') {
        return Err("it is a list, not a JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Writes a record as JSON. Records have text keys only and no fallible fields, so this cannot fail; were it to, the empty text would be
/// reported as corrupt by every reader, never taken for a fact.
pub(crate) fn to_json<T: Serialize>(record: &T) -> String {
    serde_json::to_string(record).unwrap_or_default()
}
