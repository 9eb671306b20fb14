//! Telling others what happened: a program of this node and receivers on the network get each record that this node is to tell of, once it is in etcd.
//! It reads what every agent knows anyway, on tasks of its own behind queues that have an end, so nothing that listens badly is in anybody's way.

mod hook;
mod roles;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus::records::Transition;
use decision::names::MemberName;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::hands::Hands;
use crate::published::Board;
use crate::transitions::REFUSED;

pub use hook::Living;
pub use webhook::trust;

/// Records come to be known beside the picture.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An old leader adds to the record of a switchover what it has measured, a new one how soon there was redundancy: what has ended is told a little later.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// So many records wait for one listener; what comes then is dropped, and counted.
const WAITING_MAX: usize = 64;

/// What is told of one transition.
#[derive(Debug)]
pub struct Told {
    /// The record.
    pub record: Transition,
    /// As `pgvigil transitions ID -o json` prints it.
    pub json: String,
}

/// Somebody who is told.
struct Listener {
    name: String,
    queue: Sender<Arc<Told>>,
}

/// Begins to tell, if anybody wants to know. Ends with the agent.
pub fn start(hands: &Arc<Hands>, board: &Arc<Board>) {
    let mut listeners = Vec::new();
    let mut listener = |name: String| {
        let (queue, told) = channel(WAITING_MAX);
        listeners.push(Listener { name, queue });
        told
    };
    if !hands.config.hooks.on_transition.is_empty() {
        let told: Receiver<Arc<Told>> = listener("on_transition".to_owned());
        tokio::spawn(hook::tell(Arc::clone(hands), told));
    }
    for webhook in &hands.config.webhooks {
        let told = listener(webhook.label());
        tokio::spawn(webhook::tell(Arc::clone(hands), webhook.clone(), told));
    }
    if !listeners.is_empty() {
        tokio::spawn(tell(Arc::clone(hands), Arc::clone(board), listeners));
    }
    if !hands.config.hooks.on_role_change.is_empty() {
        tokio::spawn(roles::tell(Arc::clone(hands), Arc::clone(board)));
    }
}

/// What was there when the agent started has been told by its earlier life, or by another.
async fn tell(hands: Arc<Hands>, board: Arc<Board>, listeners: Vec<Listener>) {
    let mut made_at = board.load().made_at;
    let mut outcomes: Option<BTreeMap<String, String>> = None;
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    let mut read = 0;
    loop {
        let picture = board.after(made_at, LOOK_EVERY).await;
        made_at = picture.made_at;
        let times = hands.ledger.times_read();
        if times != read {
            read = times;
            let records = hands.ledger.all();
            let now = records.iter().map(|record| (record.id.clone(), record.outcome.clone())).collect();
            let Some(before) = outcomes.replace(now) else { continue };
            let leads = picture.leads().is_some();
            let ended = records.iter().filter(|record| has_ended(record, &before));
            let mine = ended.filter(|record| is_told_by(record, hands.me(), leads));
            due.extend(mine.map(|record| (record.id.clone(), Instant::now() + SETTLED_AFTER)));
        }
        if due.values().any(|at| *at <= Instant::now()) {
            let is_due = |record: &Transition| due.get(&record.id).is_some_and(|at| *at <= Instant::now());
            let (told, _): (Vec<_>, Vec<_>) = hands.ledger.all().into_iter().partition(is_due);
            due.retain(|_, at| *at > Instant::now());
            told.into_iter().for_each(|record| tell_all(&hands, &listeners, record));
        }
    }
}

fn tell_all(hands: &Hands, listeners: &[Listener], record: Transition) {
    let json = serde_json::to_string_pretty(&record).unwrap_or_default();
    let told = Arc::new(Told { record, json });
    for listener in listeners {
        if listener.queue.try_send(Arc::clone(&told)).is_err() {
            hands.metrics.told(&listener.name, "dropped");
            tracing::error!(
                to = listener.name,
                id = told.record.id,
                "not told, for too much waits to be told already: {}",
                told.json
            );
        }
    }
}

fn has_ended(record: &Transition, before: &BTreeMap<String, String>) -> bool {
    record.outcome != "in_progress" && before.get(&record.id) != Some(&record.outcome)
}

/// One node tells of each record: the new leader of a change of leaders, who kept the record of a refusal, and of anything else whoever leads.
fn is_told_by(record: &Transition, me: &MemberName, leads: bool) -> bool {
    let changes_leader =
        ["failover", "switchover", "reclaim", "bootstrap", "restart", "site_promotion"].contains(&record.kind.as_str());
    if record.kind == REFUSED {
        record.told_by == me.as_str()
    } else if record.outcome == "done" && changes_leader && record.to.is_some() {
        record.to.as_deref() == Some(me.as_str())
    } else {
        leads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_told_by_one_node_once_it_has_ended() {
        let me = MemberName::new("pg2").expect("a good name");
        let record = |kind: &str, outcome: &str, to: &str, told_by: &str| Transition {
            id: "x".to_owned(),
            kind: kind.to_owned(),
            outcome: outcome.to_owned(),
            to: Some(to.to_owned()),
            told_by: told_by.to_owned(),
            ..Transition::default()
        };
        for (record, leads, mine) in [
            (record("failover", "done", "pg2", ""), false, true),
            (record("failover", "done", "pg3", ""), true, false),
            (record("switchover", "failed", "pg2", ""), false, false),
            (record("switchover", "refused", "pg3", ""), true, true),
            (record("refused", "refused", "pg3", "pg2"), false, true),
            (record("refused", "refused", "pg2", "pg3"), true, false),
            (record("degrade", "done", "pg3", ""), true, true),
        ] {
            assert_eq!(is_told_by(&record, &me, leads), mine, "{record:?}");
        }
        let begun = record("failover", "in_progress", "pg2", "");
        let done = record("failover", "done", "pg2", "");
        let before = |record: &Transition| BTreeMap::from([(record.id.clone(), record.outcome.clone())]);
        assert!(!has_ended(&begun, &BTreeMap::new()) && has_ended(&done, &before(&begun)));
        assert!(has_ended(&done, &BTreeMap::new()) && !has_ended(&done, &before(&done)));
    }
}
