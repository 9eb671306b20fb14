//! A standby that is to stream from another one (`replicatefrom`): when that is good for it, when it falls back to the leader, and when it goes back.
//! Nothing is promised by such a node, so a mistake here costs freshness and no commit.

use std::time::Duration;

use crate::names::MemberName;
use crate::reason::Reason;
use crate::view::{Ages, Cluster, MemberRole, RequestKind, Server, View};

/// A named upstream must have been good for so long before its standby goes (back) to it: one that comes and goes is left alone.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// No chain of standbys is longer.
const LONGEST: usize = 8;

/// The member that this node is to stream from, if its tags name one.
fn named<'a>(cluster: &'a Cluster, me: &MemberName) -> Option<&'a MemberName> {
    cluster.members.get(me)?.tags.replicatefrom.as_ref()
}

/// Whether the standby that this node is to stream from is good for that, as far as its own stream tells as well; `None`: no standby is named.
/// The agent counts for how long it has been so.
pub fn upstream_is_good(cluster: &Cluster, me: &MemberName, server: Option<&Server>) -> Option<bool> {
    let leader = cluster.leader.as_ref()?;
    let named = named(cluster, me).filter(|named| *named != leader)?;
    let standby = server?.as_standby()?;
    let follows_it = standby.follows.as_ref().is_some_and(|upstream| upstream.member == *named);
    Some(serves(cluster, me, named, leader) && (standby.streaming || !follows_it))
}

/// Whether `named` is a standby on the leader's timeline, and what it streams comes from the leader without passing by this node.
fn serves(cluster: &Cluster, me: &MemberName, named: &MemberName, leader: &MemberName) -> bool {
    let timeline = |name: &MemberName| cluster.members.get(name).and_then(|member| member.timeline);
    let stands_by = cluster.members.get(named).is_some_and(|member| member.role == MemberRole::Standby);
    let upstream_of = |name: &&MemberName| cluster.members.get(*name).and_then(|member| member.streams_from.as_ref());
    let mut chain = std::iter::successors(Some(named), upstream_of).take(LONGEST).take_while(|name| *name != me);
    stands_by && timeline(named).is_some() && timeline(named) == timeline(leader) && chain.any(|name| name == leader)
}

/// From whom this standby streams while `leader` leads: from the one that it is to, as long as that is good, and from the leader otherwise; and
/// from the leader too where a switchover asks for this very node.
pub(crate) fn source<'a>(view: &View, cluster: &'a Cluster, leader: &'a MemberName) -> &'a MemberName {
    let wanted = cluster
        .request
        .as_ref()
        .is_some_and(|request| request.kind == RequestKind::Switchover && request.to.as_ref() == Some(&view.me));
    let registered = |name: &&MemberName| **name != view.me && **name != *leader && cluster.members.contains_key(*name);
    let Some(named) = named(cluster, &view.me).filter(registered).filter(|_| !wanted) else { return leader };
    let standby = view.postgres.last().and_then(|postgres| postgres.server.as_standby());
    let follows_it =
        standby.and_then(|standby| standby.follows.as_ref()).is_some_and(|upstream| upstream.member == *named);
    let Ages { upstream_good, upstream_bad, .. } = view.ages;
    let patience = view.settings.timing.suspect_after * 2;
    let good = if follows_it {
        upstream_bad.is_none_or(|since| since < patience)
    } else {
        upstream_good.is_some_and(|since| since >= GOOD_FOR)
    };
    if good { named } else { leader }
}

/// What there is to say of a standby that streams from another than the leader, or ought to; `None`: nothing.
pub(crate) fn told(view: &View, cluster: &Cluster, leader: &MemberName) -> Option<Reason> {
    let (leader, term) = (leader.clone(), cluster.term);
    let tags = &cluster.members.get(&view.me)?.tags;
    if tags.nostream {
        return Some(Reason::FromArchive { leader, term });
    }
    let named = tags.replicatefrom.clone().filter(|named| *named != leader)?;
    let standby = view.postgres.last()?.server.as_standby()?;
    let follows_it = standby.follows.as_ref().is_some_and(|upstream| upstream.member == named);
    Some(if follows_it {
        Reason::Cascades { upstream: named, leader, term }
    } else {
        Reason::FallenBack { upstream: named, leader, term }
    })
}
