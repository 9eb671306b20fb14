//! The loop: look, decide, note, act, wait for the next event; the interval is only a heartbeat. It looks at everything each time, so
//! nothing depends on having seen an event, and it begins one action at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use consensus::records::MemberRecord;
use consensus::{BootInstant, ClusterView, ClusterWatch, Snapshot};
use decision::action::Action;
use decision::promise::worth_asking;
use decision::reason::Reason;
use decision::settings::Mode;
use decision::view::{Cluster, Job, Lock, Seen, Server, Upstream, View};
use decision::{Decision, decide};
use pg_control::Death;
use pg_control::pidfile::Status;
use tokio::sync::watch;

use crate::access::Keeping;
use crate::acknowledged::Acknowledged;
use crate::ages::AgeKeeper;
use crate::beats::{Beats, Heard, Target};
use crate::configure::Configuring;
use crate::exposure::Exposure;
use crate::fence;
use crate::hands::Hands;
use crate::listening::Listening;
use crate::look::{LastLook, view};
use crate::notes::{Notebook, Notes};
use crate::overruled::Overrulings;
use crate::published::{Board, Picture};
use crate::refusals::Refusals;
use crate::reload::Reloading;
use crate::slots::Slotkeeper;
use crate::state_dir::StateDir;
use crate::task::Tasks;
use crate::unattended::LedUntil;
use crate::upkeep::Upkeep;
use crate::worked::worked_at;

/// How often the loop looks whether etcd's news have caught up with what it has written itself.
const OWN_WRITE_WATCH: Duration = Duration::from_millis(20);
/// How long a leader whose lease was revoked may try to get its lock back where commits wait for nobody: less than others need to notice,
/// to agree and to promote.
const RECLAIM_GRACE: Duration = Duration::from_millis(100);
/// Positions in the member record are refreshed at most this often, for people and Patroni's tools; nothing depends on them.
const POSITIONS_EVERY: Duration = Duration::from_secs(10);

/// How long an agent that is told to end waits for what it has begun.
const RESTS_WITHIN: Duration = Duration::from_secs(2);

/// One agent, alive.
pub struct Body {
    pub(crate) hands: Arc<Hands>,
    pub(crate) board: Arc<Board>,
    pub(crate) cluster: ClusterWatch,
    pub(crate) tasks: Tasks,
    pub(crate) ages: AgeKeeper,
    pub(crate) beats: Beats,
    pub(crate) death: Option<(i32, Death)>,
    pub(crate) led_before: bool,
    /// The cluster and the lock lease that the last decision was made from: whatever differs from them is news.
    pub(crate) seen: Option<Arc<Snapshot>>,
    pub(crate) lock_seen: Option<i64>,
    confirmed_at: BootInstant,
    notebook: Notebook,
    record: watch::Sender<MemberRecord>,
    positions_at: Instant,
    pub(crate) look: LastLook,
    last: Option<Decision>,
    reason_since: BootInstant,
    upkeep: Upkeep,
    exposure: Exposure,
    acknowledged: Acknowledged,
    /// When a commit could last be acknowledged, where they have waited for voters since.
    acknowledged_at: Option<Instant>,
    overrulings: Overrulings,
    refusals: Refusals,
    listening: Listening,
    state_dir: StateDir,
    configuring: Configuring,
    slotkeeper: Slotkeeper,
    reloading: Reloading,
    access: Keeping,
    started: Instant,
    had_leader: bool,
    registered: bool,
    term: u64,
    term_since: Instant,
    /// For how many looks in a row nothing of this node could have become primary.
    harmless: u8,
}

