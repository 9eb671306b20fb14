//! What must hold, each as a function with a name. Some look at the whole world after every event, some at one moment that matters: an
//! acknowledgement, a new reign, a server that comes to accept writes.

use decision::action::ClaimKind;
use decision::durability::covered;
use decision::settings::Mode;
use decision::view::Sound;

use crate::etcd::{Key, Value};
use crate::ledger::{Acknowledged, Reign};
use crate::plan::Fault;
use crate::postgres::Directory;
use crate::time::{Micros, SECOND};
use crate::wal::lsn;
use crate::world::{At, Part, World};

type Check = fn(&World) -> Result<(), String>;

/// What is looked at after every event.
pub const ALWAYS: &[(&str, Check)] = &[
    ("one_writable_leader", one_writable_leader),
    ("fenced_by_the_deadline", fenced_by_the_deadline),
    ("the_record_covers_postgres", the_record_covers_postgres),
];

/// Everything that is asserted, by name.
pub const NAMES: &[&str] = &[
    "one_node_acknowledges",
    "one_writable_leader",
    "fenced_by_the_deadline",
    "nothing_acknowledged_is_lost",
    "a_loss_is_on_record",
    "no_fork_under_a_lock",
    "the_record_covers_postgres",
    "timelines_never_collide",
    "terms_are_never_reused",
    "a_leader_again",
    "no_change_without_a_cause",
    "a_half_made_directory_is_never_started",
    "a_promise_is_kept",
];

/// How long after its end a fault may still be the cause of a new reign.
const AFTERMATH: Micros = 15 * SECOND;

/// An old leader acknowledges nothing that the new one does not have, from the moment the new one takes writes.
pub fn one_node_acknowledges(world: &World, ack: &Acknowledged) -> Result<(), String> {
    let Some((term, leader)) = world.ledger.crowned else { return Ok(()) };
    if term <= ack.term || world.has_or_had(leader, ack) || clocks_excuse(world, ack.by, ack.k) || world.ledger.restored
    {
        return Ok(());
    }
    Err(format!(
        "{} acknowledges record {} under term {}, waiting for {}, while {} takes writes under term {term} and has it not",
        world.name(ack.by),
        ack.end,
        ack.term,
        ack.k,
        world.name(leader)
    ))
}

/// Where nobody is waited for only the fence keeps two leaders apart, and it cannot where the host, or the fence, stood still.
fn clocks_excuse(world: &World, at: At, k: u32) -> bool {
    k == 0 && (world.ledger.stood_still.contains_key(&at) || world.ledger.fences_were_off)
}

/// Two primaries never serve one term, and two that wait for nobody never take writes at once.
fn one_writable_leader(world: &World) -> Result<(), String> {
    let writable: Vec<At> = (0..world.nodes.len()).filter(|at| world.accepts_writes(*at)).collect();
    for (number, one) in writable.iter().enumerate() {
        for other in &writable[number + 1..] {
            let waits = |at: At| &world.nodes[at].postgres.in_force;
            let ((first, first_term), (second, second_term)) = (waits(*one), waits(*other));
            let excused = clocks_excuse(world, *one, 0) || clocks_excuse(world, *other, 0) || world.ledger.restored;
            if first_term == second_term || (first.k == 0 && second.k == 0 && !excused) {
                return Err(format!(
                    "{} (term {first_term}) and {} (term {second_term}) both take writes",
                    world.name(*one),
                    world.name(*other)
                ));
            }
        }
    }
    Ok(())
}

/// When the lease of a leader is gone from etcd its Postgres is dead, or enough others have promised to let it go on.
fn fenced_by_the_deadline(world: &World) -> Result<(), String> {
    if world.ledger.fences_were_off || world.ledger.restored {
        return Ok(());
    }
    for at in 0..world.nodes.len() {
        let node = &world.nodes[at];
        let still = world.ledger.stood_still.contains_key(&at) || world.stands_still(at, Part::Fence);
        if !world.accepts_writes(at) || still || !node.fence.armed {
            continue;
        }
        // It may hold the lock under another lease without having heard of it yet.
        let holds = world.etcd.leader() == Some(at) && world.etcd.leader_lease().is_some_and(|it| world.etcd.lives(it));
        let lease = node.agent.bound.lease().or(node.notes[1]).filter(|_| !holds);
        if lease.is_some_and(|lease| !world.etcd.lives(lease)) && !world.is_blocked_for(at) {
            return Err(format!(
                "{} takes writes although its lease is over, and no promises carry it",
                world.name(at)
            ));
        }
    }
    Ok(())
}

