//! What is scheduled, as it is shown to people and to programs.

use std::time::Duration;

use consensus::Snapshot;
use consensus::records::{Planned, PlannedRestart, PlannedSwitchover, Schedule};
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::words;
use super::super::world::World;
use super::turn;

/// Something scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Scheduled)]
pub struct Shown {
    /// Its id, which is that of the record of what comes of it.
    #[schema(example = "p-1234")]
    pub id: String,
    /// `switchover` or `restart`.
    pub kind: String,
    /// Not before this (RFC 3339).
    pub at: String,
    /// Until when it may begin (RFC 3339).
    pub until: String,
    /// How long it is until its time, in seconds; 0: its time has come.
    pub in_s: u64,
    /// Who must lead, of a switchover.
    pub from: Option<String>,
    /// Who is to lead; null: the best standby then.
    pub to: Option<String>,
    /// Whose Postgres, of a restart.
    pub member: Option<String>,
    /// Who has asked.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// What it waits for although its time has come.
    pub waits_for: Option<String>,
}

impl Shown {
    /// All that is scheduled, the next first.
    pub fn all(world: &World, snapshot: &Snapshot, now: Timestamp) -> Vec<Self> {
        let mut all = Vec::new();
        if let Some(planned) = &snapshot.scheduled.switchover {
            let turn = unless_under_way(world, turn::of_switchover(world, snapshot, planned, now).0);
            all.push((planned.record.schedule.at, Self::of_switchover(planned, turn, now)));
        }
        for (of, planned) in &snapshot.scheduled.restarts {
            let turn = unless_under_way(world, turn::of_restart(snapshot, of, planned, now));
            all.push((planned.record.schedule.at, Self::of_restart(of, planned, turn, now)));
        }
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, shown)| shown).collect()
    }

    /// A switchover, whose turn it is or is not.
    pub fn of_switchover(planned: &Planned<PlannedSwitchover>, turn: Turn, now: Timestamp) -> Self {
        let record = &planned.record;
        let (from, to) = (Some(record.leader.to_string()), record.member.as_ref().map(ToString::to_string));
        Self { from, to, ..Self::of(planned.id(), "switchover", &record.schedule, turn, now) }
    }

    /// A restart.
    pub fn of_restart(of: &MemberName, planned: &Planned<PlannedRestart>, turn: Turn, now: Timestamp) -> Self {
        let shown = Self::of(planned.id(), "restart", &planned.record.schedule, turn, now);
        Self { member: Some(of.to_string()), ..shown }
    }

    fn of(id: String, kind: &str, schedule: &Schedule, turn: Turn, now: Timestamp) -> Self {
        Self {
            id,
            kind: kind.to_owned(),
            at: schedule.at.to_string(),
            until: schedule.until().to_string(),
            in_s: u64::try_from(schedule.at.as_second() - now.as_second()).unwrap_or_default(),
            by: schedule.requested_by.clone(),
            reason: schedule.reason.clone(),
            waits_for: match turn {
                Turn::Waits(why) => Some(why),
                Turn::LeaderChanged(leader) => Some(format!("{leader} leads by now: it will be dropped")),
                Turn::Expired(_) => Some("its window has passed: it will be dropped".to_owned()),
                Turn::Ahead | Turn::Begins => None,
            },
            ..Self::default()
        }
    }

    /// `switchover from pg1 to pg2`
    pub fn what(&self) -> String {
        match (&self.member, &self.from) {
            (Some(member), _) => format!("{} of {member}", self.kind),
            (None, from) => {
                let from = from.as_deref().unwrap_or("whoever leads");
                format!("{} from {from} to {}", self.kind, self.to.as_deref().unwrap_or("the best standby"))
            }
        }
    }

    /// `p-70: switchover from pg1 to pg2 at 2026-11-29 02:00:00Z (in 9m 3s, until 02:10:00Z) by anna@db1: kernel upgrade`
    pub fn in_words(&self) -> String {
        let until = words::moment(&self.until);
        let left = match self.in_s {
            0 => format!("(due, until {until})"),
            left => format!("(in {}, until {until})", words::length(Duration::from_secs(left))),
        };
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let waits = self.waits_for.as_ref().map(|why| format!("; it waits: {why}")).unwrap_or_default();
        format!("{}: {} at {} {left} by {}{reason}{waits}", self.id, self.what(), words::moment(&self.at), self.by)
    }
}

