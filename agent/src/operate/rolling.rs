//! What waits for restarts, by what the members have registered: the facts for a rolling restart, and for whoever shows what waits.

use std::collections::BTreeMap;

use consensus::Snapshot;
use consensus::records::{ConfigRevision, MemberRecord, PendingChange};
use decision::names::MemberName;
use decision::rolling::{Node, Pending, lowered, waiting};
use decision::view::MemberRole;

/// What the record of a restart says whose server has not taken what is asked for, before the values.
pub const WITHOUT: &str = "runs again, but without";

/// Parameters with values that a server does not take.
pub type Refused = BTreeMap<String, String>;

/// The members whose Postgres runs.
pub fn nodes(snapshot: &Snapshot) -> BTreeMap<MemberName, Node> {
    running(snapshot)
        .map(|(name, record)| {
            let pending = record.pending_restart_reason.iter();
            let pending = pending.map(|(name, one)| (name.clone(), (one.old_value.clone(), one.new_value.clone())));
            (name.clone(), Node { pending: pending.collect(), capacities: record.capacities.clone() })
        })
        .collect()
}

/// What waits on each of them for a restart, its own or that of others first.
pub fn waits(snapshot: &Snapshot) -> BTreeMap<MemberName, Pending> {
    waiting(snapshot.cluster.leader.as_ref(), &nodes(snapshot))
}

/// What waits on this member, in Patroni's words.
pub fn pending(snapshot: &Snapshot, name: &MemberName) -> BTreeMap<String, PendingChange> {
    let changes = waits(snapshot).remove(name).unwrap_or_default();
    changes.into_iter().map(|(name, (old_value, new_value))| (name, PendingChange { old_value, new_value })).collect()
}

/// Those who have not taken the settings up as they are, and so cannot say what waits.
pub fn not_settled(snapshot: &Snapshot) -> Vec<MemberName> {
    let settled = |record: &MemberRecord| {
        record.parameters.as_ref().is_some_and(|known| known.config_revision == snapshot.config_revision)
    };
    running(snapshot).filter(|(_, record)| !settled(record)).map(|(name, _)| name.clone()).collect()
}

/// What the Postgres of each member does not take, or did not start with.
pub fn refused(snapshot: &Snapshot) -> BTreeMap<MemberName, Refused> {
    let told = |record: &MemberRecord| record.parameters.as_ref().map(|known| known.refused.clone());
    let each = running(snapshot).filter_map(|(name, record)| Some((name.clone(), told(record)?)));
    each.filter(|(_, refused)| !refused.is_empty()).collect()
}

/// The member that has refused a value which still waits for others.
pub fn would_be_carried_on(snapshot: &Snapshot) -> Option<(MemberName, Refused)> {
    let nodes = nodes(snapshot);
    let waits = |name: &String| nodes.values().any(|node| node.pending.contains_key(name));
    refused(snapshot).into_iter().find(|(_, refused)| refused.keys().any(waits))
}

/// The command that takes these values back.
pub fn mend(refused: &Refused, history: &[ConfigRevision]) -> String {
    let asks = |row: &ConfigRevision, (name, value): (&String, &String)| {
        row.config["postgresql"]["parameters"][name].as_str() == Some(value)
    };
    let newest = history.last();
    if !newest.is_some_and(|row| refused.iter().all(|one| asks(row, one))) {
        let names: Vec<&str> = refused.keys().map(String::as_str).collect();
        return format!("another value of {}, in the settings of the cluster or the node's file", names.join(", "));
    }
    let before = history.iter().rev().find(|row| !refused.iter().any(|one| asks(row, one)));
    match before {
        Some(row) => format!("pgvigil config rollback {}", row.number),
        None => {
            let names = refused.keys().map(|name| format!(" --unset postgres.parameters.{name}"));
            format!("pgvigil config set{}", names.collect::<String>())
        }
    }
}

/// `max_connections 100 -> 150, work_mem 4MB -> 8MB`.
pub fn in_words(pending: &Pending) -> String {
    let changes: Vec<String> = pending.iter().map(|(name, (now, then))| format!("{name} {now} -> {then}")).collect();
    changes.join(", ")
}

/// `shared_buffers = 900GB`.
pub fn values(refused: &Refused) -> String {
    refused.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", ")
}

/// What of this member's waits for others first: on the leader what is raised, on a standby what is lowered.
pub fn after_others(snapshot: &Snapshot, name: &MemberName) -> Option<String> {
    let mine = nodes(snapshot).remove(name).unwrap_or_default().pending;
    let later: Pending =
        waits(snapshot).remove(name)?.into_iter().filter(|(one, change)| mine.get(one) != Some(change)).collect();
    let first = if lowered(&later).is_empty() { "the standbys" } else { "the leader" };
    (!later.is_empty()).then(|| format!("{} comes after {first}: pgvigil restart --pending", in_words(&later)))
}