/// What Postgres waits for is covered by the record, while the leader leads.
fn the_record_covers_postgres(world: &World) -> Result<(), String> {
    let (Some(leader), Some(sync)) = (world.etcd.leader(), world.etcd.sync()) else { return Ok(()) };
    if !world.accepts_writes(leader) || world.ledger.restored {
        return Ok(());
    }
    if sync.leader != world.names[leader] {
        return Err(format!("{} leads, and the record is about {}", world.name(leader), sync.leader));
    }
    let (quorum, term) = &world.nodes[leader].postgres.in_force;
    if covered(&sync.policies, quorum) {
        return Ok(());
    }
    Err(format!("{} waits for {quorum} (term {term}), the record says {:?}", world.name(leader), sync.policies))
}

/// Whoever comes to take writes as the leader has every commit that was acknowledged.
pub fn nothing_acknowledged_is_lost(world: &World, leader: At) -> Result<(), String> {
    if world.ledger.restored {
        return Ok(());
    }
    let wal = &world.nodes[leader].postgres.wal;
    let missing = |ack: &&Acknowledged| !ack.excused && wal.get(ack.end - 1) != Some(&ack.record);
    let reign = world.ledger.reigns.iter().rev().find(|reign| reign.leader == leader);
    let without_proof = reign.is_some_and(|reign| reign.mode_before == Mode::Async);
    let promised = |ack: &&Acknowledged| ack.mode != Mode::Async && !without_proof;
    match world.ledger.acknowledged.iter().filter(missing).find(promised) {
        None => Ok(()),
        Some(ack) => Err(format!(
            "{} takes writes without record {} that {} acknowledged under term {} ({} waited for) at {:.3} s; it has {}",
            world.name(leader),
            ack.end,
            world.name(ack.by),
            ack.term,
            ack.k,
            ack.at as f64 / SECOND as f64,
            lsn(wal.len())
        )),
    }
}

/// Where no proof is asked for, a reign that loses something does not claim that it lost nothing.
pub fn a_loss_is_on_record(world: &World, leader: At) -> Result<(), String> {
    let Some(reign) = world.ledger.reigns.iter().rev().find(|reign| reign.leader == leader) else { return Ok(()) };
    let wal = &world.nodes[leader].postgres.wal;
    let lost = world.ledger.acknowledged.iter().find(|ack| !ack.excused && wal.get(ack.end - 1) != Some(&ack.record));
    match lost {
        Some(ack) if reign.kind.is_some() && reign.lost_bytes_bound == Some(0) && !world.ledger.restored => {
            Err(format!("term {} claims to lose nothing and lacks record {}", reign.term, ack.end))
        }
        _ => Ok(()),
    }
}

/// A term is above every term before it.
pub fn terms_are_never_reused(world: &World, reign: &Reign) -> Result<(), String> {
    let highest = world.ledger.reigns.iter().map(|before| before.term).max().unwrap_or_default();
    if reign.term > highest || world.ledger.restored {
        return Ok(());
    }
    Err(format!("term {} is given out after term {highest}", reign.term))
}

/// Nobody takes the lock from a leader that lives by the promises of its peers.
pub fn a_promise_is_kept(world: &World, reign: &Reign) -> Result<(), String> {
    let relies = |at: &At| {
        let node = &world.nodes[*at];
        let lapsed = node.agent.leases[1].left(world.local(*at)) == 0;
        let carried = node.agent.up && node.agent.reign.carried_until > world.local(*at);
        *at != reign.leader
            && lapsed
            && carried
            && world.accepts_writes(*at)
            && !world.ledger.stood_still.contains_key(at)
    };
    let excused = reign.kind == Some(ClaimKind::Forced) || world.ledger.restored || world.ledger.fences_were_off;
    match (0..world.nodes.len()).find(relies).filter(|_| !excused) {
        Some(at) => {
            Err(format!("{} takes the lock from {}, which lives by promises", world.name(reign.leader), world.name(at)))
        }
        None => Ok(()),
    }
}

