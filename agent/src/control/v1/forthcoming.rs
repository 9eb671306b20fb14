//! What `/v1/events` tells of what is still to come: schedules, from when they are set until what came of them, and certificates that end.

use std::collections::BTreeMap;

use consensus::Snapshot;
use consensus::records::Transition;
use decision::schedule::Turn;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::operate::schedule::shown::Shown;
use crate::published::Picture;

/// So many that have begun are watched for their end.
const BEGUN_MAX: usize = 64;

/// Something is scheduled, or is not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ScheduleSeen {
    /// `set`, `begun`, `done`, or `dropped`: it was taken back, could not begin, or failed.
    change: &'static str,
    /// What.
    scheduled: Shown,
    /// The outcome of its record, where it has ended.
    outcome: Option<String>,
    /// Why, in one sentence.
    why: Option<String>,
}

/// A certificate that ends soon, has ended, or is well again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CertificateSeen {
    /// What it is for: `control`, `control_clients`, `etcd` or `etcd_authority`.
    of: &'static str,
    /// Its file.
    file: String,
    /// When it ends (RFC 3339).
    until: String,
    /// What is wrong; null: nothing any more.
    problem: Option<String>,
}

/// What is scheduled.
pub(super) fn scheduled(picture: &Picture) -> Vec<Shown> {
    picture.snapshot.as_deref().map(of_snapshot).unwrap_or_default()
}

fn of_snapshot(snapshot: &Snapshot) -> Vec<Shown> {
    let (now, planned) = (Timestamp::now(), &snapshot.scheduled);
    let switchover = planned.switchover.iter().map(|planned| Shown::of_switchover(planned, Turn::Ahead, now));
    let restarts = planned.restarts.iter().map(|(of, planned)| Shown::of_restart(of, planned, Turn::Ahead, now));
    switchover.chain(restarts).collect()
}

/// The certificates of which something is to be told.
pub(super) fn certificates(picture: &Picture, now: Timestamp) -> Vec<CertificateSeen> {
    let told = |found: &crate::certificates::Found| {
        found.problem(now)?;
        let (of, file, until) = (found.of.word(), found.file.display().to_string(), found.validity.until.to_string());
        let has_ended = found.left(now).is_negative();
        // Not how long it still lasts: that would be news every minute.
        let problem = if has_ended { "it has ended" } else { "it ends soon" };
        Some(CertificateSeen { of, file, until, problem: Some(problem.to_owned()) })
    };
    picture.certificates.all().iter().filter_map(told).collect()
}

/// What is so now of each that is otherwise than before.
pub(super) fn changed(before: &[CertificateSeen], now: &[CertificateSeen]) -> Vec<CertificateSeen> {
    let well = before.iter().filter(|old| !now.iter().any(|new| (new.of, &new.file) == (old.of, &old.file)));
    let well = well.map(|old| CertificateSeen { problem: None, ..old.clone() });
    now.iter().filter(|new| !before.contains(new)).cloned().chain(well).collect()
}

/// What is scheduled, and what has begun and not ended.
pub(super) struct Schedules {
    ahead: BTreeMap<String, Shown>,
    begun: BTreeMap<String, Shown>,
}

impl Schedules {
    /// As of this picture.
    pub(super) fn of(picture: &Picture) -> Self {
        Self { ahead: by_id(scheduled(picture)), begun: BTreeMap::new() }
    }

    /// What has changed since, by what is seen and by the records.
    pub(super) fn changed(&mut self, picture: &Picture, records: &[Transition]) -> Vec<ScheduleSeen> {
        match &picture.snapshot {
            Some(snapshot) => self.compared(by_id(of_snapshot(snapshot)), &waiting(snapshot), records),
            None => Vec::new(),
        }
    }

