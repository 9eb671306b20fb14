//! `transitions/<id>`: one record for every failover, switchover, restart and rejoin, from which the API, the command line, the metrics
//! and the log all read. Durations are measured on one node's clock each; wall-clock times are for people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{from_json, to_json};

/// The schema of the records written here.
pub const SCHEMA: &str = "pgvigil.transition/v1";

/// One transition. Fields that a reader does not find take their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Transition {
    /// `t-<term>` or `t-<term>.<n>`.
    pub id: String,
    /// [`SCHEMA`].
    pub schema: String,
    /// `failover`, `switchover`, `restart`, `bootstrap`, `reclaim`, `degrade` or `discard`; `refused`: nobody was promoted, for the cause that it has.
    pub kind: String,
    /// The stable code of the cause.
    pub cause: String,
    /// The cause in one sentence.
    pub cause_text: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// Who led before.
    pub from: Option<String>,
    /// Who leads after.
    pub to: Option<String>,
    /// The term before.
    pub term_before: u64,
    /// The term after.
    pub term_after: u64,
    /// The timeline before.
    pub timeline_before: Option<u32>,
    /// The timeline after.
    pub timeline_after: Option<u32>,
    /// Who asked for it; empty: nobody.
    pub requested_by: String,
    /// Why it was asked for.
    pub reason: String,
    /// When it began (RFC 3339), by the wall clock of whoever wrote it; for display only.
    pub started_at: String,
    /// When it was over, by the wall clock of whoever wrote that; for display only. Only what lasts has it.
    pub ended_at: Option<String>,
    /// Who measured what is in no phase, and keeps this record up to date while it lasts; empty: whoever leads.
    pub told_by: String,
    /// `in_progress`, `done`, `failed` or `refused`.
    pub outcome: String,
    /// How much may have been lost, in bytes: 0 is proven, `None` is unknown. Any other number is what the new leader lacked of the last position that
    /// the old one had published, and may have been more.
    pub lost_bytes_bound: Option<u64>,
    /// `none`, `bounded` or `unknown`.
    pub lost: String,
    /// What members that came back had beyond the end of the old timeline and threw away, as each counted it.
    pub discarded: Vec<Discarded>,
    /// What took how long.
    pub phases: Vec<Phase>,
    /// How long no write could be acknowledged, in milliseconds.
    pub write_outage_ms: Option<f64>,
    /// Whether it may have been longer: nobody was there to measure its beginning.
    pub write_outage_at_least: bool,
    /// Whether a pooler holds clients for its sake: `held since` and when, or `let_go`; `None`: nobody was told to hold any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<String>,
    /// Anything else that a reader should know.
    pub notes: Vec<String>,
}

impl Default for Transition {
    fn default() -> Self {
        Self {
            id: String::new(),
            schema: SCHEMA.to_owned(),
            kind: String::new(),
            cause: String::new(),
            cause_text: String::new(),
            evidence: Vec::new(),
            from: None,
            to: None,
            term_before: 0,
            term_after: 0,
            timeline_before: None,
            timeline_after: None,
            requested_by: String::new(),
            reason: String::new(),
            started_at: String::new(),
            ended_at: None,
            told_by: String::new(),
            outcome: "in_progress".to_owned(),
            lost_bytes_bound: None,
            lost: "unknown".to_owned(),
            discarded: Vec::new(),
            phases: Vec::new(),
            write_outage_ms: None,
            write_outage_at_least: false,
            clients: None,
            notes: Vec::new(),
        }
    }
}

/// WAL that a returning member had for itself. In `quorum` and `strict` mode nobody had been told that it was committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Discarded {
    /// Who threw it away.
    pub member: String,
    /// How much WAL.
    pub bytes: u64,
    /// How many transactions it committed.
    pub transactions: u64,
}

/// One phase of a transition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Phase {
    /// `detect`, `pledge`, `elect`, `promote`, `writable`, `route`, `redundancy`, `rejoin`, `exposed`, `unattended`, `operator` or `without_primary`.
    pub name: String,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// On whose clock.
    pub measured_on: String,
}

impl Transition {
    /// Reads the stored text.
    pub fn from_json(text: &str) -> Result<Self, String> {
        from_json(text)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// Whether nobody could write for a while, known or not how long. One that was refused, or of a standby, took writes from nobody.
    pub fn tells_of_an_outage(&self) -> bool {
        let takes_writes = matches!(self.kind.as_str(), "failover" | "switchover" | "reclaim");
        self.write_outage_ms.is_some() || (takes_writes && self.outcome != "refused")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_round_trip() {
        let record = Transition {
            id: "t-8".to_owned(),
            kind: "failover".to_owned(),
            from: Some("pg1".to_owned()),
            to: Some("pg2".to_owned()),
            term_after: 8,
            lost_bytes_bound: Some(0),
            phases: vec![Phase { name: "detect".to_owned(), duration_ms: 512.5, measured_on: "pg2".to_owned() }],
            ..Transition::default()
        };
        assert_eq!(Transition::from_json(&record.to_json()), Ok(record));
    }

    #[test]
    fn a_record_of_another_version_is_read_as_far_as_it_goes() {
        let record = Transition::from_json(r#"{"id":"t-9","weather":"fine"}"#).expect("readable");
        assert_eq!(
            (record.id.as_str(), record.outcome.as_str(), record.lost.as_str()),
            ("t-9", "in_progress", "unknown")
        );
    }
}
