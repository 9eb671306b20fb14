//! Several etcd endpoints under our own rotation. The client library does not leave a dead or frozen member by itself, so there is one
//! client an endpoint here, every call has a deadline of ours, and the endpoint that answered last is asked first. One that was silent is
//! shunned for a while: asked only when the others do not answer either, and over a new connection.
//! Large answers come over connections of their own: in a network that swallows large packets nothing comes after one on the same connection.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use etcd_client::Client;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::Error;
use crate::login::Login;

/// No call lasts longer than this many request timeouts, however many endpoints there are.
const LONGEST_CALL: u32 = 3;
/// How long a silent endpoint is asked only after the others.
const SHUNNED_FOR: Duration = Duration::from_secs(5);
/// A read that has gone unanswered for this long is sent to the next endpoint as well. A healthy etcd on a busy host takes up to 200 ms.
const READ_HEDGE: Duration = Duration::from_millis(250);

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// URLs of the members (`http://10.0.0.1:2379`), the preferred one first.
    pub endpoints: Vec<String>,
    /// Files for TLS; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// User name where etcd asks for one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// The file that has it. It is read again at each login, so that a password is changed without a restart; while others can read it, it does not
    /// count.
    pub password_file: Option<PathBuf>,
    /// Deadline of one request to one endpoint.
    pub request_timeout: Duration,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("password_file", &self.password_file)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// PEM files for TLS towards etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that signed etcd's certificate.
    pub ca: PathBuf,
    /// Our own certificate, where etcd asks for one.
    pub cert: Option<PathBuf>,
    /// The key of our own certificate.
    pub key: Option<PathBuf>,
}

/// The endpoints, and which of them is in use. A clone shares connections and rotation.
#[derive(Clone)]
pub struct Endpoints {
    shared: Arc<Shared>,
    lane: Lane,
}

/// Which connections are used.
#[derive(Clone, Copy)]
enum Lane {
    Small,
    Large,
}

struct Shared {
    options: EtcdOptions,
    /// By lane, and by endpoint.
    clients: [Vec<Mutex<Option<Client>>>; 2],
    current: AtomicUsize,
    shunned_until: StdMutex<Vec<Option<Instant>>>,
    turned_away: AtomicBool,
    login: Login,
}

/// What a failed attempt means for the next step.
pub(crate) enum Failure {
    /// Not sent, or turned away before it was looked at: safe to send elsewhere.
    NotSent(String),
    /// It may or may not have been carried out.
    Unclear(String),
    /// etcd has answered; no other endpoint will say anything else.
    Final(Error),
}

impl Endpoints {
    /// Makes ready to connect; connections are made by the first calls, inside the runtime that makes them.
    pub fn new(options: EtcdOptions) -> Result<Self, Error> {
        if options.endpoints.is_empty() {
            return Err(Error::Misconfigured("no etcd endpoint is given".to_owned()));
        }
        let clients = [(); 2].map(|()| options.endpoints.iter().map(|_| Mutex::new(None)).collect());
        let shunned_until = StdMutex::new(vec![None; options.endpoints.len()]);
        let shared = Arc::new(Shared {
            options,
            clients,
            current: AtomicUsize::new(0),
            shunned_until,
            turned_away: AtomicBool::new(false),
            login: Login::default(),
        });
        Ok(Self { shared, lane: Lane::Small })
    }

    /// The same for what may be too large for a packet, such as a picture of the cluster.
    pub fn for_large_answers(&self) -> Self {
        Self { lane: Lane::Large, ..self.clone() }
    }

    fn slots(&self) -> &[Mutex<Option<Client>>] {
        let [small, large] = &self.shared.clients;
        match self.lane {
            Lane::Small => small,
            Lane::Large => large,
        }
    }

    /// How many endpoints there are; at least one.
    pub fn count(&self) -> usize {
        self.shared.options.endpoints.len()
    }

    /// The endpoint in use, by its place in the list.
    pub fn current(&self) -> usize {
        self.shared.current.load(Ordering::Relaxed)
    }

    /// The URL of an endpoint.
    pub fn url(&self, endpoint: usize) -> &str {
        self.shared.options.endpoints.get(endpoint).map_or("?", String::as_str)
    }

    /// Deadline of one request to one endpoint.
    pub fn request_timeout(&self) -> Duration {
        self.shared.options.request_timeout
    }

    /// Leaves an endpoint that does not answer, and shuns it for a while.
    pub fn move_on(&self, from: usize) {
        if let Some(until) = self.shunned().get_mut(from) {
            *until = Some(Instant::now() + SHUNNED_FOR);
        }
        let next = self.ranked().first().copied().unwrap_or(from);
        let moved = self.shared.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if moved && next != from {
            tracing::info!(from = self.url(from), to = self.url(next), "etcd endpoint changed");
        }
    }

