//! A switchover as it is asked for: the checks, the request in etcd that the agents carry out, and its withdrawal. Whoever asks may go away; the
//! agents do all the work.

use std::time::{Duration, Instant};

use consensus::records::{FailoverRecord, Planned, PlannedSwitchover, Transition};
use consensus::{Condition, Error, Lead, Outcome, Snapshot, Subject};
use decision::names::{MemberName, Term};
use decision::schedule::Turn;
use jiff::Timestamp;

use super::follow::{Asked, Kind as AskedKind};
use super::preflight::{Preflight, Wish};
use super::proviso::Proviso;
use super::schedule::{self, shown::Shown};
use super::world::{Reach, World};
use super::{Kind, Unable, asks};
use crate::transitions::{CANCELLED, hands_over, refused};

/// How long a standby that is not level may take to become so, and how often it is looked at meanwhile.
const PASSES_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const ASKED_OR_LED: &str =
    "somebody leads by now, or has asked for a switchover or failover at this very moment; nothing was changed";
const ASKED_AT_ONCE: &str = "somebody else has asked for a switchover or failover at this very moment";

/// Looks at everything; again for a moment, while only such things are in the way as pass by themselves.
pub async fn look(reach: &Reach, wish: &Wish) -> World {
    let began = Instant::now();
    loop {
        let world = reach.look().await;
        let passes = |snapshot| {
            let preflight = Preflight::of(&world, snapshot, wish, Timestamp::now());
            preflight.may_pass() && !preflight.passed()
        };
        if began.elapsed() > PASSES_WITHIN || !world.etcd.as_ref().is_ok_and(passes) {
            return world;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks for a switchover, by whom and why, while `from` leads; `ignore_hold`: against a hold as well.
///
/// # Errors
/// As [`write_request`], or another leads by now, or it is held.
pub async fn request(
    reach: &Reach,
    snapshot: &Snapshot,
    (from, to): (&MemberName, &MemberName),
    by: &str,
    reason: Option<&str>,
    ignore_hold: bool,
) -> Result<Asked, Unable> {
    let proviso = Proviso { expect_leader: Some(from.clone()), ignore_hold, ..Proviso::default() };
    let pass = proviso.planned(snapshot, Timestamp::now())?;
    let record = FailoverRecord {
        leader: Some(from.to_string()),
        member: Some(to.to_string()),
        kind: Some("switchover".to_owned()),
        requested_by: Some(by.to_owned()),
        reason: reason.map(str::to_owned),
        ignored_hold: pass.ignored.clone(),
        ..FailoverRecord::default()
    };
    asks();
    let revision = match reach.store.request_while(&record, &pass.condition).await {
        Ok(Outcome::Refused) => return Err(proviso.overtaken(reach, &pass, ASKED_AT_ONCE).await),
        written => accepted(written)?,
    };
    let (from, to, term_before) = (Some(from.clone()), to.clone(), snapshot.cluster.term);
    Ok(Asked { kind: AskedKind::Switchover, revision, from, to, term_before })
}

/// What somebody has asked for, in a few words.
pub fn asked_for(request: &FailoverRecord) -> String {
    format!(
        "{} to {} by {}",
        request.kind.as_deref().unwrap_or("switchover"),
        request.member.as_deref().unwrap_or("the best candidate"),
        request.requested_by.as_deref().unwrap_or("somebody")
    )
}

/// Writes the request of a failover, which no hold keeps waiting, while it leads who must; its revision names it from then on.
///
/// # Errors
/// Another one waits, it is not as it must be who leads, or etcd does not answer.
pub async fn write_request(reach: &Reach, record: &FailoverRecord, lead: Lead) -> Result<i64, Unable> {
    let conditional = lead != Lead::Whoever;
    asks();
    match reach.store.request_while(record, &Condition { lead, hold: None }).await {
        Ok(Outcome::Refused) if conditional => Err(Unable::new(Kind::Overtaken, ASKED_OR_LED)),
        written => accepted(written),
    }
}

fn accepted(written: Result<Outcome, Error>) -> Result<i64, Unable> {
    match written {
        Ok(Outcome::Applied { revision }) => Ok(revision),
        Ok(Outcome::Refused) => Err(Unable::new(Kind::Overtaken, ASKED_AT_ONCE)),
        Err(error) => {
            let (kind, more) = match &error {
                Error::Unknown(_) => (Kind::Unknown, "; `pgvigil status` tells whether the request waits"),
                Error::Unreachable(_) => (Kind::Unreachable, "; nothing was changed"),
                Error::Unauthorised(_) => (Kind::Unauthorised, "; nothing was changed"),
                _ => (Kind::Failed, ""),
            };
            Err(Unable::new(kind, format!("{error}{more}")))
        }
    }
}

/// A request that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// What it was.
    pub what: String,
    /// Why that is not on record.
    pub unrecorded: Option<String>,
}

/// Takes back the switchover that is scheduled, and the request that waits, that of a failover as well: what was asked for does not come afterwards.
/// What the agents have begun for its sake and has not moved the lock is void from then on, and goes back. Nothing: nothing is scheduled, and none waits.
///
/// # Errors
/// etcd does not answer, or the request was answered at this very moment, or what was asked for is under way.
pub async fn cancel(reach: &Reach, by: &str) -> Result<Vec<Cancelled>, Unable> {
    let failed = |error: Error| Unable::by_etcd(&error, "the request cannot be taken back");
    let snapshot = reach.store.read().await.map_err(failed)?;
    let (mut taken, mut begun): (Vec<Cancelled>, _) = (Vec::new(), None);
    match schedule::cancel(reach, &snapshot, &Subject::Switchover, by).await {
        Ok(Some(record)) => taken.push(Cancelled { what: scheduled(&snapshot, &record), unrecorded: None }),
        Ok(None) => {}
        // It has begun at this moment, so it is the request by now, or that has been taken up as well.
        Err(unable) if unable.kind == Kind::Overtaken => {
            begun = snapshot.scheduled.switchover.as_ref().map(Planned::<PlannedSwitchover>::id);
        }
        Err(unable) => return Err(unable),
    }
    match cancel_request(reach, by).await {
        Ok(request) => taken.extend(request),
        Err(mut unable) => {
            unable.why.extend(taken.iter().map(|taken| format!("taken back: {}", taken.what)));
            return Err(unable);
        }
    }
    if taken.is_empty() {
        schedule::unless_begun(reach, &snapshot, begun, hands_over).await?;
    }
    Ok(taken)
}

fn scheduled(snapshot: &Snapshot, record: &Transition) -> String {
    match &snapshot.scheduled.switchover {
        Some(planned) => Shown::of_switchover(planned, Turn::Ahead, Timestamp::now()).in_words(),
        None => format!("{}: a scheduled switchover that nobody could read", record.id),
    }
}

async fn cancel_request(reach: &Reach, by: &str) -> Result<Option<Cancelled>, Unable> {
    let failed = |error: Error| Unable::by_etcd(&error, "the request cannot be taken back");
    let snapshot = reach.store.read().await.map_err(failed)?;
    let key = reach.store.keys().failover();
    let unreadable = snapshot.problems.iter().any(|problem| problem.key == key);
    if snapshot.request_record.is_none() && !unreadable {
        return Ok(None);
    }
    let request = snapshot.failover_revision;
    asks();
    if reach.store.remove_request(request).await.map_err(failed)? == Outcome::Refused {
        let why = "the request has been answered, or another was asked for, at this very moment";
        return Err(Unable::new(Kind::Overtaken, why));
    }
    let what = snapshot.request_record.as_ref().map_or("a request that nobody could read".to_owned(), asked_for);
    let record = cancelled(request, snapshot.request_record.as_ref(), by, snapshot.cluster.term);
    // One that the agents have begun is ended by them. It is for people: what was taken back is taken back.
    let unrecorded = reach.store.create_transition(&record).await.err().map(|error| error.to_string());
    Ok(Some(Cancelled { what, unrecorded }))
}

/// Takes the request of this revision back while nobody has begun it, and puts that on record; `None`: it is begun, or gone.
///
/// # Errors
/// etcd does not answer.
pub async fn withdraw(
    reach: &Reach,
    snapshot: &Snapshot,
    revision: i64,
    by: &str,
) -> Result<Option<Transition>, Unable> {
    let record = cancelled(revision, snapshot.request_record.as_ref(), by, snapshot.cluster.term);
    let withdrawn = reach.store.withdraw_request(revision, &record).await;
    let withdrawn = withdrawn.map_err(|error| Unable::by_etcd(&error, "the request cannot be taken back"))?;
    Ok(withdrawn.applied().then_some(record))
}

fn cancelled(request: i64, asked: Option<&FailoverRecord>, by: &str, term: Term) -> Transition {
    refused(request, &asked.cloned().unwrap_or_default(), CANCELLED, format!("taken back by {by}"), term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_is_on_record_with_who_asked_and_who_took_it_back() {
        let asked = FailoverRecord {
            member: Some("pg3".to_owned()),
            kind: Some("failover".to_owned()),
            requested_by: Some("anna@db1".to_owned()),
            ..FailoverRecord::default()
        };
        let record = cancelled(77, Some(&asked), "otto@db2", Term(4));
        assert_eq!(
            (record.id.as_str(), record.kind.as_str(), record.outcome.as_str()),
            ("s-77", "failover", "refused")
        );
        assert_eq!((record.requested_by.as_str(), record.to.as_deref()), ("anna@db1", Some("pg3")));
        assert_eq!(record.cause_text, "taken back by otto@db2");
        assert_eq!(cancelled(78, None, "otto@db2", Term(4)).kind, "switchover", "whatever it was");
    }
}
