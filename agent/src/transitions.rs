//! A transition is a record, not a log line. Whoever comes to lead writes it: what happened, why, and how long each phase took, each
//! phase on one clock. The ledger holds the records that the API, the command line, the metrics and the log read.

use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use consensus::records::{FailoverRecord, OrderRecord, Phase, Transition};
use consensus::{BulkFingerprint, Problem};
use decision::action::Claim;
use decision::names::{MemberName, Term};

use crate::operate::hold::against;
use crate::operate::words::moment;

/// The transition records this agent has seen, the oldest first.
#[derive(Default)]
pub struct Ledger {
    records: RwLock<Vec<Transition>>,
    problems: RwLock<Vec<Problem>>,
    /// How often they were replaced.
    times_read: AtomicU64,
    /// Of what they were last read.
    read_of: RwLock<Option<BulkFingerprint>>,
}

impl Ledger {
    /// All of them.
    pub fn all(&self) -> Vec<Transition> {
        self.records.read().map(|records| records.clone()).unwrap_or_default()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.records.read().map_or(0, |records| records.len())
    }

    /// How often they have been read: while that stays the same, so do they.
    pub fn times_read(&self) -> u64 {
        self.times_read.load(Ordering::SeqCst)
    }

    /// Whether one of them is so.
    pub fn any(&self, so: impl Fn(&Transition) -> bool) -> bool {
        self.records.read().is_ok_and(|records| records.iter().any(so))
    }

    /// Those in etcd that cannot be understood.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.read().map(|problems| problems.clone()).unwrap_or_default()
    }

    /// Whether nothing has changed in etcd since they were last read.
    pub fn is_of(&self, now: &BulkFingerprint) -> bool {
        self.read_of.read().is_ok_and(|read_of| read_of.as_ref() == Some(now))
    }

    /// They are those of this fingerprint, and everything has been read.
    pub fn read_as_of(&self, fingerprint: BulkFingerprint) {
        if let Ok(mut read_of) = self.read_of.write() {
            *read_of = Some(fingerprint);
        }
    }

    /// Replaces them by what etcd has.
    pub fn replace(&self, records: Vec<Transition>, problems: Vec<Problem>) {
        if let Ok(mut kept) = self.problems.write() {
            *kept = problems;
        }
        if let Ok(mut kept) = self.records.write() {
            *kept = records;
        }
        self.times_read.fetch_add(1, Ordering::SeqCst);
    }
}

/// The cause of what was taken back.
pub const CANCELLED: &str = "request_cancelled";

/// The cause of what was scheduled, and could not begin in its window.
pub const EXPIRED: &str = "schedule_expired";

/// The cause of what was scheduled under one leader, and is not done by another.
pub const LEADER_CHANGED: &str = "leader_changed";

/// The cause of what was scheduled in case it should be needed, and is not.
pub const NOT_NEEDED: &str = "not_needed";

/// The cause of what was begun, and overtaken by somebody who came to lead meanwhile.
pub const OVERTAKEN: &str = "overtaken";

/// The kind of a record of what did not happen: nobody was promoted, though nobody led.
pub const REFUSED: &str = "refused";

/// The phase of such a record: for how long there was no primary, as whoever told it has seen it.
pub const WITHOUT_PRIMARY: &str = "without_primary";

/// Whether this is the record of a failover that was refused and is not over yet.
pub fn is_refused_still(record: &Transition) -> bool {
    record.kind == REFUSED && record.outcome == "in_progress"
}

/// Closes a record that nobody will finish: it has failed, or, where `leader` is neither of the two that it speaks of, was overtaken.
pub fn close(record: &mut Transition, leader: Option<&MemberName>, why: String) {
    record.outcome = "failed".to_owned();
    let known =
        |leader: &&MemberName| [&record.from, &record.to].iter().any(|name| name.as_deref() == Some(leader.as_str()));
    if leader.filter(|leader| !known(leader)).is_some() && record.kind == "switchover" {
        record.cause = OVERTAKEN.to_owned();
    }
    record.notes.push(why);
}

