//! Somebody else holds the leader lock. Whatever accepts writes here must stop; everything else must come to stream from the leader,
//! under the name of its term.

use std::time::Duration;

use crate::action::{Action, StopMode};
use crate::cascade;
use crate::decide::{Choice, stopping, wait};
use crate::names::MemberName;
use crate::promise::{Promise, binding};
use crate::reason::Reason;
use crate::rejoin;
use crate::site;
use crate::slots::SlotName;
use crate::suspicion;
use crate::vacancy;
use crate::view::{Cluster, Data, OnDisk, Postgres, RequestKind, Server, Standby, Stuck, SyncRecord, Upstream, View};

/// A standby that hangs holds nobody up for long: it stops being a voter.
pub(crate) const STANDBY_HANGS_AFTER: Duration = Duration::from_secs(10);
/// A standby connects again within a second or two; what takes longer is told.
pub(crate) const NOT_STREAMING_AFTER: Duration = Duration::from_secs(10);

/// What to do while `leader` leads.
pub(crate) fn decide(view: &View, cluster: &Cluster, postgres: &Postgres, leader: &MemberName) -> Choice {
    let term = cluster.term;
    let deposed = || (Action::Stop(StopMode::Kill), Reason::DeposedPrimary { leader: leader.clone(), term });
    match &postgres.server {
        Server::Primary(_) => deposed(),
        Server::Starting { .. } | Server::Hung { .. } if postgres.is_or_becomes_primary() => deposed(),
        Server::Standby(standby) => standby_follows(view, cluster, leader, standby),
        Server::Stopped => rejoin::stopped(view, cluster, &postgres.data, leader),
        Server::Stopping => stopping(view),
        Server::Starting { since } => wait(Reason::Starting { since: *since }),
        Server::Hung { since } if *since >= STANDBY_HANGS_AFTER => {
            (Action::Stop(StopMode::Kill), Reason::Hung { since: *since, stuck: Stuck::Server })
        }
        Server::Hung { since } => wait(Reason::Hung { since: *since, stuck: Stuck::Server }),
    }
}

fn standby_follows(view: &View, cluster: &Cluster, leader: &MemberName, standby: &Standby) -> Choice {
    let term = cluster.term;
    let Some(upstream) = whom_to_follow(view, cluster, leader) else {
        return wait(Reason::LeaderUnreachable { leader: leader.clone() });
    };
    let revoked = cluster.ballots.get(&view.me).is_some_and(|ballot| ballot.revoked >= term);
    let suspect = suspicion::is_gone(view, cluster);
    if suspect && (revoked || suspicion::takeover_is_possible(view, cluster, leader)) {
        if let Some(promise) = binding(view, cluster).filter(|_| !revoked) {
            return wait(promised(promise));
        }
        return vacancy::take_over(view, cluster, standby, leader);
    }
    if revoked {
        return (Action::Withdraw { revoked: term }, Reason::LeaderIsBack { leader: leader.clone(), term });
    }
    // Where another site is followed, the terms in the WAL are the other's.
    if standby.wal_term > term && !cluster.follows() {
        return wait(Reason::EtcdWentBack { mine: standby.wal_term, etcd: term });
    }
    let streams_from_leader = standby.streaming && follows(standby, &upstream);
    let diverged = || match cluster.follows() {
        true => site::diverged(view, standby),
        false => rejoin::diverged(cluster, leader, standby.timeline, standby.received)
            .or_else(|| rejoin::is_twin(cluster, leader, &view.postgres.last()?.data)),
    };
    if let Some(reason) = (!streams_from_leader).then(diverged).flatten() {
        return (Action::Stop(StopMode::Fast), reason);
    }
    if !follows(standby, &upstream) {
        let (leader, term) = (upstream.member.clone(), upstream.term);
        return (Action::Follow(upstream), Reason::Repoint { leader, term });
    }
    if let Some(at) = view.signs.upstream_lacks.filter(|_| !standby.streaming) {
        return (Action::Stop(StopMode::Fast), Reason::WalRemoved { leader: leader.clone(), at });
    }
    if let Some(floor) = cluster.floors.get(&view.me).filter(|floor| standby.streaming && standby.received >= **floor) {
        return (Action::ClearFloor, Reason::Regained { floor: *floor });
    }
    if let Some(choice) = stand_ready(view, cluster) {
        return choice;
    }
    if view.pledged == Some(term) && streams_from_leader && view.retry_in().is_none() {
        // A pledge that was broken off before it became a ballot: as long as it is noted, this node promises that leader nothing.
        return (Action::Follow(upstream), Reason::LeaderIsBack { leader: leader.clone(), term });
    }
    if let Some(slot) = slot_to_take(view, cluster, standby, &upstream) {
        let leader = upstream.member.clone();
        return (Action::Follow(upstream), Reason::TakeSlot { leader, slot });
    }
    let elsewhere = cascade::told(view, cluster, leader);
    if let Some(reason @ Reason::FromArchive { .. }) = elsewhere {
        return wait(reason);
    }
    let leader = leader.clone();
    match view.ages.not_streaming {
        Some(since) if since >= NOT_STREAMING_AFTER => wait(Reason::NotStreaming { leader, since }),
        Some(_) | None if view.signs.replay_paused => wait(Reason::ReplayPaused { leader, term }),
        Some(_) | None => wait(elsewhere.unwrap_or(Reason::Following { leader, term })),
    }
}