impl Body {
    /// A body that has not looked yet.
    ///
    /// # Errors
    /// No thread can be started to listen to the leader.
    pub fn new(hands: Arc<Hands>, cluster: ClusterWatch, notebook: Notebook) -> std::io::Result<Self> {
        let started = Instant::now();
        let (mut ages, look) = (AgeKeeper::default(), LastLook::default());
        let first = view(&hands, &cluster.views().borrow(), &look, &mut ages, Heard::default(), None, started);
        let decision = decide(&first);
        let picture = Picture::new(&hands, &cluster, &look, first, decision, BootInstant::now());
        Ok(Self {
            board: Arc::new(Board::new(picture)),
            tasks: Tasks::new(Arc::clone(&hands)),
            upkeep: Upkeep::new(Arc::clone(&hands)),
            exposure: Exposure::new(Arc::clone(&hands)),
            acknowledged: Acknowledged::default(),
            acknowledged_at: None,
            overrulings: Overrulings::new(Arc::clone(&hands)),
            refusals: Refusals::new(Arc::clone(&hands)),
            listening: Listening::new(Arc::clone(&hands)),
            state_dir: StateDir::new(Arc::clone(&hands)),
            configuring: Configuring::new(Arc::clone(&hands)),
            slotkeeper: Slotkeeper::new(Arc::clone(&hands)),
            reloading: Reloading::new(Arc::clone(&hands)),
            access: Keeping::new(Arc::clone(&hands)),
            record: watch::channel(hands.member_record(&look, false, false, false)).0,
            hands,
            cluster,
            ages,
            beats: Beats::start()?,
            death: None,
            led_before: false,
            seen: None,
            lock_seen: None,
            confirmed_at: BootInstant::now(),
            notebook,
            positions_at: started,
            look,
            last: None,
            reason_since: BootInstant::now(),
            started,
            had_leader: false,
            registered: false,
            term: 0,
            term_since: started,
            harmless: 0,
        })
    }

    /// The member record, for whoever keeps it in etcd.
    pub fn begin_registration(&mut self) -> watch::Receiver<MemberRecord> {
        self.record.subscribe()
    }

    /// What etcd says, for whoever keeps something up to date there.
    pub fn cluster_views(&self) -> watch::Receiver<ClusterView> {
        self.cluster.views()
    }

    /// Goes on for ever.
    pub async fn live(&mut self) {
        loop {
            self.look.again(&self.hands, self.death.as_ref().map(|(pid, _)| *pid)).await;
            self.death = self.look.newcomer.take().or(self.death.take());
            let seen = self.view();
            let stopped = matches!(seen.postgres.last().map(|postgres| &postgres.server), Some(Server::Stopped));
            self.remember(None);
            self.upkeep.see(&seen, self.seen.as_ref(), &self.look);
            self.exposure.see(&seen);
            self.overrulings.see(&seen);
            self.state_dir.see();
            let postmaster = self.look.extras.as_ref().map(|extras| extras.postmaster_pid);
            self.listening.see(postmaster);
            self.configuring.see(&seen, self.seen.as_ref(), postmaster);
            self.slotkeeper.see(&seen, self.seen.as_ref(), postmaster);
            self.reloading.see(&seen, self.seen.as_ref());
            self.access.see(&seen, self.seen.as_ref(), postmaster);
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            let revision = self.seen.as_ref().map_or(0, |snapshot| snapshot.cluster.revision);
            let caught_up = self.tasks.caught_up(revision, self.confirmed_at);
            let pause = match seen.cluster {
                Seen::Now(_) if !caught_up => OWN_WRITE_WATCH,
                Seen::Now(_) | Seen::Before { .. } | Seen::Never { .. } => self.take_a_step(seen, caught_up),
            };
            let ended = self.wait(pause).await;
            if ended.is_some() {
                self.look.outdated();
            }
            let action = self.tasks.code().unwrap_or_default();
            if let Some(result) = ended
                && self.tasks.collect(result)
            {
                self.ages.succeeded(action, stopped);
            } else if let Some(action) = self.tasks.just_failed() {
                self.ages.failed(action);
            }
        }
    }

    /// Decides, says what has changed, and begins the action; returns how long to wait when nothing happens.
    /// `caught_up`: what is seen of etcd shows what this agent has written itself. Where etcd is out of sight that may never come, and a leader must
    /// still be able to stop.
    fn take_a_step(&mut self, seen: View, caught_up: bool) -> Duration {
        let decision = self.under_my_name(decide(&seen));
        let decision = if caught_up { decision } else { giving_up_alone(decision) };
        if matches!(decision.reason, Reason::Suspect { .. }) {
            self.something_is_wrong();
        }
        self.note(&seen, &decision);
        if matches!(decision.action, Action::AskSwitchover { .. }) {
            self.ages.asked_switchover();
        }
        self.tasks.begin(&decision.action, self.seen.clone().unwrap_or_default());
        let pause = self.pause(&seen, &decision);
        self.last = Some(decision);
        pause
    }

    /// Before the name is mine somebody else may live under it, and what I did would count as theirs: a copy made and streaming under
    /// its name would acknowledge commits that it does not have. Only a stop is always allowed.
    fn under_my_name(&self, decision: Decision) -> Decision {
        let harmless = matches!(decision.action, Action::Wait | Action::Cancel | Action::Stop(_));
        if harmless || self.hands.name_is_mine.load(Ordering::SeqCst) {
            return decision;
        }
        Decision { action: Action::Wait, reason: Reason::NameNotMine {}, ..decision }
    }

