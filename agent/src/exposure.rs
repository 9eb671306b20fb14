//! In `quorum` mode a leader whose last voter is gone goes on alone, on record. From that instant every acknowledged commit exists once:
//! this counts for how long and how many bytes, tells the metrics, and keeps a `degrade` record in etcd that says when it was over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use consensus::Store;
use consensus::records::Transition;
use decision::durability::stands_alone;
use decision::names::{Lsn, Term};
use decision::view::{Lock, Server, View};

use crate::hands::Hands;
use crate::recorder::reload;
use crate::transitions::{Ledger, Stopwatch};

/// A new reign, or a new cluster, finds its voters within this time; a leader that has had none for longer is alone.
const FIND_VOTERS_WITHIN: Duration = Duration::from_secs(10);

/// What is at stake now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// Since when commits have been acknowledged that only this leader has.
    pub since: Instant,
    /// How many bytes of WAL only this leader has.
    pub bytes: u64,
}

/// Watches over the exposure of one agent's reigns.
pub struct Exposure {
    hands: Arc<Hands>,
    alone: Option<Alone>,
    had_voters_in: Term,
    closing: Arc<AtomicBool>,
}

struct Alone {
    term: Term,
    since: Instant,
    from: Lsn,
    now: Lsn,
    recorded: bool,
}

impl Exposure {
    /// Nothing is known to be exposed.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, alone: None, had_voters_in: Term::default(), closing: Arc::default() }
    }

    /// What is at stake now, if this node leads alone.
    pub fn now(&self) -> Option<Exposed> {
        self.alone.as_ref().map(|alone| Exposed { since: alone.since, bytes: alone.bytes() })
    }

    /// Takes in what is seen. Writes to etcd in the background.
    pub fn see(&mut self, view: &View) {
        let (Some(postgres), Some(cluster), Lock::Held { term, .. }) =
            (view.postgres.now(), view.cluster.last(), view.lock)
        else {
            // Without a sight of both nothing has changed; a lock that is gone ends the reign and what it exposed.
            if view.lock == Lock::NotHeld {
                self.alone = None;
            }
            return;
        };
        let Server::Primary(primary) = &postgres.server else {
            // Whose site was made to follow another holds its lock on, as a standby.
            if matches!(postgres.server, Server::Standby(_)) {
                self.over(term);
            }
            return;
        };
        let alone = cluster.sync.as_ref().is_some_and(|sync| stands_alone(sync, term, primary));
        if !alone {
            // A mode that has only just come to ask for voters waits for nobody yet.
            if primary.waits_for.as_ref().is_some_and(|(quorum, _)| quorum.k > 0) {
                self.had_voters_in = term;
            }
            self.over(term);
            return;
        }
        // Whatever a standby has flushed, voter or not, exists twice.
        let elsewhere = primary.standbys.iter().map(|standby| standby.flushed).max().unwrap_or_default();
        let begun = self.alone.take().filter(|alone| alone.term == term);
        let mut alone = begun.unwrap_or(Alone {
            term,
            since: Instant::now(),
            from: primary.flushed,
            now: primary.flushed,
            recorded: false,
        });
        alone.now = primary.flushed;
        alone.from = alone.from.max(elsewhere.min(primary.flushed));
        let certain = self.had_voters_in == term || alone.since.elapsed() >= FIND_VOTERS_WITHIN;
        if certain && !alone.recorded {
            alone.recorded = true;
            self.begin(&alone);
        }
        self.alone = Some(alone);
    }

    fn begin(&self, alone: &Alone) {
        let me = self.hands.me().to_string();
        tracing::warn!(term = %alone.term, from = %alone.from, "no voter is left: from here on acknowledged commits exist only on this leader");
        let record = Transition {
            id: format!("d-{}", jiff::Timestamp::now().as_second()),
            kind: "degrade".into(),
            cause: "no_voters".into(),
            cause_text: "no voter was left, and quorum mode goes on alone rather than let commits wait".into(),
            evidence: vec![format!("commits after {} are on {me} alone", alone.from)],
            from: Some(me.clone()),
            to: Some(me),
            term_before: alone.term.0,
            term_after: alone.term.0,
            started_at: jiff::Timestamp::now().to_string(),
            lost: "none".into(),
            ..Transition::default()
        };
        let (id, record) = (record.id.clone(), Arc::new(record));
        self.hands.recorder.write(&id, move |store, ledger| {
            let record = Arc::clone(&record);
            async move { open(&store, &ledger, &record).await }
        });
    }

    /// Voters acknowledge, or the mode promises less. Whatever is still open is closed, also what an earlier life of this agent began.
    fn over(&mut self, term: Term) {
        if let Some(alone) = &self.alone {
            tracing::info!(%term, exposed_bytes = alone.bytes(), "acknowledged commits are on another node as well again");
        }
        let open = self.hands.ledger.any(|record| is_open(record, term));
        if !open && self.alone.as_ref().is_none_or(|alone| !alone.recorded) {
            self.alone = None;
            return;
        }
        if self.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        let alone = self.alone.take();
        let mut watch =
            Stopwatch::started(self.hands.me(), alone.as_ref().map_or_else(Instant::now, |alone| alone.since));
        watch.lap("exposed");
        let bytes = alone.map(|alone| alone.bytes());
        let (metrics, closing) = (Arc::clone(&self.hands.metrics), Closing(Arc::clone(&self.closing)));
        let shared = Arc::new((watch, metrics, closing));
        self.hands.recorder.write(&format!("degrade in term {term}"), move |store, ledger| {
            let shared = Arc::clone(&shared);
            async move {
                let (watch, metrics, _) = &*shared;
                if let Some(record) = close(&store, &ledger, term, bytes, watch).await? {
                    metrics.finished(&record);
                }
                Ok(())
            }
        });
    }
}

/// A record is being closed, until this is dropped.
struct Closing(Arc<AtomicBool>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Alone {
    fn bytes(&self) -> u64 {
        self.from.bytes_behind(self.now)
    }
}

/// Begins the record, unless an earlier life of this agent has begun it in the same reign.
async fn open(store: &Store, ledger: &Ledger, record: &Transition) -> Result<(), consensus::Error> {
    let (records, _) = store.transitions().await?;
    if !records.iter().any(|known| is_open(known, Term(record.term_after))) {
        store.create_transition(record).await?;
    }
    reload(store, ledger).await
}

/// Ends every open record of the reign; there is one, unless two writes crossed.
async fn close(
    store: &Store,
    ledger: &Ledger,
    term: Term,
    bytes: Option<u64>,
    watch: &Stopwatch,
) -> Result<Option<Transition>, consensus::Error> {
    let (records, _) = store.transitions().await?;
    let mut last = None;
    for record in records.iter().filter(|record| is_open(record, term)) {
        store
            .amend_transition(&record.id, |record| {
                record.outcome = "done".into();
                match bytes {
                    Some(bytes) => {
                        record.phases.extend_from_slice(watch.phases());
                        record.notes.push(format!("{bytes} bytes of WAL were on the leader alone at the end"));
                    }
                    None => record.notes.push("it ended while no agent was looking".to_owned()),
                }
            })
            .await?;
        last = Some(record.id.clone());
    }
    reload(store, ledger).await?;
    Ok(last.and_then(|id| ledger.all().into_iter().find(|record| record.id == id)))
}

fn is_open(record: &Transition, term: Term) -> bool {
    record.kind == "degrade" && record.outcome == "in_progress" && record.term_after == term.0
}