/// The lead moves only because something has befallen the leader, or somebody asked for it.
pub fn no_change_without_a_cause(world: &World, reign: &Reign) -> Result<(), String> {
    let Some(before) = world.ledger.reigns.last() else { return Ok(()) };
    // A hand-over is somebody's wish, however long ago it was uttered.
    if matches!(reign.kind, Some(ClaimKind::Forced) | None) {
        return Ok(());
    }
    // What cost the leader the lock came before that was free, however long the others took to be there for it.
    let lost_at = world.ledger.vacant_since.unwrap_or(world.now);
    let lately = |ended: Option<Micros>| ended.is_none_or(|ended| ended + AFTERMATH >= lost_at);
    let recent: Vec<_> = world.ledger.causes.iter().filter(|cause| lately(cause.ended)).collect();
    if let Some(witness) = still_heard(world, reign, before) {
        let (witness, deposed) = (world.name(witness), world.name(before.leader));
        return Err(format!("{} deposes {deposed}, which {witness} still hears", world.name(reign.leader)));
    }
    let of_the_leader = recent.iter().any(|cause| cause.moves && cause.whom.is_none_or(|whom| whom == before.leader));
    // Two faults of two others can leave a leader that one of them cannot tell from a dead one.
    if of_the_leader || recent.len() > 1 {
        return Ok(());
    }
    let found: Vec<Fault> = recent.iter().map(|cause| world.plan.faults[cause.number].fault).collect();
    Err(format!(
        "{} leads term {} after {}; all that had happened: {found:?}",
        world.name(reign.leader),
        reign.term,
        world.name(before.leader)
    ))
}

/// A voter that hears the leader while others depose it, without having been asked.
fn still_heard(world: &World, reign: &Reign, before: &Reign) -> Option<At> {
    let hears = |at: &At| {
        let (agent, now) = (&world.nodes[*at].agent, world.local(*at));
        let settled = agent.up && !world.stands_still(*at, Part::Agent) && now > agent.started + 3 * SECOND;
        let votes = matches!(world.etcd.get(Key::Member(*at)), Some(Value::Member(member)) if !member.never_leads());
        let balloted =
            matches!(world.etcd.get(Key::Ballot(*at)), Some(Value::Ballot(ballot)) if ballot.revoked == before.term);
        settled && votes && !balloted && world.hearing(*at).agent == Sound::Fine
    };
    // Who has only just come back was not there when the claim was made.
    let claimed_from = world.nodes[reign.leader].agent.job.as_ref().map(|job| &job.seen.cluster.members);
    let was_there = |at: &At| claimed_from.is_none_or(|members| members.contains_key(world.name(*at)));
    let deposed = reign.kind == Some(ClaimKind::Takeover) && !reign.had_let_go;
    (0..world.nodes.len())
        .filter(was_there)
        .filter(|at| deposed && ![before.leader, reign.leader].contains(at))
        .find(hears)
}

/// Whether the disk that was lost held the last whole database, and nobody has had one since: then there is nothing that anybody could
/// start or copy, and a backup is needed.
pub fn no_database_is_left(world: &World) -> bool {
    world.ledger.last_copy_lost && world.nodes.iter().all(|node| node.postgres.directory != Directory::Whole)
}

/// All is well again: a marked leader acknowledges, and everybody streams from it.
pub fn is_well(world: &World) -> bool {
    let Some(leader) = world.etcd.leader() else { return false };
    let postgres = &world.nodes[leader].postgres;
    let marked = world.ledger.markers.get(&world.etcd.term()) == Some(&leader);
    let since = world.plan.healed_at;
    let acknowledges = world.ledger.acknowledged.last().is_some_and(|ack| ack.by == leader && ack.at > since);
    let follows = |at: At| {
        let receiver = world.nodes[at].postgres.receiver.as_ref();
        let from = |upstream| upstream == leader || world.plan.cascaded == Some((at, upstream));
        receiver.is_some_and(|receiver| from(receiver.upstream) && receiver.term == world.etcd.term())
    };
    let others = (0..world.nodes.len()).filter(|at| *at != leader).all(follows);
    let settled =
        world.etcd.sync().is_some_and(|sync| sync.policies.len() == 1 && sync.policies[0] == postgres.in_force.0);
    world.accepts_writes(leader) && marked && acknowledges && others && settled
}