    /// An endpoint that answers is the one in use from now on.
    pub(crate) fn answered(&self, endpoint: usize) {
        if let Some(until) = self.shunned().get_mut(endpoint) {
            *until = None;
        }
        let before = self.shared.current.swap(endpoint, Ordering::Relaxed);
        if before != endpoint {
            tracing::info!(from = self.url(before), to = self.url(endpoint), "etcd endpoint changed");
        }
    }

    /// All endpoints in the order in which to ask them: the one in use, the others in turn, and last those that were silent lately.
    pub(crate) fn ranked(&self) -> Vec<usize> {
        let (count, current, now) = (self.count(), self.current(), Instant::now());
        let shunned = self.shunned();
        let is_shunned =
            |endpoint: &usize| shunned.get(*endpoint).is_some_and(|until| until.is_some_and(|at| at > now));
        let in_turn = (0..count).map(|step| (current + step) % count);
        let (last, mut first): (Vec<usize>, Vec<usize>) = in_turn.partition(is_shunned);
        first.extend(last);
        first
    }

    fn shunned(&self) -> std::sync::MutexGuard<'_, Vec<Option<Instant>>> {
        self.shared.shunned_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a request that is safe to repeat (a read, a write that changes nothing the second time) on the endpoint in use; on the next
    /// one as well when there is no answer for a while, or at once when it fails. The first answer counts. Ends within three request
    /// timeouts.
    pub async fn call<T, F, Fut>(&self, request: F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut failures = Vec::new();
        let answer = match timeout(self.request_timeout() * LONGEST_CALL, self.race(&request, &mut failures)).await {
            Ok(Err(Error::Unreachable(_))) | Err(_) => {
                // Who was asked twice need not be told of twice.
                let told: Vec<&str> =
                    failures.iter().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
                Err(Error::Unreachable(told.join("; ")))
            }
            Ok(settled) => settled,
        };
        self.shared.turned_away.store(matches!(answer, Err(Error::Unauthorised(_))), Ordering::Relaxed);
        answer
    }

    /// Whether the last call ended because etcd does not know who asks, or does not let them.
    pub fn turned_away(&self) -> bool {
        self.shared.turned_away.load(Ordering::Relaxed)
    }

    async fn race<T, F, Fut>(&self, request: &F, failures: &mut Vec<String>) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        // One try more than there are endpoints: an outdated login is mended by asking the same endpoint again.
        let mut to_ask: VecDeque<usize> = self.ranked().into();
        to_ask.extend(to_ask.front().copied());
        let mut asked = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut hedge_at = Instant::now();
        let ask = |endpoint| async move { (endpoint, self.attempt(endpoint, request).await) };
        loop {
            tokio::select! {
                biased;
                Some((endpoint, answer)) = under_way.next() => match answer {
                    Ok(answer) => {
                        asked.into_iter().filter(|silent| *silent != endpoint).for_each(|silent| self.move_on(silent));
                        self.answered(endpoint);
                        return Ok(answer);
                    }
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::NotSent(why) | Failure::Unclear(why)) => {
                        failures.push(format!("{}: {why}", self.url(endpoint)));
                        hedge_at = Instant::now();
                        if to_ask.is_empty() && under_way.is_empty() {
                            return Err(Error::Unreachable(String::new()));
                        }
                    }
                },
                () = sleep_until(hedge_at), if !to_ask.is_empty() => {
                    let next = to_ask.pop_front();
                    asked.extend(next);
                    under_way.extend(next.map(ask));
                    hedge_at = Instant::now() + READ_HEDGE;
                }
            }
        }
    }

    /// Runs a request once on one endpoint under our deadline; leaves the endpoint when it does not answer.
    pub(crate) async fn attempt<T, F, Fut>(&self, endpoint: usize, request: &F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let limit = self.request_timeout();
        let failure = match timeout(limit, self.client(endpoint)).await {
            Ok(Ok(client)) => match timeout(limit, request(client)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if login_is_outdated(&error) => {
                    self.forget(endpoint).await;
                    return Err(Failure::NotSent(error.to_string()));
                }
                Ok(Err(error)) => classify(error),
                Err(_) => {
                    // What is lost on a connection holds up whatever comes after it, for longer each time it is sent again.
                    self.forget(endpoint).await;
                    Failure::Unclear(format!("no answer within {limit:?}"))
                }
            },
            Ok(Err(Error::Unreachable(why))) => Failure::NotSent(why),
            Ok(Err(error)) => Failure::Final(error),
            Err(_) => Failure::NotSent(format!("no login within {limit:?}")),
        };
        if !matches!(failure, Failure::Final(_)) {
            self.move_on(endpoint);
        }
        Err(failure)
    }

    /// The client of one endpoint. Without a user name this never waits for the network.
    pub(crate) async fn client(&self, endpoint: usize) -> Result<Client, Error> {
        let slot = self
            .slots()
            .get(endpoint)
            .ok_or_else(|| Error::Misconfigured(format!("there is no etcd endpoint number {endpoint}")))?;
        let mut slot = slot.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let options = self.shared.login.options(&self.shared.options)?;
        let client =
            Client::connect([self.url(endpoint)], Some(options)).await.map_err(|error| match classify(error) {
                Failure::NotSent(why) | Failure::Unclear(why) => Error::Unreachable(why),
                Failure::Final(error) => error,
            })?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Drops a client, so that the next call connects, logs in and reads the TLS files anew.
    pub(crate) async fn forget(&self, endpoint: usize) {
        if let Some(slot) = self.slots().get(endpoint) {
            *slot.lock().await = None;
        }
    }
}

