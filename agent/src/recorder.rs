//! Who measures a transition on this node: from the last word of the old leader, over each phase, until writes are proven and
//! redundancy is back. The record goes to etcd in the background, so that writing about an outage never prolongs it.

mod measuring;
mod queue;
mod stored;
mod unmeasured;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use consensus::records::{Hold, Transition};
use consensus::{Snapshot, Store};
use decision::action::{Claim, ClaimKind};
use decision::names::{MemberName, Term};
use decision::reason::Reason;
use decision::view::SyncRecord;

use crate::metrics::Metrics;
use crate::transitions::{Ledger, Stopwatch, forced, write_outage_ms};
use crate::unattended::LedUntil;
use measuring::Measuring;
use queue::{PATIENCE, Queue};
pub use stored::reload;
use stored::{add_phases, complete_switchover, last_switchover, log_done};
use unmeasured::{Lack, lack};

/// How many records etcd keeps for a cluster.
pub const KEPT_RECORDS: usize = 100;

/// The recorder of one agent.
pub struct Recorder {
    me: MemberName,
    store: Store,
    metrics: Arc<Metrics>,
    ledger: Arc<Ledger>,
    queue: Queue,
    now: Mutex<Measuring>,
}

impl Recorder {
    /// A recorder that writes to `store`, on the current runtime.
    pub fn new(me: MemberName, store: Store, metrics: Arc<Metrics>, ledger: Arc<Ledger>) -> Self {
        let queue = Queue::start(&tokio::runtime::Handle::current(), PATIENCE);
        Self { me, store, metrics, ledger, queue, now: Mutex::default() }
    }

    /// Has something written about the transition `id`, in the background and in turn, until etcd has it. It may be tried again after an attempt
    /// whose answer was lost.
    pub fn write<F>(&self, id: &str, write: impl Fn(Store, Arc<Ledger>) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), consensus::Error>> + Send + 'static,
    {
        let (store, ledger) = (self.store.clone(), Arc::clone(&self.ledger));
        self.queue.write(id, move || write(store.clone(), Arc::clone(&ledger)));
    }

    /// Has the record of this id changed so, in the background, as soon as etcd lets it be.
    pub fn amend(&self, id: &str, change: impl Fn(&mut Transition) + Clone + Send + Sync + 'static) {
        let known = id.to_owned();
        self.write(id, move |store, ledger| {
            let (id, change) = (known.clone(), change.clone());
            async move {
                store.amend_transition(&id, &change).await?;
                reload(&store, &ledger).await
            }
        });
    }

    /// Has this record stored, in the place of one that was begun.
    fn finish(&self, record: Transition) {
        let (id, record) = (record.id.clone(), Arc::new(record));
        self.write(&id, move |store, ledger| {
            let record = Arc::clone(&record);
            async move {
                store.finish_transition(&record).await?;
                reload(&store, &ledger).await
            }
        });
    }

    fn now(&self) -> MutexGuard<'_, Measuring> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock is free since just now; the old leader's last word was heard `silent_for` ago.
    pub fn vacancy(&self, silent_for: Option<Duration>) {
        let mut now = self.now();
        if now.watch.is_none() {
            (now.began_before, now.died_at) = (silent_for.is_none() && !now.seen_at_work, None);
            let began = silent_for.and_then(|silence| Instant::now().checked_sub(silence)).unwrap_or_else(Instant::now);
            let mut watch = Stopwatch::started(&self.me, began);
            watch.lap("detect");
            now.watch = Some(watch);
        }
    }

    /// What etcd says of holds, for the records alone. One that goes in an outage, perhaps with the host of the old leader, was there when it began.
    pub fn sees_hold(&self, hold: &Hold) {
        let mut now = self.now();
        match hold {
            Hold::Taken(record) if now.hold.as_ref() != Some(record) => now.hold = Some(record.clone()),
            Hold::Nothing if now.watch.is_none() => now.hold = None,
            Hold::Taken(_) | Hold::Nothing | Hold::Unreadable(_) => {}
        }
    }

