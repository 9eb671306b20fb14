//! `status` and `history`: how far the leader's WAL has come, and where each past timeline ended. Both exactly as Patroni has them.

use decision::names::{Lsn, MemberName, Timeline};
use decision::view::HistoryEntry;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{from_json, to_json};

#[derive(Serialize, Deserialize)]
struct Status {
    optime: u64,
}

/// The text of `status` for a leader whose WAL ends at `lsn`.
pub fn status_to_stored(lsn: Lsn) -> String {
    to_json(&Status { optime: lsn.0 })
}

/// Reads `status`.
pub fn status_from_stored(text: &str) -> Result<Lsn, String> {
    from_json::<Status>(text).map(|status| Lsn(status.optime))
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
    let rows: Vec<Value> = from_json(text)?;
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
    fn status_is_a_number_of_bytes() {
        assert_eq!(status_to_stored(Lsn(67_393_608)), r#"{"optime":67393608}"#);
        assert_eq!(status_from_stored(r#"{"optime":5,"slots":{"pg2":5}}"#), Ok(Lsn(5)));
    }
}
