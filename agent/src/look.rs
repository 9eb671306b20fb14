//! The only reads of the loop: what etcd, Postgres and the clocks say, made into one view and one picture.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use consensus::records::{MemberRecord, TagsRecord};
use consensus::{BootInstant, ClusterView, Lease, Snapshot};
use decision::cascade::upstream_is_good;
use decision::names::{Lsn, MemberName, Term, Timeline};
use decision::settings::{Settings, Timing};
use decision::site::{Remote, RemoteSeen, is_another_site};
use decision::view::{
    Cluster, Data, Disk, Fence, Hearing, Job, Lock, Postgres, Primary, Seen, Server, Signs, Sound, Stuck, View,
};
use pg_control::{Death, Extras, Heartbeat, Observation};
use tokio::task::JoinHandle;

use crate::ages::AgeKeeper;
use crate::beats::{Ear, Heard};
use crate::hands::Hands;
use crate::http::health::replication_state;
use crate::operate::hold::Shown as Held;
use crate::published::COPYING;

/// How old a cluster view may be and still count as the present: two confirmations and one slow answer.
pub fn fresh_for(settings: &Settings) -> Duration {
    settings.timing.heartbeat * 2 + settings.timing.request_timeout
}

/// How long the loop waits for a look. One that takes longer goes on by itself and is taken in when it ends: a disk or a server that
/// hangs must not keep the agent from deciding that it does.
/// For so long a look is taken for the present.
const FRESH_FOR: Duration = Duration::from_secs(1);
const LOOK_WITHIN: Duration = Duration::from_millis(150);
/// How long the word of another site says what is so.
const REMOTE_IS_NEWS: Duration = Duration::from_secs(5);
const NOT_NOW: Duration = Duration::from_millis(2);
/// A server that has been silent for less is merely busy.
const SILENT: Duration = Duration::from_millis(200);

/// What the last look at Postgres brought.
#[derive(Default)]
pub struct LastLook {
    seen: Option<(Postgres, Instant)>,
    under_way: Option<JoinHandle<Glance>>,
    /// One that took long and has ended.
    ended: Option<Glance>,
    /// When the last question was asked that the server has answered.
    answered: Option<Instant>,
    /// The primary here as it last answered.
    last_primary: Option<Primary>,
    /// Where the upstream has no WAL any more that this standby needs.
    pub upstream_lacks: Arc<Mutex<Lacking>>,
    /// What another site has said of itself, and when.
    pub remote: Arc<Mutex<Option<HeardSite>>>,
    /// A postmaster that was not watched before, with its death.
    pub newcomer: Option<(i32, Death)>,
    /// Facts that no decision needs, of the last answer.
    pub extras: Option<Extras>,
    /// The instant of the last word from the upstream that this standby has heard of.
    pub last_word: Option<Instant>,
}

impl LastLook {
    /// Looks at Postgres. `watched`: the postmaster whose death is watched already.
    pub async fn again(&mut self, hands: &Arc<Hands>, watched: Option<i32>) {
        if let Some(glance) = self.ended.take() {
            self.take_in(glance, hands.pulse.heartbeat());
            return;
        }
        let mut look = self.under_way.take().unwrap_or_else(|| glance(Arc::clone(hands), watched));
        // A server that does not answer a probe does not answer this, either.
        let patience = if hands.pulse.heartbeat().silent_for.is_zero() { LOOK_WITHIN } else { NOT_NOW };
        match tokio::time::timeout(patience, &mut look).await {
            Ok(Ok(glance)) => self.take_in(glance, hands.pulse.heartbeat()),
            Ok(Err(error)) => tracing::debug!(%error, "a look at Postgres was cut off"),
            Err(_) => self.under_way = Some(look),
        }
    }

    /// Resolves when a look that took long has ended.
    pub async fn news(&mut self) {
        match &mut self.under_way {
            Some(look) => self.ended = look.await.ok(),
            None => std::future::pending().await,
        }
        self.under_way = None;
    }

