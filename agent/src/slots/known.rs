//! What is known of the replication slots of this node, and how it is told: by a leader to the others, and to people with what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use decision::names::{Lsn, MemberName};
use decision::reason::{bytes, span};
use decision::slots::{Kind, Made, Published, Slot, SlotName};
use serde_json::{Value, json};

/// What is known of the slots of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// All of them.
    pub here: Vec<Slot>,
    /// Those by which members can stream from here.
    pub usable: BTreeSet<SlotName>,
    /// Those that are to be here, and for whom.
    pub wanted: BTreeMap<SlotName, Made>,
    /// Logical ones that an operator wants and that are not here yet.
    pub not_copied: BTreeSet<SlotName>,
    /// Postgres itself keeps logical slots alike.
    pub native: bool,
    /// What could not be done about one, in words.
    pub failed: BTreeMap<SlotName, String>,
    /// For how long nobody has used one, as far as this life of the agent has seen.
    pub unused_for: BTreeMap<SlotName, Duration>,
    /// What is free on the disk.
    pub free_bytes: Option<u64>,
}

impl Known {
    /// What a leader tells of them, whose WAL ends at `flushed`: also of those whose members are away.
    pub fn to_publish(&self, me: &MemberName, flushed: Lsn) -> Option<Published> {
        let for_whom = |slot: &Slot| self.wanted.get(&slot.name).copied().or(slot.made);
        let kept = self.here.iter().filter(|slot| for_whom(slot).is_some());
        let mut positions: BTreeMap<SlotName, Lsn> =
            kept.clone().filter_map(|slot| Some((slot.name.clone(), slot.confirmed.or(slot.restart)?))).collect();
        let of_members = kept.filter(|slot| for_whom(slot) == Some(Made::Member));
        let for_members: BTreeSet<SlotName> = of_members.map(|slot| slot.name.clone()).collect();
        if positions.is_empty() && for_members.is_empty() {
            return None;
        }
        positions.insert(SlotName::of(me), flushed);
        Some(Published { positions, for_members })
    }

    /// Each of them, for people and programs.
    pub fn to_json(&self) -> Vec<Value> {
        let tell = |slot: &Slot| {
            let (kind, database, plugin) = match &slot.kind {
                Kind::Physical => ("physical", None, None),
                Kind::Logical { database, plugin } => ("logical", Some(database), Some(plugin)),
            };
            json!({
                "name": slot.name, "type": kind, "database": database, "plugin": plugin, "active": slot.active,
                "restart_lsn": slot.restart.map(|at| at.to_string()),
                "confirmed_flush_lsn": slot.confirmed.map(|at| at.to_string()),
                "catalog_xmin": slot.catalog_xmin, "retained_bytes": slot.retained_bytes, "lost": slot.lost, "made_for": slot.made,
                "failover": slot.failover, "synced": slot.synced, "unused_s": self.unused_for.get(&slot.name).map(Duration::as_secs),
            })
        };
        self.here.iter().map(tell).collect()
    }

    /// What is wrong with them, and what to do about it.
    pub fn problems(&self, me: &MemberName) -> Vec<Value> {
        let problem =
            |code: &str, problem: String, hint: String| json!({"code": code, "problem": problem, "hint": hint});
        let failed = self.failed.iter().map(|(name, why)| {
            let hint = match why.contains("wal_level") {
                true => "pgvigil config set -p wal_level=logical, then pgvigil restart --rolling",
                false => {
                    "where all slots are in use: pgvigil config set -p max_replication_slots=20, then pgvigil restart --rolling"
                }
            };
            problem("slot_failed", format!("the slot {name} is not as it should be: {why}"), hint.to_owned())
        });
        let lost = self.here.iter().filter(|slot| slot.lost && slot.made.is_none()).map(|slot| {
            let told =
                format!("the slot {} has lost WAL that was not taken yet, and keeps nothing any more", slot.name);
            let hint = format!("whoever reads by it must begin anew: SELECT pg_drop_replication_slot('{}')", slot.name);
            problem("slot_lost", told, hint)
        });
        let unused = |slot: &Slot| self.unused_for.get(&slot.name).copied();
        let much = self.here.iter().filter(|slot| slot.holds_too_much(self.free_bytes, unused(slot))).map(|slot| {
            let free = self.free_bytes.map_or_else(String::new, |free| format!("; {} are free", bytes(free)));
            let unused = unused(slot)
                .map_or_else(String::new, |unused| format!(", and nobody has used it for {}", span(unused)));
            let told = format!("the slot {} holds {} of WAL{unused}{free}", slot.name, bytes(slot.retained_bytes));
            problem("slot_holds_wal", told, mend(slot))
        });
        let not_copied = self.not_copied.iter().map(|name| {
            let told = format!("the logical slot {name} is not here yet: were this node to lead, it would begin anew");
            let hint = match self.native {
                false => format!("it is copied when Postgres is started here: pgvigil restart {me}"),
                true => "Postgres takes it over once whoever reads by it has gone on a little, this node has a slot at the leader, and pg_hba.conf there lets pgvigil_replication into the database".to_owned(),
            };
            problem("slot_not_copied", told, hint)
        });
        failed.chain(lost).chain(much).chain(not_copied).collect()
    }
}