    /// Nobody is promoted, for this: whatever transition follows says so. `None`: there is a primary.
    pub fn refuses(&self, why: Option<String>) {
        self.now().refused = why;
    }

    /// The local primary lives, and takes no writes since `since`; `None`: nothing is in the way of one.
    pub fn stuck(&self, since: Option<Instant>) {
        self.now().stuck_since = since;
    }

    /// There is a primary at work here.
    pub fn sees_work(&self) {
        self.now().sees_work();
    }

    /// Whether a primary that is seen at work by a question of this moment had died meanwhile, and nothing has begun to tell of it.
    pub fn has_returned_unseen(&self, asked: Instant) -> bool {
        self.now().has_returned_unseen(asked)
    }

    /// The local primary has died. Where it was killed because it hung, the outage began before.
    pub fn primary_died(&self) {
        let mut now = self.now();
        if now.watch.is_none() {
            (now.began_before, now.died_at) = (false, Some(Instant::now()));
            let began = now.stuck_since.take().unwrap_or_else(Instant::now);
            now.watch = Some(Stopwatch::started(&self.me, began));
        }
    }

    /// The primary here is about to be stopped, and started again, by the order of this record. Nothing else has gone wrong, and what it takes is measured
    /// from now on.
    pub fn ordered(&self, order: &Transition) {
        let mut now = self.now();
        now.ordered(&self.me, order);
    }

    /// It has not come to a stop, and runs on.
    pub fn ordered_in_vain(&self) {
        let mut now = self.now();
        if now.ordered.take().is_some() {
            now.watch = None;
        }
    }

    /// A phase has ended, if something is being measured.
    pub fn lap(&self, phase: &str) {
        if let Some(watch) = &mut self.now().watch {
            watch.lap(phase);
        }
    }

    /// An earlier life of this agent was told to end while it led.
    pub fn earlier_life_led_until(&self, led_until: Option<LedUntil>) {
        self.now().led_until = led_until;
    }

    /// An operator has asked for a failover: until now it was waited for them.
    pub fn operator_has_spoken(&self) {
        if let Some(watch) = self.now().watch.as_mut().filter(|watch| !watch.has("operator")) {
            watch.lap("operator");
        }
    }

    /// The lock came to me by a switchover.
    pub fn handed_over(&self, seen: &Snapshot) {
        let term = seen.cluster.term;
        let mut now = self.now();
        (now.watch, now.began_before, now.died_at) = (Some(Stopwatch::start(&self.me)), false, None);
        now.led_until = None;
        now.forget_order();
        now.record = Some(Transition {
            kind: "switchover".into(),
            term_after: term.0,
            to: Some(self.me.to_string()),
            ..Transition::default()
        });
    }

    /// I have taken the lock by ballots, or taken my own again.
    pub fn acquired(&self, claim: &Claim, seen: &Snapshot) {
        let (kind, cause) = match claim.kind {
            ClaimKind::Reclaim => ("reclaim", "last_leader"),
            ClaimKind::Failover if seen.cluster.sync.as_ref().is_some_and(|sync| sync.released) => {
                ("failover", "primary_died")
            }
            ClaimKind::Failover => ("failover", "lease_expired"),
            ClaimKind::Takeover => ("failover", "leader_silent"),
            ClaimKind::Forced => ("failover", "forced"),
            ClaimKind::Site => ("site_promotion", "operator"),
        };
        let from = seen.cluster.sync.as_ref().map(|sync| sync.leader.clone());
        self.took_lock(kind, cause, from, claim.after, claim.term);
        let mut now = self.now();
        let Some(record) = &mut now.record else { return };
        record.lost_bytes_bound = claim.lost_bytes_bound;
        record.lost = match claim.lost_bytes_bound {
            Some(0) => "none",
            Some(_) => "bounded",
            None => "unknown",
        }
        .into();
        record.timeline_before = seen.cluster.sync.as_ref().map(|sync| sync.timeline.0);
        record.timeline_after = Some(claim.timeline.0);
        record.evidence = evidence(claim, seen);
        if let Some(begun) = forced(claim, seen.request_record.as_ref(), &self.me) {
            record.id = begun.id;
            record.requested_by = begun.requested_by;
            record.reason = begun.reason;
        }
    }

