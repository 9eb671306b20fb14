//! What the invariants remember: every acknowledgement, every reign, who wrote which timeline, and what has befallen the cluster.

use std::collections::BTreeMap;

use decision::action::{Action, ClaimKind};
use decision::names::Term;
use decision::settings::Mode;

use crate::invariants;
use crate::postgres::{Directory, Waiter};
use crate::time::Micros;
use crate::wal::{Kind, RecordId};
use crate::world::{At, World};

/// A commit whose client was told of its success.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub record: RecordId,
    pub end: usize,
    pub at: Micros,
    pub by: At,
    pub term: Term,
    /// How many voters it waited for.
    pub k: u32,
    /// The mode on record then.
    pub mode: Mode,
    /// Its loss is accepted: an operator's word, or every copy that was promised is physically gone.
    pub excused: bool,
}

/// One term.
#[derive(Clone, Copy, Debug)]
pub struct Reign {
    pub term: Term,
    pub leader: At,
    /// The mode on record before it.
    pub mode_before: Mode,
    pub kind: Option<ClaimKind>,
    /// The leader before had said that it is done for.
    pub had_let_go: bool,
    pub lost_bytes_bound: Option<u64>,
}

/// Something that befell the cluster, and whom; `None`: everybody.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    pub number: usize,
    pub whom: Option<At>,
    /// Whether it may cost the lead on its own.
    pub moves: bool,
    pub ended: Option<Micros>,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub acknowledged: Vec<Acknowledged>,
    pub reigns: Vec<Reign>,
    pub causes: Vec<Cause>,
    /// Who began each timeline.
    pub timelines: BTreeMap<u32, At>,
    /// What was flushed at each place of each timeline.
    pub places: BTreeMap<(u32, usize), RecordId>,
    /// Who wrote the marker of each term.
    pub markers: BTreeMap<Term, At>,
    /// The last leader that came to accept writes, and its term.
    pub crowned: Option<(Term, At)>,
    /// Nodes whose fence may have stood still with their Postgres.
    pub stood_still: BTreeMap<At, u32>,
    /// What that leader had when it lost its disk.
    pub lost_with_its_disk: Vec<RecordId>,
    pub fences_were_off: bool,
    pub restored: bool,
    pub disk_lost: bool,
    /// A disk was lost when no other node had a whole directory.
    pub last_copy_lost: bool,
    pub violation: Option<Violation>,
    /// Since when nobody has held the lock.
    pub vacant_since: Option<Micros>,
    /// The mode on record after the last event, and whether its leader had let go.
    record_seen: Option<(Mode, bool)>,
}

impl World {
    pub fn violated(&mut self, invariant: &'static str, what: String) {
        if self.ledger.violation.is_none() {
            self.tell(|_| format!("VIOLATED: {invariant}: {what}"));
            self.ledger.violation = Some(Violation { invariant, what });
        }
    }

