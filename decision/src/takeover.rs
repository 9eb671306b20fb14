//! Counting ballots. With N voters of whom k must acknowledge, N - k + 1 ballots prove two things at once: the old leader can
//! acknowledge nothing more, and every acknowledged commit is on at least one balloter. The best of that very set leads, or nobody. A voter
//! that may not lead is heard like the others: it proves what it can, and nobody leads who has less.

use std::collections::BTreeSet;

use crate::candidacy::{best, counted, is_stray, witnesses};
use crate::durability::proven;
use crate::names::{MemberName, Term};
use crate::reason::Reason;
use crate::settings::Mode;
use crate::vacancy::leader_without_agent;
use crate::view::{Ballot, Cluster, SyncRecord, View};

/// What the ballots say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Count<'a> {
    /// This member may lead, on the strength of these ballots.
    Elected {
        /// Who.
        member: &'a MemberName,
        /// Its ballot.
        ballot: &'a Ballot,
        /// Who was counted.
        counted: Vec<(MemberName, i64)>,
        /// What is missing of the last position that the leader had published: 0 is proven, and any other number may have been more.
        lost_bytes_bound: Option<u64>,
    },
    /// Nobody may lead, for this reason.
    Nobody(Reason),
}

/// Counts the ballots of the present term. Every candidate that sees the same ballots reaches the same answer.
pub(crate) fn count<'a>(view: &View, cluster: &'a Cluster) -> Count<'a> {
    if cluster.sync.is_none() && cluster.term > Term(0) {
        // Somebody has led, and what was promised under that reign is not known: no ballot proves anything.
        return Count::Nobody(Reason::RecordMissing { term: cluster.term });
    }
    let mut ballots = counted(cluster);
    let Some((member, ballot)) = best(&ballots) else {
        return Count::Nobody(nobody_has_balloted(cluster));
    };
    let (mut member, mut ballot) = (member, ballot);
    let asks_no_proof = cluster.sync.as_ref().is_none_or(|sync| sync.mode == Mode::Async);
    // Where another site is followed nothing was acknowledged, so nobody can have missed anything by having been away.
    if let Some(listed) = cluster.failsafe.as_ref().filter(|_| asks_no_proof && !cluster.follows()) {
        ballots.retain(|(name, _, _)| listed.contains(*name));
        match best(&ballots) {
            Some(found) => (member, ballot) = found,
            None => return Count::Nobody(Reason::NotListed { best: member.clone() }),
        }
    }
    let names: BTreeSet<MemberName> = ballots.iter().map(|(name, _, _)| (*name).clone()).collect();
    let heard: Vec<(&MemberName, &Ballot)> = ballots.iter().map(|(name, ballot, _)| (*name, *ballot)).collect();
    let elected = |heard: Vec<(&MemberName, &Ballot)>, lost_bytes_bound| Count::Elected {
        member,
        ballot,
        counted: heard.into_iter().map(|(name, ballot)| (name.clone(), ballot.revision)).collect(),
        lost_bytes_bound,
    };
    match &cluster.sync {
        // A ballot of a later term than etcd knows: etcd was restored from an old backup, and its record proves nothing about that term.
        Some(sync)
            if sync.mode != Mode::Async && ballots.iter().any(|(_, ballot, _)| ballot.wal_term > cluster.term) =>
        {
            let mine = ballots.iter().map(|(_, ballot, _)| ballot.wal_term).max().unwrap_or_default();
            Count::Nobody(Reason::EtcdWentBack { mine, etcd: cluster.term })
        }
        Some(sync) if sync.mode != Mode::Async => {
            // The last leader itself has everything, and while it ballots it is not primary. If the lock was handed to it, then it
            // has everything only once it has what the old leader had.
            let heard = if names.contains(&sync.leader) || proven(&sync.policies, &names) {
                heard
            } else {
                match with_witnesses(cluster, sync, ballot, heard) {
                    Ok(heard) => heard,
                    Err(reason) => return Count::Nobody(reason),
                }
            };
            match sync.handover_lsn.filter(|needed| ballot.received < *needed) {
                Some(needed) => Count::Nobody(Reason::AwaitingHandover { replayed: ballot.received, needed }),
                None => elected(heard, Some(0)),
            }
        }
        Some(_) | None => match unproven_bars(view, cluster, member, ballot, &names) {
            Some(reason) => Count::Nobody(reason),
            None => {
                let lost = cluster.leader_lsn.map(|leader| ballot.received.bytes_behind(leader));
                elected(heard, lost.filter(|lost| *lost > 0))
            }
        },
    }
}

