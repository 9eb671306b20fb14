//! `secrets/replication`: passwords that the first leader made up because the operator had given none.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{from_json, to_json};

/// The passwords of the roles that agents use among each other. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Of the replication role.
    pub replication_password: String,
    /// Of the rewind role.
    pub rewind_password: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(***)")
    }
}

impl Secrets {
    /// Reads the stored text.
    pub fn from_json(text: &str) -> Result<Self, String> {
        from_json(text)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}