    fn judge(&mut self, invariant: &'static str, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.violated(invariant, what);
        }
    }

    /// A server is about to be started.
    pub fn start_is_allowed(&mut self, at: At) {
        let directory = self.nodes[at].postgres.directory;
        if directory != Directory::Whole {
            let what = format!("{} starts a directory that is {directory:?}", self.names[at]);
            self.violated("a_half_made_directory_is_never_started", what);
        }
    }

    /// A primary has inserted a record.
    pub fn wrote(&mut self, at: At, id: RecordId) {
        if let Kind::Marker(term) = self.archive.get(id).kind {
            let first = *self.ledger.markers.entry(term).or_insert(at);
            if first != at {
                let what = format!("{} and {} both wrote a marker of term {term}", self.names[first], self.names[at]);
                self.violated("terms_are_never_reused", what);
            }
        }
    }

    /// A promotion begins a timeline.
    pub fn began_timeline(&mut self, at: At, number: decision::names::Timeline) {
        if let Some(first) = self.ledger.timelines.insert(number.0, at) {
            let what =
                format!("{} began timeline {number}, and {} had begun it before", self.names[at], self.names[first]);
            self.violated("timelines_never_collide", what);
        }
    }

    /// A primary's WAL is flushed to here.
    pub fn flushed_here(&mut self, at: At, end: usize) {
        let id = self.nodes[at].postgres.wal[end - 1];
        let place = (self.archive.get(id).timeline.0, end);
        let first = *self.ledger.places.entry(place).or_insert(id);
        if first != id && self.archive.get(first).writer != at {
            let what =
                format!("{} wrote at record {end} of timeline {}, where another had written", self.names[at], place.0);
            self.violated("no_fork_under_a_lock", what);
        }
        self.ledger.places.insert(place, id);
    }

    pub fn streams_over_a_fork(&mut self, at: At, upstream: At) {
        let what = format!(
            "{} streams from {} on the same timeline, where their WAL is not the same",
            self.names[at], self.names[upstream]
        );
        self.violated("no_fork_under_a_lock", what);
    }

    /// A server has just become a primary that takes writes.
    pub fn came_to_accept_writes(&mut self, at: At) {
        if self.etcd.leader() == Some(at) {
            self.ledger.crowned = Some((self.etcd.term(), at));
            self.ledger.lost_with_its_disk.clear();
            let verdict = invariants::nothing_acknowledged_is_lost(self, at);
            self.judge("nothing_acknowledged_is_lost", verdict);
            let verdict = invariants::a_loss_is_on_record(self, at);
            self.judge("a_loss_is_on_record", verdict);
            // What is lost is lost once.
            self.excuse_what_is_missing(at);
        }
        self.wake_soon(at);
    }

    /// The client, or the agent, of a commit is told of its success.
    pub fn acknowledge(&mut self, at: At, end: usize, waiter: Waiter) {
        let postgres = &self.nodes[at].postgres;
        let (quorum, term) = &postgres.in_force;
        // An operator who forces a failover also accepts what the old leader acknowledges until the new one takes writes.
        let forced = |reign: &Reign| reign.kind == Some(ClaimKind::Forced) && reign.term > *term;
        let ack = Acknowledged {
            record: postgres.wal[end - 1],
            end,
            at: self.now,
            by: at,
            term: *term,
            k: quorum.k,
            mode: self.etcd.sync().map_or(Mode::Async, |sync| sync.mode),
            excused: self.ledger.reigns.last().is_some_and(forced),
        };
        let verdict = invariants::one_node_acknowledges(self, &ack);
        self.judge("one_node_acknowledges", verdict);
        // What is allowed beside a new leader, for no clock could prevent it, is lost with the old one.
        let beside = self.ledger.crowned.filter(|(term, leader)| *term > ack.term && !self.has_or_had(*leader, &ack));
        self.ledger.acknowledged.push(Acknowledged { excused: ack.excused || beside.is_some(), ..ack });
        if let Waiter::Job { life, job } = waiter {
            self.marker_acknowledged(at, life, job);
        }
    }

    /// Whether the last leader that came to accept writes has this record, or had it before it lost its disk.
    pub fn has_or_had(&self, leader: At, ack: &Acknowledged) -> bool {
        let place = ack.end - 1;
        [&self.nodes[leader].postgres.wal, &self.ledger.lost_with_its_disk]
            .iter()
            .any(|wal| wal.get(place) == Some(&ack.record))
    }

    /// A transaction has raised the term.
    pub fn reign_begins(&mut self, by: At) {
        let (Some(leader), term) = (self.etcd.leader(), self.etcd.term()) else { return };
        let claim = match self.nodes[by].agent.job.as_ref().map(|job| &job.action) {
            Some(Action::Acquire(claim)) => Some(claim.clone()),
            _ => None,
        };
        let kind = claim.as_ref().map(|claim| claim.kind);
        let mode_before = self.ledger.record_seen.map(|(mode, _)| mode);
        let mode_now = self.etcd.sync().map_or(Mode::Async, |sync| sync.mode);
        let reign = Reign {
            term,
            leader,
            mode_before: mode_before.unwrap_or(mode_now),
            kind,
            had_let_go: self.ledger.record_seen.is_some_and(|(_, released)| released),
            lost_bytes_bound: claim.and_then(|claim| claim.lost_bytes_bound),
        };
        self.tell(|world| format!("TERM {term}: {} leads ({kind:?})", world.name(leader)));
        let verdict = invariants::terms_are_never_reused(self, &reign);
        self.judge("terms_are_never_reused", verdict);
        let verdict = invariants::a_promise_is_kept(self, &reign);
        self.judge("a_promise_is_kept", verdict);
        let verdict = invariants::no_change_without_a_cause(self, &reign);
        self.judge("no_change_without_a_cause", verdict);
        if kind == Some(ClaimKind::Forced) {
            self.excuse_what_is_missing(leader);
        }
        self.ledger.reigns.push(reign);
    }

    /// The loss of what this node does not have is accepted.
    pub fn excuse_what_is_missing(&mut self, leader: At) {
        let wal = &self.nodes[leader].postgres.wal;
        for ack in &mut self.ledger.acknowledged {
            ack.excused |= wal.get(ack.end - 1) != Some(&ack.record);
        }
    }

    /// After each event.
    pub fn look_at_invariants(&mut self) {
        for (invariant, check) in invariants::ALWAYS {
            if let Err(what) = check(self) {
                self.violated(invariant, what);
            }
        }
        self.ledger.record_seen = self.etcd.sync().map(|sync| (sync.mode, sync.released));
        let vacant = self.etcd.leader().is_none();
        self.ledger.vacant_since = vacant.then(|| self.ledger.vacant_since.unwrap_or(self.now));
    }
}
