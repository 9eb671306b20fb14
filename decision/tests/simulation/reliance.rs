//! The leader's side of promises (`agent/src/promises/ask.rs`, `reign.rs`) and what its claim rests on (`agent/src/authority.rs`): the lease
//! that the lock is bound to, or what its peers' promises carry.

use std::collections::{BTreeMap, BTreeSet};

use decision::action::Action;
use decision::durability::Policies;
use decision::names::{MemberName, Term};
use decision::promise::{Basis, Refusal, Reliance, blocks, carried_for, worth_asking};
use decision::settings::Mode;
use decision::view::Seen;

use crate::broken::Broken;
use crate::etcd::{Key, Outcome, Snapshot, Value};
use crate::jobs::Step;
use crate::leases::Lease;
use crate::time::{MS, Micros, duration, micros};
use crate::world::{At, Event, World};

const AGAIN_AFTER: Micros = 250 * MS;
/// How long a leader whose lease etcd has revoked keeps its claim where commits wait for nobody.
const GRACE: Micros = 100 * MS;

/// A question to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub from: At,
    pub life: u32,
    pub to: At,
    pub term: Term,
    /// When it was sent, by the clock of who asks.
    pub sent: Micros,
}

/// What a leader must know to rely on promises, on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    pub term: Term,
    records: Vec<(Mode, Policies)>,
    lists: Vec<Option<BTreeSet<MemberName>>>,
}

#[derive(Clone, Debug, Default)]
pub struct Reign {
    pub ground: Option<Ground>,
    /// What may have been written, each over the revision beside it.
    records: Vec<(i64, (Mode, Policies))>,
    lists: Vec<(i64, BTreeSet<MemberName>)>,
    given: BTreeMap<MemberName, Micros>,
    asked_at: Micros,
    pub carried_until: Micros,
    deposed_by: Option<Term>,
    asking: bool,
    worth: bool,
    out_of_sight: bool,
    /// The ground is that of an earlier life, and nothing has been seen of etcd since.
    is_inherited: bool,
}

impl Reign {
    /// What an earlier life has left.
    pub fn of_earlier_life(ground: Option<Ground>) -> Self {
        Self { is_inherited: ground.is_some(), ground, ..Self::default() }
    }

    /// What an earlier life may have written, and etcd does not show, may still be on its way there: over what etcd shows first.
    fn inherit(&mut self, seen: &Snapshot) {
        let Some(ground) = self.ground.as_ref().filter(|_| std::mem::take(&mut self.is_inherited)) else { return };
        let shown = seen.cluster.sync.as_ref().map(|sync| (sync.mode, sync.policies.clone()));
        let records = ground.records.iter().filter(|record| Some(*record) != shown.as_ref());
        self.records.extend(records.map(|record| (seen.sync_revision, record.clone())));
        let over = seen.cluster.failsafe_revision;
        let lists = ground.lists.iter().flatten().filter(|list| Some(*list) != seen.cluster.failsafe.as_ref());
        self.lists.extend(lists.map(|list| (over, list.clone())));
    }
}

/// The lease that the lock is bound to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bound {
    lease: Option<i64>,
    until: Micros,
    gone_at: Option<Micros>,
}

impl Bound {
    pub fn to(lease: Option<i64>) -> Self {
        Self { lease, ..Self::default() }
    }

    pub fn lease(&self) -> Option<i64> {
        self.lease
    }
}

impl Ground {
    fn bases(&self) -> Vec<Basis> {
        let basis = |(mode, policies): &(Mode, Policies), listed: &Option<_>| Basis {
            mode: *mode,
            policies: policies.clone(),
            listed: listed.clone(),
        };
        self.records.iter().flat_map(|record| self.lists.iter().map(|list| basis(record, list))).collect()
    }
}

impl World {
    pub fn bind(&mut self, at: At, lease: Option<i64>) {
        if self.nodes[at].agent.bound.lease != lease {
            self.nodes[at].agent.bound = Bound { lease, ..Bound::default() };
            self.fence_hears(at);
        }
    }

