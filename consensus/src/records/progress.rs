//! `status` and `history`: how far the leader's WAL has come, and where each past timeline ended. Both exactly as Patroni has them.

use std::collections::BTreeMap;

use decision::names::{Lsn, MemberName, Timeline};
use decision::slots::{Published, SlotName};
use decision::view::HistoryEntry;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{from_json, to_json};

/// What `status` says. A name in it that is none of a slot, which Postgres would not take either, costs nothing but itself.
#[derive(Serialize, Deserialize)]
struct Status {
    optime: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slots: Option<BTreeMap<String, u64>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retain_slots: Vec<String>,
}

/// The text of `status` for a leader whose WAL ends at `lsn`; `None`: it says nothing of its slots.
pub fn status_to_stored(lsn: Lsn, slots: Option<&Published>) -> String {
    let positions = |slots: &Published| slots.positions.iter().map(|(name, at)| (name.to_string(), at.0)).collect();
    let retain_slots = slots.iter().flat_map(|slots| &slots.for_members).map(ToString::to_string).collect();
    to_json(&Status { optime: lsn.0, slots: slots.map(positions), retain_slots })
}

/// Reads `status`: where the leader's WAL ends, and what it tells of its slots.
pub fn status_from_stored(text: &str) -> Result<(Lsn, Option<Published>), String> {
    let status = from_json::<Status>(text)?;
    let name = |text: &String| SlotName::new(text.as_str()).ok();
    let positions =
        |slots: BTreeMap<String, u64>| slots.iter().filter_map(|(at, lsn)| Some((name(at)?, Lsn(*lsn)))).collect();
    let for_members = status.retain_slots.iter().filter_map(name).collect();
    Ok((Lsn(status.optime), status.slots.map(|slots| Published { positions: positions(slots), for_members })))
}

/// Reads `stray_timeline`: the number alone.
pub fn timeline_from_stored(text: &str) -> Result<Timeline, String> {
    let number =
        text.parse().map_err(|_| format!("\"{text}\" is no number of a timeline; a promotion may take one again"))?;
    Ok(Timeline(number))
}

/// One row of `history`: `[timeline, position, reason, timestamp, new leader]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where the next one forked off.
    pub ended_at: Lsn,
    /// Postgres' reason, from the history file.
    pub reason: String,
    /// When, by the wall clock of the new leader (RFC 3339); for people only.
    pub timestamp: Option<String>,
    /// Who was promoted there.
    pub new_leader: Option<MemberName>,
}

impl HistoryRow {
    /// What a decision needs of it.
    pub fn to_entry(&self) -> HistoryEntry {
        HistoryEntry { timeline: self.timeline, ended_at: self.ended_at, new_leader: self.new_leader.clone() }
    }

    fn to_value(&self) -> Value {
        json!([
            self.timeline.0,
            self.ended_at.0,
            self.reason,
            self.timestamp.as_deref().unwrap_or_default(),
            self.new_leader.as_ref().map(MemberName::as_str).unwrap_or_default()
        ])
    }

    /// Patroni writes three to five fields a row, and may not know the last two.
    fn from_value(row: &Value) -> Option<Self> {
        let text = |index: usize| row.get(index).and_then(Value::as_str).filter(|text| !text.is_empty());
        Some(Self {
            timeline: Timeline(u32::try_from(row.get(0)?.as_u64()?).ok()?),
            ended_at: Lsn(row.get(1)?.as_u64()?),
            reason: text(2).unwrap_or_default().to_owned(),
            timestamp: text(3).map(str::to_owned),
            new_leader: text(4).and_then(|name| MemberName::new(name).ok()),
        })
    }
}

/// The text of `history`.
pub fn history_to_stored(rows: &[HistoryRow]) -> String {
    to_json(&rows.iter().map(HistoryRow::to_value).collect::<Vec<_>>())
}

/// Reads `history`.
pub fn history_from_stored(text: &str) -> Result<Vec<HistoryRow>, String> {
    let rows: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    rows.iter().map(|row| HistoryRow::from_value(row).ok_or_else(|| format!("row {row} is no history row"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_patronis_array() {
        let text = r#"[[1,25623960,"no recovery target specified","2026-09-23T16:57:57.324+00:00","pg2"]]"#;
        let rows = history_from_stored(text).expect("readable");
        assert_eq!(rows[0].new_leader, MemberName::new("pg2").ok());
        assert_eq!(history_to_stored(&rows), text);
        assert_eq!(history_from_stored("[[1,5,\"x\"]]").expect("three fields will do").len(), 1);
        assert!(history_from_stored("[[\"one\"]]").is_err());
    }

    #[test]
    fn status_is_a_number_of_bytes_with_the_positions_of_slots_as_patroni_has_it() {
        assert_eq!(status_to_stored(Lsn(67_393_608), None), r#"{"optime":67393608}"#);
        assert_eq!(status_from_stored(r#"{"optime":5}"#), Ok((Lsn(5), None)));
        let text = r#"{"optime":67393608,"slots":{"my_own":67300000,"pg2":67393608},"retain_slots":["pg2"]}"#;
        let (lsn, slots) = status_from_stored(text).expect("readable");
        let slots = slots.expect("it tells of slots");
        assert_eq!(slots.positions.get(&SlotName::new("my_own").expect("good")), Some(&Lsn(67_300_000)));
        assert_eq!(status_to_stored(lsn, Some(&slots)), text);
        let odd = status_from_stored(r#"{"optime":5,"slots":{"No Slot":7}}"#);
        assert_eq!(odd, Ok((Lsn(5), Some(Published::default()))));
    }
}
