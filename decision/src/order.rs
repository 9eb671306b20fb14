//! What an operator asks of one node: restart its Postgres, or copy its data anew. The node itself obeys, or says why not. An order is taken off
//! etcd before anything is done about it, so that whoever dies on the way comes back by the ordinary rules and never does it twice.

use serde::{Deserialize, Serialize};

use crate::action::{Action, StartAs};
use crate::decide::{Choice, wait};
use crate::leading::recorded_quorum;
use crate::reason::Reason;
use crate::rejoin::{floor, is_source};
use crate::suspicion;
use crate::view::{Cluster, Lock, MemberRole, Postgres, Server, View};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// Stop Postgres with a checkpoint and start it again as what it is.
    Restart,
    /// Copy the data directory anew from the leader; the old one is kept aside until the copy streams.
    Reinit,
}

/// An order to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub kind: OrderKind,
    /// Only if the node has this role.
    pub only_role: Option<MemberRole>,
    /// It was given against a hold, so none keeps it waiting.
    #[serde(default)]
    pub ignores_hold: bool,
    /// The etcd revision by which it is taken.
    pub revision: i64,
}

/// What this node does about its order, if it has one that can be answered now.
pub(crate) fn obey(view: &View, cluster: &Cluster, postgres: &Postgres) -> Option<Choice> {
    let order = cluster.orders.get(&view.me).filter(|_| !is_needed(view, cluster))?;
    // A hold that was taken while this node was away is kept by it as well: what is planned waits until it ends.
    if view.settings.held && !order.ignores_hold {
        return None;
    }
    // One that starts can be restarted in a moment; one that never comes up can still be copied anew.
    let on_its_way = matches!(postgres.server, Server::Starting { .. } | Server::Stopping);
    if on_its_way && order.kind == OrderKind::Restart {
        return None;
    }
    let refuse = |why: String| {
        let reason = Reason::OrderRefused { why: why.clone() };
        Some((Action::RefuseOrder { order: order.revision, why }, reason))
    };
    let role = match &postgres.server {
        Server::Primary(_) => MemberRole::Primary,
        Server::Standby(_) => MemberRole::Standby,
        Server::Stopped | Server::Stopping | Server::Starting { .. } | Server::Hung { .. } => MemberRole::Down,
    };
    if let Some(only) = order.only_role.filter(|only| *only != role) {
        return refuse(format!("it was asked of a {}, but {} is a {}", word(only), view.me, word(role)));
    }
    match order.kind {
        OrderKind::Restart => match restarted_as(view, cluster, postgres) {
            Ok(then) => {
                let reason = Reason::Ordered { what: "restart Postgres".to_owned() };
                Some((Action::Restart { order: order.revision, then }, reason))
            }
            Err(why) => refuse(why),
        },
        OrderKind::Reinit => reinit(view, cluster, order).unwrap_or_else(refuse),
    }
}

/// Whether somebody counts on this node at this moment: a switchover is asked for or under way, or its leader may be dead. The order waits.
fn is_needed(view: &View, cluster: &Cluster) -> bool {
    cluster.request.is_some() || cluster.heir().is_some() || suspicion::is_gone(view, cluster)
}

/// What it is to be again; the error says why it cannot be restarted.
fn restarted_as(view: &View, cluster: &Cluster, postgres: &Postgres) -> Result<StartAs, String> {
    match (&postgres.server, view.lock) {
        (Server::Primary(_), _) if view.settings.paused => {
            Err("in a pause nothing is fenced, and without a fence no primary is started: pgvigil resume first"
                .to_owned())
        }
        (Server::Primary(_), Lock::Held { term, left }) if !left.is_zero() && cluster.last_led_by(&view.me) => {
            let quorum = cluster.sync.as_ref().map(recorded_quorum).unwrap_or_default();
            Ok(StartAs::Primary { term, quorum, record_anew: true })
        }
        (Server::Primary(_), _) => Err("its lead is not certain at this moment".to_owned()),
        (Server::Standby(standby), _) => Ok(StartAs::Standby(standby.follows.clone())),
        (Server::Stopped | Server::Stopping | Server::Starting { .. } | Server::Hung { .. }, _) => {
            Err("its Postgres does not run as it should, and is seen to already: pgvigil why".to_owned())
        }
    }
}

/// A copy in place of whatever is here; the error says why not.
fn reinit(view: &View, cluster: &Cluster, order: &Order) -> Result<Option<Choice>, String> {
    let leader = cluster.leader.as_ref().ok_or_else(|| "nobody leads, so there is nothing to copy from".to_owned())?;
    if *leader == view.me || !matches!(view.lock, Lock::NotHeld) {
        return Err(format!("{} leads: its data is what the others are copied from; switch over first", view.me));
    }
    let from = cluster
        .upstream(&view.me, leader, cluster.term)
        .ok_or_else(|| format!("where {leader} is to be reached is not known"))?;
    if !is_source(cluster, leader) {
        return Ok(Some(wait(Reason::LeaderNotPrimary { leader: leader.clone() })));
    }
    let reason = Reason::Ordered { what: format!("copy the data anew from {leader}") };
    Ok(Some((Action::Reinit { order: order.revision, from, floor: floor(cluster) }, reason)))
}

fn word(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Primary => "primary",
        MemberRole::Standby => "standby",
        MemberRole::Down => "node whose Postgres does not run",
    }
}
