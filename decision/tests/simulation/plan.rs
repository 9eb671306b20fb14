//! What is to happen to a cluster: a value drawn from a seed, so that it can be printed, shortened and played again.

use decision::settings::Mode;
use fastrand::Rng;

use crate::time::{MS, Micros, SECOND};
use crate::world::At;

/// Whom a fault strikes: a certain node, or whoever leads at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Node(At),
    Leader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The postmaster alone is killed: its backends go on committing.
    PostmasterKilled(Who),
    /// Every Postgres process is killed.
    PostgresKilled(Who),
    /// The agent is killed, and started again when the fault is over.
    AgentKilled(Who),
    /// Power loss: what was not flushed is gone.
    PowerLost(Who),
    /// Power loss, and an empty disk afterwards.
    DiskLost(Who),
    /// Every process of the host stands still while its clock goes on.
    HostFrozen(Who),
    /// The virtual machine stands still, its clock as well.
    MachinePaused(Who),
    AgentFrozen(Who),
    PostgresFrozen(Who),
    /// Neither hears nor is heard.
    Isolated(Who),
    CutFromEtcd(Who),
    /// What it sends to the other nodes is lost, what they send arrives.
    Mute(Who),
    /// What the other nodes send to it is lost.
    Deaf(Who),
    /// One link, in one direction.
    Cut(At, At),
    EtcdElection,
    EtcdGone,
    /// etcd comes back as it was at the beginning.
    EtcdRestored,
    /// Writes to etcd are applied, and so many of a hundred answers are lost.
    AnswersLost(u8),
    /// Answers of etcd take up to as long as anybody waits for them.
    AnswersLate,
    /// Its questions to etcd arrive when it does not wait for the answer any more.
    QuestionsLate(Who),
    /// Its questions to etcd are held up on the way for so many seconds.
    QuestionsHeldUp(Who, u64),
    /// Whatever address the first one's Postgres looks up, it reaches the second.
    Misled(At, At),
    SlowDisk(Who),
    /// Its disk takes no write, and says nothing.
    DiskFrozen(Who),
    /// Writes to its disk fail.
    DiskFailing(Who),
    /// Its disk is about to fill, and full after half the time.
    DiskFilling(Who),
    SlowActions(Who),
    /// A reader holds up replay.
    Reader(Who),
    /// Somebody promotes its Postgres behind the agent's back.
    PromotedByHand(At),
    Switchover(Option<At>),
    Failover(Option<At>),
    /// A failover with `--accept-data-loss`.
    Forced(Option<At>),
    ClusterPaused,
    Policy(Mode, u32),
    /// The node is tagged `nofailover` from here on.
    MayNotLead(At),
    /// The node leaves with its agent, and comes back when the fault is over.
    Leaves(At),
    /// It leaves, and an operator takes it out of the cluster; it comes back all the same when the fault is over.
    Removed(At),
}

/// A fault, when it comes and for how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub at: Micros,
    pub lasts: Micros,
    pub fault: Fault,
}

impl Planned {
    /// Whether it may cost a leader the lead when it is all that befalls the cluster. What is over before anybody acts, what one voter
    /// sees and another denies, and what an agent's next life adopts in time may not.
    pub fn may_move_the_lead(&self, nodes: usize) -> bool {
        match self.fault {
            Fault::Cut(..) | Fault::Misled(..) => nodes == 2,
            Fault::AgentKilled(_)
            | Fault::AgentFrozen(_)
            | Fault::CutFromEtcd(_)
            | Fault::QuestionsLate(_)
            | Fault::QuestionsHeldUp(..)
            | Fault::DiskFrozen(_) => self.lasts > 2 * SECOND,
            Fault::HostFrozen(_)
            | Fault::MachinePaused(_)
            | Fault::PostgresFrozen(_)
            | Fault::Isolated(_)
            | Fault::Mute(_)
            | Fault::Deaf(_) => self.lasts > 250 * MS,
            Fault::EtcdElection
            | Fault::AnswersLate
            | Fault::SlowDisk(_)
            | Fault::SlowActions(_)
            | Fault::Reader(_)
            | Fault::PromotedByHand(_)
            | Fault::Failover(_)
            | Fault::Policy(..)
            | Fault::MayNotLead(_) => false,
            Fault::PostmasterKilled(_)
            | Fault::PostgresKilled(_)
            | Fault::PowerLost(_)
            | Fault::DiskLost(_)
            | Fault::DiskFailing(_)
            | Fault::DiskFilling(_)
            | Fault::EtcdGone
            | Fault::EtcdRestored
            | Fault::AnswersLost(_)
            | Fault::Switchover(_)
            | Fault::Forced(_)
            | Fault::ClusterPaused
            | Fault::Leaves(_)
            | Fault::Removed(_) => true,
        }
    }
}

/// One history to be simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where all delays come from.
    pub seed: u64,
    pub nodes: usize,
    pub mode: Mode,
    pub acknowledgers: u32,
    /// Mean time between two writes of a client at one node.
    pub write_every: Micros,
    pub wait_for_lease: bool,
    pub drift_ppm: Vec<i64>,
    /// How many times slower than the best each node's disk is.
    pub disks: Vec<u64>,
    /// Who is to stream from another standby, and from which.
    pub cascaded: Option<(At, At)>,
    pub faults: Vec<Planned>,
    /// When everything that is still broken is mended.
    pub healed_at: Micros,
}

