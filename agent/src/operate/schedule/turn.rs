//! Whether it is the turn of what is scheduled, in a world that has just been looked at: the rule is `decision::schedule`, and what is in the way is what
//! forbids the same thing when somebody asks for it at once. A pause is in the way as well.

use consensus::Snapshot;
use consensus::records::{Planned, PlannedRestart, PlannedSwitchover, Schedule};
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;

use super::super::hold::{Shown, what_waits};
use super::super::orders;
use super::super::preflight::{Preflight, Wish};
use super::super::world::World;

/// What the operator had said. A hold is seen to apart: nobody is there to be told how to go on against it.
fn wish(planned: &PlannedSwitchover) -> Wish {
    Wish { to: planned.member.clone(), expect_leader: Some(planned.leader.clone()), ignore_hold: true }
}

/// Whether it is the turn of a switchover.
pub fn of_switchover(
    world: &World,
    snapshot: &Snapshot,
    planned: &Planned<PlannedSwitchover>,
    now: Timestamp,
) -> (Turn, Preflight) {
    let preflight = Preflight::of(world, snapshot, &wish(&planned.record), now);
    let failed = preflight.failures().map(str::to_owned).reduce(|all, why| format!("{all}; {why}"));
    let schedule = &planned.record.schedule;
    let obstacle = told_to_wait(snapshot, schedule, now).or(failed);
    let due = schedule.due(Some(&planned.record.leader));
    (due.turn(now.as_millisecond(), snapshot.cluster.leader.as_ref(), obstacle), preflight)
}

/// Whether it is the turn of a restart.
pub fn of_restart(snapshot: &Snapshot, of: &MemberName, planned: &Planned<PlannedRestart>, now: Timestamp) -> Turn {
    let schedule = &planned.record.schedule;
    let refused = || orders::refusal(snapshot, of, &planned.record.order());
    let another = || what_waits(snapshot).map(|what| format!("{what} waits to be carried out"));
    let obstacle = told_to_wait(snapshot, schedule, now).or_else(refused).or_else(another);
    schedule.due(None).turn(now.as_millisecond(), snapshot.cluster.leader.as_ref(), obstacle)
}

/// Somebody has said that nothing of the kind is to begin.
fn told_to_wait(snapshot: &Snapshot, schedule: &Schedule, now: Timestamp) -> Option<String> {
    if snapshot.config.paused_at(now) {
        return Some("automatic actions are paused (pgvigil resume)".to_owned());
    }
    let hold = Shown::of(snapshot, now).filter(|_| !schedule.ignore_hold)?;
    Some(format!("planned actions are held {}", hold.in_words()))
}
