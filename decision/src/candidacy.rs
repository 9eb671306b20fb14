//! Who may lead, and who is best. Every bar of every member is listed, not only the first, because an operator who asks "why not
//! pg3?" wants the whole answer.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::names::{Lsn, MemberName, Timeline};
use crate::reason::{Bar, Standing};
use crate::settings::{Mode, Settings};
use crate::view::{Ballot, Cluster, Member, MemberRole, Server, SyncRecord, View};

/// Every known member and what bars it: live ones, and voters whose agents are gone.
pub fn standings(view: &View) -> Vec<Standing> {
    let Some(cluster) = view.cluster.last() else {
        return Vec::new();
    };
    let mut names: BTreeSet<MemberName> = cluster.members.keys().cloned().collect();
    if let Some(sync) = &cluster.sync {
        names.insert(sync.leader.clone());
        names.extend(sync.policies.iter().flat_map(|quorum| quorum.voters.iter().cloned()));
    }
    names.into_iter().map(|member| Standing { bars: bars(view, cluster, &member), member }).collect()
}

/// What bars a member from leading, now.
fn bars(view: &View, cluster: &Cluster, name: &MemberName) -> Vec<Bar> {
    let mut bars = Vec::new();
    let Some(member) = cluster.members.get(name) else {
        return vec![Bar::AgentDown {}];
    };
    if member.tags.nostream {
        // That nothing streams to it is what its tags say, and no trouble of its own.
        return vec![Bar::FromArchive {}];
    }
    if member.tags.never_leads() {
        bars.push(Bar::NoFailover {});
    }
    let own_trouble = view.fence.trouble.as_ref().filter(|_| *name == view.me);
    if let Some(why) = own_trouble.or(member.no_fence.as_ref()) {
        bars.push(Bar::NoFence { why: why.clone() });
    }
    match &cluster.leader {
        Some(leader) if leader == name => bars.push(Bar::IsLeader {}),
        Some(_) => bars.extend(bars_under_a_leader(view, name, member.role)),
        None => bars.extend(bars_in_a_vacancy(cluster, &view.settings, name)),
    }
    bars
}

/// Under a leader: what would bar the member if the leader went away now, as far as this node can see.
fn bars_under_a_leader(view: &View, name: &MemberName, role: MemberRole) -> Vec<Bar> {
    let mut bars = Vec::new();
    if role != MemberRole::Standby {
        bars.push(Bar::NotRunning {});
    }
    let Some(Server::Primary(primary)) = view.postgres.last().map(|postgres| &postgres.server) else {
        return bars;
    };
    // Where a quorum proves what was acknowledged, being behind costs time and loses nothing.
    let proof =
        view.cluster.last().and_then(|cluster| cluster.sync.as_ref()).is_some_and(|sync| sync.mode != Mode::Async);
    let limit_bytes = if proof { u64::MAX } else { view.settings.max_lag_on_failover_bytes };
    match primary.standbys.iter().find(|standby| standby.member == *name) {
        None => bars.push(not_from_here(view, name)),
        Some(standby) => {
            let behind_bytes = standby.flushed.bytes_behind(primary.flushed);
            if behind_bytes > limit_bytes {
                bars.push(Bar::TooFarBehind { behind_bytes, limit_bytes });
            }
        }
    }
    bars
}

/// It streams from another standby, as its tags say, or from nobody.
fn not_from_here(view: &View, name: &MemberName) -> Bar {
    let member = view.cluster.last().and_then(|cluster| cluster.members.get(name));
    let cascaded = member.filter(|member| member.tags.replicatefrom == member.streams_from);
    match cascaded.and_then(|member| member.streams_from.clone()) {
        Some(upstream) => Bar::Cascaded { upstream },
        None => Bar::NotStreaming {},
    }
}

fn bars_in_a_vacancy(cluster: &Cluster, settings: &Settings, name: &MemberName) -> Vec<Bar> {
    let Some(ballot) = cluster.current_ballots().get(name).copied() else {
        return vec![Bar::NoBallot {}];
    };
    let mut bars = Vec::new();
    if let Some(floor) = cluster.floors.get(name).filter(|floor| ballot.received < **floor) {
        bars.push(Bar::BelowFloor { floor: *floor, has: ballot.received });
    }
    if is_stray(cluster, ballot) {
        bars.push(Bar::StrayTimeline { timeline: ballot.timeline });
    }
    if let Some((best, its)) = best(&counted(cluster)).filter(|(best, _)| *best != name) {
        if its.timeline > ballot.timeline {
            bars.push(Bar::OlderTimeline { mine: ballot.timeline, best: its.timeline });
        } else if its.received > ballot.received {
            let bytes_behind = ballot.received.bytes_behind(its.received);
            bars.push(Bar::Behind { member: best.clone(), bytes_behind });
        }
    }
    let proof = cluster.sync.as_ref().is_some_and(|sync| sync.mode != Mode::Async);
    if let Some(leader_lsn) = cluster.leader_lsn.filter(|_| !proof && !cluster.follows()) {
        let behind_bytes = ballot.received.bytes_behind(leader_lsn);
        if behind_bytes > settings.max_lag_on_failover_bytes {
            bars.push(Bar::TooFarBehind { behind_bytes, limit_bytes: settings.max_lag_on_failover_bytes });
        }
    }
    bars
}

/// The ballots that count: of the present term, from live members that may lead and have regained what they once forgot.
pub(crate) fn counted(cluster: &Cluster) -> Vec<(&MemberName, &Ballot, u32)> {
    may_lead_by_ballot(cluster).into_iter().filter(|(name, ballot, _)| is_above_floor(cluster, name, ballot)).collect()
}

