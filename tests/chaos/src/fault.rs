//! The faults by their names: which blows, on whom, when, and how long they last before they are made good. The table is the list of what
//! is tested; `make chaos FAULT=name` runs one of them.

use std::time::Duration;

use crate::blow::{Blow, ms};

/// Whom a blow hits, as it was when the fault began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The primary.
    Primary,
    /// A standby that streams.
    Replica,
}

/// One blow of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub blow: Blow,
    /// On whom.
    pub target: Target,
    /// When after the step before it, at the earliest and at the latest: each run takes another moment of the span.
    pub after: (Duration, Duration),
}

/// When writes must be back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// While the fault lasts.
    ByItself,
    /// Once it is made good.
    Mended,
    /// They never stop: a leader that has lost etcd goes on by its peers' promises.
    Undisturbed,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name.
    pub name: String,
    /// Its blows, in their order.
    pub steps: Vec<Step>,
    /// How long it lasts at least.
    pub lasts: Duration,
    /// When writes must be back.
    pub back: Back,
}

impl Fault {
    /// Whether each node needs a volume of its own for it.
    pub fn needs_volumes(&self) -> bool {
        self.steps.iter().any(|step| step.blow.needs_volumes())
    }
}

const AT_ONCE: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

fn one(name: &str, blow: Blow, target: Target, lasts_ms: u64) -> Fault {
    let steps = vec![Step { blow, target, after: AT_ONCE }];
    Fault { name: name.to_owned(), steps, lasts: ms(lasts_ms), back: Back::ByItself }
}

fn two(name: &str, first: (Blow, Target), after_ms: (u64, u64), second: (Blow, Target), lasts_ms: u64) -> Fault {
    let mut fault = one(name, first.0, first.1, lasts_ms);
    fault.steps.push(Step { blow: second.0, target: second.1, after: (ms(after_ms.0), ms(after_ms.1)) });
    fault
}

fn once_mended(fault: Fault) -> Fault {
    Fault { back: Back::Mended, ..fault }
}

fn undisturbed(fault: Fault) -> Fault {
    Fault { back: Back::Undisturbed, ..fault }
}

/// All faults that have a name. Those that reach beyond a lease (5 s) last long enough for it to end.
pub fn all() -> Vec<Fault> {
    use Blow::*;
    use Target::{Primary, Replica};
    vec![
        one("switchover", SwitchOver, Primary, 1000),
        one("postmaster-killed", KillPostmaster, Primary, 1000),
        one("postgres-killed", KillPostgres, Primary, 1000),
        one("agent-restarted", RestartAgent, Primary, 6000),
        one("agent-dead", KillAgent, Primary, 9000),
        one("agent-stopped", StopAgent, Primary, 9000),
        one("agent-and-fencer-dead", KillAgentAndFencer, Primary, 9000),
        one("agent-frozen", FreezeAgent, Primary, 9000),
        one("power-lost", PowerOff, Primary, 1500),
        one("isolated", Isolate, Primary, 7000),
        undisturbed(one("cut-from-etcd", CutFromEtcd, Primary, 9000)),
        one("cut-from-replicas", CutFromNodes, Primary, 7000),
        one("cut-inwards", CutIn, Primary, 7000),
        one("cut-outwards", CutOut, Primary, 7000),
        one("large-packets-lost", SwallowLarge, Primary, 20_000),
        one("postgres-frozen", FreezePostgres, Primary, 1500),
        one("host-frozen", FreezeHost, Primary, 1500),
        one("host-frozen-long", FreezeHost, Primary, 8000),
        one("etcd-leader-killed", KillEtcdLeader, Primary, 6000),
        undisturbed(one("etcd-lost", KillEtcd, Primary, 12_000)),
        one("disk-full", FillDisk, Primary, 6000),
        one("disk-frozen", FreezeDisk, Primary, 8000),
        one("replica-lost", PowerOff, Replica, 5000),
        one("replica-postgres-killed", KillPostgres, Replica, 1500),
        one("replica-frozen", FreezeHost, Replica, 5000),
        two("primary-and-etcd-leader", (KillEtcdLeader, Primary), (0, 0), (PowerOff, Primary), 8000),
        once_mended(two("disk-full-without-etcd", (CutFromEtcd, Primary), (3000, 5000), (FillDisk, Primary), 12_000)),
        once_mended(two("primary-and-replica", (PowerOff, Replica), (0, 0), (PowerOff, Primary), 3000)),
        once_mended(two("replica-lost-then-primary", (PowerOff, Replica), (2500, 2500), (PowerOff, Primary), 3000)),
        two("old-leader-lost-in-switchover", (SwitchOver, Primary), (50, 800), (PowerOff, Primary), 8000),
        two("candidate-lost-in-switchover", (SwitchOver, Primary), (50, 800), (PowerOff, Replica), 8000),
        two("isolated-in-switchover", (SwitchOver, Primary), (50, 800), (Isolate, Primary), 8000),
        once_mended(two("replica-lost-in-failover", (PowerOff, Primary), (100, 1000), (PowerOff, Replica), 4000)),
        two("replica-killed-in-failover", (KillPostmaster, Primary), (50, 500), (KillPostgres, Replica), 4000),
        two("etcd-leader-in-failover", (PowerOff, Primary), (100, 600), (KillEtcdLeader, Primary), 6000),
    ]
}

/// What no system can survive: the judgement is tested with it.
pub fn fatal() -> Vec<Fault> {
    let lasting = |name, blow, target| one(name, blow, target, 2000);
    vec![
        lasting("row-deleted", Blow::DeleteRow, Target::Primary),
        lasting("promoted-by-hand", Blow::PromoteByHand, Target::Replica),
    ]
}

/// The one of that name.
pub fn named(name: &str) -> Option<Fault> {
    all().into_iter().chain(fatal()).find(|fault| fault.name == name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let mut names: Vec<String> = all().into_iter().map(|fault| fault.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(named("isolated").unwrap().lasts, ms(7000));
        assert_eq!(named("no-such-fault"), None);
    }
}
