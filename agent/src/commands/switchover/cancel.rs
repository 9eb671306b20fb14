//! `pgvigil switchover --cancel`: takes an operator's request back, that of a failover as well, if it is still the one that was seen. What the
//! agents have begun for its sake and has not moved the lock is void from then on, and goes back.

use consensus::records::{FailoverRecord, Transition};
use consensus::{Error, Outcome};
use decision::names::Term;

use super::asked_for;
use crate::cli::Exit;
use crate::commands::operator::who;
use crate::commands::screen::{answer, tell};
use crate::commands::world::Reach;
use crate::transitions::refused;

/// Takes back what waits.
pub async fn run(reach: &Reach) -> Result<Exit, Exit> {
    let failed = |error: Error| {
        tell(&format!("error: the request cannot be taken back: {error}"));
        if matches!(error, Error::Unreachable(_) | Error::Unknown(_)) { Exit::Unreachable } else { Exit::Failed }
    };
    let snapshot = reach.store.read().await.map_err(failed)?;
    let key = reach.store.keys().failover();
    let unreadable = snapshot.problems.iter().any(|problem| problem.key == key);
    if snapshot.request_record.is_none() && !unreadable {
        answer("no request waits: nothing to take back");
        return Ok(Exit::Done);
    }
    let request = snapshot.failover_revision;
    if reach.store.remove_request(request).await.map_err(failed)? == Outcome::Refused {
        tell("refused: the request has been answered, or another was asked for, at this very moment");
        return Ok(Exit::Refused);
    }
    let what = snapshot.request_record.as_ref().map_or("a request that nobody could read".to_owned(), asked_for);
    answer(&format!("taken back: {what}"));
    let record = cancelled(request, snapshot.request_record.as_ref(), snapshot.cluster.term);
    // One that the agents have begun is ended by them. It is for people: what was taken back is taken back.
    if let Err(error) = reach.store.create_transition(&record).await {
        tell(&format!("that it was taken back is not on record: {error}"));
    }
    Ok(Exit::Done)
}

fn cancelled(request: i64, asked: Option<&FailoverRecord>, term: Term) -> Transition {
    refused(request, &asked.cloned().unwrap_or_default(), "request_cancelled", format!("taken back by {}", who()), term)
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
        let record = cancelled(77, Some(&asked), Term(4));
        assert_eq!(
            (record.id.as_str(), record.kind.as_str(), record.outcome.as_str()),
            ("s-77", "failover", "refused")
        );
        assert_eq!((record.requested_by.as_str(), record.to.as_deref()), ("anna@db1", Some("pg3")));
        assert!(record.cause_text.starts_with("taken back by "), "{}", record.cause_text);
        assert_eq!(cancelled(78, None, Term(4)).kind, "switchover", "whatever it was");
    }
}
