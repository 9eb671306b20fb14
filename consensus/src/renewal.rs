//! How one lease is kept alive: a renewal every heartbeat over etcd's own keep-alive stream, each with a deadline, and at the first
//! silence a new stream to another endpoint. An answer that the lease is gone is final; silence never is.

use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper as LeaseSender};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::clock::BootInstant;
use crate::endpoints::{Endpoints, Failure, classify};
use crate::error::Error;
use crate::lease::{Lease, LeaseState};

/// How long to wait before asking a round of silent endpoints again.
const AFTER_A_SILENT_ROUND: Duration = Duration::from_millis(250);

/// What the keeper can be told.
pub(crate) enum Order {
    /// Have a lease.
    Ensure(oneshot::Sender<Result<i64, Error>>),
    /// Have none.
    Drop(oneshot::Sender<Result<(), Error>>),
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
    stream: Option<Stream>,
    next: Instant,
    silent_in_a_row: usize,
    renewals: u64,
    failures: u64,
}

struct Held {
    id: i64,
    adopted: bool,
}

/// A keep-alive stream, and the endpoint at its other end.
struct Stream {
    endpoint: usize,
    sender: LeaseSender,
    answers: LeaseKeepAliveStream,
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
            stream: None,
            next: Instant::now(),
            silent_in_a_row: 0,
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
            let something_to_do = self.held.is_some() || self.always;
            tokio::select! {
                order = self.orders.recv() => match order {
                    None => return,
                    Some(Order::Ensure(reply)) => { let _ = reply.send(self.ensure().await); }
                    Some(Order::Drop(reply)) => { let _ = reply.send(self.end().await); }
                },
                () = sleep_until(self.next), if something_to_do => self.step().await,
            }
        }
    }

    /// Renews the lease that is held, or gets one.
    async fn step(&mut self) {
        match &self.held {
            Some(Held { id, .. }) => {
                let id = *id;
                self.renew(id).await;
            }
            None => {
                let _ = self.grant().await;
            }
        }
    }

    async fn renew(&mut self, id: i64) {
        let sent_at = BootInstant::now();
        let endpoint = self.stream.as_ref().map_or_else(|| self.endpoints.current(), |stream| stream.endpoint);
        let answer = match timeout(self.endpoints.request_timeout(), self.exchange(id, endpoint)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Unclear("no answer".to_owned())),
        };
        match answer {
            Ok(ttl) if self.is_too_short(ttl) => self.forget(id),
            Ok(ttl) => self.confirmed(id, ttl, sent_at),
            Err(Failure::Final(Error::LeaseGone(_))) => self.forget(id),
            Err(Failure::NotSent(why) | Failure::Unclear(why)) => self.silence(endpoint, &why),
            Err(Failure::Final(error)) => {
                self.endpoints.forget(endpoint).await;
                self.silence(endpoint, &error.to_string());
            }
        }
    }

    /// Sends one renewal and waits for its answer: the time to live that it gave.
    async fn exchange(&mut self, id: i64, endpoint: usize) -> Result<Duration, Failure> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            empty => {
                let mut client = self.endpoints.client(endpoint).await.map_err(|error| match error {
                    Error::Unreachable(why) => Failure::NotSent(why),
                    other => Failure::Final(other),
                })?;
                let (sender, answers) = client.lease_keep_alive(id).await.map_err(classify)?;
                empty.insert(Stream { endpoint, sender, answers })
            }
        };
        stream.sender.keep_alive().await.map_err(classify)?;
        let answer = stream.answers.message().await.map_err(classify)?;
        let answer = answer.ok_or_else(|| Failure::Unclear("the stream ended".to_owned()))?;
        match u64::try_from(answer.ttl()) {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(Failure::Final(Error::LeaseGone(format!("lease {id} has no time left")))),
        }
    }

    /// An adopted member lease that is too short comes from other settings: a new one is better, and the old one ends by itself. (A longer
    /// one may be etcd's own minimum.) A lock lease is taken as it is, for the leader key is bound to it.
    fn is_too_short(&self, ttl: Duration) -> bool {
        self.always && ttl < self.ttl && self.held.as_ref().is_some_and(|held| held.adopted)
    }

    fn confirmed(&mut self, id: i64, ttl: Duration, sent_at: BootInstant) {
        self.renewals += 1;
        self.silent_in_a_row = 0;
        let renewal_latency = sent_at.elapsed();
        self.next = Instant::now() + self.heartbeat.saturating_sub(renewal_latency);
        let (renewals, failures) = (self.renewals, self.failures);
        let state = LeaseState { id, ttl, expires_at: sent_at + ttl, renewal_latency, renewals, failures };
        self.publish.send_replace(Lease::Alive(state));
    }

    /// The lease does not exist any more.
    fn forget(&mut self, id: i64) {
        tracing::warn!(lease = id, "lease lost");
        (self.held, self.stream) = (None, None);
        self.next = Instant::now();
        self.publish.send_replace(Lease::Lost(id));
    }

    /// No answer: the next attempt goes elsewhere, at once unless every endpoint was silent.
    fn silence(&mut self, endpoint: usize, why: &str) {
        self.failures += 1;
        self.silent_in_a_row += 1;
        tracing::debug!(endpoint = self.endpoints.url(endpoint), why, "lease renewal failed");
        self.stream = None;
        self.endpoints.move_on(endpoint);
        let all_were_silent = self.silent_in_a_row.is_multiple_of(self.endpoints.count());
        self.next = Instant::now() + if all_were_silent { AFTER_A_SILENT_ROUND } else { Duration::ZERO };
        let (renewals, failures) = (self.renewals, self.failures);
        self.publish.send_if_modified(|lease| match lease {
            Lease::Alive(state) => {
                (state.renewals, state.failures) = (renewals, failures);
                true
            }
            Lease::Idle | Lease::Asking | Lease::Lost(_) => false,
        });
    }

    async fn grant(&mut self) -> Result<i64, Error> {
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        // Granting twice does no harm: a lease that nobody renews ends by itself. But only the last attempt's time counts, and which
        // attempt that was is known only from outside the rotation.
        let endpoint = self.endpoints.current();
        let sent_at = BootInstant::now();
        let request = |mut client: etcd_client::Client| async move { client.lease_grant(seconds, None).await };
        match self.endpoints.attempt(endpoint, &request).await {
            Ok(granted) => {
                let id = granted.id();
                (self.held, self.stream) = (Some(Held { id, adopted: false }), None);
                let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or_default());
                self.confirmed(id, ttl, sent_at);
                Ok(id)
            }
            Err(Failure::NotSent(why) | Failure::Unclear(why)) => {
                self.silence(endpoint, &why);
                Err(Error::Unreachable(why))
            }
            Err(Failure::Final(error)) => {
                self.silence(endpoint, &error.to_string());
                Err(error)
            }
        }
    }

    /// Has a lease that has not run out; tries each endpoint once.
    async fn ensure(&mut self) -> Result<i64, Error> {
        if let Some(state) = self.publish.borrow().alive()
            && !state.expires_at.remaining().is_zero()
        {
            return Ok(state.id);
        }
        let mut last = Error::Unreachable("no endpoint was asked".to_owned());
        for _ in 0..=self.endpoints.count() {
            match self.held.as_ref().map(|held| held.id) {
                Some(id) => self.renew(id).await,
                None => match self.grant().await {
                    Ok(_) => {}
                    Err(error) => last = error,
                },
            }
            if let Some(state) = self.publish.borrow().alive()
                && !state.expires_at.remaining().is_zero()
            {
                return Ok(state.id);
            }
        }
        Err(last)
    }

    /// Stops renewing, and revokes.
    async fn end(&mut self) -> Result<(), Error> {
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
