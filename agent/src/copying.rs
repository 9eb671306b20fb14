//! From whom a copy of the data is made: the ways of the node's file, as they are possible in the cluster that is seen.

use consensus::Snapshot;
use decision::names::MemberName;
use decision::view::{Cluster, MemberRole, Upstream};
use pg_control::{CloneMethod, CloneOptions};

use crate::config::{Cloning, Way};

/// The methods, in the order in which they are to be tried. Empty where no way is possible at present.
pub fn methods(cloning: &Cloning, me: &MemberName, seen: &Snapshot, leader: &Upstream) -> Vec<CloneMethod> {
    let mut methods = Vec::new();
    for way in &cloning.ways {
        match way {
            Way::Leader => methods.push(CloneMethod::BaseBackup(leader.clone())),
            Way::Replica => methods.extend(offers(&seen.cluster, me, leader).into_iter().map(CloneMethod::BaseBackup)),
            Way::Program { name, command, restore_command } => methods.push(CloneMethod::Program {
                name: name.clone(),
                command: command.clone(),
                restore_command: restore_command.clone(),
            }),
        }
    }
    methods
}

/// What `pg_basebackup` is told.
pub fn options(cloning: &Cloning) -> CloneOptions {
    CloneOptions { max_rate_bytes: cloning.max_rate_bytes, stalls_after: None }
}

/// Standbys that offer themselves and are on the leader's timeline, by name. The same for whoever asks, so that an operator can tell beforehand.
fn offers(cluster: &Cluster, me: &MemberName, leader: &Upstream) -> Vec<Upstream> {
    let timeline = cluster.members.get(&leader.member).and_then(|member| member.timeline);
    let offering = cluster.members.iter().filter(|(name, member)| {
        let runs = member.role == MemberRole::Standby && member.timeline == timeline;
        member.tags.clonefrom && runs && *name != me && **name != leader.member
    });
    offering.filter_map(|(name, _)| cluster.upstream(me, name, leader.term)).collect()
}
