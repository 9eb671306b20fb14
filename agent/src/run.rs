//! The agent: what it sets up once, and its loop. Look, decide, note, act, wait for the next event; the interval is only a heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use consensus::records::MemberRecord;
use consensus::{Adopted, BootInstant, ClusterWatch, Endpoints, EtcdOptions, Keys, LeaseKeeper, Store, TlsFiles};
use decision::action::Action;
use decision::view::{Job, Lock, Server, View};
use decision::{Decision, decide};
use pg_control::{Death, Instance, InstanceConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::ages::AgeKeeper;
use crate::beats::{Beats, Target};
use crate::config::Config;
use crate::execute::{Effect, act};
use crate::fence::Fence;
use crate::hands::Hands;
use crate::http;
use crate::look::{LastLook, view};
use crate::metrics::Metrics;
use crate::notes::{Notebook, Notes};
use crate::published::{Board, Picture};
use crate::recorder::Recorder;
use crate::registrar::keep_registered;
use crate::secret::Secret;
use crate::transitions::Ledger;
use crate::upkeep::Upkeep;

/// A failed action is not tried again before this, so that a failing disk does not make a busy loop.
const BREATHER: Duration = Duration::from_millis(200);
/// How often a candidate of a switchover looks at its replay, so that the old leader hears of the last byte at once.
const CLOSE_WATCH: Duration = Duration::from_millis(2);
/// How often the loop looks whether etcd's news have caught up with what it has written itself.
const OWN_WRITE_WATCH: Duration = Duration::from_millis(20);
/// How often a long action that changes what is seen (start, clone) is looked at.
const JOB_WATCH: Duration = Duration::from_millis(250);
/// Positions in the member record are refreshed at most this often, for people and Patroni's tools; nothing depends on them.
const POSITIONS_EVERY: Duration = Duration::from_secs(10);

/// How to reach etcd, from the configuration.
///
/// # Errors
/// The password file cannot be read or is open to others.
pub fn etcd_options(config: &Config) -> Result<EtcdOptions> {
    let etcd = &config.etcd;
    let password = etcd.password_file.as_ref().map(|file| Secret::read(file)).transpose()?;
    Ok(EtcdOptions {
        endpoints: etcd.endpoints.clone(),
        tls: etcd.tls.as_ref().map(|tls| TlsFiles {
            ca: tls.ca.clone(),
            cert: tls.identity.as_ref().map(|identity| identity.cert.clone()),
            key: tls.identity.as_ref().map(|identity| identity.key.clone()),
        }),
        username: etcd.username.clone(),
        password: password.map(|password| password.expose().to_owned()),
        request_timeout: config.timing.request_timeout,
    })
}

/// The cluster's place in etcd, from the configuration.
///
/// # Errors
/// As [`etcd_options`], or TLS files that cannot be used.
pub fn store(config: &Config) -> Result<Store> {
    let endpoints = Endpoints::new(etcd_options(config)?)?;
    Ok(Store::new(endpoints, Keys::new(&config.etcd.namespace, &config.cluster)))
}

fn instance(config: &Config) -> Result<Instance> {
    let postgres = &config.postgres;
    let usual = InstanceConfig::new(
        config.name.clone(),
        config.cluster.clone(),
        postgres.data_dir.clone(),
        config.state_dir.clone(),
    );
    Ok(Instance::new(InstanceConfig {
        bin_dir: postgres.bin_dir.clone(),
        socket_dir: postgres.socket_dir.clone(),
        port: postgres.advertise.port,
        listen_addresses: postgres.listen.clone(),
        parameters: postgres.parameters.clone(),
        hba: postgres.hba.clone(),
        initdb_args: vec![format!("--wal-segsize={}", postgres.initdb.wal_segment_size_mb)],
        encoding: postgres.initdb.encoding.clone(),
        locale: postgres.initdb.locale.clone(),
        ..usual
    })?)
}

/// The action under way.
struct Running {
    action: Action,
    began: Instant,
    cancel: CancellationToken,
    result: oneshot::Receiver<Result<Effect>>,
}

/// One agent.
struct Agent {
    hands: Arc<Hands>,
    cluster: ClusterWatch,
    board: Board,
    notebook: Notebook,
    record: watch::Sender<MemberRecord>,
    positions_at: Instant,
    ages: AgeKeeper,
    look: LastLook,
    running: Option<Running>,
    death: Option<(i32, Death)>,
    last: Option<Decision>,
    reason_since: BootInstant,
    failed: Option<(Action, Instant)>,
    /// Decisions wait until the cluster view has reached this revision.
    own_revision: i64,
    own_write_at: Instant,
    upkeep: Upkeep,
    beats: Beats,
    started: Instant,
    led_before: bool,
    had_leader: bool,
}

/// Runs the agent until it is told to end. Postgres goes on running.
///
/// # Errors
/// What keeps the agent from starting, in words that name the mend.
pub async fn run(config: Config) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        bail!(
            "pgvigil must not run as root, for Postgres must not: start it as the user that owns the data directory (postgres)"
        );
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let taken = Arc::new(Notify::new());
    let mut agent = Agent::set_up(config, Arc::clone(&taken))?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        () = agent.go_on() => Ok(()),
        () = taken.notified() => bail!(
            "another living agent is registered as \"{}\" in cluster \"{}\": give one of them another `name`",
            agent.hands.me(), agent.hands.config.cluster
        ),
        _ = terminate.recv() => Ok(agent.say_goodbye("SIGTERM")),
        _ = interrupt.recv() => Ok(agent.say_goodbye("SIGINT")),
    }
}