    /// A reign of mine begins.
    pub fn took_lock(&self, kind: &str, cause: &str, from: Option<MemberName>, before: Term, after: Term) {
        let mut now = self.now();
        now.watched(&self.me, kind == "bootstrap").lap("elect");
        let (cause_text, notes) = (now.reason.clone(), now.notes());
        now.forget_order();
        now.record = Some(Transition {
            cause_text,
            notes,
            id: format!("t-{after}"),
            kind: kind.into(),
            cause: cause.into(),
            from: from.map(|member| member.to_string()),
            to: Some(self.me.to_string()),
            term_before: before.0,
            term_after: after.0,
            started_at: jiff::Timestamp::now().to_string(),
            lost: "none".into(),
            ..Transition::default()
        });
        now.accounts_for_its_beginning(&self.me);
    }

    /// The primary is being started again, under the same term. `seen`: this agent has seen it at work until now.
    pub fn restarting(&self, seen: bool) {
        let mut now = self.now();
        if now.record.is_some() {
            return;
        }
        if let Some(order) = now.ordered.take() {
            now.watched(&self.me, seen).lap("shutdown");
            (now.record, now.is_ordered) = (Some(order), true);
            return;
        }
        now.restarts += 1;
        now.watched(&self.me, seen).lap("detect");
        let id = format!("r-{}-{}", jiff::Timestamp::now().as_second(), now.restarts);
        let me = Some(self.me.to_string());
        let (cause_text, notes) = (now.reason.clone(), now.notes());
        now.record = Some(Transition {
            cause_text,
            notes,
            id,
            kind: "restart".into(),
            cause: "primary_died".into(),
            from: me.clone(),
            to: me,
            started_at: jiff::Timestamp::now().to_string(),
            lost: "none".into(),
            lost_bytes_bound: Some(0),
            ..Transition::default()
        });
        now.accounts_for_its_beginning(&self.me);
    }

    /// The reason of the action that is about to begin, in its own words: the cause of the transition, if it makes one.
    pub fn because(&self, reason: &Reason) {
        self.now().reason = reason.to_string();
    }

    /// A restarted primary takes connections again. What it shows may not be acknowledged yet: see [`Recorder::awaits_proof`].
    pub fn restarted(&self) {
        let mut now = self.now();
        let restarting = now.record.as_ref().is_some_and(|record| record.kind == "restart");
        if let Some(watch) = now.watch.as_mut().filter(|watch| restarting && !watch.has("restart")) {
            watch.lap("restart");
        }
    }

    /// Whether a restarted primary has yet to prove, by one commit that its voters acknowledge, that writes work.
    pub fn awaits_proof(&self) -> bool {
        self.now().record.as_ref().is_some_and(|record| record.kind == "restart")
    }

    /// This node leads, and writes have been proven to work in its reign: that is on record, whatever an earlier life of this agent has measured and
    /// left. `false`: something is being measured, and this is to be asked again.
    pub fn accounts_for_reign(&self, sync: Option<&SyncRecord>, term: Term) -> bool {
        let now = self.now();
        if now.record.is_some() {
            return false;
        }
        let (sync, me) = (sync.filter(|sync| sync.term == term).cloned(), self.me.clone());
        // Behind whatever this life has measured.
        self.write(&format!("term {term}"), move |store, ledger| {
            let (sync, me) = (sync.clone(), me.clone());
            async move {
                let (records, _) = store.transitions().await?;
                match lack(&records, sync.as_ref(), term, &me) {
                    Lack::Nothing => return Ok(()),
                    Lack::End(id) => store.amend_transition(&id, unmeasured::end).await?,
                    Lack::Beginning(record) => store.create_transition(&record).await?,
                };
                reload(&store, &ledger).await
            }
        });
        true
    }

