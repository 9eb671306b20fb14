//! One agent: its loop (look, decide by the real rules, begin one action, wait for the next event), what it knows of etcd, and its lives.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use decision::action::Action;
use decision::names::MemberName;
use decision::reason::Reason;
use decision::settings::{Settings, Timing};
use decision::view::{Member, Postgres as SeenPostgres, Server, Sound, View};

use crate::ages::AgeKeeper;
use crate::broken::{self, Broken};
use crate::etcd::Snapshot;
use crate::hearing::Ears;
use crate::jobs::Job;
use crate::leases::Tending;
use crate::reliance::{Bound, Reign};
use crate::requests::{Ask, Purpose};
use crate::time::{MS, Micros, duration, micros};
use crate::world::{At, Event, Part, World};

/// A failed action is not tried again before this.
const BREATHER: Micros = 200 * MS;
const OWN_WRITE_WATCH: Micros = 20 * MS;
const CLOSE_WATCH: Micros = 10 * MS;
const TRANSIENT_WATCH: Micros = 25 * MS;
const JOB_WATCH: Micros = 250 * MS;
/// A server that stands still is asked for so long.
const ANSWER_WITHIN: Micros = 500 * MS;
const AFTER_A_FAILURE: Micros = 200 * MS;

#[derive(Clone, Debug, Default)]
pub struct Agent {
    pub up: bool,
    pub life: u32,
    pub started: Micros,
    /// Questions to etcd without an answer yet.
    pub open: BTreeSet<u64>,
    pub leases: [Tending; 2],

    pub picture: Option<Rc<Snapshot>>,
    pub confirmed_at: Micros,
    reading: bool,
    hinted: i64,

    pub look: Option<(SeenPostgres, Micros)>,
    pub hung_since: Option<Micros>,
    pub end_of_wal_of: Option<u32>,
    pub ages: AgeKeeper,
    pub ears: Ears,

    pub job: Option<Job>,
    pub jobs: u32,
    failed: Option<(Action, Micros)>,
    own_revision: i64,
    own_write_at: Micros,

    pub name_is_mine: bool,
    pub registered: Option<(i64, Rc<Member>)>,
    /// When that was heard of.
    pub registered_at: Micros,
    pub registering: bool,
    pub spare_lease: i64,
    pub lock_seen: Option<i64>,
    seen_revision: Option<i64>,
    pub published: (u64, Micros),
    pub history_of: decision::names::Timeline,
    pub chore_at: Micros,
    pub acknowledged: decision::names::Term,
    pub reign: Reign,
    pub bound: Bound,
    /// When each member was last seen to be there.
    pub alive: BTreeMap<MemberName, Micros>,
    pub listed_at: Micros,
    /// When it last did something about who was taken out of the cluster.
    pub parted_at: Micros,

    wakes_at: Micros,
    last_reason: Option<&'static str>,
}

impl World {
    /// The settings of this cluster's nodes, as far as etcd does not overrule them.
    pub fn settings_of_house(&self) -> Settings {
        Settings {
            timing: Timing::default(),
            max_lag_on_failover_bytes: 3_000,
            wait_for_lease: self.plan.wait_for_lease,
            ..Settings::default()
        }
    }

    pub fn settings_at(&self, at: At) -> Settings {
        let mut settings = self.settings_of_house();
        settings.durability.mode = self.plan.mode;
        settings.durability.acknowledgers = self.plan.acknowledgers;
        if let Some(picture) = &self.nodes[at].agent.picture {
            (settings.durability, settings.paused) = (picture.config.durability, picture.config.paused);
        }
        settings
    }

    /// A new life of the agent of a host that has power.
    pub fn start_agent(&mut self, at: At) {
        let local = self.local(at);
        let forgets = self.breaks(Broken::ForgetsWhatItGaveUp);
        let node = &mut self.nodes[at];
        if !node.powered || node.agent.up {
            return;
        }
        node.given_up = node.given_up.filter(|_| !forgets);
        let life = node.agent.life + 1;
        let ages = AgeKeeper::default();
        node.agent = Agent {
            up: true,
            life,
            started: local,
            confirmed_at: local,
            ages,
            wakes_at: Micros::MAX,
            ..Agent::default()
        };
        let adopted = node.notes;
        (node.agent.reign, node.agent.bound) = (Reign::of_earlier_life(node.ground.clone()), Bound::to(adopted[1]));
        self.open_book(at, false);
        self.tell(|world| format!("{}: its agent starts", world.name(at)));
        self.begin_leases(at, adopted);
        self.after_local(at, 0, Event::Confirm { at, life });
        self.after_local(at, 50 * MS, Event::Beat { at, life });
        self.after_local(at, 350 * MS, Event::AskPromises { at, life });
        self.wake_soon(at);
    }

    pub fn end_agent(&mut self, at: At) {
        let agent = &mut self.nodes[at].agent;
        agent.up = false;
        agent.life += 1;
        agent.job = None;
        agent.open.clear();
    }