    fn view(&mut self) -> View {
        let cluster = self.cluster.views().borrow().clone();
        self.seen.clone_from(&cluster.snapshot);
        self.confirmed_at = cluster.confirmed_at;
        self.lock_seen = self.hands.leases.lock().borrow().id();
        let term = cluster.snapshot.as_ref().map_or(0, |snapshot| snapshot.cluster.term.0);
        if self.term != term {
            (self.term, self.term_since) = (term, Instant::now());
        }
        let heard = self.beats.heard_of(term);
        let seen = view(&self.hands, &cluster, &self.look, &mut self.ages, heard, self.tasks.job(), self.started);
        if let Some(snapshot) = &cluster.snapshot {
            self.hands.recorder.sees_hold(&snapshot.hold);
        }
        self.follow_events(&seen, cluster.snapshot.as_deref());
        seen
    }

    /// What the recorder and the fence must know of the world.
    fn follow_events(&mut self, seen: &View, snapshot: Option<&consensus::Snapshot>) {
        let server = seen.postgres.last().map(|postgres| &postgres.server);
        let leads = matches!(seen.lock, Lock::Held { .. });
        self.hands.pulse.watch(leads && matches!(server, Some(Server::Primary(_) | Server::Hung { .. })));
        self.keep_fenced(seen, server);
        self.hands.promises.worth_asking.store(worth_asking(seen), Ordering::SeqCst);
        self.acknowledged_at = self.look_at_acknowledgements(seen, server.filter(|_| leads));
        if leads {
            self.measure(seen, server);
        }
        if matches!(seen.cluster, Seen::Before { .. }) {
            self.out_of_sight(true);
        }
        let Some(cluster) = seen.cluster.now() else { return };
        self.hands.promises.book.saw_etcd(cluster.ballots.get(&seen.me).map(|ballot| ballot.revoked));
        let held_under = snapshot.filter(|_| leads && cluster.leader.as_ref() == Some(&seen.me));
        let held_under = held_under.map_or(0, |held| held.leader_lease);
        self.hands.promises.held_under.send_if_modified(|known| std::mem::replace(known, held_under) != held_under);
        // Only now: peers are not freed over a lease that was looked at before.
        self.out_of_sight(false);
        let letting_go = |job: &Job| ["hand_over", "release", "abdicate"].contains(&job.action.as_str());
        if let Some(snapshot) = snapshot.filter(|_| !seen.job.as_ref().is_some_and(letting_go)) {
            let by_key = cluster.leader.as_ref() == Some(&seen.me);
            if self.hands.promises.reign.see(snapshot, leads && by_key) {
                let promises = Arc::clone(&self.hands.promises);
                tokio::task::spawn_blocking(move || promises.reign.write_or_forget());
            }
        }
        let waits = cluster.sync.as_ref().filter(|sync| sync.mode != Mode::Async).and_then(|sync| sync.policies.last());
        let guarded = waits.is_some_and(|quorum| quorum.k > 0);
        self.hands.authority.set_grace(if guarded { seen.settings.timing.ttl } else { RECLAIM_GRACE });
        if cluster.leader.is_none() && self.had_leader {
            self.something_is_wrong();
        }
        let registered = cluster.members.contains_key(&seen.me);
        if (self.had_leader && self.led_before && cluster.leader.is_none()) || (self.registered && !registered) {
            // What hung on a lease of mine has vanished before its time: etcd has revoked it, or it ran out unseen.
            self.hands.leases.check();
        }
        self.registered = registered;
        if !self.had_leader && cluster.leader.as_ref().is_some_and(|leader| *leader != seen.me) {
            // Whatever was amiss, there is nothing to measure here any more.
            self.hands.recorder.abandon();
        }
        self.had_leader = cluster.leader.is_some();
        self.listen_to_whoever_leads(cluster, server);
        if leads && !self.led_before {
            let handed = cluster.sync.as_ref().is_some_and(|sync| sync.handover_lsn.is_some());
            if let Some(snapshot) = snapshot.filter(|_| handed && matches!(server, Some(Server::Standby(_)))) {
                self.hands.recorder.handed_over(snapshot);
            }
        }
        self.led_before = leads;
    }

