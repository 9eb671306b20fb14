//! Orders of an operator to this node, carried out: taken off etcd first, done, and told in the record of the same number.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use consensus::records::Transition;
use consensus::{Condition, Snapshot};
use decision::action::{StartAs, StopMode};
use decision::names::Lsn;
use decision::view::Upstream;
use pg_control::Refused;
use tokio_util::sync::CancellationToken;

use super::Effect;
use super::joining::{clone, could_clone};
use super::running::{start, stop};
use crate::hands::Hands;
use crate::operate::rolling::WITHOUT;
use crate::transitions::notes_of;

/// A checkpoint before the stop, so that the one in it is short.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(300);
/// A voter that is gone is let go of after `voter_drop_after`, the last one after `degrade_after`.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);
/// Data that an order gives up, while nothing has replaced it.
const REINIT: &str = "reinit";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Restarts Postgres.
///
/// # Errors
/// It does not stop or start, or etcd does not answer.
pub(super) async fn restart(hands: &Hands, seen: &Snapshot, order: i64, then: StartAs) -> Result<Effect> {
    let record = record_of(hands, seen, order, "restart");
    let of_primary = matches!(then, StartAs::Primary { .. }).then(|| record.clone());
    obeyed(hands, seen, order, record, async {
        for _ in 0..2 {
            // The second one writes what has become dirty during the first.
            hands.instance.checkpoint(CHECKPOINT_WITHIN).await?;
        }
        if let Some(record) = &of_primary {
            hands.recorder.ordered(record);
        }
        if let Err(error) = stop(hands, StopMode::Fast).await {
            hands.recorder.ordered_in_vain();
            return Err(error);
        }
        let before = hands.instance.refused();
        let effect = start(hands, seen, then).await?;
        let without = hands.instance.refused().and_then(|refused| without(before.as_ref(), &refused));
        Ok((effect, without.map(|without| format!("{} {WITHOUT} {without}", hands.me()))))
    })
    .await
}

/// What the start has not taken that was asked for, and why.
fn without(before: Option<&Refused>, after: &Refused) -> Option<String> {
    let new = |one: &(&String, &String)| before.and_then(|before| before.values.get(one.0)) != Some(one.1);
    let values: Vec<String> =
        after.values.iter().filter(new).map(|(name, value)| format!("{name} = {value}")).collect();
    (!values.is_empty()).then(|| format!("{} ({})", values.join(", "), after.why))
}

/// Copies the data anew.
///
/// # Errors
/// It does not stop, the copy fails, or etcd does not answer.
pub(super) async fn reinit(
    hands: &Hands,
    seen: &Snapshot,
    order: i64,
    from: &Upstream,
    floor: Lsn,
    cancel: &CancellationToken,
) -> Result<Effect> {
    let record = record_of(hands, seen, order, "reinit");
    obeyed(hands, seen, order, record, async {
        could_clone(hands, seen, from, cancel).await.context("no copy can be made, so Postgres goes on as it is")?;
        stop(hands, StopMode::Fast).await?;
        if let Err(why) = nobody_counts_on_what_is_here(hands, cancel).await {
            start(hands, seen, StartAs::Standby(Some(from.clone()))).await?;
            return Err(why.context("the data that was here runs again"));
        }
        // Whoever comes after this agent must not start what was to be replaced.
        hands.instance.condemn(REINIT)?;
        if let Err(why) = clone(hands, seen, from, floor, cancel).await {
            // An agent that is told to end leaves the rest to the next one. Its floor keeps the old data from voting before it has caught up.
            if cancel.is_cancelled() || !hands.instance.spare(REINIT)? {
                return Err(why);
            }
            start(hands, seen, StartAs::Standby(Some(from.clone()))).await?;
            return Err(why.context("no copy was made, and the data that was here runs again"));
        }
        Ok((start(hands, seen, StartAs::Standby(Some(from.clone()))).await?, None))
    })
    .await
}