    /// Something has happened that the loop looks at once.
    pub fn wake_soon(&mut self, at: At) {
        if self.nodes[at].agent.up {
            let pause = self.toil(at, 300);
            self.wake_within(at, pause);
        }
    }

    /// Has the loop look again after so much of its own time, at the latest.
    pub fn wake_later(&mut self, at: At, pause: Micros) {
        if self.nodes[at].agent.up {
            self.wake_within(at, pause);
        }
    }

    fn wake_within(&mut self, at: At, pause: Micros) {
        let instant = self.now + self.nodes[at].clock.true_span(pause);
        let agent = &mut self.nodes[at].agent;
        if instant < agent.wakes_at {
            agent.wakes_at = instant;
            let life = agent.life;
            self.at(instant, Event::Wake { at, life });
        }
    }

    pub fn wakes(&mut self, at: At, life: u32) {
        let agent = &mut self.nodes[at].agent;
        if !agent.up || agent.life != life || agent.wakes_at > self.now {
            return;
        }
        agent.wakes_at = Micros::MAX;
        if self.look_at_postgres(at) {
            self.take_a_turn(at);
        }
    }

    /// Looks; false: the server does not answer, and the loop waits for it.
    fn look_at_postgres(&mut self, at: At) -> bool {
        let local = self.local(at);
        let silent = self.stands_still(at, Part::Postgres) && self.nodes[at].postgres.has_postmaster();
        if silent && self.nodes[at].agent.hung_since.is_none() {
            self.nodes[at].agent.hung_since = Some(local);
            self.wake_within(at, ANSWER_WITHIN);
            return false;
        }
        if !silent {
            self.nodes[at].agent.hung_since = None;
        }
        self.drop_silent_senders(at);
        let seen = self.observe(at);
        self.nodes[at].agent.look = Some((seen, local));
        true
    }

    fn take_a_turn(&mut self, at: At) {
        self.listen_to_the_leader(at);
        let view = self.view(at);
        self.leave_notes(at);
        if view.cluster.now().is_some() {
            self.saw_etcd(at);
            let leads = matches!(view.lock, decision::view::Lock::Held { left, .. } if !left.is_zero());
            self.see_reign(at, leads, &view);
            self.note_reign(at);
        }
        self.arm_as_seen(at, &view);
        self.register_soon(at);
        self.do_chores(at, &view);
        let agent = &self.nodes[at].agent;
        let revision = agent.picture.as_ref().map_or(0, |picture| picture.cluster.revision);
        // A picture that was confirmed after the write shows it, whatever its number says.
        let shown = revision >= agent.own_revision || agent.confirmed_at > agent.own_write_at;
        if !shown {
            return self.wake_within(at, OWN_WRITE_WATCH);
        }
        let (view, action, reason) = broken::decide(self.broken, view);
        let (action, reason) = self.under_my_name(at, action, reason);
        if self.nodes[at].agent.last_reason != Some(reason.code()) {
            self.nodes[at].agent.last_reason = Some(reason.code());
            self.tell(|world| format!("{}: {} ({reason})", world.name(at), action.code()));
        }
        self.begin(at, &action);
        let pause = self.pause(at, &view, &action, &reason);
        self.wake_within(at, pause);
    }

    fn under_my_name(&self, at: At, action: Action, reason: Reason) -> (Action, Reason) {
        let harmless = matches!(action, Action::Wait | Action::Cancel | Action::Stop(_));
        if harmless || self.nodes[at].agent.name_is_mine {
            return (action, reason);
        }
        (Action::Wait, Reason::NameNotMine {})
    }

    fn leave_notes(&mut self, at: At) {
        let node = &mut self.nodes[at];
        node.notes = [node.agent.leases[0].id(), node.agent.leases[1].id()];
        node.agent.lock_seen = node.agent.leases[1].id();
    }

    /// What the fence is told of what is seen.
    fn arm_as_seen(&mut self, at: At, view: &View) {
        let leads = matches!(view.lock, decision::view::Lock::Held { .. });
        let server = view.postgres.last().map(|postgres| &postgres.server);
        let may_write = matches!(server, Some(Server::Primary(_) | Server::Starting { .. } | Server::Hung { .. }));
        if leads && !view.settings.paused && may_write {
            if !self.nodes[at].fence.armed {
                self.arm_fence(at);
            }
        } else if view.settings.paused && !view.job.as_ref().is_some_and(|job| job.makes_a_primary()) {
            self.disarm_fence(at);
        }
    }

