//! How one lease is kept alive: a renewal every heartbeat over etcd's own keep-alive stream. One that is not answered soon is sent through
//! the next endpoint as well, and the first good answer counts, from before it was itself sent. An answer that the lease is gone is
//! final; silence never is.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::attempt::{Answer, Landed, Stream, grant, renew};
use crate::clock::BootInstant;
use crate::endpoints::{Endpoints, Failure};
use crate::error::Error;
use crate::lease::{Lease, LeaseState};

/// How long to wait before asking a round of endpoints again of which all have refused.
const AFTER_A_SILENT_ROUND: Duration = Duration::from_millis(250);
/// A renewal needs no disk: one that takes longer than this (or than three times the last one) goes through another endpoint as well.
const RENEWAL_HEDGE: Duration = Duration::from_millis(100);
/// A grant is a write, and one that is made twice leaves a lease behind that ends by itself.
const GRANT_HEDGE: Duration = Duration::from_millis(250);

/// What the keeper can be told.
pub(crate) enum Order {
    /// Have a lease.
    Ensure(oneshot::Sender<Result<i64, Error>>),
    /// Have none.
    Drop(oneshot::Sender<Result<(), Error>>),
    /// etcd has said elsewhere that this lease does not exist any more.
    Gone(i64),
    /// There is reason to doubt that the lease lives: ask now.
    Check,
}

/// One lease and everything needed to keep it.
pub(crate) struct Tending {
    endpoints: Endpoints,
    ttl: Duration,
    heartbeat: Duration,
    orders: mpsc::Receiver<Order>,
    publish: watch::Sender<Lease>,
    /// The lease to renew: granted here, or a previous incarnation's.
    held: Option<Held>,
    /// A lease is wanted even when nobody asks.
    always: bool,
    /// Who waits for a lease, and until when.
    waiting: Vec<(oneshot::Sender<Result<i64, Error>>, Instant)>,
    /// The stream of the last renewal, for the next one.
    stream: Option<Box<Stream>>,
    attempts: FuturesUnordered<Pin<Box<dyn Future<Output = Landed> + Send>>>,
    /// The endpoints that have been asked since the last answer, and those whose turn comes in this round.
    asked: Vec<usize>,
    to_ask: VecDeque<usize>,
    next: Instant,
    latency: Duration,
    last_error: Error,
    renewals: u64,
    failures: u64,
}

struct Held {
    id: i64,
    adopted: bool,
}

impl Tending {
    pub(crate) fn new(
        endpoints: Endpoints,
        ttl: Duration,
        heartbeat: Duration,
        adopt: Option<i64>,
        orders: mpsc::Receiver<Order>,
        publish: watch::Sender<Lease>,
    ) -> Self {
        Self {
            endpoints,
            ttl,
            heartbeat,
            orders,
            publish,
            held: adopt.filter(|id| *id != 0).map(|id| Held { id, adopted: true }),
            always: false,
            waiting: Vec::new(),
            stream: None,
            attempts: FuturesUnordered::new(),
            asked: Vec::new(),
            to_ask: VecDeque::new(),
            next: Instant::now(),
            latency: Duration::ZERO,
            last_error: Error::Unreachable("no endpoint has answered in time".to_owned()),
            renewals: 0,
            failures: 0,
        }
    }

    /// Keeps a lease from now on, whatever happens to it.
    pub(crate) async fn always(mut self) {
        self.always = true;
        self.run().await;
    }

    /// Keeps a lease from when it is ordered.
    pub(crate) async fn on_demand(self) {
        self.run().await;
    }

    async fn run(mut self) {
        if self.held.is_some() || self.always {
            self.publish.send_replace(Lease::Asking);
        }
        loop {
            let something_to_do = self.held.is_some() || self.always || !self.waiting.is_empty();
            let patience = self.waiting.iter().map(|(_, until)| *until).min();
            tokio::select! {
                order = self.orders.recv() => match order {
                    None => return,
                    Some(Order::Ensure(reply)) => self.ensure(reply),
                    Some(Order::Drop(reply)) => { let _ = reply.send(self.end().await); }
                    Some(Order::Gone(id)) if self.held.as_ref().is_some_and(|held| held.id == id) => self.forget(id),
                    Some(Order::Gone(_)) => {}
                    Some(Order::Check) => self.hurry(),
                },
                Some(landed) = self.attempts.next() => self.landed(landed).await,
                () = sleep_until(self.next), if something_to_do => self.begin(),
                () = sleep_until(patience.unwrap_or(self.next)), if patience.is_some() => self.lose_patience(),
            }
        }
    }

    /// Asks the next endpoint: the first of a round after a heartbeat, each further one because the others have not answered yet.
    fn begin(&mut self) {
        if self.to_ask.is_empty() {
            self.to_ask = self.endpoints.ranked().into();
        }
        let Some(endpoint) = self.to_ask.pop_front() else { return };
        self.asked.push(endpoint);
        self.next = Instant::now() + self.spacing();
        let endpoints = self.endpoints.clone();
        match self.held.as_ref().map(|held| held.id) {
            Some(id) => {
                let stream = self.stream.take().filter(|stream| stream.endpoint == endpoint && stream.lease == id);
                self.attempts.push(Box::pin(renew(endpoints, endpoint, id, stream)));
            }
            None => self.attempts.push(Box::pin(grant(endpoints, endpoint, self.ttl))),
        }
    }