/// The record of a request that is not carried out, and why; whoever asked finds it under the revision of the request.
pub fn refused(request: i64, asked: &FailoverRecord, cause: &str, why: String, term: Term) -> Transition {
    Transition {
        id: asked.record_id(request),
        kind: asked.kind.clone().unwrap_or_else(|| "switchover".to_owned()),
        cause: cause.to_owned(),
        cause_text: why,
        from: asked.leader.clone(),
        to: asked.member.clone(),
        requested_by: asked.requested_by.clone().unwrap_or_default(),
        reason: asked.reason.clone().unwrap_or_default(),
        ..never_begun(term)
    }
}

/// The record of an order that was taken back before its node had begun.
pub fn order_taken_back(order: i64, of: &MemberName, asked: &OrderRecord, by: &str, term: Term) -> Transition {
    order_not_begun((order, of), asked, CANCELLED, format!("taken back by {by}"), term)
}

/// The record of an order that nobody begins, and why.
pub fn order_not_begun(
    (order, of): (i64, &MemberName),
    asked: &OrderRecord,
    cause: &str,
    why: String,
    term: Term,
) -> Transition {
    let member = Some(of.to_string());
    Transition {
        id: asked.record_id(order),
        kind: asked.order.clone(),
        cause: cause.to_owned(),
        cause_text: why,
        from: member.clone(),
        to: member,
        requested_by: asked.requested_by.clone(),
        reason: asked.reason.clone().unwrap_or_default(),
        ..never_begun(term)
    }
}

/// Whether a record is of a switchover that was begun. One that was not raises no term, and may be written while another is under way.
pub fn hands_over(record: &Transition) -> bool {
    record.kind == "switchover" && record.term_after > record.term_before
}

/// What all records have in common of what was asked for and not begun: it cost nothing.
fn never_begun(term: Term) -> Transition {
    Transition {
        term_before: term.0,
        term_after: term.0,
        started_at: jiff::Timestamp::now().to_string(),
        outcome: "refused".to_owned(),
        lost: "none".to_owned(),
        lost_bytes_bound: Some(0),
        ..Transition::default()
    }
}

/// The record of a failover that an operator has asked for, as it begins with the claim of the lock.
pub fn forced(claim: &Claim, asked: Option<&FailoverRecord>, me: &MemberName) -> Option<Transition> {
    let asked = asked.cloned().unwrap_or_default();
    Some(Transition {
        id: asked.record_id(claim.request?),
        kind: "failover".to_owned(),
        cause: "forced".to_owned(),
        cause_text: format!("an operator asked {me} to lead where nobody did"),
        to: Some(me.to_string()),
        term_before: claim.after.0,
        term_after: claim.term.0,
        requested_by: asked.requested_by.unwrap_or_default(),
        reason: asked.reason.unwrap_or_default(),
        started_at: jiff::Timestamp::now().to_string(),
        ..Transition::default()
    })
}

/// What there is to say of how it came to a record: the time for which it was asked for, and the hold against which it is done.
pub fn notes_of(planned_for: Option<&str>, ignored_hold: Option<&str>) -> Vec<String> {
    let planned = planned_for.map(|at| format!("scheduled for {}", moment(at)));
    planned.into_iter().chain(ignored_hold.map(against)).collect()
}

/// Measures the phases of one transition on this node's monotonic clock.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    measured_on: MemberName,
    last: Instant,
    phases: Vec<Phase>,
}

impl Stopwatch {
    /// Begins now.
    pub fn start(measured_on: &MemberName) -> Self {
        Self::started(measured_on, Instant::now())
    }

    /// Begins at an instant in the past.
    pub fn started(measured_on: &MemberName, at: Instant) -> Self {
        Self { measured_on: measured_on.clone(), last: at, phases: Vec::new() }
    }

