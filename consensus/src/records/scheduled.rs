//! `scheduled/switchover` and `scheduled/restarts/<member>`: what is to begin at a time. It lies apart from `failover` and `orders/`, where whatever lies is
//! carried out; the leader's agent moves it there when it is due.

use std::collections::BTreeMap;

use decision::names::MemberName;
use decision::schedule::Due;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FailoverRecord, OrderRecord, from_json, to_json};

/// When, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Not before this.
    pub at: Timestamp,
    /// For so long after that it may still begin, in seconds.
    pub window_s: u32,
    /// It begins in a hold as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_hold: bool,
    /// Who asks.
    pub requested_by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A switchover that is to begin at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSwitchover {
    /// When.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Who led when it was asked for: nobody else hands over by it.
    pub leader: MemberName,
    /// Who is to lead; `None`: the best standby then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
}

/// A restart of one node that is to begin at a time, whoever leads then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRestart {
    /// When.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Only if the node is a `primary` or a `replica` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Only if a parameter waits for a restart of that node then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_pending: bool,
}

impl PlannedRestart {
    /// As Patroni tells it.
    pub fn as_patroni_tells(&self) -> serde_json::Value {
        let mut body = serde_json::json!({"schedule": self.schedule.at});
        if let Some(role) = &self.role {
            body["role"] = serde_json::json!(role);
        }
        if self.only_pending {
            body["restart_pending"] = serde_json::json!(true);
        }
        body
    }
}

/// Something planned, as it lies in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned<T> {
    /// What.
    pub record: T,
    /// The revision at which it was written, which names it.
    pub revision: i64,
}

/// All that is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// The switchover.
    pub switchover: Option<Planned<PlannedSwitchover>>,
    /// The restarts, by node.
    pub restarts: BTreeMap<MemberName, Planned<PlannedRestart>>,
}

impl Schedule {
    /// As a rule goes by it.
    pub fn due<'a>(&self, under: Option<&'a MemberName>) -> Due<'a> {
        Due { at_ms: self.at.as_millisecond(), window_ms: i64::from(self.window_s) * 1000, under }
    }

    /// Until when it may begin.
    pub fn until(&self) -> Timestamp {
        let window = jiff::SignedDuration::from_secs(self.window_s.into());
        self.at.saturating_add(window).unwrap_or(Timestamp::MAX)
    }
}

impl PlannedSwitchover {
    /// Reads the stored text.
    ///
    /// # Errors
    /// It is no planned switchover.
    pub fn from_json(text: &str) -> Result<Self, String> {
        from_json(text)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

impl PlannedRestart {
    /// Reads the stored text.
    ///
    /// # Errors
    /// It is no planned restart.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let read: Self = from_json(text)?;
        read.order().to_order(0)?;
        Ok(read)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// The order that it is, without an id.
    pub fn order(&self) -> OrderRecord {
        OrderRecord {
            order: "restart".to_owned(),
            role: self.role.clone(),
            requested_by: self.schedule.requested_by.clone(),
            reason: self.schedule.reason.clone(),
            ..OrderRecord::default()
        }
    }
}

impl Planned<PlannedSwitchover> {
    /// The request that it becomes, for this candidate, against this hold.
    pub fn request(&self, to: &MemberName, ignored_hold: Option<String>) -> FailoverRecord {
        FailoverRecord { member: Some(to.to_string()), ignored_hold, ..self.asked() }
    }

    /// What was asked for.
    pub fn asked(&self) -> FailoverRecord {
        let PlannedSwitchover { schedule, leader, member } = &self.record;
        FailoverRecord {
            leader: Some(leader.to_string()),
            member: member.as_ref().map(ToString::to_string),
            kind: Some("switchover".to_owned()),
            requested_by: Some(schedule.requested_by.clone()),
            reason: schedule.reason.clone(),
            id: Some(self.id()),
            planned_for: Some(schedule.at.to_string()),
            ..FailoverRecord::default()
        }
    }
}

impl Planned<PlannedRestart> {
    /// The order that it becomes, against this hold.
    pub fn order(&self, ignored_hold: Option<String>) -> OrderRecord {
        let planned_for = Some(self.record.schedule.at.to_string());
        OrderRecord { id: Some(self.id()), planned_for, ignored_hold, ..self.record.order() }
    }
}

impl<T> Planned<T> {
    /// Its id, which is that of the record of what comes of it.
    pub fn id(&self) -> String {
        planned_id(self.revision)
    }
}

/// The id of what was planned at this revision.
pub fn planned_id(revision: i64) -> String {
    format!("p-{revision}")
}

/// The revision in the id of something planned.
pub fn planned_of(id: &str) -> Option<i64> {
    id.strip_prefix("p-")?.parse().ok()
}

/// An id that names something planned. Any other that somebody has put into a record could be the name of another record.
pub(super) fn named(id: Option<&str>) -> Option<String> {
    let revision = planned_of(id?).filter(|revision| *revision > 0)?;
    Some(planned_id(revision)).filter(|written| Some(written.as_str()) == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = r#""at":"2026-11-22T10:00:00Z","window_s":600,"requested_by":"anna@db1","reason":"kernel""#;

    #[test]
    fn a_planned_switchover_becomes_a_request_that_keeps_its_id() {
        let text = format!(r#"{{{AT},"leader":"pg1"}}"#);
        let record = PlannedSwitchover::from_json(&text).expect("readable");
        assert_eq!(record.to_json(), text);
        assert_eq!(record.schedule.until().to_string(), "2026-11-22T10:10:00Z");
        let due = record.schedule.due(Some(&record.leader));
        assert_eq!((due.window_ms, due.under), (600_000, Some(&record.leader)));
        let planned = Planned { record, revision: 70 };
        assert_eq!(planned.asked().member, None);
        let request = planned.request(&MemberName::new("pg2").expect("a good name"), None);
        assert_eq!((request.leader.as_deref(), request.member.as_deref()), (Some("pg1"), Some("pg2")));
        assert_eq!((request.record_id(77).as_str(), request.requested_by.as_deref()), ("p-70", Some("anna@db1")));
        assert!(request.to_request(77).is_ok_and(|request| request.is_some()), "it is carried out at once");
    }

    #[test]
    fn a_planned_restart_becomes_an_order_that_keeps_its_id() {
        let text = format!(r#"{{{AT},"role":"replica","only_pending":true}}"#);
        let record = PlannedRestart::from_json(&text).expect("readable");
        assert_eq!(record.to_json(), text);
        let order = Planned { record, revision: 71 }.order(Some("bert: flyway".to_owned()));
        assert_eq!((order.record_id(78).as_str(), order.role.as_deref()), ("p-71", Some("replica")));
        assert_eq!(order.ignored_hold.as_deref(), Some("bert: flyway"));
        assert!(PlannedRestart::from_json(&format!(r#"{{{AT},"role":"king"}}"#)).is_err());
    }

    #[test]
    fn what_does_not_say_when_and_under_whom_is_nothing_planned() {
        for half in [
            "{}",
            r#"{"leader":"pg1"}"#,
            r#"{"at":"2026-11-22 10:00","window_s":600,"requested_by":"anna","leader":"pg1"}"#,
            r#"{"at":"2026-11-22T10:00:00Z","window_s":-1,"requested_by":"anna","leader":"pg1"}"#,
        ] {
            assert!(PlannedSwitchover::from_json(half).is_err(), "{half}");
        }
        assert!(PlannedSwitchover::from_json(&format!("{{{AT}}}")).is_err(), "nobody would have to lead");
    }
}
