//! Which Postgres is restarted after which, when parameters wait for that or all are to be. A standby goes before the leader, so that values with
//! which no server starts are found where no write waits; save for a capacity that is to become less. That one the leader takes first and where it
//! is: a standby keeps it for as long as its leader has it, so whoever a switchover made the leader would have it, too.

use std::collections::BTreeMap;

use crate::names::MemberName;
use crate::parameters::{CAPACITIES, Capacities};

/// Parameters that wait for a restart: what each is, and what it will be.
pub type Pending = BTreeMap<String, (String, String)>;

/// A member whose Postgres runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What a restart would change.
    pub pending: Pending,
    /// What its server runs with of what a standby must not have less of than its primary.
    pub capacities: Capacities,
}

/// One restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Of a standby.
    Standby(MemberName),
    /// Of the leader, while nobody writes.
    InPlace(MemberName),
    /// Of the leader by a switchover, after which it is a standby.
    SwitchOver(MemberName),
}

/// One restart after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the leader must take less of before the standbys may.
    pub lowered: Vec<String>,
    /// The restarts.
    pub steps: Vec<Step>,
}

impl Step {
    /// Who is restarted.
    pub fn member(&self) -> &MemberName {
        match self {
            Step::Standby(name) | Step::InPlace(name) | Step::SwitchOver(name) => name,
        }
    }
}

/// What waits on each member for a restart: what its own would change, and what comes once others have been restarted.
pub fn waiting(leader: Option<&MemberName>, nodes: &BTreeMap<MemberName, Node>) -> BTreeMap<MemberName, Pending> {
    let mut all: BTreeMap<MemberName, Pending> =
        nodes.iter().map(|(name, node)| (name.clone(), node.pending.clone())).collect();
    let Some((leader, leading)) = leader.and_then(|leader| nodes.get_key_value(leader)) else { return all };
    for (name, node) in nodes.iter().filter(|(name, _)| *name != leader) {
        for (capacity, then) in capacities(&node.pending, |now, then| then > now) {
            let Some(now) = leading.capacities.get(capacity).filter(|now| **now < then) else { continue };
            let of_leader = all.entry(leader.clone()).or_default();
            of_leader.entry(capacity.to_owned()).or_insert_with(|| (now.to_string(), then.to_string()));
        }
        for (capacity, then) in capacities(&leading.pending, |now, then| then < now) {
            let Some(now) = node.capacities.get(capacity).filter(|now| **now > then) else { continue };
            let of_standby = all.entry(name.clone()).or_default();
            of_standby.insert(capacity.to_owned(), (now.to_string(), then.to_string()));
        }
    }
    all
}

/// The restarts that bring everything that waits into force, or those of `all` members. Nothing waits: none.
pub fn plan(leader: &MemberName, nodes: &BTreeMap<MemberName, Node>, all: bool) -> Plan {
    let waits = waiting(Some(leader), nodes);
    let pending = nodes.get(leader).map(|node| lowered(&node.pending)).unwrap_or_default();
    let (lowers, standbys) = (!pending.is_empty(), || nodes.iter().filter(|(name, _)| *name != leader));
    let first = standbys().filter(|(_, node)| !node.pending.is_empty() || (all && !lowers));
    let mut steps: Vec<Step> = first.map(|(name, _)| Step::Standby(name.clone())).collect();
    if lowers {
        steps.push(Step::InPlace(leader.clone()));
        let waits_for_less =
            |name| waits.get(name).is_some_and(|waits| pending.iter().any(|capacity| waits.contains_key(capacity)));
        let last = standbys().filter(|(name, _)| all || waits_for_less(name));
        steps.extend(last.map(|(name, _)| Step::Standby(name.clone())));
    } else if all || waits.get(leader).is_some_and(|waits| !waits.is_empty()) {
        steps.push(Step::SwitchOver(leader.clone()));
    }
    Plan { lowered: pending, steps }
}

/// The capacities that are to become less.
pub fn lowered(pending: &Pending) -> Vec<String> {
    capacities(pending, |now, then| then < now).map(|(name, _)| name.to_owned()).collect()
}

/// The capacities that are to change in this way, and what they will be.
fn capacities(pending: &Pending, fits: impl Fn(u64, u64) -> bool) -> impl Iterator<Item = (&'static str, u64)> {
    CAPACITIES.into_iter().filter_map(move |(name, _)| {
        let (now, then) = pending.get(name)?;
        let (now, then) = (now.trim().parse().ok()?, then.trim().parse().ok()?);
        fits(now, then).then_some((name, then))
    })
}
