//! How far the WAL of a leader had come at which moment, so that a standby's lag in seconds is counted on one clock: since when there has
//! been WAL that it does not have. An idle leader's standbys are never behind, whatever the age of the last transaction.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use decision::names::Lsn;

/// Marks that are closer to each other are one.
const APART: Duration = Duration::from_millis(100);
/// Seven minutes of a busy leader; what is older is remembered more coarsely.
const MARKS_MAX: usize = 4096;

/// The moments at which the end of WAL was seen to have moved, the oldest first.
#[derive(Default)]
pub(super) struct Trail {
    marks: VecDeque<(Instant, Lsn)>,
}

impl Trail {
    /// The WAL ended at `end` at `now`. An end that lies behind the last one is another history, and begins anew.
    pub(super) fn saw(&mut self, now: Instant, end: Lsn) {
        match self.marks.back_mut() {
            Some((_, last)) if end == *last => return,
            Some((_, last)) if end < *last => self.marks.clear(),
            Some((at, last)) if now.saturating_duration_since(*at) < APART => {
                *last = end;
                return;
            }
            _ => {}
        }
        self.marks.push_back((now, end));
        if self.marks.len() > MARKS_MAX {
            self.thin();
        }
    }

    /// This node leads nobody.
    pub(super) fn forget(&mut self) {
        self.marks.clear();
    }

    /// Since when there has been WAL beyond `position`, as of `now`.
    pub(super) fn behind(&self, now: Instant, position: Lsn) -> Duration {
        let first = self.marks.partition_point(|(_, end)| *end <= position);
        self.marks.get(first).map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    /// Two marks become one: the moment of the first, the end of the second.
    fn thin(&mut self) {
        let marks: Vec<_> = self.marks.drain(..).collect();
        self.marks = marks.chunks(2).map(|two| (two[0].0, two[two.len() - 1].1)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(marks: &[(u64, u64)]) -> (Trail, Instant) {
        let began = Instant::now();
        let mut trail = Trail::default();
        for (ms, end) in marks {
            trail.saw(began + Duration::from_millis(*ms), Lsn(*end));
        }
        (trail, began)
    }

    #[test]
    fn a_standby_is_behind_since_the_first_wal_that_it_lacks() {
        let busy: &[(u64, u64)] = &[(0, 100), (1000, 200), (2000, 300), (2000, 300)];
        let restored: &[(u64, u64)] = &[(0, 500), (1000, 100), (2000, 200)];
        let dense: &[(u64, u64)] = &[(0, 100), (50, 150), (90, 200)];
        for (marks, position, behind_ms) in [
            (busy, 300, 0),
            (busy, 400, 0),
            (busy, 250, 3000),
            (busy, 200, 3000),
            (busy, 199, 4000),
            (busy, 0, 5000),
            (restored, 150, 3000),
            (restored, 450, 0),
            (dense, 100, 5000),
            (dense, 200, 0),
            (&[], 0, 0),
        ] {
            let (trail, began) = trail(marks);
            let behind = trail.behind(began + Duration::from_millis(5000), Lsn(position));
            assert_eq!(behind, Duration::from_millis(behind_ms), "{marks:?} {position}");
        }
    }

    #[test]
    fn a_long_trail_stays_small_and_never_says_less_than_is_so() {
        let marks: Vec<_> = (0..10_000).map(|n| (n * 200, n + 1)).collect();
        let (trail, began) = trail(&marks);
        assert!(trail.marks.len() <= MARKS_MAX);
        let now = began + Duration::from_millis(10_000 * 200);
        for position in [0, 1, 5000, 9990, 9999] {
            let true_ms = (10_000 - position) * 200;
            let told_ms = u64::try_from(trail.behind(now, Lsn(position)).as_millis()).expect("a short time");
            assert!(told_ms >= true_ms, "{position}: {told_ms} ms, truly {true_ms} ms");
        }
        assert_eq!(trail.behind(now, Lsn(10_000)), Duration::ZERO);
    }
}
