//! A switchover, as the old leader carries it out: checkpoints while clients still write, the other standbys go over to the candidate, a
//! fast shutdown, proof that the candidate has the last byte, and then the lock moves in one transaction. If anything fails before that,
//! the request and the heir are taken back, and Postgres starts again here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use consensus::records::Transition;
use consensus::{HandOver, Outcome, Snapshot};
use decision::candidacy::highest_timeline;
use decision::durability::{ending_with, inherited, may_go_over_ahead, quorum_for_new_leader};
use decision::names::{Lsn, MemberName, Timeline};
use decision::view::{Member, MemberRole, SyncRecord};
use pg_control::pidfile::Status;
use serde_json::Value;

use crate::execute::Effect;
use crate::hands::Hands;
use crate::peers::{Line, Peers, is_refusal};
use crate::routing::pooler;
use crate::task::crash_point;
use crate::transitions::{Stopwatch, notes_of};

/// How long one of the checkpoints beforehand may take; clients write meanwhile.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(120);
/// How long the other standbys may take to go over to the candidate; clients write meanwhile, and whoever is late goes over later.
const GO_OVER_WITHIN: Duration = Duration::from_millis(400);
/// How long the shutdown checkpoint may take; after the two checkpoints before it, it is short.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);
/// How long the candidate may take to replay the last WAL.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How long it may say nothing, or come no further, meanwhile.
const SILENT_WITHIN: Duration = Duration::from_secs(1);
/// How long the postmaster may take to write down that it stops.
const NOTICED_WITHIN: Duration = Duration::from_millis(20);
/// How long a server that has written its last checkpoint may take to end, when the hand-over is broken off.
const ENDS_BY_ITSELF: Duration = Duration::from_millis(300);
/// How often the candidate is asked.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// Hands the lock to `to`, as the request of revision `request` asks.
///
/// # Errors
/// Why it was broken off; Postgres is then stopped or running, and the next decision sees to it.
pub async fn hand_over(hands: &Arc<Hands>, seen: &Snapshot, to: &MemberName, request: i64) -> Result<Effect> {
    let record = begun(hands, seen, to, request);
    hands.store.create_transition(&record).await?;
    let mut plan = Plan::new(hands, seen, to, request, record.id.clone())?;
    let ended = plan.carry_out().await;
    let failure = ended.as_ref().err().map(|error| format!("{error:#}"));
    if failure.is_some() {
        plan.go_back().await;
    }
    let (phases, notes) = (plan.watch.phases().to_vec(), std::mem::take(&mut plan.notes));
    let amended = hands.store.amend_transition(&record.id, |record| {
        let later = std::mem::take(&mut record.phases);
        record.phases = phases.iter().cloned().chain(later).collect();
        record.notes.extend(notes.iter().cloned());
        // One that was broken off before the server stopped has cost no write, and knows nothing of what else may have held writes up.
        record.write_outage_ms =
            Some(crate::transitions::write_outage_ms(&record.phases)).filter(|outage| *outage > 0.0);
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

/// The record of a switchover that begins.
pub fn begun(hands: &Hands, seen: &Snapshot, to: &MemberName, request: i64) -> Transition {
    let asked = seen.request_record.clone().unwrap_or_default();
    Transition {
        id: asked.record_id(request),
        kind: "switchover".into(),
        cause: "switchover".into(),
        cause_text: format!("an operator asked {to} to lead"),
        from: Some(hands.me().to_string()),
        to: Some(to.to_string()),
        term_before: seen.cluster.term.0,
        term_after: seen.cluster.term.next().0,
        timeline_before: seen.cluster.sync.as_ref().map(|sync| sync.timeline.0),
        timeline_after: seen.cluster.sync.as_ref().map(|sync| highest_timeline(&seen.cluster, sync.timeline).0 + 1),
        requested_by: asked.requested_by.unwrap_or_default(),
        reason: asked.reason.unwrap_or_default(),
        notes: notes_of(asked.planned_for.as_deref(), asked.ignored_hold.as_deref()),
        started_at: jiff::Timestamp::now().to_string(),
        lost: "none".into(),
        lost_bytes_bound: Some(0),
        ..Transition::default()
    }
}

/// One hand-over, and how far it has come.
struct Plan<'a> {
    hands: &'a Arc<Hands>,
    seen: &'a Snapshot,
    to: &'a MemberName,
    candidate: &'a Member,
    request: i64,
    peers: Peers,
    /// To the candidate.
    line: Line,
    /// The durability record as it stands in etcd, and its revision.
    sync: SyncRecord,
    sync_revision: i64,
    watch: Stopwatch,
    /// The id of its record.
    record: String,
    /// What a reader of that should know.
    notes: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(
        hands: &'a Arc<Hands>,
        seen: &'a Snapshot,
        to: &'a MemberName,
        request: i64,
        record: String,
    ) -> Result<Self> {
        let sync = seen.cluster.sync.clone().context("there is no durability record")?;
        let candidate = seen.cluster.members.get(to).context("the candidate is not registered any more")?;
        let (sync_revision, watch) = (seen.sync_revision, Stopwatch::start(hands.me()));
        let (peers, line) = (Peers::default(), Line::default());
        let notes = Vec::new();
        Ok(Self { hands, seen, to, candidate, request, peers, line, sync, sync_revision, watch, record, notes })
    }

    async fn carry_out(&mut self) -> Result<Effect> {
        let instance = &self.hands.instance;
        // Opens the connection that is asked on later, while clients still write.
        self.position().await.with_context(|| format!("{} must be reachable to take over", self.to))?;
        // The second checkpoint has only what was written during the first, so the one of the shutdown has next to nothing.
        instance.checkpoint(CHECKPOINT_WITHIN).await?;
        instance.checkpoint(CHECKPOINT_WITHIN).await?;
        instance.await_only(self.to).await?;
        self.name_heir().await?;
        instance.note_readers().await;
        crash_point("hand_over", "prepared");
        self.watch.lap("prepare");
        self.hold_clients().await;
        if !instance.begin_stop() {
            bail!("Postgres is not running any more");
        }
        crash_point("hand_over", "stopping");
        self.turn_clients_away().await;
        let last = instance.shutdown_checkpoint(SHUTDOWN_WITHIN).await?;
        crash_point("hand_over", "stopped");
        self.watch.lap("shutdown");
        self.confirm(last).await?;
        crash_point("hand_over", "confirmed");
        self.watch.lap("confirm");
        let order = self.order(last);
        // From here on another may lead without anybody's ballot, so promises carry this reign no more.
        let over = self.sync_revision;
        self.hands.noting(move |promises| promises.reign.end(over)).await?;
        let outcome = self.hands.store.hand_over(&order).await?;
        crash_point("hand_over", "handed");
        self.watch.lap("hand_over");
        let Outcome::Applied { revision } = outcome else {
            bail!("the lock could not be handed over: the cluster changed meanwhile");
        };
        self.hands.fence.disarm();
        self.hands.authority.unbind();
        // Whoever leads now lets clients go.
        self.hands.begun.held().iter().for_each(|(record, words)| self.hands.begun.let_go(record, words));
        tracing::info!(to = %self.to, term = %order.new_term, %last, "handed the leader lock over");
        Ok(Effect { revision })
    }

    /// Whoever comes by a pooler waits from here on, as far as it can be had in the time that is allowed.
    async fn hold_clients(&mut self) {
        if self.hands.config.pgbouncer.admin.is_empty() {
            return;
        }
        self.notes = pooler::hold(self.hands, &self.record).await;
        crash_point("hand_over", "held");
        self.watch.lap("hold");
    }

    /// Lets the other standbys stream from the candidate before clients have to wait for it. Not more than a kindness: whoever does not go
    /// over now, goes over when the lock has moved.
    async fn name_heir(&mut self) -> Result<()> {
        let mine = |name: &MemberName| name == self.hands.me() || name == self.to;
        let members = self.seen.cluster.members.iter();
        let others: Vec<&Member> = members
            .filter(|(name, member)| {
                !mine(name) && member.role == MemberRole::Standby && !member.tags.streams_elsewhere()
            })
            .map(|(_, member)| member)
            .collect();
        if others.is_empty() || !may_go_over_ahead(&self.sync.policies, self.to) {
            return Ok(());
        }
        let named = SyncRecord { heir: Some(self.to.clone()), ..self.sync.clone() };
        let written = self.hands.store.record_sync(self.hands.me(), named.term, &named, self.sync_revision).await?;
        let Outcome::Applied { revision } = written else {
            bail!("the candidate could not be made known: the cluster changed meanwhile");
        };
        (self.sync, self.sync_revision) = (named, revision);
        crash_point("hand_over", "heir");
        let deadline = Instant::now() + GO_OVER_WITHIN;
        for other in others {
            while !self.has_gone_over(other).await && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// From here on no load balancer should lead anybody here: the loop looks, sees a server that stops, and the health answers change.
    async fn turn_clients_away(&self) {
        let began = Instant::now();
        let runs = || self.hands.instance.postmaster().is_some_and(|postmaster| postmaster.status == Status::Ready);
        while runs() && began.elapsed() < NOTICED_WITHIN {
            tokio::time::sleep(ASK_EVERY).await;
        }
        self.hands.look_now.notify_one();
    }

    async fn has_gone_over(&self, other: &Member) -> bool {
        let beat = self.peers.get(&other.api_url, "/beat", Duration::from_millis(100)).await;
        beat.is_ok_and(|beat| beat["streams_from"] == self.to.as_str())
    }

    fn order(&self, last: Lsn) -> HandOver {
        let sync = self.next_record(last);
        HandOver {
            me: self.hands.me().clone(),
            term: self.seen.cluster.term,
            to: self.to.clone(),
            to_lease: self.candidate.lock_lease,
            new_term: sync.term,
            sync,
            sync_revision: self.sync_revision,
            request_revision: Some(self.request),
        }
    }

    /// The durability record of the new leader: what was promised before, what it promises, and the position it must have replayed.
    fn next_record(&self, last: Lsn) -> SyncRecord {
        let settings = self.hands.settings(self.seen);
        let quorum = quorum_for_new_leader(self.to, &self.seen.cluster, &settings);
        SyncRecord {
            leader: self.to.clone(),
            term: self.seen.cluster.term.next(),
            mode: self.sync.mode,
            policies: ending_with(&inherited(&self.sync), &quorum),
            timeline: Timeline(highest_timeline(&self.seen.cluster, self.sync.timeline).0 + 1),
            released: false,
            reclaimed: false,
            // Behind the start of the last record, that is: the record itself.
            handover_lsn: Some(Lsn(last.0 + 1)),
            heir: None,
            follows: false,
        }
    }

    /// Waits until the candidate has replayed the shutdown checkpoint, the last thing this leader has written. A candidate that is gone, or
    /// silent, or comes no further, is not waited for: clients are better off with a restart here.
    async fn confirm(&mut self, last: Lsn) -> Result<()> {
        let (began, mut moved, mut replayed) = (Instant::now(), Instant::now(), Lsn(0));
        loop {
            let trouble = match self.position().await {
                Ok(now) if now > last => return Ok(()),
                Ok(now) if now > replayed => {
                    (replayed, moved) = (now, Instant::now());
                    None
                }
                Ok(_) => None,
                Err(error) if is_refusal(&error) => {
                    return Err(error.context(format!("{} is gone: going back", self.to)));
                }
                Err(error) => Some(format!("{error:#}")),
            };
            if began.elapsed() > CONFIRM_WITHIN || moved.elapsed() > SILENT_WITHIN {
                bail!(unconfirmed(self.to, replayed, last, trouble.as_deref()));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn position(&mut self) -> Result<Lsn> {
        let beat = self.line.get(&self.candidate.api_url, "/beat", Duration::from_millis(300)).await?;
        let state =
            || format!("its Postgres is {}", beat["state"].as_str().unwrap_or("in a state that it does not tell"));
        beat.get("replayed").and_then(Value::as_u64).map(Lsn).with_context(state)
    }

    /// Takes back what was said in etcd, so that it cannot come true any more and the others follow this leader again, and gets a server out
    /// of the way that has written its last checkpoint and only waits for its standbys. Whatever of this fails is done by the next
    /// decisions: an operator asks again, a request that failed once is not tried again behind their back.
    async fn go_back(&self) {
        let sync = SyncRecord { heir: None, ..self.sync.clone() };
        let taken_back =
            self.hands.store.break_off_hand_over(self.hands.me(), &sync, self.sync_revision, self.request).await;
        match taken_back {
            Ok(Outcome::Applied { .. }) => {}
            Ok(Outcome::Refused) => {
                tracing::warn!("the hand-over could not be taken back: the cluster changed meanwhile")
            }
            Err(error) => tracing::warn!(%error, "the hand-over could not be taken back yet"),
        }
        if let Err(error) = self.hands.instance.clear_away_shut_down(ENDS_BY_ITSELF).await {
            tracing::warn!(%error, "the stopped Postgres could not be cleared away");
        }
    }
}

/// Why the candidate is not waited for any more: a position that it has told, or what keeps it from telling one.
fn unconfirmed(to: &MemberName, replayed: Lsn, last: Lsn, trouble: Option<&str>) -> String {
    match trouble {
        Some(trouble) if replayed == Lsn(0) => {
            format!("{to} does not say that it has replayed anything: {trouble}: going back")
        }
        Some(trouble) => format!(
            "{to} had replayed {replayed}, not yet the end of this leader's WAL behind {last}, when it failed: {trouble}: going back"
        ),
        None => format!("{to} has replayed {replayed}, not yet the end of this leader's WAL behind {last}: going back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_that_was_broken_off_says_what_became_of_the_candidate() {
        let pg2 = MemberName::new("pg2").expect("a good name");
        for (replayed, trouble, told) in [
            (
                0,
                Some("its Postgres is stopped"),
                "pg2 does not say that it has replayed anything: its Postgres is stopped",
            ),
            (
                16,
                Some("its Postgres is stopped"),
                "pg2 had replayed 0/10, not yet the end of this leader's WAL behind 0/20, when it failed: its",
            ),
            (16, None, "pg2 has replayed 0/10, not yet the end of this leader's WAL behind 0/20: going back"),
        ] {
            let said = unconfirmed(&pg2, Lsn(replayed), Lsn(32), trouble);
            assert!(said.starts_with(told) && said.ends_with(": going back"), "{said}");
        }
    }
}