    /// An action has changed what is looked at: a look from before its end says nothing.
    pub fn outdated(&mut self) {
        (self.under_way, self.ended) = (None, None);
    }

    fn take_in(&mut self, glance: Glance, heartbeat: Heartbeat) {
        self.newcomer = glance.newcomer;
        let observation = match glance.observation {
            Ok(observation) => observation,
            Err(error) => return tracing::debug!(%error, "Postgres could not be observed"),
        };
        let answers = heartbeat.answered_at.is_some_and(|at| at.elapsed() < Duration::from_millis(500));
        if matches!(observation.postgres.server, Server::Hung { .. }) && answers {
            // It answers elsewhere, so this question was held up by something else.
            return;
        }
        let age = observation.extras.as_ref().and_then(|extras| extras.last_msg_receipt_age);
        if let Some(word) = age.and_then(|age| Instant::now().checked_sub(age)) {
            self.last_word = Some(word);
        }
        if observation.extras.is_some() {
            self.answered = Some(glance.asked);
        }
        match &observation.postgres.server {
            Server::Primary(primary) => self.last_primary = Some(primary.clone()),
            Server::Standby(_) => self.last_primary = None,
            _ => {}
        }
        self.seen = Some((observation.postgres, Instant::now()));
        self.extras = observation.extras;
    }

    /// When the last question was asked that the server has answered.
    pub fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// What hangs of the primary here, and for how long. What has answered a look since then is not silent; and where the disk takes no
    /// writes, it is the disk that holds them up.
    pub fn hang(&self, mut heartbeat: Heartbeat, disk: &Disk) -> Option<(Stuck, Duration)> {
        if let Some(asked) = self.answered {
            heartbeat.silent_for = heartbeat.silent_for.min(asked.elapsed());
            heartbeat.logins_stuck_for = heartbeat.logins_stuck_for.min(asked.elapsed());
        }
        if disk.frozen_for.is_some() || disk.fault.is_some() || disk.full {
            heartbeat.writes_stuck_for = Duration::ZERO;
        }
        heartbeat.hang().filter(|(stuck, since)| *since >= SILENT * stuck.patience())
    }

    /// Postgres as a decision sees it. A busy server that would not tell is seen as it was, one that answers no probe hangs.
    pub fn postgres(&self, since_start: Instant, hang: Option<(Stuck, Duration)>) -> Seen<Postgres> {
        match (&self.seen, hang) {
            (None, _) => Seen::Never { tried_for: since_start.elapsed() },
            (Some((postgres, _)), Some((_, since)))
                if matches!(postgres.server, Server::Primary(_) | Server::Hung { .. }) =>
            {
                Seen::Now(Postgres { data: postgres.data.clone(), server: Server::Hung { since } })
            }
            (Some((postgres, at)), _) if at.elapsed() < FRESH_FOR => Seen::Now(postgres.clone()),
            (Some((postgres, at)), _) => Seen::Before { value: postgres.clone(), age: at.elapsed() },
        }
    }

    /// A primary has been seen here, and no standby since.
    pub fn was_primary(&self) -> bool {
        self.last_primary.is_some()
    }

    /// From whom it streams, unless the server has not answered for a while: others wait for who streams from a leader that is gone.
    fn streams_from(&self) -> Option<MemberName> {
        let (postgres, at) = self.seen.as_ref()?;
        let standby = postgres.server.as_standby().filter(|_| at.elapsed() < FRESH_FOR)?;
        standby.streams_from().cloned()
    }

    fn timeline_on_disk(&self) -> Option<Timeline> {
        match &self.seen.as_ref()?.0.data {
            Data::Present(disk) => Some(disk.timeline),
            Data::Empty | Data::HalfMade { .. } | Data::Unreadable { .. } => None,
        }
    }

    fn server(&self) -> Option<&Server> {
        self.seen.as_ref().map(|(postgres, _)| &postgres.server)
    }
}