    /// The phase `name` has ended just now; the next one begins.
    pub fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let took = now.duration_since(self.last);
        self.last = now;
        match self.phases.last_mut().filter(|phase| phase.name == name) {
            // A step that had to be repeated is still one phase.
            Some(phase) => phase.duration_ms += milliseconds(took),
            None => self.note(name, took),
        }
    }

    /// A phase whose length is known from elsewhere.
    pub fn note(&mut self, name: &str, took: Duration) {
        self.phases.push(Phase {
            name: name.to_owned(),
            duration_ms: milliseconds(took),
            measured_on: self.measured_on.to_string(),
        });
    }

    /// A phase before all others that nobody has watched; `since_its_begin` has all that was measured in it as well.
    pub fn preceded_by(&mut self, name: &str, since_its_begin: Duration) {
        let measured_ms: f64 = self.phases.iter().map(|phase| phase.duration_ms).sum();
        let measured = Duration::try_from_secs_f64(measured_ms / 1000.0).unwrap_or_default();
        self.note(name, since_its_begin.saturating_sub(measured));
        self.phases.rotate_right(1);
    }

    /// Whether the phase `name` has ended.
    pub fn has(&self, name: &str) -> bool {
        self.phases.iter().any(|phase| phase.name == name)
    }

    /// The phases so far.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }
}

/// To the hundredth.
pub fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 100_000.0).round() / 100.0
}

/// Phases in which no write is acknowledged, so that their sum is the write outage. `prepare`, `redundancy` and `rejoin` are not.
const OUTAGE: &[&str] = &[
    "unattended",
    "operator",
    "detect",
    "pledge",
    "elect",
    "shutdown",
    "confirm",
    "hand_over",
    "takeover",
    "promote",
    "restart",
    "writable",
];

/// The write outage: the sum of the phases without writes, in milliseconds.
pub fn write_outage_ms(phases: &[Phase]) -> f64 {
    let sum: f64 =
        phases.iter().filter(|phase| OUTAGE.contains(&phase.name.as_str())).map(|phase| phase.duration_ms).sum();
    (sum * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_draws_no_phase_as_free_that_is_part_of_an_outage() {
        let page = include_str!("http/ui/page.js");
        let list = page.lines().find_map(|line| line.strip_prefix("const FREE_PHASES = ")).expect("the list");
        let free: Vec<String> = serde_json::from_str(list.trim_end_matches(';')).expect("JSON");
        assert!(free.iter().all(|phase| !OUTAGE.contains(&phase.as_str())), "{free:?}");
        assert!(["prepare", "hold", "redundancy"].iter().all(|phase| free.iter().any(|one| one == phase)), "{free:?}");
    }

    #[test]
    fn what_was_never_begun_is_not_taken_for_the_switchover_that_is_under_way() {
        let begun = Transition { kind: "switchover".into(), term_before: 3, term_after: 4, ..Transition::default() };
        let dropped = refused(95, &FailoverRecord::default(), LEADER_CHANGED, "another leads".to_owned(), Term(4));
        assert!(dropped.kind == begun.kind && dropped.term_after == begun.term_after, "they are alike");
        assert!(hands_over(&begun) && !hands_over(&dropped));
    }

    #[test]
    fn only_phases_without_writes_make_the_outage() {
        let me = MemberName::new("pg2").expect("good name");
        let mut watch = Stopwatch::start(&me);
        watch.note("prepare", Duration::from_millis(500));
        watch.note("shutdown", Duration::from_millis(64));
        watch.note("promote", Duration::from_micros(30_120));
        watch.note("redundancy", Duration::from_secs(2));
        assert_eq!(write_outage_ms(watch.phases()), 94.12);
        let mut watch = Stopwatch::start(&me);
        watch.note("elect", Duration::from_millis(500));
        watch.preceded_by("unattended", Duration::from_secs(60));
        assert_eq!((watch.phases()[0].name.as_str(), write_outage_ms(watch.phases())), ("unattended", 60_000.0));
    }
}