/// The ballots of candidates prove too little: those of voters that may not lead are heard as well. `best` is the candidates' best.
fn with_witnesses<'a>(
    cluster: &'a Cluster,
    sync: &SyncRecord,
    best: &Ballot,
    mut heard: Vec<(&'a MemberName, &'a Ballot)>,
) -> Result<Vec<(&'a MemberName, &'a Ballot)>, Reason> {
    heard.extend(witnesses(cluster, sync));
    let names: BTreeSet<MemberName> = heard.iter().map(|(name, _)| (*name).clone()).collect();
    if !names.contains(&sync.leader) && !proven(&sync.policies, &names) {
        return Err(not_proven(cluster, sync, names));
    }
    let reaches = |ballot: &Ballot| (ballot.timeline, ballot.received);
    match heard.iter().find(|(_, ballot)| reaches(ballot) > reaches(best)) {
        Some((member, _)) => Err(Reason::BarredIsAhead { member: (*member).clone() }),
        None => Ok(heard),
    }
}

fn nobody_has_balloted(cluster: &Cluster) -> Reason {
    let missing: Vec<MemberName> = cluster.eligible().into_iter().collect();
    if missing.is_empty() { Reason::NoCandidate {} } else { Reason::AwaitingBallots { have: 0, missing } }
}

/// Without proof (`async` mode) everybody alive is heard first, and nobody far behind the last leader may lead.
fn unproven_bars(
    view: &View,
    cluster: &Cluster,
    best: &MemberName,
    ballot: &Ballot,
    heard: &BTreeSet<MemberName>,
) -> Option<Reason> {
    let missing: Vec<MemberName> = cluster.eligible().difference(heard).cloned().collect();
    let waited = view.ages.vacancy.unwrap_or_default();
    // Whoever still streams from the last leader has not balloted because it hears it; silence makes it ballot.
    let hears = |name: &MemberName| {
        let upstream = cluster.members.get(name).and_then(|member| member.streams_from.as_ref());
        upstream.is_some() && upstream == leader_without_agent(cluster)
    };
    if !missing.is_empty() && (waited < view.settings.timing.ballot_window || missing.iter().any(hears)) {
        return Some(Reason::AwaitingBallots { have: heard.len(), missing });
    }
    if cluster.follows() {
        // What is missing comes from the other site.
        return None;
    }
    let limit_bytes = view.settings.max_lag_on_failover_bytes;
    let behind_bytes = cluster.leader_lsn.map(|leader| ballot.received.bytes_behind(leader)).unwrap_or_default();
    (behind_bytes > limit_bytes).then(|| Reason::TooFarBehind { best: best.clone(), behind_bytes, limit_bytes })
}

fn not_proven(cluster: &Cluster, sync: &SyncRecord, have: BTreeSet<MemberName>) -> Reason {
    let mut missing: BTreeSet<MemberName> =
        sync.policies.iter().flat_map(|quorum| quorum.voters.difference(&have).cloned()).collect();
    missing.insert(sync.leader.clone());
    // Live members that have not answered yet are only a matter of time; the others are what a person must look after.
    let ballots = cluster.current_ballots();
    let stray = |name: &MemberName| ballots.get(name).is_some_and(|ballot| is_stray(cluster, ballot));
    let may_come = |name: &&MemberName| cluster.members.contains_key(*name) && !stray(name);
    let coming: Vec<MemberName> = missing.iter().filter(may_come).cloned().collect();
    let voters: BTreeSet<MemberName> = have.iter().cloned().chain(coming.iter().cloned()).collect();
    if !coming.is_empty() && (voters.contains(&sync.leader) || proven(&sync.policies, &voters)) {
        return Reason::AwaitingBallots { have: have.len(), missing: coming };
    }
    Reason::NotProven { have: have.into_iter().collect(), needed: needed(sync), missing: missing.into_iter().collect() }
}

fn needed(sync: &SyncRecord) -> String {
    let one = |quorum: &crate::durability::Quorum| match quorum.ballots_needed() {
        None => format!("{} itself, for it had degraded to waiting for nobody", sync.leader),
        Some(count) => {
            let voters: Vec<&str> = quorum.voters.iter().map(MemberName::as_str).collect();
            format!("{count} of {} (or {} itself)", voters.join(", "), sync.leader)
        }
    };
    sync.policies.iter().map(one).collect::<Vec<_>>().join(" and ")
}