fn running(snapshot: &Snapshot) -> impl Iterator<Item = (&MemberName, &MemberRecord)> {
    let runs = |name| {
        let member = snapshot.cluster.members.get(name);
        member.is_some_and(|member| matches!(member.role, MemberRole::Primary | MemberRole::Standby))
    };
    snapshot.member_records.iter().filter(move |(name, _)| runs(*name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::records::Configured;
    use serde_json::json;

    use super::*;
    use crate::operate::testing::{name, standby};

    fn refuses(memory: &str) -> Refused {
        [("shared_buffers".to_owned(), memory.to_owned())].into()
    }

    /// `pg1` leads, and the settings have been changed to revision 7.
    fn cluster() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.config_revision = 7;
        snapshot.cluster.leader = Some(name("pg1"));
        for one in ["pg1", "pg2", "pg3"] {
            let known = Configured { config_revision: 7, postmaster: 1, ..Configured::default() };
            let capacities = [("max_connections".to_owned(), 100)].into();
            let record = MemberRecord { parameters: Some(known), capacities, ..MemberRecord::default() };
            snapshot.member_records.insert(name(one), record);
            snapshot.cluster.members.insert(name(one), standby(one));
        }
        snapshot
    }

    fn change(snapshot: &mut Snapshot, of: &str, what: &str, now: &str, then: &str) {
        let change = PendingChange { old_value: now.to_owned(), new_value: then.to_owned() };
        let record = snapshot.member_records.get_mut(&name(of)).unwrap();
        record.pending_restart_reason.insert(what.to_owned(), change);
    }

    #[test]
    fn the_leader_waits_from_the_start_for_what_comes_after_the_standbys() {
        let mut seen = cluster();
        change(&mut seen, "pg2", "max_connections", "100", "150");
        assert_eq!(pending(&seen, &name("pg1"))["max_connections"].new_value, "150");
        assert!(pending(&seen, &name("pg3")).is_empty());
        let later = after_others(&seen, &name("pg1")).unwrap();
        assert_eq!(later, "max_connections 100 -> 150 comes after the standbys: pgvigil restart --pending");
        assert_eq!(after_others(&seen, &name("pg2")), None);
        let mut seen = cluster();
        change(&mut seen, "pg1", "max_connections", "100", "50");
        let later = after_others(&seen, &name("pg2")).unwrap();
        assert_eq!(later, "max_connections 100 -> 50 comes after the leader: pgvigil restart --pending");
    }

    #[test]
    fn who_has_not_taken_the_settings_up_is_waited_for_and_what_one_refused_is_not_carried_on() {
        let mut seen = cluster();
        assert!(not_settled(&seen).is_empty());
        seen.config_revision = 8;
        seen.member_records.get_mut(&name("pg3")).unwrap().parameters = None;
        seen.member_records.get_mut(&name("pg2")).unwrap().parameters =
            Some(Configured { config_revision: 8, postmaster: 1, refused: refuses("900GB") });
        assert_eq!(not_settled(&seen), [name("pg1"), name("pg3")]);
        assert_eq!(would_be_carried_on(&seen), None, "nobody else waits for it");
        change(&mut seen, "pg3", "shared_buffers", "128MB", "900GB");
        assert_eq!(would_be_carried_on(&seen), Some((name("pg2"), refuses("900GB"))));
        seen.cluster.members.get_mut(&name("pg2")).unwrap().role = MemberRole::Down;
        assert_eq!(would_be_carried_on(&seen), None, "what a dead one refused says nothing of those that live");
    }

    #[test]
    fn the_way_back_is_the_newest_state_without_what_was_refused() {
        let row = |number, memory: Option<&str>| ConfigRevision {
            number,
            config: json!({"postgresql": {"parameters": {"shared_buffers": memory, "work_mem": "8MB"}}}),
            ..ConfigRevision::default()
        };
        let bad = refuses("900GB");
        for (history, expected) in [
            (vec![row(3, Some("1GB")), row(4, Some("900GB"))], "pgvigil config rollback 3"),
            (vec![row(3, None), row(4, Some("900GB")), row(5, Some("900GB"))], "pgvigil config rollback 3"),
            (vec![row(1, Some("900GB"))], "pgvigil config set --unset postgres.parameters.shared_buffers"),
            (vec![row(1, None)], "another value of shared_buffers, in the settings of the cluster or the node's file"),
            (vec![], "another value of shared_buffers, in the settings of the cluster or the node's file"),
        ] {
            assert_eq!(mend(&bad, &history), expected);
        }
    }
}