    /// The leader; where nobody leads, whoever led last: it may not have been fenced.
    fn listen_to_whoever_leads(&self, cluster: &Cluster, server: Option<&Server>) {
        let (me, term) = (self.hands.me(), cluster.term);
        let target = match &cluster.leader {
            Some(leader) => cluster
                .members
                .get(leader)
                .filter(|_| leader != me)
                .map(|leader| (leader.api_url.clone(), &leader.host, leader.port)),
            None if self.beats.hears_of(term.0) => return,
            None => {
                let led = |upstream: &&Upstream| upstream.term == term && cluster.last_led_by(&upstream.member);
                let upstream = server.and_then(Server::as_standby).and_then(|standby| standby.follows.as_ref());
                // Where its agent was is not known; that is away, or tells for itself what is so.
                upstream.filter(led).map(|upstream| (String::new(), &upstream.host, upstream.port))
            }
        };
        self.beats.listen_to(target.map(|(api_url, host, port)| Target {
            api_url,
            postgres: format!("{host}:{port}"),
            term: term.0,
        }));
    }

    /// Postgres is fenced while it is the leader's and may accept writes. The leader of a site that follows another is a standby, and nothing of
    /// it need end with its lease.
    fn keep_fenced(&mut self, seen: &View, server: Option<&Server>) {
        let may_write = matches!(seen.lock, Lock::Held { .. }) && !seen.cluster.last().is_some_and(Cluster::follows);
        // In a pause nothing is fenced but what is about to become primary, at an operator's word.
        let becomes_primary = seen.job.as_ref().is_some_and(Job::makes_a_primary);
        if seen.settings.paused && becomes_primary {
            return;
        }
        if may_write
            && !seen.settings.paused
            && matches!(server, Some(Server::Primary(_) | Server::Starting { .. } | Server::Hung { .. }))
        {
            self.hands.fence.arm();
        } else if seen.settings.paused || self.is_harmless(seen, may_write) {
            self.hands.fence.disarm();
        }
    }

    fn out_of_sight(&self, so: bool) {
        self.hands.promises.out_of_sight.send_if_modified(|before| std::mem::replace(before, so) != so);
    }

    fn look_at_acknowledgements(&mut self, seen: &View, server: Option<&Server>) -> Option<Instant> {
        let sync = seen.cluster.last().and_then(|cluster| cluster.sync.as_ref()).filter(|sync| sync.leader == seen.me);
        if let (Some(sync), Some(Server::Primary(primary))) = (sync, server) {
            return self.acknowledged.look(Instant::now(), sync, primary);
        }
        self.acknowledged.forget();
        None
    }

    /// What the recorder must know of the primary here, which leads.
    fn measure(&self, seen: &View, server: Option<&Server>) {
        let (heartbeat, disk) = (self.hands.pulse.heartbeat(), &self.hands.disk);
        let worked_at = [worked_at(&heartbeat, &disk.disk(), disk.worked_at()), self.acknowledged_at];
        let worked_at = worked_at.into_iter().flatten().min();
        let fresh = seen.postgres.now().map(|postgres| &postgres.server);
        // Only a look that shows it at work says that nothing is in the way any more: a killed server is not silent, either.
        if worked_at.is_some() || matches!(fresh, Some(Server::Primary(_))) {
            self.hands.recorder.stuck(worked_at);
        }
        if matches!(fresh, Some(Server::Primary(_))) {
            self.hands.recorder.sees_work();
            self.notices_a_return();
        }
        match server {
            Some(Server::Primary(_)) => self.hands.recorder.restarted(),
            // It recovers by itself from the death of one of its processes: a restart like any other, with the same proof at its end.
            Some(Server::Starting { .. }) if self.look.was_primary() => self.hands.recorder.restarting(true),
            _ => {}
        }
    }

    /// A primary that somebody stopped and started before anybody looked was down all the same: a restart, whose outage ends with its proof.
    fn notices_a_return(&self) {
        let ready = || self.hands.instance.postmaster().is_some_and(|postmaster| postmaster.status == Status::Ready);
        if self.look.answered().is_some_and(|asked| self.hands.recorder.has_returned_unseen(asked)) && ready() {
            self.hands.recorder.restarting(true);
        }
    }

    /// Whether there is nothing to fence: this node does not lead, does nothing, and its Postgres is down or a standby. Seen twice, for
    /// the first look may be from before the end of the last action.
    fn is_harmless(&mut self, seen: &View, may_write: bool) -> bool {
        let server = seen.postgres.now().map(|postgres| &postgres.server);
        let resting = matches!(server, Some(Server::Stopped | Server::Standby(_)));
        let harmless = !may_write && resting && seen.job.is_none();
        self.harmless = if harmless { self.harmless.saturating_add(1) } else { 0 };
        self.harmless >= 2
    }

