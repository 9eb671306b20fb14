//! An order to one node: when it is not given, how it is left in etcd, and how it is followed until its record says how it went.

use std::time::{Duration, Instant};

use consensus::records::{OrderRecord, Transition, order_id};
use consensus::{Outcome, Snapshot};
use decision::names::MemberName;

use super::world::Reach;
use super::{Kind, Unable, asks, words};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Reads the cluster.
///
/// # Errors
/// etcd does not answer.
pub async fn read(reach: &Reach) -> Result<Snapshot, Unable> {
    reach
        .store
        .read()
        .await
        .map_err(|error| Unable::by_etcd(&error, "orders are given in etcd, and it does not answer"))
}

/// Why an order will not be given.
pub fn refusal(snapshot: &Snapshot, to: &MemberName, order: &OrderRecord) -> Option<String> {
    let cluster = &snapshot.cluster;
    if !cluster.members.contains_key(to) {
        let members = words::list(cluster.members.keys());
        return Some(format!("{to} is not registered: is its agent running? Registered: {members}"));
    }
    let leads = cluster.leader.as_ref() == Some(to);
    (order.order == "reinit" && leads)
        .then(|| format!("{to} leads: its data is what the others are copied from; switch over first"))
}

/// Whether a parameter waits for a restart of this node.
pub fn waits_for_restart(snapshot: &Snapshot, member: &MemberName) -> bool {
    snapshot.member_records.get(member).is_some_and(|record| record.pending_restart == Some(true))
}

/// Gives the order; its revision names it from then on.
///
/// # Errors
/// Another one waits there, or etcd does not answer.
pub async fn give(reach: &Reach, to: &MemberName, order: &OrderRecord) -> Result<i64, Unable> {
    asks();
    match reach.store.give_order(to, order).await {
        Ok(Outcome::Applied { revision }) => Ok(revision),
        Ok(Outcome::Refused) => Err(Unable::new(Kind::Overtaken, format!("another order waits for {to}"))),
        Err(error) => Err(Unable::by_etcd(&error, "the order was not given")),
    }
}

/// Waits until the record of the order is closed, and until it is begun where that `suffices`; `None`: not within this time. What cannot be seen
/// meanwhile is told.
pub async fn follow(
    reach: &Reach,
    revision: i64,
    within: Duration,
    suffices: impl Fn(&Transition) -> bool,
    mut tell: impl FnMut(&str),
) -> Option<Transition> {
    let begun = Instant::now();
    let id = order_id(revision);
    loop {
        match reach.store.transition(&id).await {
            Ok(Some(record)) if record.outcome != "in_progress" || suffices(&record) => return Some(record),
            Ok(_) => {}
            Err(error) => tell(&format!("how it goes is not known at the moment: {error}")),
        }
        if begun.elapsed() >= within {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
