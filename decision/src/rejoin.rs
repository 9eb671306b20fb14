//! A stopped data directory beside a leader: start it, rewind it, or replace it? Decided from timelines and positions alone: what
//! lies here beyond the point where the leader's history forked off was never acknowledged under a quorum, and must go.

use crate::action::{Action, StartAs};
use crate::decide::{Choice, wait};
use crate::firsthand::disk_trouble;
use crate::names::{Lsn, MemberName, Timeline};
use crate::reason::Reason;
use crate::site;
use crate::view::{Cluster, ControlState, Data, HistoryEntry, MemberRole, OnDisk, Upstream, View};

/// What to do with a stopped Postgres while `leader` leads.
pub(crate) fn stopped(view: &View, cluster: &Cluster, data: &Data, leader: &MemberName) -> Choice {
    if let Some(after) = view.retry_in() {
        return wait(Reason::Retrying { after });
    }
    if let Some(what) = disk_trouble(view) {
        return wait(Reason::DiskUnfit { what });
    }
    let Some(upstream) = cluster.upstream(&view.me, leader, cluster.term) else {
        return wait(Reason::LeaderUnreachable { leader: leader.clone() });
    };
    if let (Data::Present(_), Some(at)) = (data, view.signs.upstream_lacks) {
        return copy(cluster, upstream, Reason::WalRemoved { leader: leader.clone(), at });
    }
    match data {
        Data::Present(disk) if cluster.follows() => site::beside_a_leader(view, cluster, disk, upstream),
        Data::Empty => copy(cluster, upstream, Reason::EmptyDirectory { leader: leader.clone() }),
        Data::HalfMade { by } => copy(cluster, upstream, Reason::HalfMade { by: by.clone() }),
        Data::Unreadable { why } => wait(Reason::DataUnreadable { why: why.clone() }),
        Data::Present(disk) => present(cluster, disk, upstream),
    }
}

/// The start of a directory that has nothing beyond what its upstream has; `None`: not now.
pub(crate) fn as_it_is(view: &View, disk: &OnDisk, upstream: Upstream) -> Option<Choice> {
    let reason = Reason::CleanRejoin { leader: upstream.member.clone(), end: disk.checkpoint };
    let fit = view.retry_in().is_none() && disk_trouble(view).is_none();
    fit.then_some((Action::Start(StartAs::Standby(Some(upstream))), reason))
}

pub(crate) fn copy(cluster: &Cluster, from: Upstream, reason: Reason) -> Choice {
    if !is_source(cluster, &from.member) {
        return wait(Reason::LeaderNotPrimary { leader: from.member });
    }
    (Action::Clone { from, floor: floor(cluster) }, reason)
}

fn present(cluster: &Cluster, disk: &OnDisk, upstream: Upstream) -> Choice {
    let leader = upstream.member.clone();
    let Some(leader_timeline) = leader_timeline(cluster, &leader) else {
        return wait(Reason::LeaderNotPrimary { leader });
    };
    if disk.timeline == leader_timeline {
        if was_primary(disk) || branched_elsewhere(cluster, disk) {
            return copy(cluster, upstream, Reason::Twin { timeline: disk.timeline });
        }
        let reason = Reason::CleanRejoin { leader, end: disk.checkpoint };
        return (Action::Start(StartAs::Standby(Some(upstream))), reason);
    }
    if disk.from_backup && disk.standby_signal {
        // What it needs it fetches or streams; only a start shows whether the leader's history goes through it.
        let reason = Reason::CleanRejoin { leader, end: disk.checkpoint };
        return (Action::Start(StartAs::Standby(Some(upstream))), reason);
    }
    let Some(forked_at) = forked_at(cluster, &leader, disk.timeline, leader_timeline) else {
        return wait(Reason::AwaitingHistory { timeline: disk.timeline });
    };
    let Some(end) = end_of_wal(disk, forked_at) else {
        return (Action::FindEndOfWal, Reason::EndOfWalUnknown {});
    };
    if end <= forked_at {
        return (Action::Start(StartAs::Standby(Some(upstream))), Reason::CleanRejoin { leader, end });
    }
    if !cluster.members.get(&leader).is_some_and(|member| member.rewind_source_ready) {
        return wait(Reason::AwaitingLeaderCheckpoint { leader });
    }
    let reason = Reason::Diverged { timeline: disk.timeline, end, forked_at };
    (Action::Rewind { from: upstream, floor: floor(cluster).max(forked_at) }, reason)
}

/// Whether a running standby has WAL that the leader's history does not have.
pub(crate) fn diverged(cluster: &Cluster, leader: &MemberName, timeline: Timeline, received: Lsn) -> Option<Reason> {
    let leader_timeline = leader_timeline(cluster, leader)?;
    if timeline == leader_timeline {
        return None;
    }
    let forked_at = forked_at(cluster, leader, timeline, leader_timeline)?;
    (received > forked_at).then_some(Reason::Diverged { timeline, end: received, forked_at })
}

/// Whether a running standby has the leader's timeline by its number, and is on another branch.
pub(crate) fn is_twin(cluster: &Cluster, leader: &MemberName, data: &Data) -> Option<Reason> {
    let Data::Present(disk) = data else { return None };
    let twin = leader_timeline(cluster, leader) == Some(disk.timeline) && branched_elsewhere(cluster, disk);
    twin.then_some(Reason::Twin { timeline: disk.timeline })
}