    /// Writes are proven to work: the outage is over.
    pub fn writable(&self) {
        let mut now = self.now();
        let (Some(mut watch), Some(mut record)) = (now.watch.take(), now.record.take()) else { return };
        watch.lap("writable");
        record.phases.extend_from_slice(watch.phases());
        record.outcome = "done".into();
        if record.kind == "switchover" {
            now.awaiting_redundancy = Some((String::new(), Instant::now()));
            return self.finish_switchover(record);
        }
        record.write_outage_ms = Some(write_outage_ms(&record.phases));
        now.awaiting_redundancy = Some((record.id.clone(), Instant::now()));
        if std::mem::take(&mut now.is_ordered) {
            return self.amend_order(record);
        }
        log_done(&record);
        self.metrics.finished(&record);
        self.finish(record);
    }

    /// This node leads a site that follows another, where nobody writes: its reign is on record as it is.
    pub fn leads_a_follower(&self) {
        let mut now = self.now();
        now.watch = None;
        now.forget_order();
        let Some(mut record) =
            now.record.take().filter(|record| !["switchover", "restart"].contains(&record.kind.as_str()))
        else {
            return;
        };
        drop(now);
        record.outcome = "done".into();
        log_done(&record);
        self.finish(record);
    }

    /// The record of an order was written when it was taken, and is closed by whoever carries it out; what was measured is added to it, so that one outage
    /// is told once.
    fn amend_order(&self, mine: Transition) {
        log_done(&mine);
        self.metrics.finished(&mine);
        let mine = Arc::new(mine);
        self.amend(&mine.id.clone(), move |record| {
            add_phases(record, &mine.phases);
            record.write_outage_ms = mine.write_outage_ms;
        });
    }

    /// The old leader has begun the record of a switchover; what was measured here is added to it.
    fn finish_switchover(&self, mine: Transition) {
        let id = format!("term {}", mine.term_after);
        let (mine, metrics) = (Arc::new(mine), Arc::clone(&self.metrics));
        self.write(&id, move |store, ledger| {
            let (mine, metrics) = (Arc::clone(&mine), Arc::clone(&metrics));
            async move { complete_switchover(&store, &ledger, &metrics, &mine).await }
        });
    }

    /// Enough voters acknowledge again.
    pub fn redundant(&self) {
        let Some((id, since)) = self.now().awaiting_redundancy.take() else { return };
        let mut watch = Stopwatch::started(&self.me, since);
        watch.lap("redundancy");
        let phases = Arc::new(watch.phases().to_vec());
        self.write(&id.clone(), move |store, ledger| {
            let (id, phases) = (id.clone(), Arc::clone(&phases));
            async move {
                let id = if id.is_empty() { last_switchover(&store).await? } else { Some(id) };
                let Some(id) = id else { return Ok(()) };
                store.amend_transition(&id, |record| add_phases(record, &phases)).await?;
                reload(&store, &ledger).await
            }
        });
    }

    /// What was being measured turned out to be another node's.
    pub fn abandon(&self) {
        let mut now = self.now();
        now.watch = None;
        now.record = None;
        now.forget_order();
        now.awaiting_redundancy = None;
        (now.seen_at_work, now.led_until) = (false, None);
    }
}

/// What the new leader knew when it took the lock.
fn evidence(claim: &Claim, seen: &Snapshot) -> Vec<String> {
    let ballots = claim.ballots.iter().filter_map(|(name, _)| {
        let ballot = seen.cluster.ballots.get(name)?;
        Some(format!(
            "{name} had received {} on timeline {}, marker of term {}",
            ballot.received, ballot.timeline, ballot.wal_term
        ))
    });
    let policy = seen
        .cluster
        .sync
        .iter()
        .flat_map(|sync| &sync.policies)
        .map(|quorum| format!("commits had waited for {quorum}"));
    ballots.chain(policy).collect()
}
