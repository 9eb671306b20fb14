//! What an agent does beside its one action: its member record, the leader's position, the history of timelines, the checkpoint after a
//! promotion.

use std::rc::Rc;

use decision::departure::{self, Parting};
use decision::names::{Term, Timeline};
use decision::settings::Mode;
use decision::view::{Cluster, HistoryEntry, Lock, Member, Primary, Server, View};

use crate::broken::Broken;
use crate::claims::leads;
use crate::etcd::{Guard, Key, Outcome, Txn, Value, Write};
use crate::requests::{Ask, Purpose};
use crate::time::{MS, Micros, SECOND, micros};
use crate::wal::lsn;
use crate::world::{At, Event, World};

const RETRY_AFTER: Micros = 300 * MS;

impl World {
    // The member record: written when a slow fact or the lease changes, and when etcd has another one than was written.

    pub fn register_soon(&mut self, at: At) {
        let agent = &self.nodes[at].agent;
        if agent.up && !agent.registering && self.unregistered(at).is_some() {
            let life = agent.life;
            self.nodes[at].agent.registering = true;
            self.after_local(at, MS, Event::Register { at, life });
        }
    }

    fn unregistered(&self, at: At) -> Option<(i64, Member)> {
        let agent = &self.nodes[at].agent;
        let lease = agent.leases[0].id()?;
        let wanted = self.member_record(at);
        let same = agent.registered.as_ref().is_some_and(|(of, written)| *of == lease && **written == wanted);
        (!same || self.has_another_record(at)).then_some((lease, wanted))
    }

    /// Whether etcd, asked after the last write was answered, has another record than was written.
    fn has_another_record(&self, at: At) -> bool {
        let agent = &self.nodes[at].agent;
        let newer = agent.picture.as_ref().filter(|_| agent.confirmed_at > agent.registered_at);
        let there = newer.and_then(|picture| picture.cluster.members.get(&self.names[at]));
        let another = |(_, written): &(i64, Rc<Member>)| there.is_some_and(|there| *there != **written);
        agent.registered.as_ref().is_some_and(another) && !self.breaks(Broken::WritesItsMemberRecordOnce)
    }

    pub fn register(&mut self, at: At, life: u32) {
        if !self.nodes[at].agent.up || self.nodes[at].agent.life != life {
            return;
        }
        self.write_member(at, true);
    }

    fn write_member(&mut self, at: At, first: bool) {
        let Some((lease, member)) = self.unregistered(at) else {
            self.nodes[at].agent.registering = false;
            return;
        };
        let member = Rc::new(member);
        self.nodes[at].agent.registered = Some((lease, Rc::clone(&member)));
        let txn = self.register_member(at, member, lease, first);
        self.ask(at, Purpose::Register { first }, Ask::Commit(Rc::new(txn)));
    }

    pub fn registered(&mut self, at: At, first: bool, outcome: Option<Outcome>) {
        let life = self.nodes[at].agent.life;
        match outcome {
            Some(Outcome::Applied(_)) => {
                let local = self.local(at);
                let agent = &mut self.nodes[at].agent;
                (agent.name_is_mine, agent.registering, agent.registered_at) = (true, false, local);
                self.wake_soon(at);
                self.register_soon(at);
            }
            Some(Outcome::Refused) if first => {
                self.nodes[at].agent.registered = None;
                self.write_member(at, false);
            }
            _ => {
                self.nodes[at].agent.registered = None;
                self.after_local(at, RETRY_AFTER, Event::Register { at, life });
            }
        }
    }

    // The leader's chores.

    pub fn do_chores(&mut self, at: At, view: &View) {
        let (Some(cluster), Some(postgres), Lock::Held { term, .. }) =
            (view.cluster.now(), view.postgres.now(), view.lock)
        else {
            return;
        };
        let Server::Primary(primary) = &postgres.server else { return };
        let local = self.local(at);
        self.list_who_may_lead(at, cluster, term);
        let marked = primary.marked_term == term;
        if marked && !cluster.departures.is_empty() && local >= self.nodes[at].agent.parted_at + RETRY_AFTER {
            self.part_with_who_left(at, cluster, term);
        }
        let late = view.ages.reign.is_some_and(|reign| reign >= view.settings.timing.heartbeat);
        if local < self.nodes[at].agent.chore_at || !(marked || late) {
            return;
        }
        self.nodes[at].agent.chore_at = local + SECOND;
        // These two do not wait for the marker for ever: its voters may need them to come back.
        if primary.control_timeline < primary.timeline {
            self.checkpoint(at);
        }
        self.publish_history(at, cluster, primary, term);
        if marked {
            self.publish_position(at, cluster, primary, term);
        }
    }