/// Waits until no promise of the record rests on this node any more. Were the leader lost before, what is here would be needed to prove that nothing
/// is.
async fn nobody_counts_on_what_is_here(hands: &Hands, cancel: &CancellationToken) -> Result<()> {
    let (begun, timing) = (std::time::Instant::now(), hands.config.timing);
    let patience = LET_GO_WITHIN.max(timing.voter_drop_after.max(timing.degrade_after) * 2);
    loop {
        let seen = hands.store.read().await.context("who counts on this node")?;
        // In a pause the record stays as it is, and nobody is promoted by it.
        if seen.config.paused_at(jiff::Timestamp::now()) {
            return Ok(());
        }
        let cluster = seen.cluster;
        ensure!(cluster.leader.is_some() && !cancel.is_cancelled(), "the leader was lost meanwhile");
        let policies = cluster.sync.iter().flat_map(|sync| &sync.policies);
        if !policies.into_iter().any(|quorum| quorum.voters.contains(hands.me())) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < patience,
            "commits go on waiting for {}, so it is needed where it is: bring another standby first",
            hands.me()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A hold that is taken at the moment in which the order is keeps it waiting, unless it was given against one.
fn unheld(hands: &Hands, seen: &Snapshot) -> Condition {
    let ignores_hold = seen.cluster.orders.get(hands.me()).is_some_and(|order| order.ignores_hold);
    if ignores_hold { Condition::default() } else { Condition::under_hold(seen.hold_revision) }
}

/// Takes the order, does the `work`, and tells how it went; beside its effect the work returns what it is short of.
async fn obeyed(
    hands: &Hands,
    seen: &Snapshot,
    order: i64,
    record: Transition,
    work: impl Future<Output = Result<(Effect, Option<String>)>>,
) -> Result<Effect> {
    // Before its record can be read, lest it be taken for an earlier life's.
    hands.begun.order(&record.id);
    let taken = hands.store.take_order_while(&unheld(hands, seen), hands.me(), order, &record).await;
    if !taken.as_ref().is_ok_and(|outcome| outcome.applied()) {
        hands.begun.was_not_taken(&record.id);
    }
    let taken = taken?;
    if !taken.applied() {
        return Ok(Effect::LOCAL);
    }
    tracing::info!(
        order = record.kind,
        by = record.requested_by,
        reason = record.reason,
        "an operator has ordered this"
    );
    let begun = std::time::Instant::now();
    let done = work.await;
    let note = match &done {
        Ok((_, short)) => short.clone(),
        Err(error) => Some(format!("{error:#}")),
    };
    let took_ms = begun.elapsed().as_millis();
    let close = move |record: &mut Transition| {
        // Once: an attempt whose answer was lost may have done it.
        if record.outcome == "in_progress" {
            record.outcome = if note.is_none() { "done" } else { "failed" }.to_owned();
            record.notes.extend(note.clone());
            record.notes.push(format!("took {took_ms} ms"));
        }
    };
    if let Err(error) = hands.store.amend_transition(&record.id, &close).await {
        tracing::warn!(id = record.id, %error, "how the order went is told when etcd is back");
        hands.recorder.amend(&record.id, close);
    }
    let revision = Effect::of(taken).revision;
    done.map(|(effect, _)| Effect { revision: effect.revision.max(revision) })
}

/// Takes an order off etcd that cannot be obeyed.
///
/// # Errors
/// etcd does not answer.
pub(super) async fn refuse(hands: &Hands, seen: &Snapshot, order: i64, why: String) -> Result<Effect> {
    let Some(asked) = seen.order_records.get(hands.me()) else { bail!("the order is gone") };
    tracing::warn!(order = asked.order, by = asked.requested_by, why, "refused an operator's order");
    let record = Transition {
        outcome: "refused".to_owned(),
        cause: "order_refused".to_owned(),
        cause_text: why,
        ..record_of(hands, seen, order, &asked.order)
    };
    Ok(Effect::of(hands.store.take_order(hands.me(), order, &record).await?))
}

/// The record of an order that this node takes up.
pub(crate) fn record_of(hands: &Hands, seen: &Snapshot, order: i64, kind: &str) -> Transition {
    let asked = seen.order_records.get(hands.me()).cloned().unwrap_or_default();
    let me = Some(hands.me().to_string());
    Transition {
        id: asked.record_id(order),
        kind: kind.to_owned(),
        cause: "ordered".to_owned(),
        cause_text: format!("an operator has ordered this of {}", hands.me()),
        from: me.clone(),
        to: me,
        term_before: seen.cluster.term.0,
        term_after: seen.cluster.term.0,
        requested_by: asked.requested_by,
        reason: asked.reason.unwrap_or_default(),
        notes: notes_of(asked.planned_for.as_deref(), asked.ignored_hold.as_deref()),
        started_at: jiff::Timestamp::now().to_string(),
        lost: "none".to_owned(),
        lost_bytes_bound: Some(0),
        ..Transition::default()
    }
}
