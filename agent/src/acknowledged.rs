//! Since when commits have waited for voters: how far the primary had written, over time, against how far enough of the voters have. A commit
//! cannot have been acknowledged that was written after the last moment whose WAL is there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use decision::names::{Lsn, Term};
use decision::view::{Primary, SyncRecord};

/// How long commits wait before that is more than a busy network.
const WAITS: Duration = Duration::from_secs(1);
/// Positions are remembered so far apart, and so many of them.
const APART: Duration = Duration::from_millis(100);
const REMEMBERED: usize = 600;

/// What is remembered of the reign of this node.
#[derive(Debug, Default)]
pub struct Acknowledged {
    term: Term,
    /// When the primary had written up to where. The first is the latest that enough voters have.
    written: VecDeque<(Instant, Lsn)>,
    up_to: Lsn,
}

impl Acknowledged {
    /// Takes in what is seen of the leading primary here, and says when a commit could last be acknowledged; `None`: they do not wait.
    pub fn look(&mut self, now: Instant, sync: &SyncRecord, primary: &Primary) -> Option<Instant> {
        if self.term != sync.term {
            *self = Self { term: sync.term, ..Self::default() };
        }
        let quorum = sync.policies.last().filter(|quorum| quorum.k > 0)?;
        let votes = primary.standbys.iter().filter(|standby| quorum.voters.contains(&standby.member));
        let mut flushed: Vec<Lsn> = votes.map(|standby| standby.flushed).collect();
        flushed.sort_unstable_by(|one, other| other.cmp(one));
        // What enough of them once had counts, whoever has gone since.
        self.up_to = self.up_to.max(flushed.get(quorum.k as usize - 1).copied().unwrap_or_default());
        if self.written.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= APART) {
            self.written.push_back((now, primary.flushed));
        }
        while self.written.get(1).is_some_and(|(_, written)| *written <= self.up_to) {
            self.written.pop_front();
        }
        if self.written.len() > REMEMBERED {
            self.written.remove(1);
        }
        // Something written between the first two is not there. Commits are always under way: only one that has waited for long tells.
        let (last, next) = (self.written.front()?, self.written.get(1)?);
        let waits = now.saturating_duration_since(next.0) >= WAITS;
        waits.then(|| last.0 + next.0.saturating_duration_since(last.0) / 2)
    }

    /// This node does not lead a primary.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use decision::durability::Quorum;
    use decision::names::{MemberName, Timeline};
    use decision::settings::Mode;
    use decision::view::Streaming;

    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("a good name")
    }

    fn sync(k: u32) -> SyncRecord {
        let voters = BTreeSet::from([name("pg2"), name("pg3")]);
        SyncRecord::of_reign(name("pg1"), Term(1), Mode::Quorum, vec![Quorum { k, voters }], Timeline(1))
    }

    fn primary(written: u64, there: &[(&str, u64)]) -> Primary {
        let standby = |(member, flushed): &(&str, u64)| {
            let (member, flushed) = (name(member), Lsn(*flushed));
            Streaming { member, term: Term(1), caught_up: true, flushed, replayed: flushed }
        };
        let standbys = there.iter().map(standby).collect();
        Primary {
            timeline: Timeline(1),
            flushed: Lsn(written),
            marked_term: Term(1),
            control_timeline: Timeline(1),
            waits_for: None,
            standbys,
        }
    }

    #[test]
    fn commits_wait_since_the_last_moment_whose_wal_is_there() {
        let (mut acknowledged, begin) = (Acknowledged::default(), Instant::now());
        let at = |tenths: u64| begin + Duration::from_millis(tenths * 100);
        let mut look = |tenths, k, written, there: &[(&str, u64)]| {
            let last = acknowledged.look(at(tenths), &sync(k), &primary(written, there));
            last.map(|last| u64::try_from((last - begin).as_millis()).unwrap_or_default() / 100)
        };
        assert_eq!(look(0, 1, 100, &[("pg2", 100), ("pg3", 90)]), None);
        assert_eq!(look(10, 1, 100, &[("pg2", 100), ("pg3", 90)]), None, "nothing is written, so nothing waits");
        assert_eq!(look(12, 1, 200, &[("pg2", 150), ("pg3", 90)]), None, "not for long");
        assert_eq!(look(14, 1, 300, &[("pg2", 210), ("pg3", 90)]), None);
        assert_eq!(look(25, 1, 300, &[("pg2", 210), ("pg3", 90)]), Some(13), "a little more came, and that is all");
        assert_eq!(look(26, 1, 300, &[]), Some(13), "whoever is gone has what it had");
        assert_eq!(look(27, 1, 300, &[("pg2", 300)]), None);
        assert_eq!(look(40, 1, 400, &[("pg2", 390)]), None, "this commit has only just been written");
        assert_eq!(look(51, 2, 400, &[("pg2", 400), ("pg3", 300)]), Some(33), "two are needed");
        assert_eq!(look(70, 0, 500, &[]), None, "nobody is waited for");
    }
}