fn login_is_outdated(error: &etcd_client::Error) -> bool {
    let text = error.to_string();
    // The client logs in again by itself, and with the password that it was made with: the file may have another by now.
    let refused = text.contains("authentication failed");
    refused || text.contains("invalid auth token") || text.contains("revision of auth store is old")
}

/// What etcd says to whoever may not, with what mends it.
fn with_mend(message: &str) -> String {
    let mend = match message {
        text if text.contains("permission denied") => {
            "its user may not do that with these keys: etcdctl role grant-permission ROLE readwrite --prefix /NAMESPACE/CLUSTER/"
        }
        text if text.contains("authentication failed") => {
            "etcd.username and etcd.password_file must be those of a user of etcd: etcdctl user passwd USER sets another password"
        }
        text if text.contains("user name is empty") => {
            "etcd asks who it is: set etcd.username and etcd.password_file, or etcd.tls with a certificate of a user"
        }
        _ => return message.to_owned(),
    };
    format!("{message}: {mend}")
}

/// Wrong password, no name where one is asked for. etcd has no code of its own for these.
fn is_unknown_here(message: &str) -> bool {
    message.contains("authentication failed") || message.contains("user name is empty")
}

/// Sorts an error by what may have happened. gRPC codes: 2 unknown, 3 bad argument, 4 deadline, 5 not found, 7 not permitted, 8 exhausted,
/// 13 internal, 14 unavailable, 16 not authenticated, 1 cancelled.
pub(crate) fn classify(error: etcd_client::Error) -> Failure {
    let (text, why) = (error.to_string(), in_words(&error));
    match error {
        etcd_client::Error::GRpcStatus(status) => match i32::from(status.code()) {
            // Refused before it was handed to raft: the connection was never made, or the member knows of no leader.
            14 if text.contains("connect error") || status.message() == "etcdserver: no leader" => {
                Failure::NotSent(why)
            }
            1 | 2 | 4 | 13 | 14 => Failure::Unclear(why),
            7 | 16 => Failure::Final(Error::Unauthorised(with_mend(status.message()))),
            3 if is_unknown_here(&text) => Failure::Final(Error::Unauthorised(with_mend(status.message()))),
            5 if text.contains("lease not found") => Failure::Final(Error::LeaseGone(status.message().to_owned())),
            8 if text.contains("database space exceeded") => Failure::Final(Error::Rejected(format!(
                "{}: compact and defragment etcd, or raise --quota-backend-bytes, then `etcdctl alarm disarm`",
                status.message()
            ))),
            _ => Failure::Final(Error::Rejected(status.message().to_owned())),
        },
        etcd_client::Error::LeaseKeepAliveError(why) if why == "lease not found" => {
            Failure::Final(Error::LeaseGone(why))
        }
        etcd_client::Error::InvalidArgs(_)
        | etcd_client::Error::InvalidUri(_)
        | etcd_client::Error::InvalidMetadataValue(_) => Failure::Final(Error::Misconfigured(text)),
        _ => Failure::Unclear(why),
    }
}

/// The last cause, such as `Connection refused (os error 111)`: what stands above it repeats the address, and in the words of a program.
fn in_words(error: &etcd_client::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    match (causes.last(), error) {
        (Some(last), _) => last.to_string(),
        (None, etcd_client::Error::GRpcStatus(status)) if !status.message().is_empty() => status.message().to_owned(),
        (None, error) => error.to_string(),
    }
}