impl Agent {
    fn set_up(config: Config, taken: Arc<Notify>) -> Result<Self> {
        let instance = instance(&config)?;
        let store = store(&config)?;
        let notebook = Notebook::open(&config.state_dir);
        let adopted = Adopted { member: notebook.notes().member_lease, lock: notebook.notes().lock_lease };
        let timing = config.timing;
        let leases = LeaseKeeper::start(etcd_options(&config)?, timing.ttl, timing.heartbeat, adopted)?;
        let fence = Fence::start(instance.clone(), leases.lock(), timing.safety_margin)?;
        let metrics = Arc::new(Metrics::new(&config.cluster, config.name.as_str()));
        let ledger = Arc::new(Ledger::default());
        let recorder = Recorder::new(config.name.clone(), store.clone(), Arc::clone(&metrics), Arc::clone(&ledger));
        let hands = Arc::new(Hands {
            recorder,
            store: store.clone(),
            leases,
            instance,
            fence,
            metrics: Arc::clone(&metrics),
            ledger: Arc::clone(&ledger),
            spare_lease: AtomicI64::new(0),
            secrets_known: AtomicBool::new(false),
            config,
        });
        let cluster = ClusterWatch::start(store.clone(), timing.heartbeat);
        let (ages, look) = (AgeKeeper::default(), LastLook::default());
        let mut agent = Self::assemble(hands, cluster, notebook, ages, look);
        let api = http::Api { board: Arc::clone(&agent.board), ledger, metrics };
        let listen = agent.hands.config.api.listen.to_string();
        let listening = http::listen(&listen, http::router(api)).with_context(|| {
            format!("the health API cannot listen on {listen} ([api] listen): is another agent running here?")
        })?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), cluster = agent.hands.config.cluster, member = %agent.hands.me(), api = %listening.address, "agent started");
        let record = agent.hands.member_record(&agent.look, false, false);
        let (sender, receiver) = watch::channel(record);
        agent.record = sender;
        let me = agent.hands.me().clone();
        let member = agent.hands.leases.member();
        tokio::spawn(keep_registered(store, me, receiver, member, timing.ttl * 2 + Duration::from_secs(5), taken));
        Ok(agent)
    }

    fn assemble(
        hands: Arc<Hands>,
        cluster: ClusterWatch,
        notebook: Notebook,
        mut ages: AgeKeeper,
        look: LastLook,
    ) -> Self {
        let started = Instant::now();
        let first = view(&hands, &cluster.views().borrow(), &look, &mut ages, None, started);
        let decision = decide(&first);
        let picture = picture(&hands, &cluster, &look, first, decision, BootInstant::now());
        let upkeep = Upkeep::new(Arc::clone(&hands));
        Self {
            hands,
            cluster,
            board: Arc::new(ArcSwap::from_pointee(picture)),
            notebook,
            record: watch::channel(MemberRecord::default()).0,
            positions_at: started,
            ages,
            look,
            running: None,
            death: None,
            last: None,
            reason_since: BootInstant::now(),
            failed: None,
            own_revision: 0,
            own_write_at: started,
            upkeep,
            beats: Beats::start(),
            started,
            led_before: false,
            had_leader: false,
        }
    }

    async fn go_on(&mut self) {
        loop {
            self.look.again(&self.hands).await;
            self.watch_postmaster();
            let seen = self.view();
            self.remember();
            self.upkeep.see(&seen);
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            let pause = if self.caught_up_with_own_writes() { self.take_a_step(seen) } else { OWN_WRITE_WATCH };
            let result = self.wait(pause).await;
            self.collect(result);
        }
    }

    /// Decides, says what has changed, and begins the action; returns how long to wait when nothing happens.
    fn take_a_step(&mut self, seen: View) -> Duration {
        let decision = decide(&seen);
        self.note(&seen, &decision);
        self.begin(&decision.action, &seen);
        let pause = self.pause(&seen, &decision);
        self.last = Some(decision);
        pause
    }

    fn view(&mut self) -> View {
        let job = self.running.as_ref().map(|running| Job {
            action: running.action.code().to_owned(),
            age: running.began.elapsed(),
            from: match &running.action {
                Action::Clone { from, .. } | Action::Rewind { from, .. } => Some(from.member.clone()),
                _ => None,
            },
        });
        let cluster = self.cluster.views().borrow().clone();
        let seen = view(&self.hands, &cluster, &self.look, &mut self.ages, job, self.started);
        self.follow_events(&seen, cluster.snapshot.as_deref());
        seen
    }

    /// What the recorder and the fence must know of the world.
    fn follow_events(&mut self, seen: &View, snapshot: Option<&consensus::Snapshot>) {
        let server = seen.postgres.last().map(|postgres| &postgres.server);
        let leads = matches!(seen.lock, Lock::Held { .. });
        if leads
            && !seen.settings.paused
            && matches!(server, Some(Server::Primary(_) | Server::Starting { .. } | Server::Hung { .. }))
        {
            self.hands.fence.arm();
        } else if seen.settings.paused {
            self.hands.fence.disarm();
        }
        let Some(cluster) = seen.cluster.now() else { return };
        if cluster.leader.is_none() && self.had_leader {
            // The last word of the old leader is the later of its last beat with working writes and its last WAL message.
            let last_word = self.beats.heard().writable.max(self.look.last_word);
            self.hands.recorder.vacancy(last_word.map(|word| word.elapsed()));
        }
        self.had_leader = cluster.leader.is_some();
        let leader = cluster.leader.as_ref().filter(|leader| *leader != &seen.me);
        self.beats.listen_to(leader.and_then(|leader| cluster.members.get(leader)).map(|leader| Target {
            api_url: leader.api_url.clone(),
            postgres: format!("{}:{}", leader.host, leader.port),
            term: cluster.term.0,
        }));
        if leads && !self.led_before {
            let handed = cluster.sync.as_ref().is_some_and(|sync| sync.handover_lsn.is_some());
            if let Some(snapshot) = snapshot.filter(|_| handed && matches!(server, Some(Server::Standby(_)))) {
                self.hands.recorder.handed_over(snapshot);
            }
        }
        self.led_before = leads;
        if leads && matches!(server, Some(Server::Primary(_))) {
            self.hands.recorder.restarted();
        }
    }

    /// Notices the death of the postmaster at once, not at the next heartbeat.
    fn watch_postmaster(&mut self) {
        let pid = self.look.postmaster_pid();
        if self.death.as_ref().map(|(pid, _)| *pid) == pid && pid.is_some() {
            return;
        }
        self.death = match self.hands.instance.watch_death() {
            Ok(found) => found.map(|(postmaster, death)| (postmaster.pid, death)),
            Err(error) => {
                tracing::debug!(%error, "the postmaster cannot be watched");
                None
            }
        };
    }

    /// Takes in the result of the action, if it has ended.
    fn collect(&mut self, result: Option<std::result::Result<Result<Effect>, oneshot::error::RecvError>>) {
        let Some(running) = result.as_ref().and_then(|_| self.running.take()) else { return };
        let Some(result) = result else { return };
        let (code, took) = (running.action.code(), running.began.elapsed());
        crash_point(code, "after");
        match result {
            Ok(Ok(effect)) => {
                self.hands.metrics.acted(code, "done");
                self.own_revision = self.own_revision.max(effect.revision);
                self.own_write_at = Instant::now();
                self.failed = None;
                self.ages.succeeded();
                tracing::debug!(action = code, ?took, "action done");
            }
            Ok(Err(error)) => {
                self.hands.metrics.acted(code, "failed");
                tracing::warn!(action = code, ?took, error = format!("{error:#}"), "action failed");
                self.failed = Some((running.action, Instant::now()));
                self.ages.failed();
            }
            Err(gone) => {
                tracing::error!(action = code, %gone, "action ended without a result");
                self.failed = Some((running.action, Instant::now()));
                self.ages.failed();
            }
        }
    }

    /// After a write of ours, decisions wait for the view that shows it (or for a timeout: the next write is guarded anyway).
    fn caught_up_with_own_writes(&self) -> bool {
        let views = self.cluster.views();
        let revision = views.borrow().snapshot.as_ref().map_or(0, |snapshot| snapshot.cluster.revision);
        revision >= self.own_revision || self.own_write_at.elapsed() > self.hands.config.timing.request_timeout
    }

    fn begin(&mut self, action: &Action, seen: &View) {
        if *action == Action::Cancel
            && let Some(running) = &self.running
        {
            tracing::info!(action = running.action.code(), "breaking off");
            running.cancel.cancel();
        }
        let idle = self.running.is_none() && !matches!(action, Action::Wait | Action::Cancel);
        let resting = self.failed.as_ref().is_some_and(|(failed, at)| failed == action && at.elapsed() < BREATHER);
        if !idle || resting {
            return;
        }
        let snapshot = self.cluster.views().borrow().snapshot.clone().unwrap_or_default();
        let cancel = CancellationToken::new();
        crash_point(action.code(), "before");
        tracing::debug!(action = action.code(), ?seen.lock, own = self.own_revision, seen = snapshot.cluster.revision, "begins");
        tracing::trace!(?seen.postgres, ballots = ?snapshot.cluster.ballots, "seen");
        let (send, result) = oneshot::channel();
        let work = act(Arc::clone(&self.hands), action.clone(), snapshot, cancel.clone());
        tokio::spawn(async move {
            // Nobody listens any more when the agent ends; the work is done all the same.
            let _ = send.send(work.await);
        });
        self.running = Some(Running { action: action.clone(), began: Instant::now(), cancel, result });
    }

    /// Says what has changed: one line a change of decision, and the picture for whoever asks.
    fn note(&mut self, seen: &View, decision: &Decision) {
        let code = decision.reason.code();
        let changed = self
            .last
            .as_ref()
            .is_none_or(|last| last.reason.code() != code || last.action.code() != decision.action.code());
        if changed {
            self.reason_since = BootInstant::now();
            self.hands.metrics.decided(decision.action.code(), code);
            self.hands.recorder.because(&decision.reason);
            if code == "busy" {
                tracing::debug!(action = decision.action.code(), reason = code, "{}", decision.reason);
            } else {
                tracing::info!(action = decision.action.code(), reason = code, "{}", decision.reason);
            }
        }
        let picture =
            picture(&self.hands, &self.cluster, &self.look, seen.clone(), decision.clone(), self.reason_since);
        self.board.store(Arc::new(picture));
        let positions = self.positions_at.elapsed() >= POSITIONS_EVERY;
        self.publish(seen.settings.paused, positions);
    }

    /// Offers the member record; the registrar writes it if it differs. Positions ride along now and then.
    fn publish(&mut self, paused: bool, positions: bool) {
        let mut fresh = self.hands.member_record(&self.look, paused, true);
        self.record.send_if_modified(|record| {
            if !positions {
                fresh.xlog_location = fresh.xlog_location.and(record.xlog_location);
                fresh.receive_lsn = fresh.receive_lsn.and(record.receive_lsn);
                fresh.replay_lsn = fresh.replay_lsn.and(record.replay_lsn);
            }
            let changed = *record != fresh;
            *record = fresh.clone();
            changed
        });
        if positions {
            self.positions_at = Instant::now();
        }
    }

    /// Leaves the leases on record for the next life.
    fn remember(&mut self) {
        let notes = Notes {
            member_lease: self.hands.leases.member().borrow().id(),
            lock_lease: self.hands.leases.lock().borrow().id(),
        };
        if let Err(error) = self.notebook.write(notes) {
            tracing::warn!(%error, "the agent's notes cannot be written; a restart would cost the leadership");
        }
    }

    /// How long to wait when nothing happens.
    fn pause(&self, seen: &View, decision: &Decision) -> Duration {
        let timing = &seen.settings.timing;
        let candidate = self.hands.spare_lease.load(std::sync::atomic::Ordering::SeqCst) != 0;
        let replaying = matches!(decision.reason, decision::reason::Reason::AwaitingHandover { .. });
        if candidate && seen.cluster.now().is_some_and(|cluster| cluster.request.is_some()) || replaying {
            return CLOSE_WATCH;
        }
        let unsettled = matches!(
            seen.postgres.last().map(|postgres| &postgres.server),
            Some(Server::Starting { .. } | Server::Stopping | Server::Hung { .. })
        );
        let mut pause = if unsettled { Duration::from_millis(10) } else { timing.heartbeat };
        if self.running.is_some() {
            pause = pause.min(JOB_WATCH);
        } else if decision.action != Action::Wait {
            pause = pause.min(BREATHER);
        }
        let limits = [
            timing.ballot_window,
            timing.reclaim_after,
            timing.voter_drop_after,
            timing.degrade_after,
            timing.retry_after,
        ];
        let soonest = self.ages.soonest(&limits).map(|left| left + Duration::from_millis(1));
        pause.min(soonest.unwrap_or(pause))
    }

    /// Waits for whatever comes first: news from etcd, a lease, the postmaster's death, the end of the action, or the heartbeat.
    async fn wait(
        &mut self,
        pause: Duration,
    ) -> Option<std::result::Result<Result<Effect>, oneshot::error::RecvError>> {
        let mut views = self.cluster.views();
        let before = views.borrow_and_update().snapshot.clone();
        let mut lock = self.hands.leases.lock();
        let lock_id = lock.borrow_and_update().id();
        let news = async {
            loop {
                if views.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let now = views.borrow_and_update().snapshot.clone();
                let same = match (&before, &now) {
                    (Some(before), Some(now)) => before.cluster == now.cluster && before.config == now.config,
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    return;
                }
            }
        };
        let lease_changed = async {
            loop {
                if lock.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if lock.borrow_and_update().id() != lock_id {
                    return;
                }
            }
        };
        let finished = async {
            match &mut self.running {
                Some(running) => (&mut running.result).await,
                None => std::future::pending().await,
            }
        };
        let died = async {
            match &mut self.death {
                Some((_, death)) => death.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = news => {}
            () = lease_changed => {}
            () = self.beats.news() => {}
            result = finished => return Some(result),
            () = died => {
                self.death = None;
                if self.led_before {
                    self.hands.recorder.primary_died();
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
        None
    }

    /// Ends this agent and nothing else: Postgres runs on, and the leases are left to the next life.
    fn say_goodbye(&mut self, signal: &str) {
        self.remember();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!(signal, "agent ends; Postgres keeps running, the leases are left to the next agent");
    }
}

/// In debug builds a test may name an action, before or after which the agent dies as by SIGKILL: `PGVIGIL_CRASH_AT=acquire:after`.
fn crash_point(action: &str, moment: &str) {
    if cfg!(debug_assertions)
        && std::env::var("PGVIGIL_CRASH_AT").is_ok_and(|wanted| wanted == format!("{action}:{moment}"))
    {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

fn picture(
    hands: &Hands,
    cluster: &ClusterWatch,
    look: &LastLook,
    view: View,
    decision: Decision,
    reason_since: BootInstant,
) -> Picture {
    let now = cluster.views().borrow().clone();
    let etcd_seen_at = now.snapshot.is_some().then_some(now.confirmed_at);
    let age = etcd_seen_at.map_or(Duration::ZERO, BootInstant::elapsed);
    let epoch = jiff::Timestamp::now().as_second() - i64::try_from(age.as_secs()).unwrap_or(0);
    Picture {
        cluster_name: hands.config.cluster.clone(),
        lock_until: now.snapshot.as_ref().and_then(|snapshot| hands.lock_until(snapshot)),
        view,
        decision,
        reason_since,
        extras: look.extras.clone(),
        made_at: BootInstant::now(),
        etcd_seen_at,
        etcd_seen_epoch_s: if etcd_seen_at.is_some() { epoch } else { 0 },
        snapshot: now.snapshot,
    }
}
