//! Whether it is the turn of what is scheduled, in a world that has just been looked at: the rule is `decision::schedule`, and what is in the way is what
//! forbids the same thing when somebody asks for it at once. A pause is in the way as well.

use consensus::Snapshot;
use consensus::records::{Planned, PlannedRestart, PlannedSwitchover};
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;

use super::super::hold::{Shown, waits, what_waits};
use super::super::orders;
use super::super::preflight::{Preflight, Wish};
use super::super::world::World;

/// What the operator had said.
pub fn wish(planned: &PlannedSwitchover) -> Wish {
    let (to, ignore_hold) = (planned.member.clone(), planned.schedule.ignore_hold);
    Wish { to, expect_leader: Some(planned.leader.clone()), ignore_hold }
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
    let due = planned.record.schedule.due(Some(&planned.record.leader));
    let turn = due.turn(now.as_millisecond(), snapshot.cluster.leader.as_ref(), paused(snapshot, now).or(failed));
    (turn, preflight)
}

/// Whether it is the turn of a restart.
pub fn of_restart(snapshot: &Snapshot, of: &MemberName, planned: &Planned<PlannedRestart>, now: Timestamp) -> Turn {
    let schedule = &planned.record.schedule;
    let held = Shown::of(snapshot, now).filter(|_| !schedule.ignore_hold).map(|shown| waits(&shown));
    let refused = || orders::refusal(snapshot, of, &planned.record.order());
    let another = || what_waits(snapshot).map(|what| format!("{what} waits to be carried out"));
    let obstacle = paused(snapshot, now).or(held).or_else(refused).or_else(another);
    schedule.due(None).turn(now.as_millisecond(), snapshot.cluster.leader.as_ref(), obstacle)
}

fn paused(snapshot: &Snapshot, now: Timestamp) -> Option<String> {
    snapshot.config.paused_at(now).then(|| "automatic actions are paused (pgvigil resume)".to_owned())
}
