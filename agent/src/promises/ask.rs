//! The leader's side, on a thread of its own that nothing can block: as soon as the lease has not been renewed for a while, or etcd is out of
//! sight though it is, every peer is asked, each heartbeat, and what their promises carry is published. A promise counts from before its question was sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::{BootInstant, Lease, LeaseState};
use decision::names::MemberName;
use decision::promise::Refusal;
use decision::settings::Timing;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::refused::in_words;
use super::{Answered, Asked, Ground, PATH, Promises, Round, answer_to};
use crate::authority::Authority;
use crate::peers::Peers;

/// How soon peers are asked again while their promises do not carry.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long the fencer may take to confirm an earlier deadline, before the peers are told that they are free; and how often that is looked at.
const FENCED_WITHIN: Duration = Duration::from_secs(1);
const LOOKS_EVERY: Duration = Duration::from_millis(2);

/// The asking side.
pub struct Asker {
    promises: Arc<Promises>,
    lock: watch::Receiver<Lease>,
    out_of_sight: watch::Receiver<bool>,
    held_under: watch::Receiver<i64>,
    authority: Authority,
    timing: Timing,
    peers: Peers,
    number: u64,
    bound: Option<Bound>,
}

/// Peers who have promised, and do not know yet that nothing is relied upon any more.
struct Bound {
    ground: Ground,
    /// No promise lasts longer.
    until: BootInstant,
}

