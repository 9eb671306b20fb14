//! A leader and three voters, every quorum, every distribution of WAL, every set of ballots: whoever is elected has every acknowledged
//! commit, and only one is elected. With dead, barred and forgetful voters, records in the middle of a change, and broken hand-overs.

use std::collections::BTreeSet;

use super::builders::*;
use crate::action::Action;
use crate::decide;
use crate::durability::{Policies, Quorum};
use crate::names::{Lsn, MemberName};
use crate::takeover::{Count, count};
use crate::view::*;

const VOTERS: [&str; 3] = ["pg2", "pg3", "pg4"];
const EVERYBODY: [&str; 4] = ["pg1", "pg2", "pg3", "pg4"];
/// The leader `pg1` has everything.
const LEADER_HAS: u64 = 3;

/// What may be odd about one voter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Oddity {
    /// Its agent is gone, its ballot is still there.
    Dead,
    /// It may not lead any more.
    Barred,
    /// It was copied anew and has only the beginning; its floor says what it once had.
    Forgetful,
}

/// Every quorum over the voters that promises something.
fn quorums() -> Vec<Quorum> {
    let mut all = BTreeSet::new();
    for bits in 1..8_u32 {
        let voters: Vec<&str> =
            VOTERS.into_iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, voter)| voter).collect();
        all.extend((1..=bits.count_ones()).map(|k| any(k, &voters)));
    }
    all.into_iter().collect()
}

/// Every distribution of WAL over the voters.
fn distributions() -> impl Iterator<Item = [u64; 3]> {
    (0..27_u64).map(|number| [1 + number % 3, 1 + number / 3 % 3, 1 + number / 9])
}

fn received(who: &str, distribution: [u64; 3]) -> u64 {
    VOTERS.iter().position(|voter| *voter == who).map_or(LEADER_HAS, |at| distribution[at])
}

/// The last commit that Postgres acknowledged while it waited for `running`: the k-th best of its voters has it.
fn acknowledged(running: &Quorum, distribution: [u64; 3]) -> u64 {
    let mut have: Vec<u64> = running.voters.iter().map(|voter| received(voter.as_str(), distribution)).collect();
    have.sort_unstable_by(|a, b| b.cmp(a));
    if running.k == 0 { LEADER_HAS } else { have[running.k as usize - 1] }
}

/// The vacancy after `pg1`, in which those in the bits of `balloters` have balloted.
fn vacancy(policies: &Policies, distribution: [u64; 3], balloters: usize, odd: Option<(&str, Oddity)>) -> Cluster {
    let mut cluster = cluster().vacant().policies(policies);
    cluster.members.insert(name("pg4"), member(MemberRole::Standby));
    for (at, who) in EVERYBODY.into_iter().enumerate() {
        let has = received(who, distribution);
        let oddity = odd.filter(|(odd, _)| *odd == who).map(|(_, oddity)| oddity);
        if balloters >> at & 1 == 1 {
            cluster = cluster.ballot(who, 4, if oddity == Some(Oddity::Forgetful) { 1 } else { has });
        }
        cluster = match oddity {
            Some(Oddity::Dead) => cluster.without(who),
            Some(Oddity::Barred) => cluster.member(who, |member| member.tags.nofailover = true),
            Some(Oddity::Forgetful) => cluster.floor(who, has),
            None => cluster,
        };
    }
    cluster
}

fn elected(cluster: &Cluster) -> Option<(MemberName, Lsn)> {
    match count(&view("pg2"), cluster) {
        Count::Elected { member, ballot, .. } => Some((member.clone(), ballot.received)),
        Count::Nobody(_) => None,
    }
}

#[track_caller]
fn loses_nothing(cluster: &Cluster, running: &Quorum, distribution: [u64; 3]) {
    if let Some((who, has)) = elected(cluster) {
        let promised = acknowledged(running, distribution);
        assert!(
            has.0 >= promised,
            "{who} has {has:?} of {promised}, running {running}, {distribution:?}: {cluster:#?}"
        );
    }
}

#[test]
fn whoever_is_elected_has_every_acknowledged_commit_whatever_is_odd_about_one_voter() {
    let oddities = [Oddity::Dead, Oddity::Barred, Oddity::Forgetful];
    let odd = VOTERS.iter().flat_map(|voter| oddities.map(|oddity| Some((*voter, oddity))));
    let odd: Vec<_> = std::iter::once(None).chain(odd).collect();
    for quorum in quorums() {
        let policies = vec![quorum.clone()];
        for distribution in distributions() {
            for balloters in 0..16 {
                for odd in &odd {
                    loses_nothing(&vacancy(&policies, distribution, balloters, *odd), &quorum, distribution);
                }
            }
        }
    }
}

#[test]
fn a_record_in_the_middle_of_a_change_keeps_both_promises() {
    let quorums: Vec<Quorum> = std::iter::once(Quorum::none()).chain(quorums()).collect();
    for (at, first) in quorums.iter().enumerate() {
        for second in &quorums[at + 1..] {
            let policies = vec![first.clone(), second.clone()];
            for distribution in distributions().step_by(2) {
                for balloters in 0..16 {
                    let cluster = vacancy(&policies, distribution, balloters, None);
                    loses_nothing(&cluster, first, distribution);
                    loses_nothing(&cluster, second, distribution);
                }
            }
        }
    }
}

#[test]
fn enough_ballots_always_elect_somebody() {
    for quorum in quorums() {
        for distribution in distributions() {
            for balloters in 0..16 {
                let heard: BTreeSet<MemberName> =
                    (0..4).filter(|at| balloters >> at & 1 == 1).map(|at| name(EVERYBODY[at])).collect();
                let enough = quorum.satisfied_by(&heard) || heard.contains(&name("pg1"));
                let cluster = vacancy(&vec![quorum.clone()], distribution, balloters, None);
                assert_eq!(elected(&cluster).is_some(), enough, "{cluster:#?}");
            }
        }
    }
}

#[test]
fn of_all_that_see_the_same_ballots_one_at_most_takes_the_lock() {
    for quorum in quorums() {
        for distribution in distributions() {
            for balloters in 0..16 {
                let cluster = vacancy(&vec![quorum.clone()], distribution, balloters, None);
                let takes = |who: &&str| {
                    let view = view(who)
                        .within(cluster.clone())
                        .lock(Lock::NotHeld)
                        .runs(pledged(received(who, distribution)));
                    matches!(decide(&view).action, Action::Acquire(_))
                };
                assert!(EVERYBODY.into_iter().filter(takes).count() <= 1, "{cluster:#?}");
            }
        }
    }
}

#[test]
fn a_hand_over_that_broke_off_half_way_elects_nobody_with_less_than_the_old_leader_had() {
    // pg1 ended at 3 and handed over to pg2, which may have less. Nobody has promoted, so what pg1 had is what must survive.
    for quorum in quorums() {
        for distribution in distributions() {
            for balloters in 0..16 {
                let policies = vec![quorum.clone(), any(1, &["pg1", "pg3", "pg4"])];
                let cluster = vacancy(&policies, distribution, balloters, None);
                let cluster = cluster.record(|sync| (sync.leader, sync.handover_lsn) = (name("pg2"), Some(Lsn(3))));
                if let Some((who, has)) = elected(&cluster) {
                    assert_eq!(has, Lsn(3), "{who}: {cluster:#?}");
                }
            }
        }
    }
}
