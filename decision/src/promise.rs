//! A leader that cannot renew its lease may go on while its peers promise, for a bounded time, to let it.
//!
//! **Invariant: while a leader relies on promises for its term, no set of nodes can take the lock from it.** Two rules make it so. A node
//! promises only if it has not revoked that term, does not lead, and knows of no later term and of no other leader; and while its promise
//! runs it neither ballots against that term nor claims the lock. A leader relies on promises only while those who have promised *block*
//! every record that may be in force: the rest can satisfy it neither with all their ballots nor, where no proof is asked for, at all.
//!
//! Why blocking is enough: whoever takes the lock under a quorum of k counts ballots of n - k + 1 of its voters, so k promises among the
//! voters leave too few. Without proof (`async`, or a quorum that has degraded to nobody) any node may lead that the leader has listed in
//! the `failsafe` key, and only those; so all of them must have promised. A voter that has ballotted says so to the leader's question, so
//! an answer from a blocking set also proves that nobody has taken over before. Time enters once: the leader counts a promise from
//! before it asked, the peer from after it was asked, and the leader takes off the safety margin for the drift of their clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durability::Policies;
use crate::firsthand;
use crate::names::{MemberName, SystemId, Term};
use crate::settings::Mode;
use crate::view::{Cluster, Data, Initialize, Lock, Member, Server, Upstream, View};

/// A promise of this node that still runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// To whom.
    pub leader: MemberName,
    /// The term that this node does not revoke meanwhile.
    pub term: Term,
    /// For how long still.
    pub left: Duration,
    /// Where to follow it meanwhile, as it said itself when it asked.
    #[serde(default)]
    pub upstream: Option<Upstream>,
}

/// The question of a leader: will you let me go on?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The database system that it is about.
    pub system_id: SystemId,
    /// Who asks.
    pub leader: MemberName,
    /// Its term.
    pub term: Term,
}

/// Why a node does not promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Refusal {
    /// It has not seen etcd since it was set up, and does not know whether it has revoked the term.
    KnowsTooLittle,
    /// The question is about another database.
    Foreign,
    /// It has balloted against this term, or is about to.
    Revoked,
    /// It leads, or its Postgres is a primary.
    Primary,
    /// It knows a later term.
    LaterTerm {
        /// Which.
        term: Term,
    },
    /// Under this term it knows another leader.
    OtherLeader {
        /// Whom.
        leader: MemberName,
    },
    /// That leader has said in etcd, under that term, that it is done for.
    LetGo,
    /// It has promised a later leader.
    Promised {
        /// Whom.
        leader: MemberName,
    },
}

/// What a takeover must satisfy, as one record says. The leader keeps one for the record that it has seen last and one for each that it
/// may have written since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// The mode.
    pub mode: Mode,
    /// The quorums.
    pub policies: Policies,
    /// Members that may lead without proof; `None`: not recorded, so that nobody is known to be barred.
    pub listed: Option<BTreeSet<MemberName>>,
}

/// What the leader hears from its peers while it cannot renew its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reliance {
    /// How long the promises still carry it; zero: they do not.
    pub left: Duration,
    /// Whose promises run.
    pub promised_by: Vec<MemberName>,
    /// A peer knows a later term than mine.
    pub deposed_by: Option<Term>,
}