impl Asker {
    /// Starts the thread; what it hears is in the reign.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        promises: Arc<Promises>,
        lock: watch::Receiver<Lease>,
        authority: Authority,
        timing: Timing,
    ) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("promises".into()).spawn(move || {
            runtime.block_on(async move {
                let (peers, out_of_sight) = (Peers::default(), promises.out_of_sight.subscribe());
                let held_under = promises.held_under.subscribe();
                // Above the numbers of earlier lives, as far as the wall clock goes; a peer that has heard higher ones says so.
                let number = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
                let bound = None;
                Self { promises, lock, out_of_sight, held_under, authority, timing, peers, number, bound }.run().await;
            });
        })?;
        Ok(())
    }

    async fn run(mut self) {
        // An agent that has only just started hears first whether etcd is there.
        tokio::time::sleep(self.timing.request_timeout / 2).await;
        loop {
            let ground = self.promises.reign.ground();
            let trouble = self.in_trouble();
            match ground {
                Some(ground) if trouble => {
                    self.bound = None;
                    let left = self.round(&ground).await;
                    let enough = left > self.timing.ttl / 2;
                    tokio::time::sleep(if enough { self.timing.heartbeat } else { AGAIN_AFTER }).await;
                }
                ground => {
                    self.promises.reign.rest();
                    self.promises.refused.forget();
                    if let Some(ground) = ground.filter(|_| self.holds())
                        && self.promises.reign.settle(ground.term)
                    {
                        self.bound = Some(Bound { ground, until: BootInstant::now() + self.timing.ttl });
                    }
                    self.free_the_bound().await;
                    // A renewal wakes this task, and so does its absence.
                    let quiet = if self.bound.is_some() { AGAIN_AFTER } else { self.quiet() };
                    let woken = async {
                        tokio::select! {
                            renewed = self.lock.changed() => renewed,
                            sight = self.out_of_sight.changed() => sight,
                            held = self.held_under.changed() => held,
                        }
                    };
                    if let Ok(Err(_)) = tokio::time::timeout(quiet, woken).await {
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
        let out_of_sight = *self.out_of_sight.borrow_and_update();
        self.promises.worth_asking.load(Ordering::SeqCst)
            && proves_little(&self.lock.borrow_and_update(), out_of_sight, quiet)
    }

    /// Whether the lock is bound to the lease that is renewed.
    fn holds(&mut self) -> bool {
        let quiet = self.quiet();
        let held_under = *self.held_under.borrow_and_update();
        let renewed = |state: &LeaseState| state.expires_at.minus(state.ttl).elapsed() < quiet;
        self.lock.borrow().alive().is_some_and(|state| state.id == held_under && renewed(&state))
    }

    /// The fencer was armed with the end of the promises. Nobody is free before it would strike at the end of the lease; a fencer that does
    /// not say so leaves them to wait.
    async fn is_fenced_by_the_lease(&self) -> bool {
        let fenced = async {
            while !self.authority.is_fenced() {
                tokio::time::sleep(LOOKS_EVERY).await;
            }
        };
        tokio::time::timeout(FENCED_WITHIN, fenced).await.is_ok()
    }

    /// Tells whoever is still bound that no promise is relied upon any more, so that they need not wait for the end should this leader die
    /// now. Who does not answer is told again, for as long as a promise may last.
    async fn free_the_bound(&mut self) {
        let Some(mut bound) = self.bound.take().filter(|bound| !bound.until.remaining().is_zero()) else { return };
        if self.is_fenced_by_the_lease().await {
            for (member, _, answer) in self.send(&bound.ground, Duration::ZERO, AGAIN_AFTER).join_all().await {
                match answer {
                    Ok(Answered { last_number: Some(last), .. }) => self.number = self.number.max(last),
                    Ok(_) => drop(bound.ground.peers.remove(&member)),
                    Err(error) => tracing::debug!(%member, error = format!("{error:#}"), "still bound by its promise"),
                }
            }
        }
        self.bound = Some(bound).filter(|bound| !bound.ground.peers.is_empty());
    }

    /// Asks everybody for a promise of this length.
    fn send(&mut self, ground: &Ground, time: Duration, within: Duration) -> JoinSet<Heard> {
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
                upstream: Some(self.promises.upstream(ground.term)),
                for_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            };
            under_way.spawn(ask(Arc::clone(&self.promises), self.peers.clone(), url.clone(), asked, within));
        }
        under_way
    }

    /// Asks everybody once, and tells after each answer what is carried now; returns for how long.
    async fn round(&mut self, ground: &Ground) -> Duration {
        let alone = self.timing.ttl.saturating_sub(self.timing.safety_margin);
        let mut round = Round { term: ground.term, asked_at: BootInstant::now(), alone, deposed_by: None };
        let mut under_way = self.send(ground, self.timing.ttl, self.timing.ttl / 4);
        let (reign, refused) = (&self.promises.reign, &self.promises.refused);
        while let Some(ended) = under_way.join_next().await {
            let Ok((to, sent_at, answer)) = ended else { continue };
            match answer {
                Ok(Answered { for_ms, .. }) if for_ms > 0 => {
                    let counts = Duration::from_millis(for_ms).saturating_sub(self.timing.safety_margin);
                    refused.has_promised(&to);
                    reign.promised(ground.term, to, sent_at + counts);
                }
                Ok(Answered { last_number: Some(last), .. }) => self.number = self.number.max(last),
                Ok(Answered { refusal, .. }) => {
                    tracing::warn!(member = %to, ?refusal, "no promise to let this leader go on without etcd");
                    refused.note(&to, in_words(refusal.as_ref()));
                    // Whoever refuses does not take a running promise back; the rules forbid it both.
                    if let Some(Refusal::LaterTerm { term }) = refusal {
                        round.deposed_by = round.deposed_by.max(Some(term));
                    }
                }
                Err(error) => {
                    tracing::debug!(member = %to, error = format!("{error:#}"), "no answer about a promise");
                    refused.note(&to, format!("it does not answer: {error:#}"));
                }
            }
            reign.tell(round);
        }
        reign.tell(round);
        reign.carried().borrow().until.remaining()
    }
}

/// Whether the lease does not prove any more that this node leads: it is not renewed, or nobody sees what is bound to it.
pub(super) fn proves_little(lease: &Lease, out_of_sight: bool, quiet: Duration) -> bool {
    match lease {
        Lease::Alive(state) => out_of_sight || state.expires_at.minus(state.ttl).elapsed() >= quiet,
        Lease::Idle | Lease::Asking | Lease::Lost(_) => true,
    }
}

/// From whom, when it was asked, and what was answered.
type Heard = (MemberName, BootInstant, anyhow::Result<Answered>);

async fn ask(promises: Arc<Promises>, peers: Peers, url: String, asked: Asked, within: Duration) -> Heard {
    let sent_at = BootInstant::now();
    let answer = async {
        let body = serde_json::to_string(&asked)?;
        let Some(seal) = promises.seal.sign("question", &body) else { anyhow::bail!("the key is not known") };
        let (answer, seal_of_answer) = peers.post_sealed(&url, PATH, body, &seal, within).await?;
        let fits = promises.seal.fits(&answer_to(&seal), &answer, &seal_of_answer);
        anyhow::ensure!(fits, "the seal of the answer does not fit");
        let answered: Answered = serde_json::from_str(&answer)?;
        anyhow::ensure!(answered.from == asked.to && answered.number == asked.number, "it answers another question");
        Ok(answered)
    };
    let answer = answer.await;
    (asked.to.clone(), sent_at, answer)
}
