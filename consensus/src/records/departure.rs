//! `departures/<member>`: an operator's word that a member has left for good, and how far its leader has come with that.

use decision::departure::Departure;
use decision::names::Term;
use serde::{Deserialize, Serialize};

use super::{from_json, to_json};

/// The word as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DepartureRecord {
    /// Who said so.
    pub by: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: String,
    /// Nothing counts on the member any more, and its keys are removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// In which term that was so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_in_term: Option<u64>,
}

impl DepartureRecord {
    /// Reads the stored text.
    ///
    /// # Errors
    /// It is no such record.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let record: Self = from_json(text)?;
        if record.by.is_empty() {
            return Err("it does not tell who said so".to_owned());
        }
        Ok(record)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// What a decision needs of it.
    pub fn to_departure(&self, revision: i64) -> Departure {
        Departure { done: self.done.then_some(Term(self.done_in_term.unwrap_or_default())), revision }
    }

    /// The word when it has been carried out.
    #[must_use]
    pub fn done_in(&self, term: Term) -> Self {
        Self { done: true, done_in_term: Some(term.0), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_when_it_has_been_carried_out() {
        let text = r#"{"by":"anna@db1","reason":"sold","at":"2026-11-28T10:00:00Z"}"#;
        let record = DepartureRecord::from_json(text).expect("readable");
        assert_eq!(record.to_departure(7), Departure { done: None, revision: 7 });
        let done = record.done_in(Term(3));
        assert_eq!(DepartureRecord::from_json(&done.to_json()).as_ref(), Ok(&done));
        assert_eq!(done.to_departure(8), Departure { done: Some(Term(3)), revision: 8 });
    }
}
