//! Who hands over to whom when a zone is to be left: in each cluster whose leader is there, the best standby that is surely elsewhere, by the
//! checks of a switchover. Pure: from what was seen of one cluster.

use consensus::Snapshot;
use decision::names::MemberName;
use jiff::Timestamp;

use crate::cli::Exit;
use crate::operate::preflight::{Preflight, Wish, ranked};
use crate::operate::world::World;

/// What the operator said.
#[derive(Clone, Debug)]
pub struct Zones {
    /// No leader is to be there.
    pub from: String,
    /// They are to be there; `None`: anywhere else.
    pub to: Option<String>,
    /// A hold of planned actions forbids nothing.
    pub ignore_hold: bool,
}

/// What is to happen in one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Its leader is in another zone.
    Elsewhere,
    /// Its leader tells no zone.
    Unzoned(MemberName),
    /// Nobody leads.
    Leaderless,
    /// It is not known who leads.
    Unread {
        /// Why not.
        why: String,
        /// What a command ends with where that is so.
        exit: Exit,
    },
    /// Its leader is to hand over, and something forbids it.
    Refused {
        /// Who leads.
        from: MemberName,
        /// Who would be to lead, where anybody could.
        to: Option<MemberName>,
        /// Why not.
        why: String,
    },
    /// Its leader hands over.
    Ready {
        /// Who leads.
        from: MemberName,
        /// Who is to.
        to: MemberName,
        /// In which zone that is.
        zone: String,
        /// What is not as it should be, and forbids nothing.
        warnings: Vec<String>,
    },
}

impl Zones {
    /// The wish that one member hands over to another.
    pub fn wish(&self, from: &MemberName, to: &MemberName) -> Wish {
        let (to, expect_leader) = (Some(to.clone()), Some(from.clone()));
        Wish { to, expect_leader, ignore_hold: self.ignore_hold }
    }

