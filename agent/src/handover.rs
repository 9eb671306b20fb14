//! A switchover, as the old leader carries it out: checkpoints while clients still write, a fast shutdown, proof that the candidate has
//! the last byte, and then the lock moves in one transaction. If anything fails before that, Postgres starts again here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use consensus::records::Transition;
use consensus::{HandOver, Snapshot};
use decision::durability::{ending_with, inherited, quorum_for_new_leader};
use decision::names::{Lsn, MemberName, Timeline};
use decision::view::SyncRecord;

use crate::execute::Effect;
use crate::hands::Hands;
use crate::peers::Peers;
use crate::transitions::Stopwatch;

/// How long one of the checkpoints beforehand may take; clients write meanwhile.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(120);
/// How long the shutdown checkpoint may take; after the two checkpoints before it, it is short.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);
/// How long the candidate may take to replay the last WAL.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How often the candidate is asked.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// Hands the lock to `to`, as the request of revision `request` asks.
///
/// # Errors
/// Why it was broken off; Postgres is then stopped or running, and the next decision sees to it.
pub async fn hand_over(hands: &Hands, seen: &Snapshot, to: &MemberName, request: i64) -> Result<Effect> {
    let record = begun(hands, seen, to, request);
    hands.store.create_transition(&record).await?;
    let mut watch = Stopwatch::start(hands.me());
    let ended = steps(hands, seen, to, request, &mut watch).await;
    let failure = ended.as_ref().err().map(|error| format!("{error:#}"));
    if failure.is_some() {
        // An operator asks again; a request that failed once is not tried again behind their back.
        let _ = hands.store.remove_request(request).await;
    }
    let phases = watch.phases().to_vec();
    let amended = hands.store.amend_transition(&record.id, |record| {
        let later = std::mem::take(&mut record.phases);
        record.phases = phases.iter().cloned().chain(later).collect();
        record.write_outage_ms = Some(crate::transitions::write_outage_ms(&record.phases));
        if let Some(why) = &failure {
            record.outcome = "failed".into();
            record.notes.push(why.clone());
        }
    });
    if let Err(error) = amended.await {
        tracing::warn!(id = record.id, %error, "the switchover's phases could not be recorded");
    }
    ended
}

fn begun(hands: &Hands, seen: &Snapshot, to: &MemberName, request: i64) -> Transition {
    let asked = seen.request_record.clone().unwrap_or_default();
    Transition {
        id: format!("s-{request}"),
        kind: "switchover".into(),
        cause: "switchover".into(),
        cause_text: format!("an operator asked {to} to lead"),
        from: Some(hands.me().to_string()),
        to: Some(to.to_string()),
        term_before: seen.cluster.term.0,
        term_after: seen.cluster.term.next().0,
        timeline_before: seen.cluster.sync.as_ref().map(|sync| sync.timeline.0),
        timeline_after: seen.cluster.sync.as_ref().map(|sync| sync.timeline.0 + 1),
        requested_by: asked.requested_by.unwrap_or_default(),
        reason: asked.reason.unwrap_or_default(),
        started_at: jiff::Timestamp::now().to_string(),
        lost: "none".into(),
        lost_bytes_bound: Some(0),
        ..Transition::default()
    }
}

async fn steps(hands: &Hands, seen: &Snapshot, to: &MemberName, request: i64, watch: &mut Stopwatch) -> Result<Effect> {
    let candidate = seen.cluster.members.get(to).context("the candidate is not registered any more")?;
    let peers = Peers::default();
    // Opens the connection that is asked on later, while clients still write.
    position(&peers, &candidate.api_url).await.with_context(|| format!("{to} must be reachable to take over"))?;
    // The second checkpoint has only what was written during the first, so the one of the shutdown has next to nothing.
    hands.instance.checkpoint(CHECKPOINT_WITHIN).await?;
    hands.instance.checkpoint(CHECKPOINT_WITHIN).await?;
    watch.lap("prepare");
    if !hands.instance.begin_stop() {
        bail!("Postgres is not running any more");
    }
    let last = hands.instance.shutdown_checkpoint(SHUTDOWN_WITHIN).await?;
    watch.lap("shutdown");
    confirm(&peers, &candidate.api_url, to, last).await?;
    watch.lap("confirm");
    let sync = next_record(hands, seen, to, last)?;
    let term = sync.term;
    let order = HandOver {
        me: hands.me().clone(),
        term: seen.cluster.term,
        to: to.clone(),
        to_lease: candidate.lock_lease,
        new_term: term,
        sync,
        request_revision: Some(request),
    };
    let outcome = hands.store.hand_over(&order).await?;
    watch.lap("hand_over");
    let consensus::Outcome::Applied { revision } = outcome else {
        bail!("the lock could not be handed over: the cluster changed meanwhile");
    };
    hands.fence.disarm();
    tracing::info!(%to, %term, %last, "handed the leader lock over");
    Ok(Effect { revision })
}

/// The durability record of the new leader: what was promised before, what it promises, and the position it must have replayed.
fn next_record(hands: &Hands, seen: &Snapshot, to: &MemberName, last: Lsn) -> Result<SyncRecord> {
    let before = seen.cluster.sync.as_ref().context("there is no durability record")?;
    let settings = hands.settings(seen);
    let quorum = quorum_for_new_leader(to, &seen.cluster, &settings);
    Ok(SyncRecord {
        leader: to.clone(),
        term: seen.cluster.term.next(),
        mode: before.mode,
        policies: ending_with(&inherited(before), &quorum),
        timeline: Timeline(before.timeline.0 + 1),
        released: false,
        reclaimed: false,
        // Behind the start of the last record, that is: the record itself.
        handover_lsn: Some(Lsn(last.0 + 1)),
    })
}

/// Waits until the candidate has replayed the shutdown checkpoint, the last thing this leader has written.
async fn confirm(peers: &Peers, api_url: &str, to: &MemberName, last: Lsn) -> Result<()> {
    let began = Instant::now();
    loop {
        let replayed = position(peers, api_url).await.unwrap_or_default();
        if replayed > last {
            return Ok(());
        }
        if began.elapsed() > CONFIRM_WITHIN {
            bail!("{to} has replayed {replayed}, not yet the end of this leader's WAL behind {last}: going back");
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn position(peers: &Peers, api_url: &str) -> Result<Lsn> {
    let beat = peers.get(api_url, "/beat", Duration::from_millis(300)).await?;
    beat.get("replayed").and_then(serde_json::Value::as_u64).map(Lsn).context("it does not say how far it has replayed")
}