/// The leader, or the standby that this node is to stream from; or, while the leader prepares to hand over, its heir, already under the name of the
/// next term.
fn whom_to_follow(view: &View, cluster: &Cluster, leader: &MemberName) -> Option<Upstream> {
    let source = cascade::source(view, cluster, leader);
    let heir = cluster.heir().filter(|heir| **heir != view.me && (source == leader || *heir == source));
    let ahead = heir.and_then(|heir| cluster.upstream(&view.me, heir, cluster.term.next()));
    ahead.or_else(|| cluster.upstream(&view.me, source, cluster.term))
}

/// Whether it follows that server, under that name. By which slot, or none, matters only while nothing comes: the slot by which it streams is
/// there, whatever is said of it; one by which it does not stream may be gone.
fn follows(standby: &Standby, upstream: &Upstream) -> bool {
    let may_be_gone = |follows: &&Upstream| follows.slot.is_some() && upstream.slot.is_none() && !standby.streaming;
    let follows = standby.follows.as_ref().filter(|follows| follows.is_same_place(upstream));
    follows.filter(|follows| !may_be_gone(follows)).is_some()
}

/// The slot by which a standby is to stream that streams without, or by another. That means a new connection, and nothing is acknowledged
/// meanwhile; so not while a hand-over is near.
fn slot_to_take(view: &View, cluster: &Cluster, standby: &Standby, upstream: &Upstream) -> Option<SlotName> {
    let quiet = cluster.request.is_none() && cluster.heir().is_none() && view.retry_in().is_none();
    let slot = upstream.slot.clone().filter(|_| quiet && standby.streaming)?;
    (standby.follows.as_ref()?.slot.as_ref() != Some(&slot)).then_some(slot)
}

/// Nobody holds the lock, but this node has promised `promise.leader` to let it go on: it is followed as if it held the lock. Where its
/// member record has ended with its lease, its Postgres is where the leader said when it asked.
pub(crate) fn under_promise(view: &View, cluster: &Cluster, postgres: &Postgres, promise: &Promise) -> Choice {
    let (leader, same_term) = (&promise.leader, promise.term == cluster.term);
    let registered = cluster.upstream(&view.me, cascade::source(view, cluster, leader), promise.term);
    let is_registered = registered.is_some();
    let Some(upstream) = registered.or_else(|| promise.upstream.clone()).filter(|_| same_term) else {
        return wait(promised(promise));
    };
    match (&postgres.server, &postgres.data) {
        (Server::Standby(standby), _) if !follows(standby, &upstream) && view.retry_in().is_none() => {
            (Action::Follow(upstream), Reason::Repoint { leader: leader.clone(), term: promise.term })
        }
        (Server::Stopped, data) if is_registered => rejoin::stopped(view, cluster, data, leader),
        (Server::Stopped, Data::Present(disk)) if streamed_from(cluster, disk, leader) => {
            rejoin::as_it_is(view, disk, upstream).unwrap_or_else(|| wait(promised(promise)))
        }
        _ => wait(promised(promise)),
    }
}

/// Whether this directory is that of a standby of the present term's leader: it has nothing that the leader does not have.
fn streamed_from(cluster: &Cluster, disk: &OnDisk, leader: &MemberName) -> bool {
    let of_term = |sync: &&SyncRecord| sync.leader == *leader && sync.term == cluster.term;
    let sync = cluster.sync.as_ref().filter(of_term);
    disk.standby_signal && sync.is_some_and(|sync| sync.timeline == disk.timeline)
}

fn promised(promise: &Promise) -> Reason {
    Reason::Promised { leader: promise.leader.clone(), term: promise.term, left: promise.left }
}

/// A switchover that may need this node finds it with a lease in its hand, so that the lock changes hands without a gap.
fn stand_ready(view: &View, cluster: &Cluster) -> Option<Choice> {
    let member = cluster.members.get(&view.me)?;
    let asked = cluster.request.as_ref().is_some_and(|request| {
        request.kind == RequestKind::Switchover && request.to.as_ref().is_none_or(|to| *to == view.me)
    });
    match (asked && !member.never_leads(), member.lock_lease != 0) {
        (true, false) => Some((Action::StandReady, Reason::Candidate {})),
        (false, true) => Some((Action::StandDown, Reason::NotCandidate {})),
        (true, true) | (false, false) => None,
    }
}