/// One server at a time.
fn unless_under_way(world: &World, turn: Turn) -> Turn {
    match (turn, &world.under_way) {
        (Turn::Begins, Some(what)) => Turn::Waits(what.clone()),
        (turn, _) => turn,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::testing::name;
    use super::*;

    #[test]
    fn what_is_scheduled_says_what_when_for_whom_and_what_it_waits_for() {
        let at = r#"{"at":"2026-11-29T02:00:00Z","window_s":600,"requested_by":"anna@db1","reason":"kernel","leader":"pg1"}"#;
        let now = |text: &str| text.parse::<Timestamp>().unwrap();
        let planned = Planned { record: PlannedSwitchover::from_json(at).unwrap(), revision: 70 };
        let ahead = Shown::of_switchover(&planned, Turn::Ahead, now("2026-11-29T01:50:57Z"));
        assert_eq!(
            ahead.in_words(),
            "p-70: switchover from pg1 to the best standby at 2026-11-29 02:00:00Z (in 9m 3s, until 2026-11-29 02:10:00Z) by anna@db1: kernel"
        );
        let restart = Planned { record: PlannedRestart::from_json(at).unwrap(), revision: 71 };
        let due = now("2026-11-29T02:00:01Z");
        let waits = Shown::of_restart(&name("pg2"), &restart, Turn::Waits("a hold".to_owned()), due);
        assert_eq!(
            waits.in_words(),
            "p-71: restart of pg2 at 2026-11-29 02:00:00Z (due, until 2026-11-29 02:10:00Z) by anna@db1: kernel; it waits: a hold"
        );
    }

    #[test]
    fn a_restart_waits_for_whatever_else_is_to_be_carried_out_and_for_its_node() {
        let at = r#"{"at":"2026-11-29T02:00:00Z","window_s":600,"requested_by":"anna"}"#;
        let due = "2026-11-29T02:00:01Z".parse::<Timestamp>().unwrap();
        let planned = Planned { record: PlannedRestart::from_json(at).unwrap(), revision: 71 };
        let (pg1, pg2) = (name("pg1"), name("pg2"));
        let mut snapshot = Snapshot::default();
        snapshot.cluster.leader = Some(pg1.clone());
        let turn = |snapshot: &Snapshot| turn::of_restart(snapshot, &pg2, &planned, due);
        let waits = |snapshot: &Snapshot, why: &str| {
            let turn = turn(snapshot);
            assert!(matches!(&turn, Turn::Waits(told) if told.contains(why)), "{turn:?}");
        };
        waits(&snapshot, "pg2 is not registered");
        for name in [&pg1, &pg2] {
            snapshot.cluster.members.insert(name.clone(), super::super::super::testing::standby(name.as_str()));
        }
        assert_eq!(turn(&snapshot), Turn::Begins);
        let order = planned.order(None);
        snapshot.order_records.insert(pg1.clone(), order);
        waits(&snapshot, "restart of pg1 by anna waits to be carried out");
        snapshot.order_records.clear();
        let key = "/service/demo/orders/pg3".to_owned();
        snapshot.unreadable_request = Some(consensus::Problem { key, why: "it is no JSON".to_owned(), revision: 7 });
        waits(&snapshot, "nobody can read, in /service/demo/orders/pg3: it is no JSON");
        snapshot.unreadable_request = None;
        snapshot.config.pause = Some(consensus::records::PauseRecord::default());
        waits(&snapshot, "paused");
    }

    #[test]
    fn what_is_due_and_waits_for_what_is_under_way_says_so() {
        let at = r#"{"at":"2026-11-29T02:00:00Z","window_s":600,"requested_by":"anna"}"#;
        let due = "2026-11-29T02:00:01Z".parse::<Timestamp>().unwrap();
        let (pg1, pg2) = (name("pg1"), name("pg2"));
        let mut snapshot = Snapshot::default();
        snapshot.cluster.leader = Some(pg1.clone());
        for name in [&pg1, &pg2] {
            snapshot.cluster.members.insert(name.clone(), super::super::super::testing::standby(name.as_str()));
        }
        let planned = Planned { record: PlannedRestart::from_json(at).unwrap(), revision: 71 };
        snapshot.scheduled.restarts.insert(pg2, planned);
        let told = |under_way: Option<&str>| {
            let under_way = under_way.map(str::to_owned);
            let world = World { etcd: Ok(snapshot.clone()), agents: Default::default(), me: pg1.clone(), under_way };
            Shown::all(&world, &snapshot, due)[0].waits_for.clone()
        };
        assert_eq!(told(None), None);
        assert_eq!(told(Some("restart o-5 of pg1 is under way")).as_deref(), Some("restart o-5 of pg1 is under way"));
    }
}
