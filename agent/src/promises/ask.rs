//! The leader's side, on a thread of its own that nothing can block: as soon as the lease has not been renewed for a while, every peer is
//! asked, each heartbeat, and what their promises carry is published. A promise counts from before its question was sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::{BootInstant, Lease};
use decision::names::MemberName;
use decision::promise::Refusal;
use decision::settings::Timing;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Answered, Asked, Ground, PATH, Promises, Round};
use crate::peers::Peers;

/// How soon peers are asked again while their promises do not carry.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// The asking side.
pub struct Asker {
    promises: Arc<Promises>,
    lock: watch::Receiver<Lease>,
    timing: Timing,
    peers: Peers,
    number: u64,
}

impl Asker {
    /// Starts the thread; what it hears is in the reign.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(promises: Arc<Promises>, lock: watch::Receiver<Lease>, timing: Timing) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("promises".into()).spawn(move || {
            runtime.block_on(async move {
                let peers = Peers::default();
                // Above the numbers of earlier lives, as far as the wall clock goes; a peer that has heard higher ones says so.
                let number = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
                Self { promises, lock, timing, peers, number }.run().await;
            });
        })?;
        Ok(())
    }

    async fn run(mut self) {
        // An agent that has only just started hears first whether etcd is there.
        tokio::time::sleep(self.timing.request_timeout / 2).await;
        loop {
            let ground = self.promises.reign.ground();
            match ground.filter(|_| self.in_trouble()) {
                Some(ground) => {
                    let left = self.round(&ground).await;
                    let enough = left > self.timing.ttl / 2;
                    tokio::time::sleep(if enough { self.timing.heartbeat } else { AGAIN_AFTER }).await;
                }
                None => {
                    self.promises.reign.rest();
                    // A renewal wakes this task, and so does its absence.
                    let quiet = self.quiet();
                    if let Ok(Err(_)) = tokio::time::timeout(quiet, self.lock.changed()).await {
                        return;
                    }
                }
            }
        }
    }

    /// How long a renewal may be overdue before peers are asked: longer than a slow answer, much shorter than the lease.
    fn quiet(&self) -> Duration {
        (self.timing.heartbeat + self.timing.request_timeout).min(self.timing.ttl / 2)
    }

    fn in_trouble(&mut self) -> bool {
        let quiet = self.quiet();
        if !self.promises.worth_asking.load(Ordering::SeqCst) {
            return false;
        }
        match &*self.lock.borrow_and_update() {
            Lease::Alive(state) => state.expires_at.minus(state.ttl).elapsed() >= quiet,
            Lease::Idle | Lease::Asking | Lease::Lost(_) => true,
        }
    }

    /// Asks everybody once, and tells after each answer what is carried now; returns for how long.
    async fn round(&mut self, ground: &Ground) -> Duration {
        let reign = &self.promises.reign;
        let alone = self.timing.ttl.saturating_sub(self.timing.safety_margin);
        let mut round = Round { term: ground.term, asked_at: BootInstant::now(), alone, deposed_by: None };
        let mut under_way = JoinSet::new();
        for (to, url) in &ground.peers {
            self.number += 1;
            let asked = Asked {
                cluster: self.promises.cluster.clone(),
                system_id: ground.system_id,
                leader: self.promises.me.clone(),
                term: ground.term,
                to: to.clone(),
                number: self.number,
                for_ms: u64::try_from(self.timing.ttl.as_millis()).unwrap_or(u64::MAX),
            };
            let within = self.timing.ttl / 4;
            under_way.spawn(ask(Arc::clone(&self.promises), self.peers.clone(), url.clone(), asked, within));
        }
        while let Some(ended) = under_way.join_next().await {
            let Ok((to, sent_at, answer)) = ended else { continue };
            match answer {
                Ok(Answered { for_ms, .. }) if for_ms > 0 => {
                    let counts = Duration::from_millis(for_ms).saturating_sub(self.timing.safety_margin);
                    reign.promised(ground.term, to, sent_at + counts);
                }
                Ok(Answered { last_number: Some(last), .. }) => self.number = self.number.max(last),
                Ok(Answered { refusal, .. }) => {
                    tracing::warn!(member = %to, ?refusal, "no promise to let this leader go on without etcd");
                    // Whoever refuses does not take a running promise back; the rules forbid it both.
                    if let Some(Refusal::LaterTerm { term }) = refusal {
                        round.deposed_by = round.deposed_by.max(Some(term));
                    }
                }
                Err(error) => tracing::debug!(member = %to, error = format!("{error:#}"), "no answer about a promise"),
            }
            reign.tell(round);
        }
        reign.tell(round);
        reign.carried().borrow().until.remaining()
    }
}

async fn ask(
    promises: Arc<Promises>,
    peers: Peers,
    url: String,
    asked: Asked,
    within: Duration,
) -> (MemberName, BootInstant, anyhow::Result<Answered>) {
    let sent_at = BootInstant::now();
    let answer = async {
        let body = serde_json::to_string(&asked)?;
        let Some(seal) = promises.seal.sign("question", &body) else { anyhow::bail!("the key is not known") };
        let (answer, seal) = peers.post_sealed(&url, PATH, body, &seal, within).await?;
        anyhow::ensure!(promises.seal.fits("answer", &answer, &seal), "the seal of the answer does not fit");
        let answered: Answered = serde_json::from_str(&answer)?;
        anyhow::ensure!(answered.from == asked.to && answered.number == asked.number, "it answers another question");
        Ok(answered)
    };
    let answer = answer.await;
    (asked.to.clone(), sent_at, answer)
}
