//! The only reads of the loop: what etcd, Postgres and the clocks say, made into one view and one picture.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use consensus::records::{MemberRecord, TagsRecord};
use consensus::{BootInstant, ClusterView, Lease, Snapshot};
use decision::settings::Settings;
use decision::view::{Fence, Hearing, Job, Lock, Postgres, Seen, Server, Sound, View};
use pg_control::Extras;

use crate::ages::AgeKeeper;
use crate::beats::{Ear, Heard};
use crate::hands::Hands;
use crate::http::health::replication_state;

/// How old a cluster view may be and still count as the present: two confirmations and one slow answer.
pub fn fresh_for(settings: &Settings) -> Duration {
    settings.timing.heartbeat * 2 + settings.timing.request_timeout
}

/// What the last look at Postgres brought.
#[derive(Clone, Debug, Default)]
pub struct LastLook {
    seen: Option<(Postgres, Instant)>,
    /// Facts that no decision needs, of the last answer.
    pub extras: Option<Extras>,
    /// The instant of the last word from the upstream that this standby has heard of.
    pub last_word: Option<Instant>,
}

impl LastLook {
    /// Looks at Postgres.
    pub async fn again(&mut self, hands: &Hands) {
        match hands.instance.observe().await {
            Ok(observation) => {
                let age = observation.extras.as_ref().and_then(|extras| extras.last_msg_receipt_age);
                if let Some(word) = age.and_then(|age| Instant::now().checked_sub(age)) {
                    self.last_word = Some(word);
                }
                self.seen = Some((observation.postgres, Instant::now()));
                self.extras = observation.extras;
            }
            Err(error) => tracing::debug!(%error, "Postgres could not be observed"),
        }
    }

    /// Postgres as a decision sees it. A busy server that would not tell is seen as it was.
    pub fn postgres(&self, since_start: Instant) -> Seen<Postgres> {
        match &self.seen {
            None => Seen::Never { tried_for: since_start.elapsed() },
            Some((postgres, at)) if at.elapsed() < Duration::from_secs(1) => Seen::Now(postgres.clone()),
            Some((postgres, at)) => Seen::Before { value: postgres.clone(), age: at.elapsed() },
        }
    }

    /// The process id of the postmaster that answered last.
    pub fn postmaster_pid(&self) -> Option<i32> {
        self.extras.as_ref().map(|extras| extras.postmaster_pid)
    }

    fn server(&self) -> Option<&Server> {
        self.seen.as_ref().map(|(postgres, _)| &postgres.server)
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
        settings.paused = seen.config.paused_at(jiff::Timestamp::now());
        settings
    }

    /// Until when the leader lock is certainly mine: the key names me, under the lease that I keep alive.
    pub fn lock_until(&self, seen: &Snapshot) -> Option<BootInstant> {
        let lease = self.authority.lease()?;
        let mine = seen.cluster.leader.as_ref() == Some(self.me()) && seen.leader_lease == lease;
        self.authority.until().filter(|_| mine)
    }

    /// What this node says about itself in etcd.
    pub fn member_record(&self, look: &LastLook, paused: bool, positions: bool) -> MemberRecord {
        let postgres = &self.config.postgres;
        let advertise = &postgres.advertise;
        let (role, state) = match look.server() {
            Some(Server::Primary(_)) => ("primary", "running"),
            Some(Server::Standby(_)) => ("replica", "running"),
            Some(Server::Starting { .. }) => ("replica", "starting"),
            Some(Server::Stopping) => ("replica", "stopping"),
            Some(Server::Hung { .. }) => ("replica", "unknown"),
            Some(Server::Stopped) | None => ("replica", "stopped"),
        };
        let mut record = MemberRecord {
            conn_url: MemberRecord::conn_url_of(&advertise.host, advertise.port),
            api_url: format!("http://{}/patroni", self.config.api.advertise),
            role: role.into(),
            state: state.into(),
            replication_state: look.server().and_then(replication_state).map(Into::into),
            tags: TagsRecord::of(&self.config.tags),
            lock_lease: self.spare_lease.load(Ordering::SeqCst),
            no_fence: self.fence.standing().trouble,
            pause: paused.then_some(true),
            ..MemberRecord::default()
        };
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
            }
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
        Some(until) => Lock::Held { term: snapshot.cluster.term, left: until.remaining() },
        None => Lock::NotHeld,
    };
    let asking = matches!(*hands.leases.lock().borrow(), Lease::Asking);
    let seen = if asking && since_start.elapsed() < settings.timing.request_timeout * 3 {
        // Whether the lease of an earlier life still lives is not known yet, and everything depends on it.
        Seen::Never { tried_for: Duration::ZERO }
    } else {
        cluster.seen(BootInstant::now(), fresh_for(&settings))
    };
    let ages = ages.look(seen.now(), look.server(), lock);
    let was_heard = heard.agent.heard.is_some();
    // WAL that has come in just now is as good a sign of life as an answer; a closed door says that it was the last.
    // It says nothing of the leader where it comes from somebody else: from an heir, ahead of a hand-over.
    let leader = snapshot.cluster.leader.as_ref();
    let of_the_leader = matches!(look.server(), Some(Server::Standby(standby))
        if standby.follows.as_ref().is_some_and(|upstream| Some(&upstream.member) == leader));
    let streams =
        of_the_leader && look.last_word.is_some_and(|word| word.elapsed() < settings.timing.suspect_after / 2);
    let postgres = match sound(heard.postgres, was_heard) {
        Sound::Silent { .. } | Sound::Unknown if streams => Sound::Fine,
        sound => sound,
    };
    let hearing = Hearing { agent: sound(heard.agent, was_heard), postgres };
    let postgres = look.postgres(since_start);
    let standing = hands.fence.standing();
    let fence = Fence { trouble: standing.trouble, covers: standing.armed_until.map(BootInstant::remaining) };
    View { me: hands.me().clone(), cluster: seen, postgres, lock, job, ages, hearing, fence, settings }
}

/// What has been heard of one source. One that was never heard in this reign may be on its way up, so its silence says nothing;
/// Postgres is only asked when the agent falls silent, so it counts as heard when the agent was.
fn sound(ear: Ear, was_heard: bool) -> Sound {
    match ear.unanswered_since {
        Some(_) if ear.refused => Sound::Gone,
        Some(since) if was_heard => Sound::Silent { since: since.elapsed() },
        Some(_) => Sound::Unknown,
        None if ear.heard.is_some() => Sound::Fine,
        None => Sound::Unknown,
    }
}
