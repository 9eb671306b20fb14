//! What operators have asked for, found by its id. The id is that of the record which the agents write of it, and all that is known lies in etcd: so
//! any agent of the cluster can tell how it stands, whoever was asked and whoever has died since.

use consensus::Snapshot;
use consensus::records::{FailoverRecord, OrderRecord, Phase, Transition, order_id, order_of, request_id, request_of};
use decision::names::MemberName;
use serde::Serialize;
use utoipa::ToSchema;

use super::follow::has_all_from;
use super::world::Reach;
use super::{Unable, orders, switchover};
use crate::transitions::{CANCELLED, OVERTAKEN};

/// The word by which programs know what they read.
const SCHEMA: &str = "pgvigil.action/v1";

/// How something stands that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has just been written down.
    Accepted,
    /// Nobody has begun.
    Waiting,
    /// Somebody has begun.
    InProgress,
    /// It was done.
    Done,
    /// A member leads, but not the one that was asked for.
    DoneOtherwise,
    /// It was begun and broken off.
    Failed,
    /// The agents have refused it.
    Refused,
    /// Somebody has taken it back.
    Cancelled,
    /// It is gone without a record.
    Unknown,
}

impl State {
    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        !matches!(self, State::Accepted | State::Waiting | State::InProgress)
    }
}

/// Where to look further.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Links {
    /// How it stands.
    #[serde(rename = "self")]
    pub this: String,
    /// The same as a stream.
    pub events: String,
    /// The record, once there is one.
    pub transition: String,
}

/// Something that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Action {
    /// `pgvigil.action/v1`
    pub schema: &'static str,
    /// The id of the record that the agents write of it.
    #[schema(example = "s-1234")]
    pub id: String,
    /// `switchover`, `failover`, `restart`, `reinitialize` or `reload`.
    #[schema(example = "switchover")]
    pub kind: String,
    /// How it stands.
    pub state: State,
    /// Who led when it was asked for; null: nobody, or it is no matter of who leads.
    pub from: Option<String>,
    /// Who is to lead; null: whoever is best.
    pub to: Option<String>,
    /// Whose Postgres it is about, where it is about one alone.
    pub member: Option<String>,
    /// Who has asked.
    pub requested_by: String,
    /// Why.
    pub reason: Option<String>,
    /// What has taken how long, as far as it is known.
    pub phases: Vec<Phase>,
    /// The record, once there is one.
    pub record: Option<Transition>,
    /// Where to look further.
    pub links: Links,
}

impl Action {
    /// A switchover or failover as it was asked for.
    pub fn of_request(id: String, state: State, asked: &FailoverRecord) -> Self {
        let kind = match (asked.kind.as_deref(), &asked.leader) {
            (Some(kind), _) => kind,
            (None, Some(_)) => "switchover",
            (None, None) => "failover",
        };
        let by = asked.requested_by.clone().unwrap_or_default();
        let action = Self::new(id, kind, state, (by, asked.reason.clone()));
        Self { from: asked.leader.clone(), to: asked.member.clone(), ..action }
    }

    /// What one node was asked for.
    pub fn of_order(id: String, state: State, member: &MemberName, asked: &OrderRecord) -> Self {
        let action = Self::new(id, &asked.order, state, (asked.requested_by.clone(), asked.reason.clone()));
        Self { member: Some(member.to_string()), ..action }
    }

    /// As its record says.
    pub fn of_record(record: Transition) -> Self {
        let reason = Some(record.reason.clone()).filter(|reason| !reason.is_empty());
        let by = record.requested_by.clone();
        let mut action = Self::new(record.id.clone(), &record.kind, state_of(&record), (by, reason));
        match order_of(&record.id) {
            Some(_) => action.member.clone_from(&record.to),
            None => (action.from, action.to) = (record.from.clone(), record.to.clone()),
        }
        action.phases.clone_from(&record.phases);
        action.record = Some(record);
        action
    }

    /// Of which only this much is known.
    pub fn new(id: String, kind: &str, state: State, (requested_by, reason): (String, Option<String>)) -> Self {
        let kind = if kind == "reinit" { "reinitialize" } else { kind }.to_owned();
        let links = Links {
            this: format!("/v1/actions/{id}"),
            events: format!("/v1/actions/{id}/events"),
            transition: format!("/v1/transitions/{id}"),
        };
        let (from, to, member) = (None, None, None);
        Self {
            schema: SCHEMA,
            id,
            kind,
            state,
            from,
            to,
            member,
            requested_by,
            reason,
            phases: Vec::new(),
            record: None,
            links,
        }
    }

    /// Whether nothing more of it is to be expected but what comes long after.
    pub fn is_complete(&self) -> bool {
        let told = |record: &Transition| record.outcome != "done" || has_all_from(record.from.as_deref(), record);
        self.state.is_final() && self.record.as_ref().is_some_and(told)
    }
}

fn state_of(record: &Transition) -> State {
    match record.outcome.as_str() {
        "done" => State::Done,
        "refused" if record.cause == CANCELLED => State::Cancelled,
        "refused" => State::Refused,
        "failed" if record.cause == OVERTAKEN => State::DoneOtherwise,
        "failed" => State::Failed,
        _ => State::InProgress,
    }
}

/// Whatever was asked for under this id; `None`: nothing that is known.
///
/// # Errors
/// etcd does not answer.
pub async fn find(reach: &Reach, id: &str) -> Result<Option<Action>, Unable> {
    if !names_an_action(id) {
        return Ok(None);
    }
    // In this order: what leaves the table in between has a record by then.
    let snapshot = orders::read(reach).await?;
    let record = reach.store.transition(id).await;
    let record = record.map_err(|error| Unable::by_etcd(&error, "its record cannot be read"))?;
    Ok(record.map(Action::of_record).or_else(|| waiting(&snapshot, id)))
}