fn mend(slot: &Slot) -> String {
    let name = &slot.name;
    match slot.made {
        Some(Made::Member) => format!(
            "bring its member back; once that is not registered any more its slot goes after slots.absent_for, at once by: SELECT pg_drop_replication_slot('{name}')"
        ),
        Some(Made::Permanent | Made::Copied) => {
            format!("let whoever reads by it go on, or take it out: pgvigil config set --unset slots.permanent.{name}")
        }
        None => format!("let whoever reads by it go on, or: SELECT pg_drop_replication_slot('{name}')"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> SlotName {
        SlotName::new(text).unwrap()
    }

    fn slot(text: &str, made: Option<Made>) -> Slot {
        Slot {
            name: name(text),
            kind: Kind::Physical,
            active: false,
            restart: Some(Lsn(7)),
            confirmed: None,
            catalog_xmin: None,
            has_xmin: false,
            lost: false,
            failover: false,
            synced: false,
            retained_bytes: 0,
            made,
        }
    }

    #[test]
    fn a_leader_tells_of_the_slots_of_members_who_are_away_and_of_nobody_elses() {
        let here = vec![
            slot("away", Some(Made::Member)),
            slot("backup", None),
            slot("dr", Some(Made::Permanent)),
            Slot { restart: None, ..slot("n2", None) },
        ];
        let wanted = [(name("n2"), Made::Member), (name("dr"), Made::Permanent)].into();
        let known = Known { here, wanted, ..Known::default() };
        let told = known.to_publish(&MemberName::new("N-1").unwrap(), Lsn(9)).unwrap();
        assert_eq!(told.for_members, [name("away"), name("n2")].into());
        assert_eq!(told.positions, [(name("away"), Lsn(7)), (name("dr"), Lsn(7)), (name("n_1"), Lsn(9))].into());
        assert_eq!(Known::default().to_publish(&MemberName::new("n1").unwrap(), Lsn(9)), None);
    }

    #[test]
    fn what_is_wrong_with_slots_is_told_with_its_mend() {
        let holds = |slot: Slot| Slot { retained_bytes: 3 << 30, ..slot };
        let here = vec![
            holds(slot("dr", Some(Made::Permanent))),
            holds(slot("n3", Some(Made::Member))),
            Slot { lost: true, ..slot("cdc", None) },
            slot("fine", None),
        ];
        let unused_for = [(name("n3"), Duration::from_secs(7200))].into();
        let failed = [(name("n4"), "all replication slots are in use".to_owned())].into();
        let (not_copied, me) = ([name("feed")].into(), MemberName::new("n1").unwrap());
        let known = Known { here, failed, unused_for, not_copied, free_bytes: Some(4 << 30), ..Known::default() };
        let told: Vec<String> = known
            .problems(&me)
            .iter()
            .map(|one| format!("{} {} {}", one["code"], one["problem"], one["hint"]))
            .collect();
        for (one, expected) in told.iter().zip([
            ["slot_failed", "n4", "max_replication_slots"],
            ["slot_lost", "cdc", "begin anew"],
            ["slot_holds_wal", "dr holds 3.0 GB of WAL; 4.0 GB are free", "--unset slots.permanent.dr"],
            ["slot_holds_wal", "nobody has used it for 120 min", "bring its member back"],
            ["slot_not_copied", "feed", "pgvigil restart n1"],
        ]) {
            assert!(expected.iter().all(|part| one.contains(part)), "{one}: {expected:?}");
        }
        assert_eq!(told.len(), 5);
        assert_eq!(known.to_json()[1]["unused_s"], 7200);
    }
}