    /// What is to happen in a cluster.
    pub fn plan(&self, world: &World, snapshot: &Snapshot, now: Timestamp) -> Plan {
        let cluster = &snapshot.cluster;
        let Some(from) = cluster.leader.clone() else { return Plan::Leaderless };
        let zone_of = |name: &MemberName| cluster.members.get(name).and_then(|member| member.zone.clone());
        match zone_of(&from) {
            None => return Plan::Unzoned(from),
            Some(zone) if zone != self.from => return Plan::Elsewhere,
            Some(_) => {}
        }
        if snapshot.config.paused_at(now) {
            let why =
                "automatic actions are paused, and nobody was named: `pgvigil resume`, or a switchover of its own";
            return Plan::Refused { from, to: None, why: why.to_owned() };
        }
        let fits = |zone: &String| *zone != self.from && self.to.as_ref().is_none_or(|wanted| wanted == zone);
        let best = ranked(world, snapshot, &from).into_iter().find_map(|(name, _)| {
            let zone = zone_of(&name).filter(|zone| fits(zone))?;
            Some((name, zone))
        });
        let Some((to, zone)) = best else {
            let wanted = match &self.to {
                Some(to) => format!("in zone {to}"),
                None => format!("in another zone than {}", self.from),
            };
            return Plan::Refused { from, to: None, why: format!("no member is registered {wanted}") };
        };
        let preflight = Preflight::of(world, snapshot, &self.wish(&from, &to), now);
        let failed: Vec<&str> = preflight.failures().collect();
        if !failed.is_empty() {
            return Plan::Refused { from, to: Some(to), why: failed.join("; ") };
        }
        Plan::Ready { from, to, zone, warnings: preflight.warnings().map(str::to_owned).collect() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use consensus::records::PauseRecord;
    use serde_json::json;

    use super::*;
    use crate::operate::testing::{name, standby};
    use crate::operate::world::{Agent, Answer};

    /// Members with their zones; pg1 leads and writes, the others stream and are so many bytes behind.
    fn seen(members: &[(&str, Option<&str>, u64)]) -> (World, Snapshot) {
        let mut snapshot = Snapshot::default();
        snapshot.cluster.leader = Some(name("pg1"));
        let mut agents = BTreeMap::new();
        let listed: Vec<_> = members
            .iter()
            .map(|(name, _, behind)| json!({"name": name, "receive_lag": behind, "replay_lag": behind}))
            .collect();
        for (member, zone, _) in members {
            let mut registered = standby(member);
            registered.zone = zone.map(str::to_owned);
            snapshot.cluster.members.insert(name(member), registered);
            let leads = *member == "pg1";
            let says = Answer {
                beat: json!({"leader": leads, "writable": leads}),
                patroni: json!({"replication_state": "streaming"}),
                cluster: json!({"members": listed}),
                why: json!({"sentence": "says why", "standings": []}),
                clock_ahead_ms: 0,
            };
            agents.insert(name(member), Agent { api_url: String::new(), says: Ok(says) });
        }
        (World { etcd: Ok(snapshot.clone()), agents, me: name("pg1"), under_way: None }, snapshot)
    }

    fn plan(members: &[(&str, Option<&str>, u64)], to: Option<&str>) -> Plan {
        let (world, snapshot) = seen(members);
        Zones { from: "a".to_owned(), to: to.map(str::to_owned), ignore_hold: false }.plan(
            &world,
            &snapshot,
            Timestamp::now(),
        )
    }

    fn ready(to: &str, zone: &str) -> Plan {
        Plan::Ready { from: name("pg1"), to: name(to), zone: zone.to_owned(), warnings: Vec::new() }
    }

    #[test]
    fn the_best_standby_that_is_surely_elsewhere_is_to_lead() {
        let (a, b, c) = (Some("a"), Some("b"), Some("c"));
        for (members, to, expected) in [
            (&[("pg1", a, 0), ("pg2", a, 0), ("pg3", b, 4096)][..], None, ready("pg3", "b")),
            (&[("pg1", a, 0), ("pg2", b, 4096), ("pg3", c, 0)], None, ready("pg3", "c")),
            (&[("pg1", a, 0), ("pg2", b, 4096), ("pg3", c, 0)], b, ready("pg2", "b")),
            (&[("pg1", a, 0), ("pg2", None, 0), ("pg3", b, 9)], None, ready("pg3", "b")),
            (&[("pg1", b, 0), ("pg2", a, 0)], None, Plan::Elsewhere),
            (&[("pg1", None, 0), ("pg2", b, 0)], None, Plan::Unzoned(name("pg1"))),
        ] {
            assert_eq!(plan(members, to), expected, "{members:?} to {to:?}");
        }
    }

    #[test]
    fn what_forbids_it_is_told() {
        let refused = |plan| match plan {
            Plan::Refused { to, why, .. } => (to, why),
            other => panic!("{other:?}"),
        };
        let (a, b) = (Some("a"), Some("b"));
        let (to, why) = refused(plan(&[("pg1", a, 0), ("pg2", a, 0), ("pg3", None, 0)], None));
        assert_eq!((to, why.as_str()), (None, "no member is registered in another zone than a"));
        let (_, why) = refused(plan(&[("pg1", a, 0), ("pg2", b, 0)], Some("c")));
        assert_eq!(why, "no member is registered in zone c");
        let (to, why) = refused(plan(&[("pg1", a, 0), ("pg2", b, 64 << 20)], None));
        assert!(to == Some(name("pg2")) && why.contains("64.0 MB"), "{why}");

        let (_, mut snapshot) = seen(&[("pg1", a, 0), ("pg2", b, 0)]);
        snapshot.config.pause = Some(PauseRecord { until: None, by: None, reason: None });
        let world = World { etcd: Ok(snapshot.clone()), agents: BTreeMap::new(), me: name("pg1"), under_way: None };
        let zones = Zones { from: "a".to_owned(), to: None, ignore_hold: false };
        assert!(refused(zones.plan(&world, &snapshot, Timestamp::now())).1.contains("paused"));
        snapshot.cluster.leader = None;
        assert_eq!(zones.plan(&world, &snapshot, Timestamp::now()), Plan::Leaderless);
    }
}