/// The ballots of live voters and of the last leader, where they may not lead, by their tags or for want of a fence: what they say of the past counts all the same.
pub(crate) fn witnesses<'a>(cluster: &'a Cluster, sync: &SyncRecord) -> Vec<(&'a MemberName, &'a Ballot)> {
    let votes =
        |name: &MemberName| *name == sync.leader || sync.policies.iter().any(|quorum| quorum.voters.contains(name));
    let barred = |name: &MemberName| cluster.members.get(name).is_some_and(Member::never_leads);
    let whole =
        |(name, ballot): &(&MemberName, &Ballot)| is_above_floor(cluster, name, ballot) && !is_stray(cluster, ballot);
    cluster.current_ballots().into_iter().filter(|(name, _)| votes(name) && barred(name)).filter(whole).collect()
}

fn is_above_floor(cluster: &Cluster, name: &MemberName, ballot: &Ballot) -> bool {
    cluster.floors.get(name).is_none_or(|floor| ballot.received >= *floor)
}

/// The ballots of the present term from live members that may lead, of those too that have forgotten what they once had. The last number ranks
/// equals: by their priority, then by whether they are in the zone that is preferred.
pub(crate) fn may_lead_by_ballot(cluster: &Cluster) -> Vec<(&MemberName, &Ballot, u32)> {
    let priority = |name: &MemberName, ballot: &Ballot| {
        let member = cluster.members.get(name)?;
        let priority = member.tags.failover_priority.saturating_mul(2) + u32::from(cluster.is_preferred(name));
        // Nobody would reach it, or a promotion may find no room. That bars nobody, for where it alone has everything it is still the one; among
        // equals it comes last.
        let priority = if member.not_listening.is_some() || member.disk_low { 0 } else { priority };
        (!is_stray(cluster, ballot) && !member.never_leads()).then_some(priority)
    };
    cluster
        .current_ballots()
        .into_iter()
        .filter_map(|(name, ballot)| priority(name, ballot).map(|priority| (name, ballot, priority)))
        .collect()
}

/// Whether the ballot is of a timeline that nobody was to write: a promotion that was not ordered here began it, and not a later reign.
///
/// **Invariant: a timeline above the record's is no reign's**, for a claim records its number before anybody is promoted. What such a branch has
/// beyond its fork was never acknowledged, and the leader may have gone on meanwhile. (An etcd that was restored has forgotten later reigns:
/// there the marker of a later term tells.)
pub(crate) fn is_stray(cluster: &Cluster, ballot: &Ballot) -> bool {
    // A site that follows another goes from one timeline to the next as the other does.
    let recorded = cluster.sync.as_ref().filter(|sync| !sync.policies.is_empty() && !sync.follows);
    recorded.is_some_and(|sync| ballot.timeline > sync.timeline) && ballot.wal_term <= cluster.term
}

/// The best of these ballots: the latest timeline, then the end of what was received, then whoever has replayed it, then priority, then name. Never by position
/// alone: a dead branch can be longer than the living one. Within a timeline by position alone, for it has one writer: the newest
/// marker says less, as it may not be replayed yet where most was received.
pub(crate) fn best<'a>(ballots: &[(&'a MemberName, &'a Ballot, u32)]) -> Option<(&'a MemberName, &'a Ballot)> {
    let rank = |(name, ballot, priority): &(&MemberName, &Ballot, u32)| {
        (ballot.timeline, ballot.received, !ballot.late, *priority, Reverse((*name).clone()))
    };
    ballots.iter().max_by_key(|entry| rank(entry)).map(|(name, ballot, _)| (*name, *ballot))
}

/// The highest timeline that anybody has, or was ever to have.
pub fn highest_timeline(cluster: &Cluster, mine: Timeline) -> Timeline {
    let of_ballots = cluster.ballots.values().map(|ballot| ballot.timeline);
    let of_members = cluster.members.values().filter_map(|member| member.timeline);
    let of_record = cluster.sync.iter().map(|sync| sync.timeline);
    of_ballots.chain(of_members).chain(of_record).chain([mine, cluster.stray_timeline]).max().unwrap_or(mine)
}

/// The standby that would best take a switchover: streaming under this term, reachable by clients, with room on its disk, nearest to the leader.
pub fn best_standby(cluster: &Cluster, standbys: &[crate::view::Streaming]) -> Option<MemberName> {
    let eligible = cluster.eligible();
    let priority = |name: &MemberName| cluster.members.get(name).map_or(0, |member| member.tags.failover_priority);
    let has_room = |name: &MemberName| cluster.members.get(name).is_some_and(|member| !member.disk_low);
    let as_a_rule =
        |name: &MemberName| !cluster.members.get(name).is_some_and(|member| member.tags.streams_elsewhere());
    let rank = |standby: &&crate::view::Streaming| -> (bool, bool, Lsn, u32, bool, Reverse<MemberName>) {
        let name = &standby.member;
        let preferred = cluster.is_preferred(name);
        (as_a_rule(name), has_room(name), standby.flushed, priority(name), preferred, Reverse(name.clone()))
    };
    standbys
        .iter()
        .filter(|standby| standby.caught_up && standby.term == cluster.term && eligible.contains(&standby.member))
        .filter(|standby| cluster.members.get(&standby.member).is_some_and(|member| member.not_listening.is_none()))
        .max_by_key(rank)
        .map(|standby| standby.member.clone())
}