    /// The outage is measured from the last word of the old leader: its last beat with working writes, or its last WAL message; where
    /// it has said itself until when they worked, that.
    fn something_is_wrong(&self) {
        let heard = self.beats.heard();
        let last_word = if heard.stalled { heard.writable } else { heard.writable.max(self.look.last_word) };
        // A word from before this reign, when this node itself led or followed another, says nothing about it.
        let of_this_reign = last_word.filter(|word| *word >= self.term_since);
        self.hands.recorder.vacancy(of_this_reign.map(|word| word.elapsed()));
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
            if decision.action != Action::Wait {
                self.hands.recorder.because(&decision.reason);
            }
            if code == "busy" {
                tracing::debug!(action = decision.action.code(), reason = code, "{}", decision.reason);
            } else {
                tracing::info!(action = decision.action.code(), reason = code, "{}", decision.reason);
            }
        }
        self.refusals.see(seen, decision);
        let picture =
            Picture::new(&self.hands, &self.cluster, &self.look, seen.clone(), decision.clone(), self.reason_since);
        self.hands.metrics.saw(&picture);
        let (exposed, overruled) = (self.exposure.now(), self.overrulings.now());
        let (missing, failed) = (self.state_dir.missing(), self.tasks.failed().cloned());
        let acknowledged_at = self.acknowledged_at;
        let postmaster = self.look.extras.as_ref().map(|extras| extras.postmaster_pid);
        let not_listening = self.listening.now(seen, postmaster);
        let picture = Picture { exposed, overruled, missing, failed, acknowledged_at, not_listening, ..picture };
        let not_listening = picture.not_listening.clone();
        self.board.store(picture);
        let positions = self.positions_at.elapsed() >= POSITIONS_EVERY;
        self.publish(seen.settings.paused, positions, not_listening);
    }

    /// Offers the member record; the registrar writes it if it differs. Positions ride along now and then.
    fn publish(&mut self, paused: bool, positions: bool, not_listening: Option<String>) {
        let me = self.hands.me();
        let leads_a_follower = self.seen.as_ref().is_some_and(|seen| {
            seen.cluster.follows() && seen.cluster.leader.as_ref() == Some(me) && seen.leader_lease != 0
        });
        let mut fresh = self.hands.member_record(&self.look, leads_a_follower, paused, true);
        fresh.not_listening = not_listening;
        let planned = self.seen.as_ref().and_then(|seen| seen.scheduled.restarts.get(me));
        fresh.scheduled_restart = planned.map(|planned| planned.record.as_patroni_tells());
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
    fn remember(&mut self, led_until: Option<LedUntil>) {
        let notes = Notes {
            member_lease: self.hands.leases.member().borrow().id(),
            lock_lease: self.hands.leases.lock().borrow().id(),
            led_until,
        };
        if let Err(error) = self.notebook.write(notes) {
            tracing::warn!(%error, "the agent's notes cannot be written; a restart would cost the leadership");
        }
    }

    /// Ends this agent and nothing else: Postgres runs on, and the leases are left to the next life.
    pub fn say_goodbye(&mut self, signal: &str) {
        let fenced_in = self.hands.fence.kills_in().filter(|_| self.led_before);
        self.remember(fenced_in.and_then(LedUntil::in_so_long));
        self.notebook.settle(Duration::from_millis(500));
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        match self.hands.fence.kills_in().filter(|_| self.led_before) {
            Some(left) => tracing::warn!(signal, "{}", fence::last_words(left)),
            None if self.led_before => tracing::warn!(signal, "{}", fence::LAST_WORDS_IN_A_PAUSE),
            None => tracing::info!(signal, "agent ends; Postgres keeps running, the leases are left to the next agent"),
        }
    }

    /// Waits for a moment until what goes on has ended: it would find the runtime gone under it.
    pub async fn come_to_rest(&self) {
        self.tasks.end_children();
        self.hands.programs.end();
        self.hands.works.close();
        let _ = tokio::time::timeout(RESTS_WITHIN, self.hands.works.wait()).await;
    }
}

/// What was decided from a picture that lacks this agent's own last write, as far as it gives something up: whatever else it says of whom commits
/// wait for may be out of date.
fn giving_up_alone(decision: Decision) -> Decision {
    match decision.action {
        Action::Wait | Action::Cancel | Action::Stop(_) | Action::Abdicate => decision,
        _ => Decision { action: Action::Wait, ..decision },
    }
}
