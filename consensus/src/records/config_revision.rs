//! `config_history/<number>`: one state of the cluster-wide settings, and who made it, when and why. Rows are never changed; the oldest are
//! dropped beyond a number.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One state of the settings. The number is that of its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigRevision {
    /// Counts from 1; a change has the next number.
    #[serde(skip)]
    pub number: u64,
    /// Who made it (`user@host`); `None`: it was found, made by other means than pgvigil's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When (RFC 3339).
    pub at: String,
    /// The settings, whole.
    pub config: Value,
}

impl ConfigRevision {
    /// Reads the row of this number.
    pub(crate) fn from_json(number: u64, text: &str) -> Result<Self, String> {
        Ok(Self { number, ..super::from_json(text)? })
    }

    pub(crate) fn to_json(&self) -> String {
        super::to_json(self)
    }
}