    fn part_with_who_left(&mut self, at: At, cluster: &Cluster, term: Term) {
        let Some(sync_revision) = self.nodes[at].agent.picture.as_ref().map(|picture| picture.sync_revision) else {
            return;
        };
        if let Some(sync) = cluster.sync.as_ref().filter(|_| self.breaks(Broken::StrikesOutWhoLeft)) {
            let mut struck = sync.clone();
            for quorum in &mut struck.policies {
                quorum.voters.retain(|name| !cluster.has_departed(name));
            }
            if struck != *sync {
                let txn = self.record_sync(at, struck, sync_revision);
                return self.ask(at, Purpose::Errand, Ask::Commit(Rc::new(txn)));
            }
        }
        let Some(parting) = departure::next(cluster) else { return };
        let (Parting::CameBack(name) | Parting::Done(name) | Parting::ForgetBallot(name)) = &parting;
        let Some(place) = self.place(name) else { return };
        let who = (place, cluster.departures[name].revision);
        let txn = match parting {
            Parting::CameBack(_) => self.void_departure(at, term, place),
            Parting::Done(_) => self.finish_departure(at, term, who, (sync_revision, cluster.failsafe_revision)),
            Parting::ForgetBallot(_) => self.forget_ballot(at, term, who),
        };
        self.nodes[at].agent.parted_at = self.local(at);
        self.ask(at, Purpose::Errand, Ask::Commit(Rc::new(txn)));
    }

    /// Where no proof is asked for only listed members may lead, and each of them must promise before this leader goes on without etcd.
    fn list_who_may_lead(&mut self, at: At, cluster: &Cluster, term: Term) {
        let (local, me) = (self.local(at), self.names[at].clone());
        let ttl = micros(self.settings_of_house().timing.ttl);
        let mut wanted = cluster.eligible();
        wanted.insert(me);
        let agent = &mut self.nodes[at].agent;
        agent.alive.extend(wanted.iter().map(|name| (name.clone(), local)));
        for listed in cluster.failsafe.iter().flatten() {
            let seen = *agent.alive.entry(listed.clone()).or_insert(local);
            let is_away = !cluster.members.contains_key(listed) && !cluster.has_departed(listed);
            if local < seen + ttl && is_away {
                wanted.insert(listed.clone());
            }
        }
        let rests = local < agent.listed_at + RETRY_AFTER;
        if cluster.failsafe.as_ref() == Some(&wanted) || rests {
            return;
        }
        agent.listed_at = local;
        let Some(seen) = self.picture_of(at) else { return };
        if !self.may_write(at, &seen, None, Some(wanted.clone())) {
            return;
        }
        let mut guards = leads(term, at);
        guards.push(Guard::Unchanged(Key::Failsafe, cluster.failsafe_revision));
        let writes = vec![Write::Put(Key::Failsafe, Value::List(Rc::new(wanted)), None)];
        self.ask(at, Purpose::Errand, Ask::Commit(Rc::new(Txn { guards, writes })));
    }

    fn publish_position(&mut self, at: At, cluster: &Cluster, primary: &Primary, term: Term) {
        let local = self.local(at);
        let mode = cluster.sync.as_ref().map_or(Mode::Async, |sync| sync.mode);
        let every = if mode == Mode::Async { SECOND } else { 10 * SECOND };
        let (published, when) = self.nodes[at].agent.published;
        if published == primary.flushed.0 || (published != 0 && local < when + every) {
            return;
        }
        self.nodes[at].agent.published = (primary.flushed.0, local);
        let writes = vec![Write::Put(Key::Status, Value::Position(primary.flushed), None)];
        self.ask(at, Purpose::Errand, Ask::Commit(Rc::new(Txn { guards: leads(term, at), writes })));
    }

    fn publish_history(&mut self, at: At, cluster: &Cluster, primary: &Primary, term: Term) {
        let told = self.nodes[at].agent.history_of == primary.timeline && !cluster.history.is_empty();
        let known = primary.timeline == Timeline(1) || told;
        let Some((timeline, forked)) = self.archive.last_fork(&self.nodes[at].postgres.wal).filter(|_| !known) else {
            return;
        };
        let row = HistoryEntry { timeline, ended_at: lsn(forked), new_leader: Some(self.names[at].clone()) };
        let mut rows = cluster.history.clone();
        rows.retain(|old| old.timeline != timeline);
        rows.push(row);
        let revision = self.nodes[at].agent.picture.as_ref().map_or(0, |picture| picture.history_revision);
        let mut guards = leads(term, at);
        guards.push(Guard::Unchanged(Key::History, revision));
        let writes = vec![Write::Put(Key::History, Value::History(Rc::new(rows)), None)];
        self.ask(at, Purpose::History(primary.timeline), Ask::Commit(Rc::new(Txn { guards, writes })));
    }

    pub fn history_told(&mut self, at: At, timeline: Timeline) {
        self.nodes[at].agent.history_of = timeline;
    }
}
