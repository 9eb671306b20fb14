//! The latest picture of the cluster, always at hand. An etcd watch is only a hint that it is time to read again; whether the picture
//! still holds is confirmed by one small linearizable read a heartbeat, which also finds a member that has frozen under the watch.

use std::sync::Arc;
use std::time::Duration;

use decision::view::{Cluster, Seen};
use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::alarms;
use crate::clock::BootInstant;
use crate::endpoints::{Failure, classify};
use crate::error::Error;
use crate::records::Problem;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// How often etcd is asked for its alarms, which no read and no watch tells of.
const ALARMS_EVERY: Duration = Duration::from_secs(20);
/// How long to wait before etcd is asked again after all of it was silent.
const AFTER_A_FAILURE: Duration = Duration::from_millis(200);

/// What is known of the cluster, and how fresh it is.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The latest picture; `None`: etcd has never answered.
    pub snapshot: Option<Arc<Snapshot>>,
    /// When the last linearizable read that confirmed the picture was *sent*; without a picture, when the first attempt was.
    pub confirmed_at: BootInstant,
    /// Why the last read failed; `None` when it did not.
    pub last_error: Option<String>,
}

impl ClusterView {
    /// The cluster as a decision sees it: fresh when it was confirmed at most `fresh_for` ago.
    pub fn seen(&self, now: BootInstant, fresh_for: Duration) -> Seen<Cluster> {
        let age = now.since(self.confirmed_at);
        match &self.snapshot {
            None => Seen::Never { tried_for: age },
            Some(snapshot) if age <= fresh_for => Seen::Now(snapshot.cluster.clone()),
            Some(snapshot) => Seen::Before { value: snapshot.cluster.clone(), age },
        }
    }
}

/// The task that keeps the picture; dropping this ends it.
pub struct ClusterWatch {
    views: watch::Receiver<ClusterView>,
    wish: Arc<Notify>,
    task: JoinHandle<()>,
}

impl ClusterWatch {
    /// Starts the task on the current runtime. It confirms the picture every `heartbeat`.
    pub fn start(store: Store, heartbeat: Duration) -> Self {
        let first = ClusterView { snapshot: None, confirmed_at: BootInstant::now(), last_error: None };
        let (publish, views) = watch::channel(first);
        let wish = Arc::new(Notify::new());
        let alarms = Mutex::default();
        let watcher = Watcher { store, heartbeat, publish, wish: Arc::clone(&wish), alarms };
        Self { views, wish, task: tokio::spawn(watcher.run()) }
    }

    /// The latest picture, and a signal whenever it changes or is confirmed.
    pub fn views(&self) -> watch::Receiver<ClusterView> {
        self.views.clone()
    }

    /// Asks for a fresh read at once.
    pub fn refresh(&self) {
        self.wish.notify_one();
    }
}

impl Drop for ClusterWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watcher {
    store: Store,
    heartbeat: Duration,
    publish: watch::Sender<ClusterView>,
    wish: Arc<Notify>,
    alarms: Mutex<Alarms>,
}

/// The alarms of etcd, and when they were last asked for.
#[derive(Default)]
struct Alarms {
    asked_at: Option<Instant>,
    problems: Vec<Problem>,
}

/// What woke the watcher.
enum Woken {
    /// The watch has something.
    Event(Result<Option<WatchResponse>, etcd_client::Error>),
    /// Time to confirm.
    Heartbeat,
    /// Somebody wants a fresh picture.
    Wish,
}

impl Watcher {
    /// Reads, watches, and begins again with a read whenever the watch is of no more use.
    async fn run(self) {
        loop {
            let began = Instant::now();
            let watched = async {
                let snapshot = self.read().await?;
                let endpoint = self.store.endpoints().current();
                let stream = self.open(endpoint, snapshot.cluster.revision + 1).await?;
                self.follow(endpoint, stream, snapshot).await
            };
            match watched.await {
                Ok(why) => {
                    tracing::debug!(why, "watching anew");
                    // A watch that ends as soon as it begins (etcd forbids it, say) must not become a storm of reads.
                    if began.elapsed() < AFTER_A_FAILURE {
                        sleep(AFTER_A_FAILURE).await;
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    sleep(AFTER_A_FAILURE).await;
                }
            }
        }
    }

    /// Follows one watch until it is of no more use; returns why.
    async fn follow(
        &self,
        endpoint: usize,
        mut stream: WatchStream,
        mut snapshot: Arc<Snapshot>,
    ) -> Result<&'static str, Error> {
        // Changes that the watch has told of and that were not worth waking anybody.
        let mut quiet_changes = false;
        // A confirmation can overtake the event of the same change; only a watch that stays silent after that is of no more use.
        let mut overtaken = false;
        let mut confirm_at = Instant::now() + self.heartbeat;
        loop {
            let woken = tokio::select! {
                message = stream.message() => Woken::Event(message),
                () = self.wish.notified() => Woken::Wish,
                () = sleep_until(confirm_at) => Woken::Heartbeat,
            };
            let read_all = match woken {
                Woken::Event(Ok(Some(response))) if response.canceled() => return Ok("the watch was cancelled"),
                Woken::Event(Ok(Some(response))) => {
                    overtaken = false;
                    let newer = newer_keys(&response, snapshot.cluster.revision);
                    let wakes = newer.iter().any(|key| self.wakes(key));
                    quiet_changes |= !newer.is_empty() && !wakes;
                    wakes
                }
                Woken::Event(Ok(None)) => return Ok("the watch ended"),
                Woken::Event(Err(error)) => {
                    self.store.endpoints().move_on(endpoint);
                    tracing::debug!(%error, "watch failed");
                    return Ok("the watch failed");
                }
                Woken::Wish => true,
                Woken::Heartbeat => {
                    let unchanged = self.confirm(&snapshot).await?;
                    confirm_at = Instant::now() + self.heartbeat;
                    if self.store.endpoints().current() != endpoint {
                        return Ok("its endpoint is silent");
                    }
                    if !unchanged && !quiet_changes && std::mem::replace(&mut overtaken, true) {
                        return Ok("it missed a change");
                    }
                    !unchanged
                }
            };
            if read_all {
                snapshot = self.read().await?;
                quiet_changes = false;
                confirm_at = Instant::now() + self.heartbeat;
                if self.store.endpoints().current() != endpoint {
                    return Ok("its endpoint is silent");
                }
            }
        }
    }

