//! `sync`: who may hold the only copies of an acknowledged commit. Patroni's fields come first, for its tools; ours say it exactly.

use std::collections::BTreeSet;

use decision::durability::Quorum;
use decision::names::{MemberName, Term, Timeline};
use decision::settings::Mode;
use decision::view::SyncRecord;
use serde::{Deserialize, Serialize};

use super::config::{mode_from_text, mode_to_text};
use super::{LsnText, from_json, to_json};

#[derive(Serialize, Deserialize)]
struct Stored {
    leader: MemberName,
    #[serde(default)]
    quorum: usize,
    #[serde(default)]
    sync_standby: Option<String>,
    term: u64,
    mode: String,
    policies: Vec<StoredQuorum>,
    timeline: u32,
    #[serde(default)]
    released: bool,
    #[serde(default)]
    reclaimed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handover_lsn: Option<LsnText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heir: Option<MemberName>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    follows: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredQuorum {
    k: u32,
    voters: BTreeSet<MemberName>,
}

/// The text to store.
pub fn to_stored(record: &SyncRecord) -> String {
    let newest = record.policies.last().cloned().unwrap_or_default();
    let names: Vec<&str> = newest.voters.iter().map(MemberName::as_str).collect();
    to_json(&Stored {
        leader: record.leader.clone(),
        quorum: newest.voters.len().saturating_sub(newest.k as usize),
        sync_standby: (!names.is_empty()).then(|| names.join(",")),
        term: record.term.0,
        mode: mode_to_text(record.mode).to_owned(),
        policies: record
            .policies
            .iter()
            .map(|quorum| StoredQuorum { k: quorum.k, voters: quorum.voters.clone() })
            .collect(),
        timeline: record.timeline.0,
        released: record.released,
        reclaimed: record.reclaimed,
        handover_lsn: record.handover_lsn.map(LsnText),
        heir: record.heir.clone(),
        follows: record.follows,
    })
}

/// Reads the stored text. Our own fields are needed: what Patroni alone writes cannot prove anything here.
pub fn from_stored(text: &str) -> Result<SyncRecord, String> {
    let stored: Stored = from_json(text)?;
    let mode = mode_from_text(&stored.mode)?;
    if mode == Mode::Auto {
        return Err("mode \"auto\" is no mode in force".to_owned());
    }
    if !Term(stored.term).is_one() {
        return Err(format!("{} is no term", stored.term));
    }
    if stored.policies.is_empty() {
        return Err("policies is empty, so nothing could be proven".to_owned());
    }
    if let Some(bad) = stored.policies.iter().find(|quorum| quorum.k as usize > quorum.voters.len()) {
        return Err(format!("a policy asks for {} of {} voters", bad.k, bad.voters.len()));
    }
    Ok(SyncRecord {
        leader: stored.leader,
        term: Term(stored.term),
        mode,
        policies: stored.policies.into_iter().map(|quorum| Quorum { k: quorum.k, voters: quorum.voters }).collect(),
        timeline: Timeline(stored.timeline),
        released: stored.released,
        reclaimed: stored.reclaimed,
        handover_lsn: stored.handover_lsn.map(|lsn| lsn.0),
        heir: stored.heir,
        follows: stored.follows,
    })
}

/// What is assumed in place of a record that cannot be understood: a leader that nobody is, and policies that nobody can prove, so that
/// no takeover happens without an operator's word.
pub fn unreadable(term: Term) -> SyncRecord {
    let nobody = MemberName::new("unreadable-sync-record").expect("a good name");
    SyncRecord::of_reign(nobody, term, Mode::Strict, Vec::new(), Timeline(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use decision::names::Lsn;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("good name")
    }

    #[test]
    fn the_record_carries_patronis_fields_and_ours() {
        let voters = BTreeSet::from([name("pg2"), name("pg3")]);
        let record = SyncRecord {
            leader: name("pg1"),
            term: Term(7),
            mode: Mode::Quorum,
            policies: vec![Quorum { k: 1, voters }],
            timeline: Timeline(4),
            released: false,
            reclaimed: false,
            handover_lsn: Some(Lsn(0x300_0148)),
            heir: Some(name("pg2")),
            follows: false,
        };
        let text = r#"{"leader":"pg1","quorum":1,"sync_standby":"pg2,pg3","term":7,"mode":"quorum","policies":[{"k":1,"voters":["pg2","pg3"]}],"timeline":4,"released":false,"reclaimed":false,"handover_lsn":"0/3000148","heir":"pg2"}"#;
        assert_eq!(to_stored(&record), text);
        assert_eq!(from_stored(text), Ok(record));
    }

    #[test]
    fn an_async_record_names_nobody() {
        let record = SyncRecord {
            leader: name("pg1"),
            term: Term(1),
            mode: Mode::Async,
            policies: vec![Quorum::none()],
            timeline: Timeline(1),
            released: true,
            reclaimed: true,
            handover_lsn: None,
            heir: None,
            follows: false,
        };
        let text = r#"{"leader":"pg1","quorum":0,"sync_standby":null,"term":1,"mode":"async","policies":[{"k":0,"voters":[]}],"timeline":1,"released":true,"reclaimed":true}"#;
        assert_eq!(to_stored(&record), text);
        assert_eq!(from_stored(text), Ok(record));
    }

    #[test]
    fn a_site_that_follows_says_so() {
        let text = r#"{"leader":"pg1","quorum":0,"sync_standby":null,"term":1,"mode":"async","policies":[{"k":0,"voters":[]}],"timeline":1,"released":false,"reclaimed":false,"follows":true}"#;
        let read = from_stored(text);
        assert!(read.as_ref().is_ok_and(|record| record.follows), "{read:?}");
        assert_eq!(read.map(|record| to_stored(&record)), Ok(text.to_owned()));
    }

    #[test]
    fn a_record_that_could_prove_too_much_is_refused() {
        for bad in [
            r#"{"leader":"pg1","quorum":0,"sync_standby":"pg2"}"#,
            r#"{"leader":"pg1","term":7,"mode":"auto","policies":[{"k":1,"voters":["pg2"]}],"timeline":1}"#,
            r#"{"leader":"pg1","term":7,"mode":"quorum","policies":[],"timeline":1}"#,
            r#"{"leader":"pg1","term":7,"mode":"quorum","policies":[{"k":2,"voters":["pg2"]}],"timeline":1}"#,
            r#"{"leader":"pg1","term":7,"mode":"quo"#,
        ] {
            assert!(from_stored(bad).is_err(), "{bad}");
        }
    }
}
