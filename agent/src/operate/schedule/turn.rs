//! Whether it is the turn of what is scheduled, in a world that has just been looked at: the rule is `decision::schedule`, and what is in the way is what
//! forbids the same thing when somebody asks for it at once. A pause is in the way as well.

use std::collections::BTreeSet;

use consensus::Snapshot;
use consensus::records::{Planned, PlannedRestart, PlannedSwitchover, Schedule};
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;

use super::super::hold::{Shown, what_waits};
use super::super::orders;
use super::super::preflight::{Preflight, Wish};
use super::super::rolling::{after_others, not_settled};
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
    let another = || what_waits(snapshot).map(|what| format!("{what} waits to be carried out"));
    let obstacle = told_to_wait(snapshot, schedule, now).or(failed).or_else(another);
    let due = schedule.due(Some(&planned.record.leader));
    (due.turn(now.as_millisecond(), snapshot.cluster.leader.as_ref(), obstacle), preflight)
}

/// Whether it is the turn of a restart.
pub fn of_restart(snapshot: &Snapshot, of: &MemberName, planned: &Planned<PlannedRestart>, now: Timestamp) -> Turn {
    let schedule = &planned.record.schedule;
    let refused = || orders::refusal(snapshot, of, &planned.record.order());
    let another = || what_waits(snapshot).map(|what| format!("{what} waits to be carried out"));
    let short = || short_of_voters(snapshot, of);
    let later = || not_yet_pending(snapshot, of).filter(|_| planned.record.only_pending);
    let obstacle =
        told_to_wait(snapshot, schedule, now).or_else(refused).or_else(another).or_else(short).or_else(later);
    schedule.due(None).turn(now.as_millisecond(), snapshot.cluster.leader.as_ref(), obstacle)
}

/// Nothing waits for a restart of this node so far, and something will: others take it first, or it has not read the settings yet.
fn not_yet_pending(snapshot: &Snapshot, of: &MemberName) -> Option<String> {
    if orders::waits_for_restart(snapshot, of) {
        return None;
    }
    let settles = || format!("{of} has not taken the settings up yet");
    after_others(snapshot, of).or_else(|| not_settled(snapshot).contains(of).then(settles))
}

/// Commits would wait for a standby that is to be restarted, while others that could take its place are not back yet. Where there are none, as with two
/// nodes, that is what was asked for.
fn short_of_voters(snapshot: &Snapshot, of: &MemberName) -> Option<String> {
    let cluster = &snapshot.cluster;
    let quorum = cluster.sync.as_ref()?.policies.last()?;
    let k = quorum.k as usize;
    if k == 0 || cluster.leader.as_ref() == Some(of) {
        return None;
    }
    let may_vote = cluster.members.iter().filter(|(_, member)| !member.never_leads() && !member.tags.nosync);
    let mut others: BTreeSet<&MemberName> = may_vote.map(|(name, _)| name).chain(&quorum.voters).collect();
    others.retain(|name| *name != of && cluster.leader.as_ref() != Some(*name));
    let streams = |name: &&&MemberName| {
        let record = snapshot.member_records.get(**name);
        record.is_some_and(|record| record.replication_state.as_deref() == Some("streaming"))
    };
    let back = others.iter().filter(|name| quorum.voters.contains(**name)).filter(streams).count();
    (others.len() >= k && back < k).then(|| {
        let names: Vec<String> = others.iter().map(ToString::to_string).collect();
        format!("commits would wait for {of}: {} must stream and vote before", names.join(", "))
    })
}

/// Somebody has said that nothing of the kind is to begin, or has asked for something that nobody can read.
fn told_to_wait(snapshot: &Snapshot, schedule: &Schedule, now: Timestamp) -> Option<String> {
    if snapshot.config.paused_at(now) {
        return Some("automatic actions are paused (pgvigil resume)".to_owned());
    }
    if let Some(problem) = &snapshot.unreadable_request {
        return Some(format!(
            "somebody has asked for something that nobody can read, in {}: {}",
            problem.key, problem.why
        ));
    }
    let hold = Shown::of(snapshot, now).filter(|_| !schedule.ignore_hold)?;
    Some(format!("planned actions are held {}", hold.in_words()))
}

#[cfg(test)]
mod tests {
    use consensus::records::MemberRecord;
    use decision::durability::Quorum;
    use decision::names::{Term, Timeline};
    use decision::settings::Mode;
    use decision::view::SyncRecord;

    use super::*;
    use crate::operate::testing::{name, standby};

    /// pg1 leads; these are registered, those of them that stream, and those that vote.
    fn seen(registered: &[&str], streaming: &[&str], voters: &[&str], k: u32) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.cluster.leader = Some(name("pg1"));
        let quorum = Quorum { k, voters: voters.iter().map(|one| name(one)).collect() };
        snapshot.cluster.sync =
            Some(SyncRecord::of_reign(name("pg1"), Term(1), Mode::Quorum, vec![quorum], Timeline(1)));
        for one in registered {
            snapshot.cluster.members.insert(name(one), standby(one));
            let state = streaming.contains(one).then(|| "streaming".to_owned());
            let record = MemberRecord { replication_state: state, ..MemberRecord::default() };
            snapshot.member_records.insert(name(one), record);
        }
        snapshot
    }

    #[test]
    fn no_standby_is_restarted_while_another_is_not_back() {
        let waits = |snapshot: &Snapshot, of: &str| short_of_voters(snapshot, &name(of)).is_some();
        let all = &["pg1", "pg2", "pg3"][..];
        assert!(!waits(&seen(all, &["pg2", "pg3"], &["pg2", "pg3"], 1), "pg3"));
        assert!(waits(&seen(all, &["pg3"], &["pg3"], 1), "pg3"), "pg2 recovers");
        assert!(
            waits(&seen(&["pg1", "pg3"], &["pg3"], &["pg2", "pg3"], 1), "pg3"),
            "pg2 is gone, and still counted on"
        );
        assert!(!waits(&seen(&["pg1", "pg2"], &["pg2"], &["pg2"], 1), "pg2"), "there is no other");
        assert!(!waits(&seen(all, &["pg3"], &["pg3"], 0), "pg3"), "commits wait for nobody");
        assert!(!waits(&seen(all, &["pg3"], &["pg3"], 1), "pg1"), "the leader is restarted in place");
    }
}
