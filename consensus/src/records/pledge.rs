//! `ballots/<name>` and `floors/<name>`: what a voter has pledged, and what it must regain before it counts again.

use decision::names::{Lsn, Term, Timeline};
use decision::view::Ballot;
use serde::{Deserialize, Serialize};

use super::{LsnText, from_json, to_json};

#[derive(Serialize, Deserialize)]
struct StoredBallot {
    revoked: u64,
    wal_term: u64,
    received: LsnText,
    timeline: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    late: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredFloor {
    lsn: LsnText,
}

/// The text of a ballot to store. Its revision is etcd's own, so it is not part of the text.
pub fn ballot_to_stored(ballot: &Ballot) -> String {
    to_json(&StoredBallot {
        revoked: ballot.revoked.0,
        wal_term: ballot.wal_term.0,
        received: LsnText(ballot.received),
        timeline: ballot.timeline.0,
        late: ballot.late,
    })
}

/// A ballot against nothing, last written at `revision`: it counts for nobody, and only holds the place.
pub fn empty_ballot(revision: i64) -> Ballot {
    Ballot { revoked: Term(0), wal_term: Term(0), received: Lsn(0), timeline: Timeline(0), late: false, revision }
}

/// Reads a ballot that was last written at `revision`.
pub fn ballot_from_stored(text: &str, revision: i64) -> Result<Ballot, String> {
    let stored: StoredBallot = from_json(text)?;
    Ok(Ballot {
        revoked: Term(stored.revoked),
        wal_term: Term(stored.wal_term),
        received: stored.received.0,
        timeline: Timeline(stored.timeline),
        late: stored.late,
        revision,
    })
}

/// The text of a floor to store.
pub fn floor_to_stored(lsn: Lsn) -> String {
    to_json(&StoredFloor { lsn: LsnText(lsn) })
}

/// Reads a floor.
pub fn floor_from_stored(text: &str) -> Result<Lsn, String> {
    from_json::<StoredFloor>(text).map(|stored| stored.lsn.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballot_is_text_and_a_revision() {
        let ballot = Ballot {
            revoked: Term(7),
            wal_term: Term(6),
            received: Lsn(0x300_0148),
            timeline: Timeline(4),
            late: false,
            revision: 99,
        };
        let text = r#"{"revoked":7,"wal_term":6,"received":"0/3000148","timeline":4}"#;
        assert_eq!(ballot_to_stored(&ballot), text);
        assert_eq!(ballot_from_stored(text, 99), Ok(ballot.clone()));
        let late = Ballot { late: true, ..ballot };
        assert_eq!(ballot_from_stored(&ballot_to_stored(&late), 99), Ok(late));
        assert!(ballot_from_stored(r#"{"revoked":7}"#, 1).is_err());
    }

    #[test]
    fn a_floor_is_a_position() {
        assert_eq!(floor_to_stored(Lsn(0x300_0148)), r#"{"lsn":"0/3000148"}"#);
        assert_eq!(floor_from_stored(r#"{"lsn":"1/0","by":"newer"}"#), Ok(Lsn(1 << 32)));
        assert!(floor_from_stored(r#"{"lsn":"here"}"#).is_err());
    }
}