    /// What the fate of a write says about claims and pledges.
    pub fn settle_claims(&mut self, at: At, action: &Action, step: Option<&Step>, outcome: Outcome) {
        let lease = self.nodes[at].agent.leases[1].id();
        let applied = matches!(outcome, Outcome::Applied(_));
        match (action, step) {
            (Action::Acquire(_), Some(Step::Acquire(_))) => {
                if applied {
                    self.bind(at, lease);
                }
                if applied || outcome == Outcome::Unknown {
                    let before = self.seen(at).map_or((Term(0), 0), |seen| (seen.cluster.term, seen.sync_revision));
                    self.gives_ground_up(at, before.0, before.1);
                }
            }
            (Action::Resume { .. }, Some(Step::Resume(_))) if applied => self.bind(at, lease),
            (Action::Pledge { revoked }, Some(Step::Commit(..))) => {
                self.heard_of_its_ballot(at, *revoked, outcome != Outcome::Unknown)
            }
            (Action::Follow(upstream), Some(Step::Commit(..))) if applied => {
                self.follows_again(at, upstream.term, true)
            }
            (Action::Withdraw { revoked }, _) if applied => self.follows_again(at, *revoked, true),
            _ => {}
        }
    }

    /// Until when the claim lasts, by this host's clock; 0: there is none.
    pub fn authority(&mut self, at: At) -> Micros {
        let now = self.local(at);
        let margin = micros(self.settings_of_house().timing.safety_margin);
        let margin = if self.breaks(Broken::FencesWithoutMargin) { 0 } else { margin };
        let guarded = self.waits_for_voters(at);
        let agent = &mut self.nodes[at].agent;
        let carried = agent.reign.carried_until;
        let bound = &mut agent.bound;
        let by_lease = match agent.leases[1].state {
            Lease::Alive { id, ends } if bound.lease == Some(id) => {
                (bound.until, bound.gone_at) = (ends.saturating_sub(margin), None);
                bound.until
            }
            _ if bound.until == 0 => 0,
            _ => {
                let gone_at = *bound.gone_at.get_or_insert(now);
                if guarded { bound.until } else { bound.until.min(gone_at + GRACE) }
            }
        };
        by_lease.max(if carried > now { carried } else { 0 })
    }

    fn waits_for_voters(&self, at: At) -> bool {
        let picture = self.nodes[at].agent.picture.as_ref();
        let sync = picture.and_then(|picture| picture.cluster.sync.as_ref()).filter(|sync| sync.mode != Mode::Async);
        sync.and_then(|sync| sync.policies.last()).is_some_and(|quorum| quorum.k > 0)
    }

    pub fn reliance_seen(&self, at: At) -> Option<Reliance> {
        let reign = &self.nodes[at].agent.reign;
        let left = duration(reign.carried_until.saturating_sub(self.local(at)));
        let promised_by = reign.given.keys().cloned().collect();
        reign.asking.then_some(Reliance { left, promised_by, deposed_by: reign.deposed_by })
    }

    /// Takes in what etcd says now.
    pub fn see_reign(&mut self, at: At, leads: bool, view: &decision::view::View) {
        let reign = &mut self.nodes[at].agent.reign;
        (reign.worth, reign.out_of_sight) = (worth_asking(view), matches!(view.cluster, Seen::Before { .. }));
        let letting_go =
            |job: &decision::view::Job| ["hand_over", "release", "abdicate"].contains(&job.action.as_str());
        let Some(picture) = self.picture_of(at).filter(|_| !view.job.as_ref().is_some_and(letting_go)) else { return };
        let me = self.names[at].clone();
        let cluster = &picture.cluster;
        let forgets = self.breaks(Broken::ForgetsWhatItMayHaveWritten);
        let reign = &mut self.nodes[at].agent.reign;
        if !forgets {
            reign.inherit(&picture);
        }
        let term = reign.ground.as_ref().map_or(Term(0), |ground| ground.term);
        if !(leads && cluster.leader.as_ref() == Some(&me)) {
            let passed = reign.ground.is_some() && cluster.term > term;
            let other = cluster.leader.as_ref().is_some_and(|leader| *leader != me && cluster.term >= term);
            if passed || other {
                self.reign_ends(at);
            }
            return;
        }
        let Some(sync) = cluster.sync.as_ref().filter(|sync| sync.leader == me && sync.term == cluster.term) else {
            return;
        };
        if sync.released {
            return self.reign_ends(at);
        }
        if self.has_given_up(at, cluster.term, picture.sync_revision) {
            return;
        }
        if term != cluster.term {
            self.reign_ends(at);
        }
        let reign = &mut self.nodes[at].agent.reign;
        reign.records.retain(|(over, _)| *over >= picture.sync_revision);
        reign.lists.retain(|(over, _)| *over >= cluster.failsafe_revision);
        let mut records = vec![(sync.mode, sync.policies.clone())];
        records.extend(reign.records.iter().map(|(_, record)| record.clone()));
        let mut lists = vec![cluster.failsafe.clone()];
        lists.extend(reign.lists.iter().map(|(_, list)| Some(list.clone())));
        reign.ground = Some(Ground { term: cluster.term, records, lists });
    }