/// Two promotions that knew nothing of each other may take the same number. Where they branched off tells them apart: Postgres does not
/// compare it, and would stream one onto the other. What the leader has not published yet says nothing.
fn branched_elsewhere(cluster: &Cluster, disk: &OnDisk) -> bool {
    let Some((parent, at)) = disk.forked else { return false };
    living(cluster).iter().any(|entry| entry.timeline == parent && entry.ended_at != at)
}

/// The leader's timeline, once its Postgres is primary.
fn leader_timeline(cluster: &Cluster, leader: &MemberName) -> Option<Timeline> {
    let member = cluster.members.get(leader)?;
    (member.role == MemberRole::Primary).then_some(member.timeline)?
}

/// Whether others may be copied from this leader: it is the primary or, where another site is followed, the standby that everybody here follows.
pub(crate) fn is_source(cluster: &Cluster, leader: &MemberName) -> bool {
    let role = if cluster.follows() { MemberRole::Standby } else { MemberRole::Primary };
    cluster.members.get(leader).is_some_and(|member| member.role == role)
}

/// Where the leader's history left `timeline`. A timeline that never was in that history, or is newer than it, has nothing in common
/// beyond the start of WAL as far as is known here, so everything on it counts as diverged and the rewind finds the true fork.
fn forked_at(cluster: &Cluster, leader: &MemberName, timeline: Timeline, leader_timeline: Timeline) -> Option<Lsn> {
    if timeline > leader_timeline {
        return Some(Lsn(0));
    }
    let living = living(cluster);
    if let Some(entry) = living.iter().find(|entry| entry.timeline == timeline) {
        return Some(entry.ended_at);
    }
    // Once the history is published up to the leader's timeline, mine is not in it: a promotion that did not survive. The newest row
    // is of the leader's own promotion when it names the leader and the checkpoint after that promotion is done.
    let newest = living.first()?;
    let is_leaders = newest.new_leader.as_ref().is_none_or(|new_leader| new_leader == leader);
    let settled = cluster.members.get(leader).is_some_and(|member| member.rewind_source_ready);
    (newest.timeline > timeline || (is_leaders && settled)).then_some(Lsn(0))
}

/// Up to where a directory on `timeline`, with these ancestors and where each ended (oldest first), has what the leader has: where the two
/// went apart. `None`: not known, or they have nothing in common.
pub fn shared_up_to(cluster: &Cluster, timeline: Timeline, ancestors: &[(Timeline, Lsn)]) -> Option<Lsn> {
    let leader = cluster.leader.as_ref()?;
    let theirs = leader_timeline(cluster, leader)?;
    let living = living(cluster);
    let left_by_them = |of: Timeline| {
        let entry = living.iter().find(|entry| entry.timeline == of && of < theirs);
        entry.map(|entry| entry.ended_at).or((of == theirs).then_some(Lsn(u64::MAX)))
    };
    let mine = ancestors.iter().copied().chain([(timeline, Lsn(u64::MAX))]).rev();
    let shared = mine.filter_map(|(of, ended_at)| left_by_them(of).map(|theirs| theirs.min(ended_at))).next();
    shared.filter(|shared| *shared < Lsn(u64::MAX))
}

/// The rows of the history that are the leader's, newest first. Each promotion adds its row at the end, also one that does not survive:
/// a row about a later timeline than a row behind it is of such a branch.
fn living(cluster: &Cluster) -> Vec<&HistoryEntry> {
    let mut living: Vec<&HistoryEntry> = Vec::new();
    for entry in cluster.history.iter().rev() {
        if living.last().is_none_or(|newer| entry.timeline < newer.timeline) {
            living.push(entry);
        }
    }
    living
}

/// The end of the WAL here, as far as it decides. A clean shutdown ends with its checkpoint record; if even that begins at or behind
/// the fork there is divergence, and if it begins before, the record itself was the last thing the new leader received.
pub(crate) fn end_of_wal(disk: &OnDisk, forked_at: Lsn) -> Option<Lsn> {
    match disk.state {
        ControlState::ShutDown if disk.checkpoint < forked_at => Some(disk.checkpoint),
        ControlState::ShutDown => Some(Lsn(disk.checkpoint.0.max(forked_at.0) + 1)),
        ControlState::ShutDownInRecovery
        | ControlState::InProduction
        | ControlState::InArchiveRecovery
        | ControlState::InCrashRecovery
        | ControlState::ShuttingDown
        | ControlState::StartingUp => disk.end_of_wal,
    }
}

pub(crate) fn was_primary(disk: &OnDisk) -> bool {
    !disk.standby_signal
        && matches!(
            disk.state,
            ControlState::InProduction
                | ControlState::ShutDown
                | ControlState::ShuttingDown
                | ControlState::InCrashRecovery
        )
}

/// A copied or rewound node has forgotten WAL that it may have acknowledged; it counts again once it is past where the leader is now.
pub(crate) fn floor(cluster: &Cluster) -> Lsn {
    // Where another site is followed nobody acknowledges anything, and the position in etcd is of an earlier reign.
    if cluster.follows() {
        return Lsn(0);
    }
    cluster.leader_lsn.unwrap_or_default()
}