/// What a node answers to `question`. `revoked` is the highest term that it may have revoked, by its own durable notes.
pub fn answer(view: &View, revoked: Option<Term>, question: &Question) -> Result<(), Refusal> {
    let cluster = view.cluster.last();
    if !is_ours(view, cluster, question) {
        return Err(Refusal::Foreign);
    }
    let Some(revoked) = revoked else { return Err(Refusal::KnowsTooLittle) };
    let server = view.postgres.last().map(|postgres| &postgres.server);
    let replayed = server.and_then(Server::as_standby).map_or(Term(0), |standby| standby.wal_term);
    let seen = cluster.map_or(Term(0), |cluster| cluster.term);
    let later = replayed.max(seen);
    if later > question.term {
        return Err(Refusal::LaterTerm { term: later });
    }
    let balloted =
        cluster.and_then(|cluster| cluster.ballots.get(&view.me)).is_some_and(|b| b.revoked >= question.term);
    if revoked >= question.term || balloted {
        return Err(Refusal::Revoked);
    }
    let primary = view.postgres.last().is_some_and(|postgres| postgres.is_or_becomes_primary());
    // A running standby takes no lock back as its last leader.
    let last_leader =
        cluster.is_some_and(|cluster| cluster.last_led_by(&view.me)) && server.and_then(Server::as_standby).is_none();
    if primary || last_leader || matches!(view.lock, Lock::Held { .. }) || question.leader == view.me {
        return Err(Refusal::Primary);
    }
    let others = cluster.filter(|cluster| cluster.term == question.term).and_then(|cluster| {
        let holder = cluster.leader.iter();
        let recorded = cluster.sync.iter().filter(|sync| sync.term == question.term).map(|sync| &sync.leader);
        holder.chain(recorded).find(|leader| **leader != question.leader)
    });
    if let Some(leader) = others {
        return Err(Refusal::OtherLeader { leader: leader.clone() });
    }
    if cluster.is_some_and(|cluster| says_it_is_done_for(cluster, &question.leader, question.term)) {
        return Err(Refusal::LetGo);
    }
    match &view.promise {
        Some(running) if running.term > question.term => Err(Refusal::Promised { leader: running.leader.clone() }),
        Some(running) if running.term == question.term && running.leader != question.leader => {
            Err(Refusal::OtherLeader { leader: running.leader.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether the question is about the database of this cluster, as far as anything here says.
fn is_ours(view: &View, cluster: Option<&Cluster>, question: &Question) -> bool {
    let of_cluster = cluster.and_then(|cluster| match cluster.initialize {
        Initialize::Done(id) => Some(id),
        Initialize::Absent | Initialize::InProgress => None,
    });
    let on_disk = view.postgres.last().and_then(|postgres| match &postgres.data {
        Data::Present(disk) => Some(disk.system_id),
        Data::Empty | Data::HalfMade { .. } | Data::Unreadable { .. } => None,
    });
    [of_cluster, on_disk].into_iter().flatten().all(|id| id == question.system_id)
        && (of_cluster.is_some() || on_disk.is_some())
}

/// The promise that binds this node in this cluster, if one does: it runs, its term has not passed, and its leader has not let go itself.
pub(crate) fn binding<'a>(view: &'a View, cluster: &Cluster) -> Option<&'a Promise> {
    let binds = |promise: &&Promise| !promise.left.is_zero() && promise.term >= cluster.term;
    view.promise.as_ref().filter(binds).filter(|promise| !is_released(cluster, promise))
}

/// Whether the leader to whom it was given has said in etcd, under that very term, that it is done for: it relies on no promise since, for
/// it forgets them before it says so.
pub fn is_released(cluster: &Cluster, promise: &Promise) -> bool {
    says_it_is_done_for(cluster, &promise.leader, promise.term)
}

fn says_it_is_done_for(cluster: &Cluster, leader: &MemberName, term: Term) -> bool {
    cluster.sync.as_ref().is_some_and(|sync| sync.released && sync.leader == *leader && sync.term == term)
}

/// Whether there is anything here for which a leader should ask: a Postgres that takes writes, or will soon. Promises for a dead one would
/// only keep others from taking over.
pub fn worth_asking(view: &View) -> bool {
    let timing = &view.settings.timing;
    if firsthand::disk_trouble(view).is_some() || is_full_beside_room(view) {
        return false;
    }
    match view.postgres.last().map(|postgres| &postgres.server) {
        Some(Server::Primary(_)) | None => true,
        Some(Server::Starting { since }) => *since < timing.primary_start_timeout,
        // By then it has been killed, if it can be.
        Some(Server::Hung { since }) => *since < view.hang_after() * (firsthand::UNSURE + 2),
        // A start that failed is tried again, but others shall not wait for it.
        Some(Server::Stopped | Server::Stopping) => view.ages.last_failure.is_none() && !view.signs.disk.full,
        Some(Server::Standby(_)) => false,
    }
}

/// Nothing can be written here any more, and somebody else has room for it, as far as that was seen: with etcd in sight it would be asked to
/// lead.
fn is_full_beside_room(view: &View) -> bool {
    let has_room =
        |(name, member): (&MemberName, &Member)| *name != view.me && !member.never_leads() && !member.disk_low;
    view.signs.disk.full && view.cluster.last().is_some_and(|cluster| cluster.members.iter().any(has_room))
}

/// Whether those who have promised leave nobody who could take the lock from `me`, whichever of the records is in force.
pub fn blocks(bases: &[Basis], me: &MemberName, promised: &BTreeSet<MemberName>) -> bool {
    !bases.is_empty() && bases.iter().all(|basis| blocks_one(basis, me, promised))
}

fn blocks_one(basis: &Basis, me: &MemberName, promised: &BTreeSet<MemberName>) -> bool {
    let by_voters = basis.mode != Mode::Async
        && basis
            .policies
            .iter()
            .any(|quorum| quorum.k > 0 && quorum.voters.intersection(promised).count() >= quorum.k as usize);
    let asks_no_proof = basis.mode == Mode::Async || basis.policies.iter().any(|quorum| quorum.k == 0);
    let by_all = asks_no_proof
        && basis.listed.as_ref().is_some_and(|listed| listed.iter().all(|name| name == me || promised.contains(name)));
    by_voters || by_all
}

/// How long promises with these times left carry a leader: until so many of them have ended that the rest do not block any more.
/// `None`: nobody need promise at all, for nobody else may lead.
pub fn carried_for(bases: &[Basis], me: &MemberName, promises: &BTreeMap<MemberName, Duration>) -> Option<Duration> {
    let holding =
        |at: Duration| promises.iter().filter(|(_, left)| **left >= at).map(|(name, _)| name.clone()).collect();
    if blocks(bases, me, &BTreeSet::new()) {
        return None;
    }
    let ends = promises.values().copied().filter(|end| !end.is_zero());
    Some(ends.filter(|end| blocks(bases, me, &holding(*end))).max().unwrap_or_default())
}
