//! What clients know: every acknowledged row, on which node and timeline, when it was sent and when the acknowledgement came, all on one
//! monotonic clock. A timeline has one writer, so what was acknowledged on one timeline is one reign.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One acknowledged row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub id: i64,
    /// The node that acknowledged it.
    pub node: usize,
    /// The timeline on which that node wrote.
    pub timeline: i32,
    /// When it was sent.
    pub sent: Instant,
    /// When the acknowledgement came.
    pub at: Instant,
}

/// All of them, shared by the writers.
#[derive(Debug, Default)]
pub struct Ledger {
    rows: Mutex<Vec<Row>>,
}

/// Two reigns that acknowledged at once: the earlier one took and acknowledged a row after the later one had acknowledged its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Node and timeline of the one that should have ended.
    pub old: (usize, i32),
    /// Node and timeline of the one that had begun.
    pub new: (usize, i32),
    /// How many rows the old one still took and acknowledged.
    pub rows: usize,
}

impl Ledger {
    /// One more.
    pub fn push(&self, row: Row) {
        self.open().push(row);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open().len()
    }

    /// None yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those from a count on, in the order in which they were acknowledged.
    pub fn since(&self, count: usize) -> Vec<Row> {
        let rows = self.open();
        let mut rows = rows.get(count..).unwrap_or_default().to_vec();
        rows.sort_by_key(|row| row.at);
        rows
    }

    /// The last of them.
    pub fn last(&self) -> Option<Row> {
        self.open().iter().max_by_key(|row| row.at).copied()
    }

    /// How many were sent after an instant.
    pub fn sent_after(&self, instant: Instant) -> usize {
        self.open().iter().rev().take_while(|row| row.at > instant).filter(|row| row.sent > instant).count()
    }

    fn open(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest time without an acknowledgement that ended after `from`, among those that began in the given span; when it began, too.
pub fn silence(rows: &[Row], from: Instant, began_until: Instant) -> Option<(Duration, Instant)> {
    let pairs = rows.iter().zip(rows.iter().skip(1));
    let wanted = pairs.filter(|(last, next)| next.at > from && last.at <= began_until);
    wanted.map(|(last, next)| (next.at.duration_since(last.at), last.at)).max()
}

/// Reigns that acknowledged at the same time.
pub fn splits(rows: &[Row]) -> Vec<Split> {
    let mut first: BTreeMap<(usize, i32), Instant> = BTreeMap::new();
    for row in rows {
        let begin = first.entry((row.node, row.timeline)).or_insert(row.at);
        *begin = row.at.min(*begin);
    }
    let mut found = Vec::new();
    for (old, old_begin) in &first {
        for (new, new_begin) in &first {
            if old == new || (*old_begin, old) > (*new_begin, new) {
                continue;
            }
            let late = |row: &&Row| (row.node, row.timeline) == *old && row.sent > *new_begin;
            let rows = rows.iter().filter(late).count();
            if rows > 0 {
                found.push(Split { old: *old, new: *new, rows });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start: Instant, node: usize, timeline: i32, sent_ms: u64, at_ms: u64) -> Row {
        let at = |ms| start + Duration::from_millis(ms);
        Row { id: 0, node, timeline, sent: at(sent_ms), at: at(at_ms) }
    }

    #[test]
    fn one_reign_after_the_other_is_no_split() {
        let start = Instant::now();
        let rows =
            [row(start, 0, 1, 0, 1), row(start, 0, 1, 5, 30), row(start, 1, 2, 20, 21), row(start, 0, 3, 50, 51)];
        assert_eq!(splits(&rows), []);
    }

    #[test]
    fn a_row_taken_by_the_old_after_the_new_had_begun_is_a_split() {
        let start = Instant::now();
        let rows =
            [row(start, 0, 1, 0, 1), row(start, 1, 2, 20, 21), row(start, 0, 1, 22, 23), row(start, 0, 1, 24, 25)];
        assert_eq!(splits(&rows), [Split { old: (0, 1), new: (1, 2), rows: 2 }]);
    }

    #[test]
    fn the_silence_is_the_longest_that_ends_after_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rows = [0, 900, 1010, 1500, 1510, 3000].map(|ms| row(start, 0, 1, ms, ms));
        assert_eq!(silence(&rows, at(1000), at(1500)), Some((Duration::from_millis(490), at(1010))));
        assert_eq!(silence(&rows, at(1000), at(1510)), Some((Duration::from_millis(1490), at(1510))));
        assert_eq!(silence(&rows, at(3000), at(4000)), None);
    }
}