/// What another site has said of itself, where that is, and when.
pub type HeardSite = (Remote, RemoteSeen, Instant);

/// The leader that has no WAL any more from a position on that a standby needs.
pub type Lacking = Option<(MemberName, Lsn)>;

/// One look: what was seen, and the postmaster if it is another than the one that is watched.
struct Glance {
    asked: Instant,
    observation: pg_control::Result<Observation>,
    newcomer: Option<(i32, Death)>,
}

/// Looks on a thread of its own, for every file that is read there may hang with its disk.
fn glance(hands: Arc<Hands>, watched: Option<i32>) -> JoinHandle<Glance> {
    let runtime = tokio::runtime::Handle::current();
    let works = hands.works.clone();
    works.spawn_blocking(move || {
        let asked = Instant::now();
        let observation = runtime.block_on(hands.instance.observe());
        let pid = observation.as_ref().ok().and_then(|seen| seen.extras.as_ref()).map(|extras| extras.postmaster_pid);
        let newcomer = if watched.is_some() && pid == watched { None } else { newcomer(&hands, watched) };
        Glance { asked, observation, newcomer }
    })
}

/// Somebody whose death is to be noticed at once, not at the next heartbeat.
fn newcomer(hands: &Hands, watched: Option<i32>) -> Option<(i32, Death)> {
    match hands.instance.watch_death() {
        Ok(found) => found.map(|(postmaster, death)| (postmaster.pid, death)).filter(|(pid, _)| Some(*pid) != watched),
        Err(error) => {
            tracing::debug!(%error, "the postmaster cannot be watched");
            None
        }
    }
}

impl Hands {
    /// The settings in force: the cluster's from etcd over this node's.
    pub fn settings(&self, seen: &Snapshot) -> Settings {
        let mut settings = self.config.settings();
        if let Some(durability) = seen.config.durability {
            settings.durability = durability;
        }
        if let Some(limit) = seen.config.max_lag_on_failover_bytes {
            settings.max_lag_on_failover_bytes = limit;
        }
        let now = jiff::Timestamp::now();
        settings.paused = seen.config.paused_at(now);
        settings.held = Held::of(seen, now).is_some();
        settings
    }

    /// Until when the leader lock is certainly mine, and under which term: the key names me, under the lease that I keep alive; or, where
    /// nobody holds it as far as I see, and nobody has led since, my claim to it still lasts.
    pub fn lock_until(&self, seen: &Snapshot) -> Option<(Term, BootInstant)> {
        let cluster = &seen.cluster;
        if cluster.leader.as_ref() == Some(self.me()) && self.authority.lease() == Some(seen.leader_lease) {
            self.authority.bind(seen.leader_lease);
            return Some((cluster.term, self.authority.until()?));
        }
        let term = self.promises.reign.ground()?.term;
        let nobody_else = cluster.term < term
            || (cluster.term == term && cluster.leader.as_ref().is_none_or(|leader| leader == self.me()));
        let until = self.authority.until().filter(|until| nobody_else && !until.remaining().is_zero())?;
        Some((term, until))
    }

