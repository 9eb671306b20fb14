//! `hold`: somebody changes the schema, or does something else that a planned action would disturb, and such actions wait. Nothing that happens by
//! itself ever looks here.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{from_json, to_json};

/// A hold as it is stored. It always has an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// Its name, by which it is released.
    pub id: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself.
    pub until: Timestamp,
    /// The host on which it was taken.
    pub host: String,
}

/// What lies under the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    #[default]
    Nothing,
    /// A hold; whether it has ended is for [`Hold::in_force`] to say.
    Taken(HoldRecord),
    /// Something that nobody can read, and why: it is taken for a hold.
    Unreadable(String),
}

impl HoldRecord {
    /// Reads the stored text.
    ///
    /// # Errors
    /// It is no hold.
    pub fn from_json(text: &str) -> Result<Self, String> {
        from_json(text)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// `anna@db1: flyway V42`
    pub fn by_and_why(&self) -> String {
        format!("{}: {}", self.by, self.reason)
    }

    /// Whether it has not ended yet.
    pub fn lasts(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

impl Hold {
    /// The hold, if it has not ended yet; one that cannot be read is none here.
    pub fn in_force(&self, now: Timestamp) -> Option<&HoldRecord> {
        match self {
            Hold::Taken(record) => Some(record).filter(|record| record.lasts(now)),
            Hold::Nothing | Hold::Unreadable(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_by_itself_and_half_of_one_is_none() {
        let text = r#"{"id":"h1","by":"anna@db1","reason":"flyway V42","since":"2026-11-22T10:00:00Z","until":"2026-11-22T10:30:00Z","host":"db1"}"#;
        let record = HoldRecord::from_json(text).expect("readable");
        assert_eq!(record.by_and_why(), "anna@db1: flyway V42");
        assert_eq!(HoldRecord::from_json(&record.to_json()), Ok(record.clone()));
        let hold = Hold::Taken(record);
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert!(hold.in_force(at("2026-11-22T10:29:59Z")).is_some());
        assert!(hold.in_force(at("2026-11-22T10:30:00Z")).is_none());
        for half in
            ["", "{}", r#"{"id":"h1","by":"anna@db1","reason":"x","since":"2026-11-22T10:00:00Z","host":"db1"}"#]
        {
            assert!(HoldRecord::from_json(half).is_err(), "{half}");
        }
    }
}