impl Plan {
    /// A healthy cluster of three that nothing befalls.
    pub fn quiet(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            mode: Mode::Quorum,
            acknowledgers: 1,
            write_every: 60 * MS,
            wait_for_lease: false,
            drift_ppm: vec![0; 3],
            disks: vec![1; 3],
            cascaded: None,
            faults: Vec::new(),
            healed_at: 10 * SECOND,
        }
    }

    pub fn in_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds a fault, in milliseconds.
    pub fn with(mut self, at_ms: u64, lasts_ms: u64, fault: Fault) -> Self {
        self.faults.push(Planned { at: at_ms * MS, lasts: lasts_ms * MS, fault });
        self.healed_at = self.healed_at.max((at_ms + lasts_ms) * MS + SECOND);
        self
    }

    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5151);
        let nodes = pick(&mut dice, &[3, 3, 3, 3, 2, 5]);
        let mode = pick(&mut dice, &[Mode::Quorum, Mode::Quorum, Mode::Quorum, Mode::Strict, Mode::Async]);
        let acknowledgers = if nodes == 5 { dice.u32(1..=2) } else { 1 };
        let length = dice.u64(5..=20) * SECOND;
        let count = dice.usize(1..=6);
        let mut faults: Vec<Planned> = (0..count).map(|_| planned(&mut dice, nodes, length, mode)).collect();
        faults.sort_by_key(|planned| planned.at);
        at_most_one(&mut faults, |fault| matches!(fault, Fault::DiskLost(_)));
        let drift = |dice: &mut Rng| if dice.u8(0..3) == 0 { dice.i64(-10_000..=10_000) } else { dice.i64(-50..=50) };
        let mut draw = Rng::with_seed(seed ^ 0xCA5C_ADED);
        let cascaded = (nodes > 2 && draw.bool()).then(|| {
            let at = draw.usize(..nodes);
            (at, (at + draw.usize(1..nodes)) % nodes)
        });
        Self {
            seed,
            nodes,
            mode,
            acknowledgers,
            cascaded,
            write_every: pick(&mut dice, &[20, 60, 200]) * MS,
            wait_for_lease: dice.u8(0..8) == 0,
            drift_ppm: (0..nodes).map(|_| drift(&mut dice)).collect(),
            disks: (0..nodes).map(|_| pick(&mut dice, &[1, 1, 1, 5, 40])).collect(),
            faults,
            healed_at: length + 2 * SECOND,
        }
    }

    /// Whether any fault is of this kind.
    pub fn has(&self, of_kind: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|planned| of_kind(planned.fault))
    }
}

fn pick<T: Copy>(dice: &mut Rng, choices: &[T]) -> T {
    choices[dice.usize(..choices.len())]
}

fn at_most_one(faults: &mut Vec<Planned>, of_kind: impl Fn(Fault) -> bool) {
    let mut seen = false;
    faults.retain(|planned| !of_kind(planned.fault) || !std::mem::replace(&mut seen, true));
}

/// Some faults come close together: what is rare is two things at once.
fn planned(dice: &mut Rng, nodes: usize, length: Micros, mode: Mode) -> Planned {
    let fault = fault(dice, nodes, mode);
    let at = if dice.bool() { dice.u64(2 * SECOND..length) } else { 3 * SECOND + dice.u64(0..1_500) * MS };
    let lasts = match dice.u8(0..4) {
        0 => dice.u64(20..400) * MS,
        1 => dice.u64(400..3_000) * MS,
        2 => dice.u64(3_000..7_000) * MS,
        _ => dice.u64(5_000..12_000) * MS,
    };
    Planned { at, lasts, fault }
}

fn fault(dice: &mut Rng, nodes: usize, mode: Mode) -> Fault {
    let who = if dice.bool() { Who::Leader } else { Who::Node(dice.usize(..nodes)) };
    let node = dice.usize(..nodes);
    let to = if dice.bool() { Some(node) } else { None };
    let struck = [
        Fault::PostmasterKilled(who),
        Fault::PostgresKilled(who),
        Fault::PostgresKilled(who),
        Fault::AgentKilled(who),
        Fault::AgentKilled(who),
        Fault::PowerLost(who),
        Fault::PowerLost(who),
        Fault::PowerLost(who),
        Fault::DiskLost(who),
        Fault::HostFrozen(who),
        Fault::HostFrozen(who),
        if mode == Mode::Async { Fault::AgentFrozen(who) } else { Fault::MachinePaused(who) },
        Fault::AgentFrozen(who),
        Fault::PostgresFrozen(who),
        Fault::Isolated(who),
        Fault::Isolated(who),
        Fault::CutFromEtcd(who),
        Fault::Mute(who),
        Fault::Deaf(who),
        Fault::Cut(node, (node + dice.usize(1..nodes)) % nodes),
        Fault::EtcdElection,
        Fault::EtcdElection,
        Fault::EtcdGone,
        Fault::AnswersLost(dice.u8(20..100)),
        Fault::QuestionsLate(who),
        Fault::QuestionsHeldUp(who, dice.u64(1..=6)),
        Fault::AnswersLate,
        Fault::SlowDisk(who),
        Fault::DiskFrozen(who),
        Fault::DiskFailing(who),
        Fault::DiskFilling(who),
        Fault::SlowActions(who),
        Fault::SlowActions(who),
        Fault::Reader(who),
        Fault::Switchover(to),
        Fault::Switchover(to),
        Fault::Switchover(to),
        Fault::Failover(to),
        Fault::Forced(to),
        Fault::ClusterPaused,
        Fault::Policy(pick(dice, &[Mode::Async, Mode::Quorum, Mode::Strict]), dice.u32(1..=2)),
        Fault::MayNotLead(node),
        Fault::Leaves(node),
        Fault::Removed(node),
    ];
    pick(dice, &struck)
}
