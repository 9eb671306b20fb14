//! The names of slots, and which one a member has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::MemberName;

/// The name of a slot, as Postgres takes it: 1 to 63 lower-case ASCII letters, digits and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotName(String);

/// Why a text is no name of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSlotName(pub String);

impl fmt::Display for BadSlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is no name of a slot: use 1 to 63 lower-case ASCII letters, digits or '_'", self.0)
    }
}

impl std::error::Error for BadSlotName {}

impl SlotName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// Postgres would not take it.
    pub fn new(text: impl Into<String>) -> Result<Self, BadSlotName> {
        let text = text.into();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if text.is_empty() || text.len() > 63 || !text.bytes().all(plain) {
            Err(BadSlotName(text))
        } else {
            Ok(Self(text))
        }
    }

    /// The name of a member's slot, the same as Patroni gives it. Two members may come to the same.
    pub fn of(member: &MemberName) -> Self {
        Self(member.as_str().to_ascii_lowercase().replace(['-', '.'], "_"))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SlotName {
    type Error = BadSlotName;
    fn try_from(text: String) -> Result<Self, BadSlotName> {
        Self::new(text)
    }
}

impl FromStr for SlotName {
    type Err = BadSlotName;
    fn from_str(text: &str) -> Result<Self, BadSlotName> {
        Self::new(text)
    }
}

impl From<SlotName> for String {
    fn from(name: SlotName) -> Self {
        name.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
