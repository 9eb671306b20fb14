//! `failover`: what an operator asks for, in Patroni's fields with ours beside them.

use decision::names::MemberName;
use decision::view::{Request, RequestKind};
use serde::{Deserialize, Serialize};

use super::scheduled::named;
use super::{from_json, to_json};

/// An operator's request as it is stored; all fields may be missing, and `{}` asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailoverRecord {
    /// The leader that the operator saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Patroni's time of a scheduled switchover, which has a key of its own here: nothing that waits for a time lies under this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
    /// `switchover` or `failover`; when missing: a switchover if `leader` is given, else a failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The operator accepts that acknowledged writes may be lost.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_data_loss: bool,
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The hold against which it was asked for, by whom and why; `None`: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored_hold: Option<String>,
    /// The id that it was given when it was planned, under which whoever asked looks for the outcome; `None`: that of its own revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The time for which it was planned (RFC 3339), for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<String>,
}

impl FailoverRecord {
    /// Reads the stored text.
    pub fn from_json(text: &str) -> Result<Self, String> {
        from_json(text)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// The id of the record that tells what came of it, at this revision.
    pub fn record_id(&self, revision: i64) -> String {
        named(self.id.as_deref()).unwrap_or_else(|| request_id(revision))
    }

    /// What is asked for; `None` where nothing is. The error says why the request cannot be followed.
    pub fn to_request(&self, revision: i64) -> Result<Option<Request>, String> {
        let name = |text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => MemberName::new(text).map(Some).map_err(|bad| bad.to_string()),
        };
        if self.scheduled_at.as_deref().is_some_and(|at| !at.is_empty()) {
            return Err("`scheduled_at` is not followed under this key: pgvigil switchover --at, or POST /switchover"
                .to_owned());
        }
        let (from, to) = (name(&self.leader)?, name(&self.member)?);
        let kind = match self.kind.as_deref() {
            Some("switchover") => RequestKind::Switchover,
            Some("failover") => RequestKind::Failover,
            Some(other) => return Err(format!("kind \"{other}\" is neither switchover nor failover")),
            None if from.is_some() => RequestKind::Switchover,
            None if to.is_some() => RequestKind::Failover,
            None => return Ok(None),
        };
        Ok(Some(Request { kind, from, to, accept_data_loss: self.accept_data_loss, revision }))
    }
}

/// The id of the record that tells what came of the request of this revision, unless it was planned and has one already.
pub fn request_id(revision: i64) -> String {
    format!("s-{revision}")
}

/// The revision in the id of a request's record.
pub fn request_of(id: &str) -> Option<i64> {
    id.strip_prefix("s-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Request>, String> {
        FailoverRecord::from_json(text).and_then(|record| record.to_request(3))
    }

    #[test]
    fn patronis_requests_are_understood() {
        let name = |text: &str| MemberName::new(text).ok();
        assert_eq!(read("{}"), Ok(None));
        let wanted = Request {
            kind: RequestKind::Switchover,
            from: name("pg1"),
            to: name("pg2"),
            accept_data_loss: false,
            revision: 3,
        };
        assert_eq!(read(r#"{"leader":"pg1","member":"pg2"}"#), Ok(Some(wanted.clone())));
        assert_eq!(
            read(r#"{"member":"pg2"}"#),
            Ok(Some(Request { kind: RequestKind::Failover, from: None, ..wanted }))
        );
    }

    #[test]
    fn a_scheduled_request_is_never_carried_out_early() {
        assert!(read(r#"{"leader":"pg1","scheduled_at":"2026-09-24T10:36:00+02:00"}"#).is_err());
        assert!(read(r#"{"kind":"restart"}"#).is_err());
    }

    #[test]
    fn what_was_planned_keeps_its_id_and_nothing_else_is_taken_for_one() {
        let named = |id: Option<&str>| FailoverRecord { id: id.map(str::to_owned), ..FailoverRecord::default() };
        assert_eq!(named(Some("p-70")).record_id(77), "p-70");
        for id in
            [None, Some(""), Some("s-70"), Some("t-3"), Some("p-070"), Some("p--70"), Some("p-0"), Some("../sync")]
        {
            assert_eq!(named(id).record_id(77), "s-77", "{id:?}");
        }
    }

    #[test]
    fn only_what_is_said_is_written() {
        let record = FailoverRecord {
            leader: Some("pg1".to_owned()),
            kind: Some("switchover".to_owned()),
            accept_data_loss: true,
            ..FailoverRecord::default()
        };
        assert_eq!(record.to_json(), r#"{"leader":"pg1","kind":"switchover","accept_data_loss":true}"#);
    }
}