    /// How long an endpoint is left alone with a request. Once all have been asked they are asked again at a slower pace, for a member
    /// that hangs on a frozen leader answers only what it is asked after the next election.
    fn spacing(&self) -> Duration {
        let longest = self.endpoints.request_timeout() / 2;
        if self.to_ask.is_empty() {
            return longest;
        }
        let hedge = if self.held.is_some() { RENEWAL_HEDGE } else { GRANT_HEDGE };
        hedge.max(self.latency * 3).min(longest)
    }

    fn hurry(&mut self) {
        if self.attempts.is_empty() {
            self.next = Instant::now();
        }
    }

    async fn landed(&mut self, landed: Landed) {
        let Landed { endpoint, sent_at, answer } = landed;
        let held = self.held.as_ref().map_or(0, |held| held.id);
        match answer {
            Ok(Answer::Renewed { ttl, .. }) if self.is_too_short(ttl) => self.forget(held),
            Ok(Answer::Renewed { ttl, stream }) => {
                self.stream = Some(stream);
                self.confirmed(held, ttl, endpoint, sent_at);
            }
            Ok(Answer::Granted { id, ttl }) => {
                (self.held, self.stream) = (Some(Held { id, adopted: false }), None);
                self.confirmed(id, ttl, endpoint, sent_at);
            }
            Err(Failure::Final(Error::LeaseGone(_))) if held != 0 => self.forget(held),
            Err(Failure::NotSent(why) | Failure::Unclear(why)) => self.silence(endpoint, Error::Unreachable(why)),
            Err(Failure::Final(error)) => {
                self.endpoints.forget(endpoint).await;
                self.silence(endpoint, error);
            }
        }
    }

    /// An adopted member lease that is too short comes from other settings: a new one is better, and the old one ends by itself. (A longer
    /// one may be etcd's own minimum.) A lock lease is taken as it is, for the leader key is bound to it.
    fn is_too_short(&self, ttl: Duration) -> bool {
        self.always && ttl < self.ttl && self.held.as_ref().is_some_and(|held| held.adopted)
    }

    fn confirmed(&mut self, id: i64, ttl: Duration, endpoint: usize, sent_at: BootInstant) {
        for silent in self.asked.drain(..).filter(|asked| *asked != endpoint) {
            self.endpoints.move_on(silent);
        }
        self.endpoints.answered(endpoint);
        self.settle();
        self.renewals += 1;
        self.latency = sent_at.elapsed();
        self.next = Instant::now() + self.heartbeat.saturating_sub(self.latency);
        let (renewal_latency, renewals, failures) = (self.latency, self.renewals, self.failures);
        let state = LeaseState { id, ttl, expires_at: sent_at + ttl, renewal_latency, renewals, failures };
        self.publish.send_replace(Lease::Alive(state));
        for (reply, _) in self.waiting.drain(..) {
            let _ = reply.send(Ok(id));
        }
    }

    /// What is still under way does not matter any more; a later answer must never be taken for that to a later question.
    fn settle(&mut self) {
        self.attempts.clear();
        self.asked.clear();
        self.to_ask.clear();
    }

    /// The lease does not exist any more.
    fn forget(&mut self, id: i64) {
        tracing::warn!(lease = id, "lease lost");
        self.settle();
        (self.held, self.stream) = (None, None);
        self.next = Instant::now();
        self.publish.send_replace(Lease::Lost(id));
    }

    /// No answer: where nothing else is under way the next endpoint is asked at once, unless every one has been.
    fn silence(&mut self, endpoint: usize, error: Error) {
        self.failures += 1;
        tracing::debug!(endpoint = self.endpoints.url(endpoint), %error, "lease renewal failed");
        self.last_error = error;
        self.asked.retain(|asked| *asked != endpoint);
        self.endpoints.move_on(endpoint);
        if self.attempts.is_empty() {
            self.next = Instant::now() + if self.to_ask.is_empty() { AFTER_A_SILENT_ROUND } else { Duration::ZERO };
        }
        let (renewals, failures) = (self.renewals, self.failures);
        self.publish.send_if_modified(|lease| match lease {
            Lease::Alive(state) => {
                (state.renewals, state.failures) = (renewals, failures);
                true
            }
            Lease::Idle | Lease::Asking | Lease::Lost(_) => false,
        });
    }

    /// Has a lease that has not run out, within a few request timeouts.
    fn ensure(&mut self, reply: oneshot::Sender<Result<i64, Error>>) {
        if let Some(state) = self.publish.borrow().alive()
            && !state.expires_at.remaining().is_zero()
        {
            let _ = reply.send(Ok(state.id));
            return;
        }
        self.waiting.push((reply, Instant::now() + self.endpoints.request_timeout() * 3));
        self.hurry();
    }

    fn lose_patience(&mut self) {
        let now = Instant::now();
        let (late, still): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|(_, until)| *until <= now);
        self.waiting = still;
        for (reply, _) in late {
            let _ = reply.send(Err(self.last_error.clone()));
        }
        if self.waiting.is_empty() && self.held.is_none() && !self.always {
            self.settle();
        }
    }

    /// Stops renewing, and revokes.
    async fn end(&mut self) -> Result<(), Error> {
        self.settle();
        (self.always, self.stream) = (false, None);
        let held = self.held.take();
        self.publish.send_replace(Lease::Idle);
        let Some(Held { id, .. }) = held else { return Ok(()) };
        match self.endpoints.call(|mut client| async move { client.lease_revoke(id).await }).await {
            Ok(_) | Err(Error::LeaseGone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
