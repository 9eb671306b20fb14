//! An order to one node: when it is not given, how it is left in etcd, and how it is followed until its record says how it went.

use std::time::{Duration, Instant};

use consensus::records::{OrderRecord, Transition, order_id};
use consensus::{Outcome, Snapshot};
use decision::names::MemberName;

use super::world::Reach;
use super::{Kind, Unable, asks, hold, words};
use crate::transitions::order_taken_back;

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

/// Gives the order; its revision names it from then on. A hold keeps it waiting unless it is a reload, which stops nothing; `ignore_hold`: it does not.
///
/// # Errors
/// Another one waits there, it is held, or etcd does not answer.
pub async fn give(reach: &Reach, to: &MemberName, order: &OrderRecord, ignore_hold: bool) -> Result<i64, Unable> {
    give_while(reach, None, to, order, ignore_hold).await
}

/// The same only while this member leads.
///
/// # Errors
/// As [`give`]; another leads by now.
pub async fn give_while(
    reach: &Reach,
    leader: Option<&MemberName>,
    to: &MemberName,
    order: &OrderRecord,
    ignore_hold: bool,
) -> Result<i64, Unable> {
    let pass = match order.order.as_str() {
        "reload" => None,
        _ => Some(hold::pass(&read(reach).await?, jiff::Timestamp::now(), ignore_hold)?),
    };
    let (ignored_hold, seen) =
        (pass.as_ref().and_then(|pass| pass.ignored.clone()), pass.as_ref().map(|pass| pass.revision));
    let order = OrderRecord { ignored_hold, ..order.clone() };
    asks();
    match reach.store.give_order_while(leader, seen, to, &order).await {
        Ok(Outcome::Applied { revision }) => Ok(revision),
        Ok(Outcome::Refused) => {
            let or = leader.map(|leader| format!(", or {leader} does not lead any more")).unwrap_or_default();
            let otherwise = format!("another order waits for {to}{or}");
            match &pass {
                Some(pass) => Err(hold::overtaken(reach, pass, &otherwise).await),
                None => Err(Unable::new(Kind::Overtaken, otherwise)),
            }
        }
        Err(error) => Err(Unable::by_etcd(&error, "the order was not given")),
    }
}

/// Takes an order back that its node has not begun, and puts that on record; `None`: it has, or the order is gone.
///
/// # Errors
/// etcd does not answer.
pub async fn withdraw(
    reach: &Reach,
    snapshot: &Snapshot,
    (of, revision): (&MemberName, i64),
    by: &str,
) -> Result<Option<Transition>, Unable> {
    let asked = snapshot.order_records.get(of).cloned().unwrap_or_default();
    let record = order_taken_back(revision, of, &asked, by, snapshot.cluster.term);
    let withdrawn = reach.store.cancel_order(of, revision, &record).await;
    let withdrawn = withdrawn.map_err(|error| Unable::by_etcd(&error, "the order cannot be taken back"))?;
    Ok(withdrawn.applied().then_some(record))
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
