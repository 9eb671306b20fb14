//! Do writes go on? A server whose one process is frozen while it holds a lock that every write needs answers every question, and no commit
//! ends any more. What tells is three things together: the flushed end of WAL rests, the same process waits for such a lock at every look,
//! and nobody is at the disk meanwhile. A server that merely has nothing to write rests too, a disk that is slow is at work, and a
//! lock that many want goes from one to the next while WAL grows.

use std::collections::BTreeSet;
use std::time::Duration;

use decision::names::Lsn;
use tokio_postgres::SimpleQueryMessage;

use crate::process;

/// What every server answers: a primary tells how far its WAL is on disk, and how far it is written down in memory.
const POSITIONS: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END, \
     CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END";

/// The same, and who waits for a lock that every write needs, and who is at the disk for WAL or for the state of transactions. These locks are
/// held for a few memory accesses, but for that (PostgreSQL 15: `XLogWrite`, `GetNewTransactionId`, `ProcArrayEndTransaction`).
const CLOSER: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END, \
     CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END, \
     string_agg(pid::text, ' ') FILTER (WHERE wait_event_type = 'LWLock' \
         AND wait_event IN ('WALWrite', 'WALInsert', 'WALBufMapping', 'ProcArray', 'XidGen')), \
     string_agg(pid::text, ' ') FILTER (WHERE wait_event_type = 'IO' \
         AND (wait_event LIKE 'WAL%' OR wait_event LIKE 'SLRU%')) \
     FROM pg_stat_get_activity(NULL)";

/// How many of the shorter questions are asked between two of the longer while nothing looks odd.
const CLOSER_AFTER: u8 = 6;

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    flushed: Option<Lsn>,
    inserted: Option<Lsn>,
    /// Who waits, and who is at the disk; `None`: the shorter question was asked.
    seen: Option<(BTreeSet<i32>, BTreeSet<i32>)>,
}

impl Answer {
    pub(super) fn read(question: &str, rows: &[SimpleQueryMessage]) -> Self {
        let row = rows.iter().find_map(|row| match row {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = |column| row.and_then(|row| row.get(column));
        let lsn = |column| text(column).and_then(|text| text.parse().ok());
        let pids = |column| text(column).unwrap_or_default().split(' ').filter_map(|pid| pid.parse().ok()).collect();
        let seen = (question == CLOSER).then(|| (pids(2), pids(3)));
        Self { flushed: lsn(0), inserted: lsn(1), seen }
    }
}

/// What the answers so far tell about writes.
#[derive(Debug, Default)]
pub(super) struct Writes {
    flushed: Option<Lsn>,
    /// Who has waited for such a lock at each look since WAL rests.
    waiting: BTreeSet<i32>,
    /// For how long.
    pub(super) stuck_for: Duration,
    /// Something looks odd, so the longer question is asked each time.
    odd: bool,
    asked: u8,
}

impl Writes {
    /// What to ask next.
    pub(super) fn question(&mut self) -> &'static str {
        self.asked = if self.odd || self.asked >= CLOSER_AFTER { 0 } else { self.asked + 1 };
        if self.asked == 0 { CLOSER } else { POSITIONS }
    }

    /// Takes an answer in that came so long after the one before; says whether the WAL on disk has grown.
    pub(super) fn hear(&mut self, answer: Answer, since_last: Duration) -> bool {
        self.hear_of(answer, since_last, process::is_stopped)
    }

    fn hear_of(&mut self, answer: Answer, since_last: Duration, is_stopped: impl Fn(i32) -> bool) -> bool {
        let grown = std::mem::replace(&mut self.flushed, answer.flushed) != answer.flushed;
        let before = std::mem::take(&mut self.waiting);
        if !grown && let Some((waiting, at_disk)) = answer.seen {
            // Who is at the disk holds the locks with good reason, unless it will never come back from there.
            let held_by_a_disk = at_disk.iter().any(|pid| !is_stopped(*pid));
            let still: BTreeSet<i32> = before.intersection(&waiting).copied().collect();
            self.stuck_for =
                if held_by_a_disk || still.is_empty() { Duration::ZERO } else { self.stuck_for + since_last };
            self.waiting = match (held_by_a_disk, still.is_empty()) {
                (true, _) => BTreeSet::new(),
                (false, true) => waiting,
                (false, false) => still,
            };
        } else {
            self.stuck_for = Duration::ZERO;
        }
        self.odd = !self.waiting.is_empty() || (!grown && answer.inserted > answer.flushed);
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(150);

    fn answer(flushed: u64, inserted: u64, seen: Option<(&[i32], &[i32])>) -> Answer {
        let set = |pids: &[i32]| pids.iter().copied().collect();
        let seen = seen.map(|(waiting, at_disk)| (set(waiting), set(at_disk)));
        Answer { flushed: Some(Lsn(flushed)), inserted: Some(Lsn(inserted)), seen }
    }

    /// After these answers, where process 66 is stopped.
    fn stuck_for(answers: &[Answer]) -> Duration {
        let mut writes = Writes::default();
        writes.hear_of(answer(10, 10, None), STEP, |_| false);
        answers.iter().for_each(|answer| {
            writes.hear_of(answer.clone(), STEP, |pid| pid == 66);
        });
        writes.stuck_for
    }

    #[test]
    fn writes_are_stuck_while_wal_rests_and_the_same_process_waits() {
        let waits = |pids: &[i32]| answer(10, 20, Some((pids, &[])));
        assert_eq!(stuck_for(&[waits(&[1, 2]), waits(&[1, 2]), waits(&[2, 3])]), STEP * 2);
        assert_eq!(stuck_for(&[waits(&[1]), waits(&[2]), waits(&[1])]), Duration::ZERO, "the lock goes round");
        assert_eq!(stuck_for(&[waits(&[1]), waits(&[1]), waits(&[])]), Duration::ZERO);
    }

    #[test]
    fn what_only_rests_grows_or_is_at_the_disk_is_not_stuck() {
        let idle = answer(10, 20, Some((&[], &[])));
        assert_eq!(stuck_for(&[idle.clone(), idle.clone(), idle]), Duration::ZERO, "a transaction that is open");
        let grows = |flushed| answer(flushed, 99, Some((&[1], &[])));
        assert_eq!(stuck_for(&[grows(10), grows(11), grows(12)]), Duration::ZERO);
        let at_disk = answer(10, 20, Some((&[1], &[7])));
        assert_eq!(stuck_for(&[at_disk.clone(), at_disk.clone(), at_disk]), Duration::ZERO);
        let stopped = answer(10, 20, Some((&[1], &[66])));
        assert_eq!(stuck_for(&[stopped.clone(), stopped.clone(), stopped]), STEP * 2, "stopped at the disk");
    }

    #[test]
    fn the_longer_question_is_asked_now_and_then_and_whenever_something_is_odd() {
        let mut writes = Writes::default();
        let asked: Vec<bool> = (0..14).map(|_| writes.question() == CLOSER).collect();
        assert_eq!(asked.iter().filter(|closer| **closer).count(), 2, "{asked:?}");
        writes.hear_of(answer(10, 10, None), STEP, |_| false);
        assert_eq!(writes.question(), POSITIONS);
        writes.hear_of(answer(10, 20, None), STEP, |_| false);
        assert_eq!(writes.question(), CLOSER);
    }
}