    /// What this node says about itself in etcd. `leads_a_follower`: it leads a site that follows another.
    pub fn member_record(
        &self,
        look: &LastLook,
        leads_a_follower: bool,
        paused: bool,
        positions: bool,
    ) -> MemberRecord {
        let postgres = &self.config.postgres;
        let (advertise, local) = (&postgres.advertise, self.local.load());
        let (role, state) = match look.server() {
            Some(Server::Primary(_)) => ("primary", "running"),
            Some(Server::Standby(_)) if leads_a_follower => ("standby_leader", "running"),
            Some(Server::Standby(_)) => ("replica", "running"),
            Some(Server::Starting { .. }) => ("replica", "starting"),
            Some(Server::Stopping) => ("replica", "stopping"),
            Some(Server::Hung { .. }) => ("replica", "unknown"),
            Some(Server::Stopped) | None if self.copying.now().is_some() => ("replica", COPYING),
            Some(Server::Stopped) | None => ("replica", "stopped"),
        };
        let mut record = MemberRecord {
            conn_url: MemberRecord::conn_url_of(&advertise.host, self.instance.port()),
            api_url: format!("http://{}/patroni", self.config.api.advertise),
            role: role.into(),
            state: state.into(),
            replication_state: look.server().and_then(replication_state).map(Into::into),
            tags: TagsRecord::of(&local.tags),
            zone: local.zone.clone(),
            lock_lease: self.spare_lease.load(Ordering::SeqCst),
            no_fence: self.fence.standing().trouble,
            pause: paused.then_some(true),
            disk_low: self.disk.disk().low.then_some(true),
            ..MemberRecord::default()
        };
        record.slots.clone_from(&self.slots.load().usable);
        let known = self.known.load();
        let answering = look.extras.as_ref().map(|extras| extras.postmaster_pid);
        if matches!(look.server(), Some(Server::Primary(_) | Server::Standby(_))) && answering == Some(known.postmaster)
        {
            record.capacities.clone_from(&known.running.capacities);
            record.parameters = Some(known.configured());
            record.pending_restart_reason = known.pending();
            record.pending_restart = (!record.pending_restart_reason.is_empty()).then_some(true);
        }
        match look.server() {
            Some(Server::Primary(primary)) => {
                record.timeline = Some(primary.timeline.0);
                record.xlog_location = positions.then_some(primary.flushed.0);
                record.checkpoint_after_promote = (primary.control_timeline < primary.timeline).then_some(false);
            }
            Some(Server::Standby(standby)) => {
                record.timeline = Some(standby.timeline.0);
                record.xlog_location = positions.then_some(standby.received.0);
                record.receive_lsn = positions.then_some(standby.received.0);
                record.replay_lsn = positions.then_some(standby.replayed.0);
                record.streams_from = look.streams_from();
            }
            // What a promotion behind our back has begun is told as long as this agent lives.
            Some(Server::Stopped) => record.timeline = look.timeline_on_disk().map(|timeline| timeline.0),
            _ => {}
        }
        record
    }
}

/// One view.
pub fn view(
    hands: &Hands,
    cluster: &ClusterView,
    look: &LastLook,
    ages: &mut AgeKeeper,
    heard: Heard,
    job: Option<Job>,
    since_start: Instant,
) -> View {
    let snapshot = cluster.snapshot.clone().unwrap_or_else(|| Arc::new(Snapshot::default()));
    let settings = hands.settings(&snapshot);
    let lock = match hands.lock_until(&snapshot) {
        Some((term, until)) => Lock::Held { term, left: until.remaining() },
        None => Lock::NotHeld,
    };
    let asking = matches!(*hands.leases.lock().borrow(), Lease::Asking);
    let seen = if asking && since_start.elapsed() < settings.timing.request_timeout * 3 {
        // Whether the lease of an earlier life still lives is not known yet, and everything depends on it.
        Seen::Never { tried_for: Duration::ZERO }
    } else {
        let fresh = if hands.etcd_is_silent(cluster.confirmed_at) { Duration::ZERO } else { fresh_for(&settings) };
        cluster.seen(BootInstant::now(), fresh)
    };
    ages.look_at_upstream(seen.now().and_then(|cluster| upstream_is_good(cluster, hands.me(), look.server())));
    let ages = ages.look(&seen, look.server(), look.answered, lock);
    let was_heard = heard.agent.heard.is_some();
    // Who has only just begun to listen to a last leader knows nothing yet.
    let listens_since = ages.vacancy.filter(|_| heard.agent.heard.is_none() && heard.postgres.heard.is_none());
    let just_begun = listens_since.is_some_and(|since| since < settings.timing.ttl / 2);
    let alive = just_begun || is_alive(&snapshot.cluster, look, heard, &settings.timing);
    let postgres = match sound(heard.postgres, was_heard) {
        Sound::Silent { .. } | Sound::Unknown if alive => Sound::Fine,
        sound => sound,
    };
    let postgres = if heard.dead { Sound::ReportedDead } else { postgres };
    let hearing = Hearing { agent: sound(heard.agent, was_heard), postgres };
    let disk = hands.disk.disk();
    let hang = look.hang(hands.pulse.heartbeat(), &disk);
    let postgres = look.postgres(since_start, hang);
    let lacks = &mut *look.upstream_lacks.lock().unwrap_or_else(PoisonError::into_inner);
    let still = |(leader, position): &(MemberName, Lsn)| {
        let standby = look.server().and_then(Server::as_standby);
        let waits = standby.is_none_or(|standby| !standby.streaming && standby.received == *position);
        let asked =
            is_another_site(leader) || seen.last().is_none_or(|cluster| cluster.leader.as_ref() == Some(leader));
        waits && asked
    };
    *lacks = lacks.take().filter(still);
    let signs = Signs {
        disk,
        last_primary: look.last_primary.clone(),
        upstream_lacks: lacks.as_ref().map(|(_, position)| *position),
        remote: heard_lately(look, &snapshot),
        replay_paused: look.extras.as_ref().is_some_and(|extras| extras.replay_paused),
        stuck: hang.map(|(stuck, _)| stuck).unwrap_or_default(),
    };
    let standing = hands.fence.standing();
    let fence = Fence { trouble: standing.trouble, covers: standing.armed_until.map(BootInstant::remaining) };
    let book = &hands.promises.book;
    let (promise, pledged, reliance) = (book.running(), book.pledged(), hands.authority.carried().reliance());
    let me = hands.me().clone();
    View { me, cluster: seen, postgres, lock, job, ages, hearing, fence, promise, pledged, reliance, signs, settings }
}

