//! A switchover that is to begin at a time, as it is asked for. It is bound to the leader whom somebody saw; the checks of a switchover are made when it is
//! due, and what they say at the moment is told beforehand.

use consensus::records::{Planned, PlannedSwitchover};
use consensus::{Outcome, Snapshot};
use decision::names::MemberName;
use jiff::Timestamp;

use super::super::preflight::{Check, Grade, Preflight, Wish};
use super::super::world::{Reach, World};
use super::super::{Kind, Unable, asks, words};
use super::clocks::differing;
use super::{Plan, between, paused};

/// Checks what must be so already when it is asked for. What would forbid it at this moment and may pass until then is a warning.
pub fn checked(world: &World, snapshot: &Snapshot, wish: &Wish, now: Timestamp) -> Preflight {
    let leader = snapshot.cluster.leader.clone();
    let mut checks = vec![match (&leader, &wish.expect_leader) {
        (None, _) => Check::fail("nobody leads, so nobody can be asked to hand over later; see `pgvigil why`"),
        (Some(leader), Some(expected)) if leader != expected => Check::fail(format!("{leader} leads, not {expected}")),
        (Some(leader), _) => Check::ok(format!("{leader} leads")),
    }];
    checks.extend(paused(snapshot, now).map(Check::fail));
    if let Some(planned) = &snapshot.scheduled.switchover {
        checks.push(Check::fail(another(planned)));
    }
    checks.extend(wish.to.as_ref().and_then(|to| of_candidate(snapshot, leader.as_ref(), to)));
    let candidate = wish.to.clone();
    if checks.iter().any(|check| check.grade == Grade::Fail) {
        return Preflight { leader, candidate, checks, instead: None };
    }
    let at_present = Preflight::of(world, snapshot, wish, now);
    let warnings = at_present.failures().map(|why| Check::warn(format!("as things stand it would wait: {why}")));
    checks.extend(warnings);
    checks.extend(differing(world).into_iter().map(Check::warn));
    Preflight { leader, candidate, checks, instead: None }
}

fn of_candidate(snapshot: &Snapshot, leader: Option<&MemberName>, to: &MemberName) -> Option<Check> {
    if leader == Some(to) {
        return Some(Check::fail(format!("{to} leads already")));
    }
    Some(match snapshot.cluster.members.get(to) {
        None => {
            let registered = words::list(snapshot.cluster.members.keys());
            Check::fail(format!("{to} is not registered: is its agent running? Registered: {registered}"))
        }
        Some(member) if member.tags.never_leads() => Check::fail(format!("the tags of {to} bar it from leading")),
        Some(_) => Check::ok(format!("{to} is registered")),
    })
}

fn another(planned: &Planned<PlannedSwitchover>) -> String {
    let (id, by) = (planned.id(), &planned.record.schedule.requested_by);
    let when = between(&planned.record.schedule);
    format!("another switchover is scheduled already, {id} {when} by {by}; `pgvigil switchover --cancel` takes it back")
}

/// Schedules it, from this leader.
///
/// # Errors
/// Another leads by now, another has been scheduled, or etcd does not answer.
pub async fn request(
    reach: &Reach,
    leader: &MemberName,
    to: Option<&MemberName>,
    plan: &Plan,
) -> Result<Planned<PlannedSwitchover>, Unable> {
    let record = PlannedSwitchover { schedule: plan.schedule(), leader: leader.clone(), member: to.cloned() };
    asks();
    match reach.store.plan_switchover(&record).await {
        Ok(Outcome::Applied { revision }) => Ok(Planned { record, revision }),
        Ok(Outcome::Refused) => {
            let why = "another leads by now, or somebody else has scheduled a switchover at this very moment";
            Err(Unable::new(Kind::Overtaken, why))
        }
        Err(error) => Err(Unable::by_etcd(&error, "the switchover was not scheduled")),
    }
}
