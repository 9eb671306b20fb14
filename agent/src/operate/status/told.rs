//! Problems that the agents tell of themselves, in their own words: settings made by SQL against what is promised, and parameters that do
//! not come to be.

use consensus::Snapshot;
use jiff::Timestamp;
use serde_json::Value;

use super::super::orders;
use super::super::world::World;
use super::problems::{CORRUPT, FORBIDDEN, OVERRULED, Trouble};

/// The cluster's settings say what only a node's file may.
const IGNORED: &str = "parameter_ignored";
/// The cluster's rules for connections are not in force.
const ACCESS: &str = "access_rejected";
/// A certificate ends soon, or has.
const CERTIFICATE: &str = "certificate_ends";
/// Postgres does not take a parameter.
const REJECTED: &str = "parameters_rejected";

/// What an operator has set by SQL against what is promised, in the words of the leader's agent.
pub fn overruled(why: &Value) -> Vec<Trouble> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or("unknown").to_owned();
    let told = why["overruled"].as_array().into_iter().flatten();
    told.map(|one| {
        let code = if one["code"] == FORBIDDEN { FORBIDDEN } else { OVERRULED };
        Trouble::new(code, text(one, "problem"), text(one, "hint"))
    })
    .collect()
}

/// What the leader's agent cannot understand of what is no part of the picture: records of transitions, earlier settings, passwords.
pub fn beside(world: &World, snapshot: &Snapshot) -> Vec<Trouble> {
    let told = world.leader_answer().and_then(|leader| leader.why["problems"].as_array());
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or("unknown").to_owned();
    let prefixes = ["/transitions/", "/config_history/", "/secrets/"];
    let told = told.into_iter().flatten().map(|one| (text(one, "key"), text(one, "why")));
    let news = told.filter(|(key, _)| prefixes.iter().any(|prefix| key.contains(prefix)));
    let news = news.filter(|(key, _)| !snapshot.problems.iter().any(|problem| problem.key == *key));
    news.map(|(key, why)| {
        let hint = format!("etcdctl get {key}");
        Trouble::new(CORRUPT, format!("the value of {key} cannot be understood: {why}"), hint)
    })
    .collect()
}

/// Orders that their nodes have not taken up.
pub fn orders(world: &World, now: Timestamp) -> Vec<Trouble> {
    let Ok(snapshot) = &world.etcd else { return Vec::new() };
    let orders = snapshot.order_records.iter();
    let told = orders.filter_map(|(of, order)| Some((orders::waits(snapshot, of, now)?, orders::way_back(order, of))));
    told.map(|(waits, way_back)| Trouble::new("order_pending", waits, way_back)).collect()
}

/// What agents say of their replication slots.
pub fn slots(world: &World) -> Vec<Trouble> {
    const CODES: [&str; 4] = ["slot_holds_wal", "slot_lost", "slot_failed", "slot_not_copied"];
    let mut found = Vec::new();
    for (name, answer) in world.answers() {
        for one in answer.why["slot_problems"].as_array().into_iter().flatten() {
            let text = |key: &str| one[key].as_str().unwrap_or("unknown");
            let code = CODES.into_iter().find(|code| one["code"] == *code);
            found.extend(code.map(|code| Trouble::new(code, format!("{name}: {}", text("problem")), text("hint"))));
        }
    }
    found
}

/// What agents say of certificates that end soon, or have.
pub fn certificates(world: &World) -> Vec<Trouble> {
    let mut found = Vec::new();
    for (name, answer) in world.answers() {
        let told = answer.why["certificates"].as_array().into_iter().flatten();
        found.extend(told.map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or("unknown");
            Trouble::new(CERTIFICATE, format!("{name}: {}", text("problem")), text("hint"))
        }));
    }
    found
}

/// What agents say of parameters of Postgres, and of rules for connections, that do not come to be, each once.
pub fn parameters(world: &World) -> Vec<Trouble> {
    let mut found: Vec<Trouble> = Vec::new();
    for (name, answer) in world.answers() {
        for one in answer.why["parameters"].as_array().into_iter().flatten() {
            let (problem, hint) =
                (one["problem"].as_str().unwrap_or("unknown"), one["hint"].as_str().unwrap_or("unknown"));
            // What the cluster's settings must not say is the same everywhere; what Postgres does not take need not be.
            let trouble = match one["code"].as_str() {
                Some(IGNORED) => Trouble::new(IGNORED, problem, hint),
                Some(ACCESS) => Trouble::new(ACCESS, format!("{name}: {problem}"), hint),
                _ => Trouble::new(REJECTED, format!("{name}: {problem}"), hint),
            };
            if !found.contains(&trouble) {
                found.push(trouble);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use consensus::records::OrderRecord;

    use super::*;
    use crate::operate::testing::{name, standby};

    #[test]
    fn an_order_that_waits_is_told_with_whose_it_is_since_when_for_what_and_how_it_is_taken_back() {
        let order = |order: &str| OrderRecord {
            order: order.to_owned(),
            requested_by: "anna@db1".to_owned(),
            given_at: Some("2026-11-28T23:10:02.5Z".to_owned()),
            ..OrderRecord::default()
        };
        let told = |snapshot: &Snapshot| {
            let etcd = Ok(snapshot.clone());
            let world = World { etcd, agents: BTreeMap::new(), me: name("pg1"), under_way: None };
            orders(&world, Timestamp::now())
        };
        let mut snapshot = Snapshot::default();
        assert_eq!(told(&snapshot), []);
        snapshot.order_records.insert(name("pg2"), order("reinit"));
        let away = "reinit of pg2 by anna@db1 waits since 2026-11-28 23:10:02Z: the agent of pg2 is not registered";
        let way_back = "to take it back: pgvigil reinit pg2 --cancel";
        assert_eq!(told(&snapshot), [Trouble::new("order_pending", away, way_back)]);
        snapshot.order_records.insert(name("pg2"), order("reload"));
        assert!(told(&snapshot)[0].hint.contains("taken up when the agent of pg2 is back"));
        snapshot.cluster.members.insert(name("pg2"), standby("pg2"));
        snapshot.hold = consensus::records::Hold::Unreadable("nonsense".to_owned());
        snapshot.order_records.insert(name("pg2"), order("restart"));
        assert!(told(&snapshot)[0].problem.contains("planned actions are held"), "{:?}", told(&snapshot));
    }
}