/// What the other site that the settings name has said of itself lately.
fn heard_lately(look: &LastLook, snapshot: &Snapshot) -> Option<RemoteSeen> {
    let heard = look.remote.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, seen, _) = heard.as_ref().filter(|(remote, _, at)| {
        snapshot.cluster.site.remote.as_ref() == Some(remote) && at.elapsed() < REMOTE_IS_NEWS
    })?;
    Some(seen.clone())
}

/// What has been heard of one source. One that was never heard in this reign may be on its way up, so its silence says nothing;
/// Postgres is only asked when the agent falls silent, so it counts as heard when the agent was.
/// Whether whoever leads, or where nobody does led last, has given a sign of life of late. WAL that has come in is as good as an answer; a closed door
/// says that it was the last. It says nothing of the leader where it comes from somebody else: from an heir, ahead of a hand-over. Where nobody leads
/// one late answer is no silence: a last leader that nothing has fenced may be heard for hours, and every host stands still for a moment in hours.
fn is_alive(cluster: &Cluster, look: &LastLook, heard: Heard, timing: &Timing) -> bool {
    let last = || cluster.sync.as_ref().filter(|sync| sync.term == cluster.term).map(|sync| &sync.leader);
    let (leader, lately) = match &cluster.leader {
        Some(leader) => (Some(leader), timing.suspect_after / 2),
        None => (last(), timing.ttl / 2),
    };
    let recent = |word: Option<Instant>| word.is_some_and(|word| word.elapsed() < lately);
    let of_the_leader = matches!(look.server(), Some(Server::Standby(standby))
        if standby.follows.as_ref().is_some_and(|upstream| Some(&upstream.member) == leader));
    (of_the_leader && recent(look.last_word)) || (cluster.leader.is_none() && recent(heard.alive))
}

fn sound(ear: Ear, was_heard: bool) -> Sound {
    match ear.unanswered_since {
        Some(_) if ear.refused => Sound::Gone,
        Some(since) if was_heard => Sound::Silent { since: since.elapsed() },
        Some(_) => Sound::Unknown,
        None if ear.heard.is_some() => Sound::Fine,
        None => Sound::Unknown,
    }
}