    fn pause(&self, at: At, view: &View, action: &Action, reason: &Reason) -> Micros {
        let timing = &view.settings.timing;
        let agent = &self.nodes[at].agent;
        let asked = view.cluster.now().is_some_and(|cluster| cluster.request.is_some());
        if agent.spare_lease != 0 && asked || matches!(reason, Reason::AwaitingHandover { .. }) {
            return CLOSE_WATCH;
        }
        let server = view.postgres.last().map(|postgres| &postgres.server);
        let transient = matches!(server, Some(Server::Starting { .. } | Server::Stopping | Server::Hung { .. }));
        let silent = matches!(view.hearing.agent, Sound::Silent { .. } | Sound::Gone);
        let mut pause = if transient || silent { TRANSIENT_WATCH } else { micros(timing.heartbeat) };
        if agent.job.is_some() {
            pause = pause.min(JOB_WATCH);
        } else if *action != Action::Wait {
            pause = pause.min(BREATHER);
        }
        let limits = [
            timing.ballot_window,
            timing.reclaim_after,
            timing.voter_drop_after,
            timing.degrade_after,
            timing.retry_after,
        ];
        let soonest = agent.ages.soonest(self.local(at), &limits.map(micros));
        pause.min(soonest.map_or(pause, |left| left + MS))
    }

    /// Begins an action, unless something is under way or the same has only just failed.
    fn begin(&mut self, at: At, action: &Action) {
        let local = self.local(at);
        let agent = &self.nodes[at].agent;
        if *action == Action::Cancel && agent.job.is_some() {
            // What hangs in the kernel with its disk is not broken off.
            if self.hangs_with_its_disk(at) {
                return;
            }
            return self.job_failed(at, "broken off");
        }
        let rests = agent
            .failed
            .as_ref()
            .is_some_and(|(failed, when)| failed == action && local.saturating_sub(*when) < BREATHER);
        if agent.job.is_some() || rests || matches!(action, Action::Wait | Action::Cancel) {
            return;
        }
        self.begin_job(at, action);
    }

    /// The job under way has ended well; what it wrote will be waited for.
    pub fn job_done(&mut self, at: At, revision: i64) {
        let local = self.local(at);
        let agent = &mut self.nodes[at].agent;
        let action = agent.job.as_ref().map_or("", |job| job.action.code());
        let stopped = agent.look.as_ref().is_some_and(|(seen, _)| seen.server == Server::Stopped);
        agent.ages.succeeded(action, stopped, local);
        (agent.job, agent.failed) = (None, None);
        agent.own_revision = agent.own_revision.max(revision);
        agent.own_write_at = local;
        self.wake_soon(at);
    }

    pub fn job_failed(&mut self, at: At, why: &str) {
        let local = self.local(at);
        let Some(job) = self.nodes[at].agent.job.take() else { return };
        self.tell(|world| format!("{}: {} failed: {why}", world.name(at), job.action.code()));
        let agent = &mut self.nodes[at].agent;
        agent.ages.failed(job.action.code(), local);
        agent.failed = Some((job.action, local));
        self.wake_soon(at);
    }

    // What the agent knows of etcd.

    /// Once a heartbeat, and when a watch tells of a change, everything is read.
    pub fn confirm(&mut self, at: At, life: u32) {
        let agent = &self.nodes[at].agent;
        if !agent.up || agent.life != life {
            return;
        }
        let heartbeat = micros(self.settings_of_house().timing.heartbeat);
        self.after_local(at, heartbeat, Event::Confirm { at, life });
        self.read(at);
    }

    pub fn hinted(&mut self, at: At, life: u32, revision: i64) {
        let agent = &mut self.nodes[at].agent;
        if !agent.up || agent.life != life {
            return;
        }
        agent.hinted = agent.hinted.max(revision);
        self.read(at);
    }

    fn read(&mut self, at: At) {
        if !self.nodes[at].agent.reading {
            self.nodes[at].agent.reading = true;
            self.ask(at, Purpose::Watch, Ask::Read);
        }
    }

    pub fn pictured(&mut self, at: At, sent: Micros, picture: Rc<Snapshot>) {
        let agent = &mut self.nodes[at].agent;
        agent.reading = false;
        agent.confirmed_at = sent;
        let changed = agent.seen_revision != Some(picture.cluster.revision);
        agent.seen_revision = Some(picture.cluster.revision);
        let behind = std::mem::take(&mut agent.hinted) > picture.cluster.revision;
        agent.picture = Some(picture);
        if behind {
            self.read(at);
        }
        if changed {
            self.wake_soon(at);
        }
    }

    pub fn picture_missing(&mut self, at: At) {
        let agent = &mut self.nodes[at].agent;
        agent.reading = false;
        let (life, revision) = (agent.life, agent.hinted);
        self.after_local(at, AFTER_A_FAILURE, Event::Hint { at, life, revision });
    }

    /// The job as a decision sees it.
    pub fn job_seen(&self, at: At) -> Option<decision::view::Job> {
        let job = self.nodes[at].agent.job.as_ref()?;
        let from = match &job.action {
            Action::Clone { from, .. } | Action::Rewind { from, .. } => Some(from.member.clone()),
            _ => None,
        };
        let age = duration(self.local(at).saturating_sub(job.began));
        Some(decision::view::Job { action: job.action.code().to_owned(), age, from })
    }
}
