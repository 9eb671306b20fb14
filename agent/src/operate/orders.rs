//! An order to one node: when it is not given, how it is left in etcd, and how it is followed until its record says how it went.

use std::time::{Duration, Instant};

use consensus::records::{OrderRecord, Transition, order_id};
use consensus::{Outcome, Snapshot};
use decision::names::MemberName;

use super::hold::Shown;
use super::proviso::Proviso;
use super::world::Reach;
use super::{Unable, asks, words};
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

/// Gives the order; its revision names it from then on. A hold keeps it waiting unless it is a reload, which stops nothing.
///
/// # Errors
/// Another one waits there, another leads than the one who must, it is held, or etcd does not answer.
pub async fn give(reach: &Reach, to: &MemberName, order: &OrderRecord, proviso: &Proviso) -> Result<i64, Unable> {
    let snapshot = read(reach).await?;
    let pass = match order.order.as_str() {
        "reload" => proviso.unheld(&snapshot)?,
        _ => proviso.planned(&snapshot, jiff::Timestamp::now())?,
    };
    let given_at = Some(jiff::Timestamp::now().to_string());
    let order = OrderRecord { ignored_hold: pass.ignored.clone(), given_at, ..order.clone() };
    asks();
    match reach.store.give_order_while(&pass.condition, to, &order).await {
        Ok(Outcome::Applied { revision }) => Ok(revision),
        Ok(Outcome::Refused) => Err(proviso.overtaken(reach, &pass, &format!("another order waits for {to}")).await),
        Err(error) => Err(Unable::by_etcd(&error, "the order was not given")),
    }
}

/// That an order waits, whose, since when and for what: `restart of pg2 by anna@db1 waits since 2026-11-28 23:10:02Z: the agent of pg2 is not registered`
pub fn waits(snapshot: &Snapshot, of: &MemberName, now: jiff::Timestamp) -> Option<String> {
    let order = snapshot.order_records.get(of)?;
    let since =
        order.given_at.as_ref().or(order.planned_for.as_ref()).map(|at| format!(" since {}", words::moment(at)));
    let held = Shown::of(snapshot, now).filter(|_| order.order != "reload" && order.ignored_hold.is_none());
    let what_for = match held {
        _ if !snapshot.cluster.members.contains_key(of) => format!("the agent of {of} is not registered"),
        Some(hold) => format!("planned actions are held {}", hold.in_words()),
        None => format!("pgvigil why {of} says what it is at"),
    };
    Some(format!("{} of {of} by {} waits{}: {what_for}", order.order, order.requested_by, since.unwrap_or_default()))
}

/// How an order is taken back that has not been taken up.
pub fn way_back(order: &OrderRecord, of: &MemberName) -> String {
    match order.order.as_str() {
        "reload" => format!("it stops nothing, and is taken up when the agent of {of} is back"),
        kind => format!("to take it back: pgvigil {kind} {of} --cancel"),
    }
}

/// Takes the order of this kind back that a node has not begun; what it was.
///
/// # Errors
/// etcd does not answer.
pub async fn take_back(
    reach: &Reach,
    snapshot: &Snapshot,
    (of, kind): (&MemberName, &str),
    by: &str,
) -> Result<Option<String>, Unable> {
    let waits = snapshot.order_records.get(of).filter(|order| order.order == kind);
    let (Some(asked), Some(order)) = (waits, snapshot.cluster.orders.get(of)) else { return Ok(None) };
    let withdrawn = withdraw(reach, snapshot, (of, order.revision), by).await?;
    Ok(withdrawn.map(|_| format!("{kind} of {of} by {}", asked.requested_by)))
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