    /// No promise carries this reign any more.
    pub fn reign_ends(&mut self, at: At) {
        let Reign { worth, out_of_sight, .. } = self.nodes[at].agent.reign;
        self.nodes[at].agent.reign = Reign { worth, out_of_sight, ..Reign::default() };
        self.nodes[at].ground = None;
        self.fence_hears(at);
    }

    /// Before the lock of `term` may be somebody else's without ballots: no promise carries this reign until its record has been written
    /// anew, over the one of revision `over`.
    pub fn gives_ground_up(&mut self, at: At, term: Term, over: i64) {
        let before = self.nodes[at].given_up.filter(|(of, _)| *of == term).map_or(0, |(_, before)| before);
        self.nodes[at].given_up = Some((term, before.max(over)));
        self.reign_ends(at);
    }

    /// Whether a picture is from before that: what was sent then may come true after it.
    fn has_given_up(&self, at: At, term: Term, sync_revision: i64) -> bool {
        let given_up = self.nodes[at].given_up.is_some_and(|(of, over)| of == term && sync_revision <= over);
        given_up && !self.breaks(Broken::TakesItsGroundBack)
    }

    /// What the next life of the agent finds.
    pub fn note_reign(&mut self, at: At) {
        let node = &mut self.nodes[at];
        node.ground.clone_from(&node.agent.reign.ground);
    }

    /// Before the record, or the list, is written anew: from now on both may be in force. False: not while promises carry this leader that
    /// would not carry it then.
    pub fn may_write(
        &mut self,
        at: At,
        seen: &Snapshot,
        record: Option<(Mode, Policies)>,
        list: Option<BTreeSet<MemberName>>,
    ) -> bool {
        if self.breaks(Broken::RecordsWithoutANote) {
            return true;
        }
        let now = self.local(at);
        let before = self.nodes[at].agent.reign.clone();
        let reign = &mut self.nodes[at].agent.reign;
        let Some(ground) = reign.ground.as_mut() else { return true };
        ground.records.extend(record.clone());
        ground.lists.extend(list.clone().map(Some));
        reign.records.extend(record.map(|record| (seen.sync_revision, record)));
        reign.lists.extend(list.map(|list| (seen.cluster.failsafe_revision, list)));
        if before.carried_until > now {
            self.work_out(at);
            let then = self.nodes[at].agent.reign.carried_until;
            if before.asking && then < before.carried_until {
                self.nodes[at].agent.reign = before;
                return false;
            }
            self.fence_hears(at);
        }
        self.note_reign(at);
        true
    }

