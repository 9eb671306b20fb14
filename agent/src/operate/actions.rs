//! What operators have asked for, found by its id. The id is that of the record which the agents write of it, and all that is known lies in etcd: so
//! any agent of the cluster can tell how it stands, whoever was asked and whoever has died since.

use consensus::records::{
    FailoverRecord, OrderRecord, Phase, Transition, order_id, order_of, planned_id, planned_of, request_id, request_of,
};
use consensus::{Snapshot, Subject};
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::follow::has_all_from;
use super::schedule::shown::Shown as Planned;
use super::world::Reach;
use super::{Kind, Unable, orders, schedule, switchover};
use crate::transitions::{CANCELLED, OVERTAKEN};

/// The word by which programs know what they read.
const SCHEMA: &str = "pgvigil.action/v1";

/// How something stands that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has just been written down.
    Accepted,
    /// It is to begin at a time, which may have come: something may be in the way.
    Scheduled,
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
        !matches!(self, State::Accepted | State::Scheduled | State::Waiting | State::InProgress)
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
    /// Not before this (RFC 3339), while it is scheduled.
    pub at: Option<String>,
    /// Until when it may begin (RFC 3339), while it is scheduled.
    pub until: Option<String>,
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

    /// Something that is to begin at a time.
    pub fn of_planned(planned: &Planned) -> Self {
        let told = (planned.by.clone(), planned.reason.clone());
        Self {
            from: planned.from.clone(),
            to: planned.to.clone(),
            member: planned.member.clone(),
            at: Some(planned.at.clone()),
            until: Some(planned.until.clone()),
            ..Self::new(planned.id.clone(), &planned.kind, State::Scheduled, told)
        }
    }

    /// As its record says.
    pub fn of_record(record: Transition) -> Self {
        let reason = Some(record.reason.clone()).filter(|reason| !reason.is_empty());
        let by = record.requested_by.clone();
        let mut action = Self::new(record.id.clone(), &record.kind, state_of(&record), (by, reason));
        let of_one = order_of(&record.id).is_some() || planned_of(&record.id).is_some() && record.kind == "restart";
        match of_one {
            true => action.member.clone_from(&record.to),
            false => (action.from, action.to) = (record.from.clone(), record.to.clone()),
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
        let (from, to, member, at, until) = (None, None, None, None, None);
        Self {
            schema: SCHEMA,
            id,
            kind,
            state,
            from,
            to,
            member,
            at,
            until,
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
    Ok(record.map(Action::of_record).or_else(|| Some(place(&snapshot, id)?.action(&snapshot, id))))
}

fn names_an_action(id: &str) -> bool {
    let number = |revision: i64| revision > 0;
    request_of(id).is_some_and(|revision| number(revision) && request_id(revision) == id)
        || order_of(id).is_some_and(|revision| number(revision) && order_id(revision) == id)
        || planned_of(id).is_some_and(|revision| number(revision) && planned_id(revision) == id)
}

/// Where something lies that nobody has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place<'a> {
    /// Where things wait for their time.
    Planned(Subject),
    /// Where requests wait, at this revision.
    Request(i64, &'a FailoverRecord),
    /// Where orders to a node wait, at this revision.
    Order(&'a MemberName, i64, &'a OrderRecord),
}

/// Where something of this id lies.
fn place<'a>(snapshot: &'a Snapshot, id: &str) -> Option<Place<'a>> {
    let scheduled = &snapshot.scheduled;
    if scheduled.switchover.as_ref().is_some_and(|planned| planned.id() == id) {
        return Some(Place::Planned(Subject::Switchover));
    }
    if let Some((of, _)) = scheduled.restarts.iter().find(|(_, planned)| planned.id() == id) {
        return Some(Place::Planned(Subject::Restart(of.clone())));
    }
    let revision = snapshot.failover_revision;
    if let Some(asked) = snapshot.request_record.as_ref().filter(|asked| asked.record_id(revision) == id) {
        return Some(Place::Request(revision, asked));
    }
    let orders = snapshot.cluster.orders.iter().map(|(name, order)| (name, order.revision));
    let reloads = snapshot.reloads.iter().map(|(name, revision)| (name, *revision));
    let known = orders.chain(reloads).filter_map(|(of, at)| Some((of, at, snapshot.order_records.get(of)?)));
    let mut named = known.filter(|(_, at, asked)| asked.record_id(*at) == id);
    named.next().map(|(of, at, asked)| Place::Order(of, at, asked))
}

impl Place<'_> {
    fn action(&self, snapshot: &Snapshot, id: &str) -> Action {
        let (id, now) = (id.to_owned(), Timestamp::now());
        match self {
            Place::Request(_, asked) => Action::of_request(id, State::Waiting, asked),
            Place::Order(of, _, asked) => Action::of_order(id, State::Waiting, of, asked),
            Place::Planned(subject) => {
                let shown = match subject {
                    Subject::Switchover => {
                        let planned = snapshot.scheduled.switchover.as_ref();
                        planned.map(|planned| Planned::of_switchover(planned, Turn::Ahead, now))
                    }
                    Subject::Restart(of) => {
                        let planned = snapshot.scheduled.restarts.get(of);
                        planned.map(|planned| Planned::of_restart(of, planned, Turn::Ahead, now))
                    }
                };
                Action::of_planned(&shown.unwrap_or_default())
            }
        }
    }
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
    if !matches!(action.state, State::Waiting | State::Scheduled) {
        return Ok(TakenBack::TooLate(action));
    }
    let snapshot = orders::read(reach).await?;
    let withdrawn = match place(&snapshot, id) {
        Some(Place::Planned(subject)) => match schedule::cancel(reach, &snapshot, &subject, by).await {
            // It has just begun: where it is by now is told below.
            Err(unable) if unable.kind == Kind::Overtaken => None,
            withdrawn => withdrawn?,
        },
        Some(Place::Request(revision, _)) => switchover::withdraw(reach, &snapshot, revision, by).await?,
        Some(Place::Order(of, revision, _)) => orders::withdraw(reach, &snapshot, (of, revision), by).await?,
        None => None,
    };
    match withdrawn {
        Some(record) => Ok(TakenBack::Now(Action::of_record(record))),
        None => Ok(find(reach, id).await?.map_or(TakenBack::Unknown, TakenBack::TooLate)),
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
