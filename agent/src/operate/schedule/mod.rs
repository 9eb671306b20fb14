//! What is scheduled: a switchover, or the restart of a node, that is to begin at a time. Here it is asked for, taken back and shown; when it is due the
//! leader's agent begins it (`scheduler`), by the rule in `decision::schedule` and with what is in the way by [`turn`].

pub mod clocks;
pub mod restart;
pub mod shown;
pub mod switchover;
pub mod turn;
pub mod when;

use consensus::records::{Schedule, Transition};
use consensus::{Error, Outcome, Snapshot, Subject};
use jiff::Timestamp;

use super::hold::{told, under_way};
use super::world::Reach;
use super::{Kind, Unable, asks, words};
use crate::transitions::{CANCELLED, order_not_begun, refused};

/// When, and what else whoever asks says beside what they ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Not before this.
    pub at: Timestamp,
    /// For so long after that it may still begin, in seconds.
    pub window_s: u32,
    /// It begins in a hold as well.
    pub ignore_hold: bool,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

impl Plan {
    fn schedule(&self) -> Schedule {
        Schedule {
            at: self.at,
            window_s: self.window_s,
            ignore_hold: self.ignore_hold,
            requested_by: self.by.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// What stands in the way of scheduling anything now.
pub fn paused(snapshot: &Snapshot, now: Timestamp) -> Option<String> {
    let why = "automatic actions are paused, and nothing is scheduled in a pause: `pgvigil resume` first";
    snapshot.config.paused_at(now).then(|| why.to_owned())
}

/// `between 2026-11-29 02:00:00Z and 2026-11-29 02:10:00Z`
pub fn between(schedule: &Schedule) -> String {
    let moment = |at: Timestamp| words::moment(&at.to_string());
    format!("between {} and {}", moment(schedule.at), moment(schedule.until()))
}

/// The record of something scheduled that does not begin, and why.
pub fn not_begun(snapshot: &Snapshot, subject: &Subject, cause: &str, why: String) -> Option<Transition> {
    let term = snapshot.cluster.term;
    match subject {
        Subject::Switchover => {
            let planned = snapshot.scheduled.switchover.as_ref()?;
            Some(refused(planned.revision, &planned.asked(), cause, why, term))
        }
        Subject::Restart(of) => {
            let planned = snapshot.scheduled.restarts.get(of)?;
            Some(order_not_begun((planned.revision, of), &planned.order(None), cause, why, term))
        }
    }
}

/// Takes back what is scheduled, and puts that on record. One that nobody can read is removed as well. `None`: nothing is.
///
/// # Errors
/// etcd does not answer, or it has begun at this very moment.
pub async fn cancel(
    reach: &Reach,
    snapshot: &Snapshot,
    subject: &Subject,
    by: &str,
) -> Result<Option<Transition>, Unable> {
    let Some((record, revision)) = withdrawal(reach, snapshot, subject, by) else { return Ok(None) };
    let failed = |error: Error| Unable::by_etcd(&error, "what is scheduled cannot be taken back");
    asks();
    match reach.store.cancel_planned(subject, revision, &record).await.map_err(failed)? {
        Outcome::Applied { .. } => Ok(Some(record)),
        Outcome::Refused => {
            let why = "it has begun, or been taken back, at this very moment: look again";
            Err(Unable::new(Kind::Overtaken, why))
        }
    }
}

/// Where nothing was taken back: whether that is because it has begun. `planned` was scheduled a moment ago; otherwise it is one of those that `may_be` it.
///
/// # Errors
/// It has begun, or somebody else has taken it back.
pub async fn unless_begun(
    reach: &Reach,
    snapshot: &Snapshot,
    planned: Option<String>,
    may_be: impl Fn(&Transition) -> bool,
) -> Result<(), Unable> {
    let Ok((records, _)) = reach.store.transitions().await else { return Ok(()) };
    let begun = planned.as_ref().and_then(|id| records.iter().find(|record| record.id == *id)).cloned();
    let others: Vec<Transition> = records.into_iter().filter(may_be).collect();
    let found = begun.as_ref().or_else(|| under_way(&others, snapshot, Timestamp::now()));
    found.map_or(Ok(()), |record| Err(Unable::new(Kind::Overtaken, too_late(record))))
}

/// `switchover p-70 to pg2 is under way, and cannot be taken back any more: pgvigil transitions p-70`
fn too_late(record: &Transition) -> String {
    match record.outcome.as_str() {
        "in_progress" => {
            format!("{}, and cannot be taken back any more: pgvigil transitions {}", told(record), record.id)
        }
        "refused" => format!("{} {} was not begun: {}", record.kind, record.id, record.cause_text),
        outcome => format!(
            "{} {} has begun at its time, and is over ({outcome}): pgvigil transitions {}",
            record.kind, record.id, record.id
        ),
    }
}

fn withdrawal(reach: &Reach, snapshot: &Snapshot, subject: &Subject, by: &str) -> Option<(Transition, i64)> {
    let why = format!("taken back by {by}");
    let revision = match subject {
        Subject::Switchover => snapshot.scheduled.switchover.as_ref().map(|planned| planned.revision),
        Subject::Restart(of) => snapshot.scheduled.restarts.get(of).map(|planned| planned.revision),
    };
    if let (Some(record), Some(revision)) = (not_begun(snapshot, subject, CANCELLED, why.clone()), revision) {
        return Some((record, revision));
    }
    let key = subject.key(reach.store.keys());
    let unreadable = snapshot.problems.iter().find(|problem| problem.key == key)?;
    let id = Some(consensus::records::planned_id(unreadable.revision));
    let asked = consensus::records::FailoverRecord { id, ..Default::default() };
    let mut record = refused(unreadable.revision, &asked, CANCELLED, why, snapshot.cluster.term);
    if let Subject::Restart(of) = subject {
        (record.kind, record.from, record.to) = ("restart".to_owned(), Some(of.to_string()), Some(of.to_string()));
    }
    Some((record, unreadable.revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_is_not_told_to_be_nothing() {
        let record = |outcome: &str| Transition {
            id: "p-70".to_owned(),
            kind: "switchover".to_owned(),
            from: Some("pg1".to_owned()),
            to: Some("pg2".to_owned()),
            outcome: outcome.to_owned(),
            cause_text: "taken back by otto".to_owned(),
            ..Transition::default()
        };
        for (outcome, told) in [
            (
                "in_progress",
                "switchover p-70 to pg2 is under way, and cannot be taken back any more: pgvigil transitions p-70",
            ),
            ("done", "switchover p-70 has begun at its time, and is over (done): pgvigil transitions p-70"),
            ("refused", "switchover p-70 was not begun: taken back by otto"),
        ] {
            assert_eq!(too_late(&record(outcome)), told);
        }
    }
}