    /// Every so often: is a renewal overdue? Then everybody is asked.
    pub fn asks_for_promises(&mut self, at: At, life: u32) {
        if !self.nodes[at].agent.up || self.nodes[at].agent.life != life {
            return;
        }
        let timing = self.settings_of_house().timing;
        let quiet = micros((timing.heartbeat + timing.request_timeout).min(timing.ttl / 2));
        let (now, ttl) = (self.local(at), micros(timing.ttl));
        let agent = &mut self.nodes[at].agent;
        let overdue = match agent.leases[1].state {
            Lease::Alive { ends, .. } => agent.reign.out_of_sight || now + ttl >= ends + quiet,
            _ => true,
        };
        let term = agent.reign.ground.as_ref().map(|ground| ground.term);
        match term.filter(|_| overdue && agent.reign.worth) {
            Some(term) => {
                (agent.reign.asked_at, agent.reign.deposed_by, agent.reign.asking) = (now, None, true);
                for to in (0..self.nodes.len()).filter(|to| *to != at) {
                    let later = self.transit(at);
                    if self.links.carries(at, to) && self.nodes[to].powered {
                        self.after(later, Event::Question(Asked { from: at, life, to, term, sent: now }));
                    }
                }
                self.tell_what_is_carried(at);
            }
            None => agent.reign.asking = false,
        }
        let enough = self.nodes[at].agent.reign.carried_until > now + ttl / 2;
        let pause = if enough && term.is_some() { micros(timing.heartbeat) } else { AGAIN_AFTER };
        self.after_local(at, pause, Event::AskPromises { at, life });
    }

    pub fn promised(&mut self, asked: Asked, refusal: Option<Refusal>) {
        let at = asked.from;
        let timing = self.settings_of_house().timing;
        let now = self.local(at);
        let agent = &mut self.nodes[at].agent;
        let of_now = agent.reign.ground.as_ref().is_some_and(|ground| ground.term == asked.term);
        if !agent.up || agent.life != asked.life || !of_now || now > asked.sent + micros(timing.ttl / 4) {
            return;
        }
        match refusal {
            None => {
                let too_long = self.breaks(Broken::CountsAPromiseTooLong);
                let counts =
                    if too_long { micros(timing.ttl) + 600 * MS } else { micros(timing.ttl - timing.safety_margin) };
                let peer = self.names[asked.to].clone();
                self.nodes[at].agent.reign.given.insert(peer, asked.sent + counts);
            }
            Some(Refusal::LaterTerm { term }) => {
                agent.reign.deposed_by = agent.reign.deposed_by.max(Some(term));
            }
            Some(_) => {}
        }
        self.tell_what_is_carried(at);
    }

    fn tell_what_is_carried(&mut self, at: At) {
        self.work_out(at);
        self.fence_hears(at);
        self.wake_soon(at);
    }

    fn work_out(&mut self, at: At) {
        let timing = self.settings_of_house().timing;
        let enough_of_one = self.breaks(Broken::RestsOnOnePromise);
        let me = self.names[at].clone();
        let reign = &mut self.nodes[at].agent.reign;
        let Some(ground) = &reign.ground else { return };
        let mut bases = ground.bases();
        if enough_of_one {
            bases.iter_mut().flat_map(|basis| &mut basis.policies).for_each(|quorum| quorum.k = quorum.k.min(1));
        }
        let left = |until: &Micros| duration(until.saturating_sub(reign.asked_at));
        let running = reign.given.iter().map(|(name, until)| (name.clone(), left(until)));
        let running: BTreeMap<_, _> = running.filter(|(_, left)| !left.is_zero()).collect();
        let carries = carried_for(&bases, &me, &running).unwrap_or(timing.ttl - timing.safety_margin);
        reign.carried_until = if reign.deposed_by.is_some() { 0 } else { reign.asked_at + micros(carries) };
        if carries.is_zero() {
            reign.carried_until = 0;
        }
    }

    /// Whether nobody can take the lock from this node: those who have promised in truth block the record that is in force in truth.
    pub fn is_blocked_for(&self, at: At) -> bool {
        let Some(sync) = self.etcd.sync().filter(|sync| sync.leader == self.names[at] && sync.term == self.etcd.term())
        else {
            return false;
        };
        let listed = match self.etcd.get(Key::Failsafe) {
            Some(Value::List(listed)) => Some((**listed).clone()),
            _ => None,
        };
        let basis = Basis { mode: sync.mode, policies: sync.policies.clone(), listed };
        blocks(&[basis], &self.names[at], &self.promised_to(at, sync.term))
    }
}
