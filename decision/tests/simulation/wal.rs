//! WAL as records. A record is written once, at one place of one timeline, so two directories that hold the same record at the same place
//! agree on everything before it: a fork is where they do not.

use decision::names::{Lsn, Term, Timeline};

use crate::world::At;

/// A record, by its number in the archive of all records ever written.
pub type RecordId = u32;

/// How many bytes a record takes.
const RECORD_BYTES: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first record of a timeline.
    Begin,
    /// A client's row.
    Row,
    /// The marker of a term, or one more proof of it.
    Marker(Term),
    /// A checkpoint.
    Checkpoint,
}

#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub timeline: Timeline,
    pub kind: Kind,
    pub writer: At,
    /// The newest marker up to and including this record.
    pub newest_marker: Term,
}

/// Every record ever written.
#[derive(Clone, Debug, Default)]
pub struct Archive(Vec<Record>);

impl Archive {
    /// Adds a record behind `before`.
    pub fn add(&mut self, before: Option<RecordId>, timeline: Timeline, kind: Kind, writer: At) -> RecordId {
        let marker = before.map_or(Term(0), |id| self.get(id).newest_marker);
        let newest_marker = if let Kind::Marker(term) = kind { marker.max(term) } else { marker };
        self.0.push(Record { timeline, kind, writer, newest_marker });
        RecordId::try_from(self.0.len() - 1).expect("fewer records than that")
    }

    pub fn get(&self, id: RecordId) -> Record {
        self.0[id as usize]
    }

    /// The timeline of the last of these records.
    pub fn timeline(&self, wal: &[RecordId]) -> Timeline {
        wal.last().map_or(Timeline(1), |id| self.get(*id).timeline)
    }

    /// The newest marker in these records.
    pub fn marker(&self, wal: &[RecordId]) -> Term {
        wal.last().map_or(Term(0), |id| self.get(*id).newest_marker)
    }

    /// The timeline before the last one in these records, and how many records came before the last one began.
    pub fn last_fork(&self, wal: &[RecordId]) -> Option<(Timeline, usize)> {
        let newest = self.timeline(wal);
        let before = wal.iter().rposition(|id| self.get(*id).timeline < newest)?;
        Some((self.get(wal[before]).timeline, before + 1))
    }
}

/// The position behind so many records.
pub fn lsn(records: usize) -> Lsn {
    Lsn(records as u64 * RECORD_BYTES)
}

/// Whether `wal` is the beginning of `longer`, or all of it.
pub fn is_prefix(wal: &[RecordId], longer: &[RecordId]) -> bool {
    match wal.len() {
        0 => true,
        len => longer.get(len - 1) == wal.last(),
    }
}

/// How many records both have in common.
pub fn common(one: &[RecordId], other: &[RecordId]) -> usize {
    let (mut low, mut high) = (0, one.len().min(other.len()));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if one[middle - 1] == other[middle - 1] { low = middle } else { high = middle - 1 }
    }
    low
}
