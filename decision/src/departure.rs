//! A member that is taken out of the cluster for good, at an operator's word. The word alone takes nothing away: its leader stops counting on the
//! member by the ordinary steps (record, apply, prove), and only when nothing counts on it any more are its keys removed. Whoever comes back under
//! the name is a member like any other again.

use serde::{Deserialize, Serialize};

use crate::durability::Quorum;
use crate::names::{MemberName, Term};
use crate::view::{Cluster, SyncRecord};

/// An operator's word that a member has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// The term in which nothing counted on it any more; `None`: something may still.
    pub done: Option<Term>,
    /// The etcd revision of the word.
    pub revision: i64,
}

/// What a leader does next about somebody who has left. Each is one guarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The name is registered again: the word is void.
    CameBack(MemberName),
    /// Nothing counts on it: its floor and its order go.
    Done(MemberName),
    /// The term in which it left has passed, so no ballot of it that is still on its way can appear: the one that lies there goes.
    ForgetBallot(MemberName),
}

/// What is to be done next, if anything is.
pub fn next(cluster: &Cluster) -> Option<Parting> {
    cluster.departures.iter().find_map(|(name, departure)| {
        let name = name.clone();
        match departure.done {
            _ if cluster.members.contains_key(&name) => Some(Parting::CameBack(name)),
            None => (!is_counted_on(cluster, &name)).then_some(Parting::Done(name)),
            Some(term) => {
                (term < cluster.term && cluster.ballots.contains_key(&name)).then_some(Parting::ForgetBallot(name))
            }
        }
    })
}

/// Whether a takeover would ask for this member, with proof or without, or whether it leads.
///
/// **Invariant: the floor of a member is never removed while the record counts on it.** It may have forgotten WAL that it acknowledged, and would
/// prove a takeover with what it has not any more.
pub fn is_counted_on(cluster: &Cluster, member: &MemberName) -> bool {
    let names = |sync: &SyncRecord| {
        let in_any = |quorum: &Quorum| quorum.voters.contains(member);
        sync.leader == *member || sync.heir.as_ref() == Some(member) || sync.policies.iter().any(in_any)
    };
    let listed = cluster.failsafe.as_ref().is_some_and(|listed| listed.contains(member));
    listed || cluster.leader.as_ref() == Some(member) || cluster.sync.as_ref().is_none_or(names)
}