fn names_an_action(id: &str) -> bool {
    let number = |revision: i64| revision > 0;
    request_of(id).is_some_and(|revision| number(revision) && request_id(revision) == id)
        || order_of(id).is_some_and(|revision| number(revision) && order_id(revision) == id)
}

/// What nobody has begun yet.
fn waiting(snapshot: &Snapshot, id: &str) -> Option<Action> {
    if let Some(revision) = request_of(id) {
        let asked = snapshot.request_record.as_ref().filter(|_| snapshot.failover_revision == revision)?;
        return Some(Action::of_request(id.to_owned(), State::Waiting, asked));
    }
    let (of, _) = order_with(snapshot, order_of(id)?)?;
    let asked = snapshot.order_records.get(of).cloned().unwrap_or_default();
    Some(Action::of_order(id.to_owned(), State::Waiting, of, &asked))
}

fn order_with(snapshot: &Snapshot, revision: i64) -> Option<(&MemberName, i64)> {
    let orders = snapshot.cluster.orders.iter().map(|(name, order)| (name, order.revision));
    let reloads = snapshot.reloads.iter().map(|(name, revision)| (name, *revision));
    orders.chain(reloads).find(|(_, at)| *at == revision)
}

/// What came of taking something back.
#[derive(Clone, Debug, PartialEq)]
pub enum TakenBack {
    /// It is taken back.
    Now(Action),
    /// It has been begun, or has ended.
    TooLate(Action),
    /// There is none.
    Unknown,
}

/// Takes something back while nobody has begun.
///
/// # Errors
/// etcd does not answer.
pub async fn take_back(reach: &Reach, id: &str, by: &str) -> Result<TakenBack, Unable> {
    let Some(action) = find(reach, id).await? else { return Ok(TakenBack::Unknown) };
    if action.state != State::Waiting {
        return Ok(TakenBack::TooLate(action));
    }
    let snapshot = orders::read(reach).await?;
    let withdrawn = match request_of(id) {
        Some(revision) => switchover::withdraw(reach, &snapshot, revision, by).await?,
        None => match order_of(id).and_then(|revision| order_with(&snapshot, revision)) {
            Some(order) => orders::withdraw(reach, &snapshot, order, by).await?,
            None => None,
        },
    };
    match withdrawn {
        Some(record) => Ok(TakenBack::Now(Action::of_record(record))),
        None => Ok(find(reach, id).await?.map_or(TakenBack::Unknown, TakenBack::TooLate)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::name;
    use super::*;

    fn record(id: &str, kind: &str, outcome: &str, cause: &str) -> Transition {
        let (from, to) = (Some("pg1".to_owned()), Some("pg2".to_owned()));
        let [id, kind, outcome, cause] = [id, kind, outcome, cause].map(str::to_owned);
        Transition { id, kind, outcome, cause, from, to, ..Transition::default() }
    }

    #[test]
    fn a_record_says_how_it_stands() {
        for (outcome, cause, state) in [
            ("in_progress", "switchover", State::InProgress),
            ("done", "switchover", State::Done),
            ("failed", "switchover", State::Failed),
            ("failed", OVERTAKEN, State::DoneOtherwise),
            ("refused", "request_refused", State::Refused),
            ("refused", CANCELLED, State::Cancelled),
        ] {
            assert_eq!(
                Action::of_record(record("s-7", "switchover", outcome, cause)).state,
                state,
                "{outcome} {cause}"
            );
        }
        let copied = Action::of_record(record("o-8", "reinit", "done", "ordered"));
        assert_eq!((copied.kind.as_str(), copied.member.as_deref(), copied.to), ("reinitialize", Some("pg2"), None));
    }

    #[test]
    fn what_nobody_has_begun_is_found_by_its_revision() {
        let asked = FailoverRecord { member: Some("pg2".to_owned()), ..FailoverRecord::default() };
        let mut snapshot = Snapshot::default();
        (snapshot.request_record, snapshot.failover_revision) = (Some(asked), 70);
        snapshot.reloads.insert(name("pg3"), 71);
        let order = OrderRecord { order: "reload".to_owned(), ..OrderRecord::default() };
        snapshot.order_records.insert(name("pg3"), order);
        let found = waiting(&snapshot, "s-70").unwrap();
        assert_eq!((found.kind.as_str(), found.to.as_deref(), found.state), ("failover", Some("pg2"), State::Waiting));
        let found = waiting(&snapshot, "o-71").unwrap();
        assert_eq!((found.kind.as_str(), found.member.as_deref()), ("reload", Some("pg3")));
        assert_eq!((waiting(&snapshot, "s-71"), waiting(&snapshot, "o-70")), (None, None));
    }

    #[test]
    fn only_ids_as_they_are_given_out_name_an_action() {
        for (id, names) in
            [("s-7", true), ("o-7", true), ("s-07", false), ("s-+7", false), ("s--7", false), ("t-7", false)]
        {
            assert_eq!(names_an_action(id), names, "{id}");
        }
    }

    #[test]
    fn one_that_is_done_is_complete_once_the_old_leader_has_told_its_phases() {
        let mut done = record("s-7", "switchover", "done", "switchover");
        assert!(!Action::of_record(done.clone()).is_complete());
        done.phases.push(Phase { measured_on: "pg1".to_owned(), ..Phase::default() });
        assert!(Action::of_record(done).is_complete());
        assert!(Action::of_record(record("s-7", "switchover", "failed", "switchover")).is_complete());
        assert!(!Action::of_record(record("s-7", "switchover", "in_progress", "switchover")).is_complete());
    }
}