    /// `waiting`: the ids of what was asked for and is to be carried out at once.
    fn compared(
        &mut self,
        now: BTreeMap<String, Shown>,
        waiting: &[String],
        records: &[Transition],
    ) -> Vec<ScheduleSeen> {
        let mut told = Vec::new();
        let event = |change, scheduled: &Shown, record: Option<&Transition>| ScheduleSeen {
            change,
            scheduled: scheduled.clone(),
            outcome: record.map(|record| record.outcome.clone()),
            why: record.map(|record| record.cause_text.clone()).filter(|why| !why.is_empty()),
        };
        told.extend(now.iter().filter(|(id, _)| !self.ahead.contains_key(*id)).map(|(_, new)| event("set", new, None)));
        let gone: Vec<(String, Shown)> = self
            .ahead
            .iter()
            .filter(|(id, _)| !now.contains_key(*id))
            .map(|(id, old)| (id.clone(), old.clone()))
            .collect();
        self.ahead = now;
        for (id, old) in gone {
            let record = records.iter().find(|record| record.id == id);
            // One that was taken back has a record of that, and was never begun; without a record it is found out later what came of it.
            if waiting.contains(&id) || record.is_some_and(|record| record.outcome != "refused") {
                told.push(event("begun", &old, None));
            }
            if self.begun.len() < BEGUN_MAX {
                self.begun.insert(id, old);
            }
        }
        let ended = |id: &String| records.iter().find(|record| record.id == *id && record.outcome != "in_progress");
        self.begun.retain(|id, old| match ended(id) {
            Some(record) => {
                let change = if record.outcome == "done" { "done" } else { "dropped" };
                told.push(event(change, old, Some(record)));
                false
            }
            None => true,
        });
        told
    }
}

fn by_id(all: Vec<Shown>) -> BTreeMap<String, Shown> {
    all.into_iter().map(|shown| (shown.id.clone(), shown)).collect()
}

fn waiting(snapshot: &Snapshot) -> Vec<String> {
    let request = snapshot.request_record.as_ref().and_then(|request| request.id.clone());
    request.into_iter().chain(snapshot.order_records.values().filter_map(|order| order.id.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(id: &str) -> BTreeMap<String, Shown> {
        by_id(vec![Shown { id: id.to_owned(), kind: "restart".to_owned(), ..Shown::default() }])
    }

    fn record(outcome: &str) -> Vec<Transition> {
        let (id, outcome) = ("p-7".to_owned(), outcome.to_owned());
        vec![Transition { id, outcome, cause_text: "why".to_owned(), ..Transition::default() }]
    }

    #[test]
    fn a_schedule_is_told_of_from_when_it_is_set_until_its_end() {
        let none = BTreeMap::new;
        let mut schedules = Schedules { ahead: none(), begun: none() };
        let mut told = |now, waiting: &[&str], records: &[Transition]| {
            let waiting: Vec<String> = waiting.iter().map(|id| (*id).to_owned()).collect();
            let told = schedules.compared(now, &waiting, records);
            told.iter().map(|event| event.change).collect::<Vec<_>>()
        };
        assert_eq!(told(shown("p-7"), &[], &[]), ["set"]);
        assert!(told(shown("p-7"), &[], &[]).is_empty());
        assert_eq!(told(none(), &["p-7"], &[]), ["begun"]);
        assert!(told(none(), &[], &record("in_progress")).is_empty());
        assert_eq!(told(none(), &[], &record("done")), ["done"]);
        assert!(told(none(), &[], &record("done")).is_empty(), "once");
        assert_eq!(told(shown("p-7"), &[], &[]), ["set"]);
        assert_eq!(told(none(), &[], &record("refused")), ["dropped"], "it was taken back");
    }

    #[test]
    fn a_certificate_is_told_of_when_it_ends_and_when_it_is_well_again() {
        let one = |problem: Option<&str>| CertificateSeen {
            of: "control",
            file: "/c".to_owned(),
            until: "2027-01-01T00:00:00Z".to_owned(),
            problem: problem.map(str::to_owned),
        };
        let (soon, over) = (one(Some("it ends soon")), one(Some("it has ended")));
        assert_eq!(changed(&[], std::slice::from_ref(&soon)), std::slice::from_ref(&soon));
        assert!(changed(std::slice::from_ref(&soon), std::slice::from_ref(&soon)).is_empty());
        assert_eq!(changed(std::slice::from_ref(&soon), std::slice::from_ref(&over)), std::slice::from_ref(&over));
        assert_eq!(changed(&[over], &[]), [one(None)]);
    }
}
