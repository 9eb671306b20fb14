//! The restart of a node that is to begin at a time, as it is asked for. Whoever leads then sees to it, so it outlives a failover.

use consensus::records::{OrderRecord, Planned, PlannedRestart, Transition};
use consensus::{Outcome, Snapshot, Subject};
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;

use super::super::orders;
use super::super::proviso::Proviso;
use super::super::world::Reach;
use super::super::{Kind, Unable, asks};
use super::shown::Shown;
use super::{Plan, between, paused};

/// Why it is not scheduled.
pub fn refusal(snapshot: &Snapshot, of: &MemberName, now: Timestamp) -> Option<String> {
    let order = OrderRecord { order: "restart".to_owned(), ..OrderRecord::default() };
    paused(snapshot, now).or_else(|| orders::refusal(snapshot, of, &order)).or_else(|| another(snapshot, of))
}

/// Another one that is scheduled for that node.
pub fn another(snapshot: &Snapshot, of: &MemberName) -> Option<String> {
    let planned = snapshot.scheduled.restarts.get(of)?;
    let (id, by, when) = (planned.id(), &planned.record.schedule.requested_by, between(&planned.record.schedule));
    Some(format!(
        "another restart of {of} is scheduled already, {id} {when} by {by}; `pgvigil restart {of} --cancel` takes it back"
    ))
}

/// Schedules it, while it leads who must.
///
/// # Errors
/// Another leads than the one who must, another has been scheduled, or etcd does not answer.
pub async fn request(
    reach: &Reach,
    snapshot: &Snapshot,
    of: &MemberName,
    (role, only_pending): (Option<String>, bool),
    plan: &Plan,
    proviso: &Proviso,
) -> Result<Planned<PlannedRestart>, Unable> {
    let lead = proviso.lead(snapshot)?;
    let record = PlannedRestart { schedule: plan.schedule(), role, only_pending };
    asks();
    match reach.store.plan_restart(of, &record, &lead).await {
        Ok(Outcome::Applied { revision }) => Ok(Planned { record, revision }),
        Ok(Outcome::Refused) => {
            let why = format!("another leads by now, or a restart of {of} has been scheduled at this very moment");
            Err(Unable::new(Kind::Overtaken, why))
        }
        Err(error) => Err(Unable::by_etcd(&error, "the restart was not scheduled")),
    }
}

/// Takes back the restart of a node that is scheduled, and the one that the node has not begun; what it was, each. Nothing: there is none.
///
/// # Errors
/// etcd does not answer, or it is under way.
pub async fn cancel(reach: &Reach, of: &MemberName, by: &str) -> Result<Vec<String>, Unable> {
    let snapshot = orders::read(reach).await?;
    let (mut taken, mut begun) = (Vec::new(), None);
    match super::cancel(reach, &snapshot, &Subject::Restart(of.clone()), by).await {
        Ok(Some(record)) => taken.push(match snapshot.scheduled.restarts.get(of) {
            Some(planned) => Shown::of_restart(of, planned, Turn::Ahead, Timestamp::now()).in_words(),
            None => format!("{}: a scheduled restart of {of} that nobody could read", record.id),
        }),
        Ok(None) => {}
        // It has begun at this moment, so it is an order by now, or its node has taken that up as well.
        Err(unable) if unable.kind == Kind::Overtaken => {
            begun = snapshot.scheduled.restarts.get(of).map(Planned::<PlannedRestart>::id);
        }
        Err(unable) => return Err(unable),
    }
    let snapshot = orders::read(reach).await?;
    taken.extend(orders::take_back(reach, &snapshot, (of, "restart"), by).await?);
    if taken.is_empty() {
        let of_it = |record: &Transition| record.kind == "restart" && record.from.as_deref() == Some(of.as_str());
        super::unless_begun(reach, &snapshot, begun, of_it).await?;
    }
    Ok(taken)
}