    /// Reads everything and publishes it.
    async fn read(&self) -> Result<Arc<Snapshot>, Error> {
        let confirmed_at = BootInstant::now();
        let known = self.publish.borrow().snapshot.clone().unwrap_or_default();
        let mut snapshot = self.store.read_after(0, &known).await?;
        self.look_for_alarms().await;
        snapshot.problems.extend(self.alarms.lock().await.problems.clone());
        snapshot.keep_term_of(&known);
        let snapshot = Arc::new(snapshot);
        for problem in snapshot.problems.iter().filter(|problem| !known.problems.contains(problem)) {
            tracing::error!(key = problem.key, why = problem.why, "value in etcd cannot be understood");
        }
        self.publish.send_replace(ClusterView {
            snapshot: Some(Arc::clone(&snapshot)),
            confirmed_at,
            last_error: None,
        });
        Ok(snapshot)
    }

    /// Asks whether anything has changed since the picture was taken; if not, the picture is as good as new.
    async fn confirm(&self, snapshot: &Snapshot) -> Result<bool, Error> {
        let confirmed_at = BootInstant::now();
        let unchanged = self.store.read_fingerprint().await? == snapshot.fingerprint && !self.look_for_alarms().await;
        if unchanged {
            self.publish.send_modify(|view| (view.confirmed_at, view.last_error) = (confirmed_at, None));
        }
        Ok(unchanged)
    }

    /// Asks for alarms now and then; says whether they have changed. Where etcd does not tell, nothing is known of them.
    async fn look_for_alarms(&self) -> bool {
        let mut alarms = self.alarms.lock().await;
        if alarms.asked_at.is_some_and(|at| at.elapsed() < ALARMS_EVERY) {
            return false;
        }
        alarms.asked_at = Some(Instant::now());
        let Ok(found) = alarms::ask(self.store.endpoints()).await else { return false };
        let changed = alarms.problems != found;
        alarms.problems = found;
        changed
    }

    fn failed(&self, error: &Error) {
        let text = error.to_string();
        if self.publish.borrow().last_error.is_none() {
            tracing::warn!(error = text, "etcd cannot be read");
        }
        self.publish.send_modify(|view| view.last_error = Some(text));
    }

    async fn open(&self, endpoint: usize, revision: i64) -> Result<WatchStream, Error> {
        let endpoints = self.store.endpoints().for_large_answers();
        let opened = async {
            let mut client = endpoints.client(endpoint).await?;
            let options = WatchOptions::new().with_prefix().with_start_revision(revision);
            let opened = client.watch(self.store.keys().base(), Some(options)).await;
            match opened.map_err(classify) {
                Ok(stream) => Ok(stream),
                Err(Failure::NotSent(why) | Failure::Unclear(why)) => Err(Error::Unreachable(why)),
                Err(Failure::Final(error)) => {
                    endpoints.forget(endpoint).await;
                    Err(error)
                }
            }
        };
        let opened = match timeout(endpoints.request_timeout(), opened).await {
            Ok(opened) => opened,
            Err(_) => {
                endpoints.forget(endpoint).await;
                Err(Error::Unreachable(format!("{}: no watch in time", endpoints.url(endpoint))))
            }
        };
        if opened.is_err() {
            endpoints.move_on(endpoint);
        }
        opened
    }

    /// Whether a change of this key is worth a read at once. Transition records and WAL positions wait for the next heartbeat.
    fn wakes(&self, key: &str) -> bool {
        let rest = self.store.keys().strip(key).unwrap_or(key);
        rest != "status" && !rest.starts_with("transitions/")
    }
}

/// The keys that have changed after `revision`.
fn newer_keys(response: &WatchResponse, revision: i64) -> Vec<String> {
    let kvs = response.events().iter().filter_map(etcd_client::Event::kv);
    kvs.filter(|kv| kv.mod_revision() > revision).map(|kv| String::from_utf8_lossy(kv.key()).into_owned()).collect()
}
