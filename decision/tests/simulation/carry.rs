//! Carrying out one step of a job on the modelled Postgres and etcd.

use std::collections::BTreeSet;
use std::rc::Rc;

use decision::durability::{Quorum, ending_with, inherited, quorum_for_new_leader};
use decision::names::{Lsn, Term, Timeline};
use decision::settings::Mode;
use decision::view::{Ballot, ControlState, Server, SyncRecord};

use crate::broken::Broken;
use crate::jobs::{Next, Step, commit};
use crate::postgres::{Control, Directory, Process, Waiter};
use crate::time::{MS, Micros, SECOND};
use crate::wal::{Kind, common, lsn};
use crate::world::{At, Part, World};

const POLL: Micros = 4 * MS;

impl World {
    #[allow(clippy::too_many_lines, reason = "one arm a step, nothing to take apart")]
    pub fn carry_out(&mut self, at: At, step: &Step) -> Next {
        match step {
            Step::LockLease { needed } => self.has_lock_lease(at, *needed),
            Step::Acquire(claim) => {
                let Some(lease) = self.nodes[at].agent.leases[1].id() else { return Next::Fail("no lease") };
                let Some(seen) = self.seen(at) else { return Next::End };
                let txn = self.acquire(at, lease, claim, &seen);
                self.send(at, Rc::new(txn))
            }
            Step::Commit(txn, _) => self.send(at, Rc::clone(txn)),
            Step::Arm => {
                self.arm_fence(at);
                Next::Go
            }
            Step::Disarm => {
                self.disarm_fence(at);
                Next::Go
            }
            Step::KillAll => {
                self.kill_server(at);
                Next::Go
            }
            Step::BeginStop if !self.nodes[at].postgres.has_postmaster() => match self.job_action(at) {
                Some("hand_over") => Next::Fail("Postgres is not running any more"),
                _ => Next::Go,
            },
            Step::BeginStop => {
                self.begin_stop(at);
                Next::Go
            }
            Step::AwaitStopped => self.await_stopped(at),
            Step::Configure(upstream) => self.configure(at, *upstream),
            Step::ReplaceReceiver { before } => self.replace_receiver(at, *before),
            Step::ComeToRest => self.come_to_rest(at),
            Step::Ballot(revoked) => self.ballot(at, *revoked),
            Step::ClearReaders => {
                self.clear_readers(at);
                Next::Go
            }
            Step::StartStandby(upstream) => self.start_standby(at, *upstream),
            Step::StartPrimary(quorum, term) => self.start_primary(at, quorum, *term),
            Step::Survive => self.survives(at),
            Step::Floor { from, floor, checkpointed } => self.floor(at, *from, *floor, *checkpointed),
            Step::Unfit(by) => {
                self.kill_orphans(at);
                self.nodes[at].postgres.directory = Directory::Half(by);
                Next::Go
            }
            Step::CopyBegins { from } => self.copy_begins(at, *from),
            Step::CopyEnds { from, server } => self.copy_ends(at, *from, *server),
            Step::Install { from, wal, timeline } => self.install(at, *from, wal, *timeline),
            Step::Rewind { from } => self.rewind(at, *from),
            Step::Fit => {
                self.nodes[at].postgres.directory = Directory::Whole;
                Next::Go
            }
            Step::FindEnd if self.waited(at) < 50 * MS => Next::Again(60 * MS),
            Step::FindEnd => {
                self.nodes[at].agent.end_of_wal_of = Some(self.nodes[at].postgres.server);
                Next::Go
            }
            Step::SpareLease(ready) => {
                let lease = if *ready { self.nodes[at].agent.leases[1].id().unwrap_or_default() } else { 0 };
                self.nodes[at].agent.spare_lease = lease;
                Next::Go
            }
            Step::DropLockLease { always } => self.give_lease_back(at, *always),
            _ => self.carry_out_as_leader(at, step),
        }
    }

    /// The steps of whoever leads, or is about to.
    #[allow(clippy::too_many_lines, reason = "one arm a step, nothing to take apart")]
    fn carry_out_as_leader(&mut self, at: At, step: &Step) -> Next {
        match step {
            Step::Number(timeline) => self.take_number(at, *timeline),
            Step::Names(quorum, term) => self.configure_names(at, quorum, *term),
            Step::NamesInForce => {
                let postgres = &mut self.nodes[at].postgres;
                postgres.in_force = postgres.names.clone();
                self.release_waiters(at);
                Next::Go
            }
            Step::EndOthers => {
                let voters = self.nodes[at].postgres.in_force.0.voters.clone();
                let strangers: Vec<At> = self.nodes[at].postgres.senders.keys().copied().collect();
                for who in strangers.into_iter().filter(|who| !voters.contains(&self.names[*who])) {
                    self.nodes[at].postgres.senders.remove(&who);
                }
                Next::Go
            }
            Step::Promote if self.nodes[at].postgres.process == Process::Primary => Next::Go,
            Step::Promote if !self.answers(at, Process::Standby) => Next::Fail("nothing to promote"),
            Step::Promote => {
                self.nodes[at].postgres.follows = None;
                self.signal_promotion(at);
                Next::Go
            }
            Step::AwaitPrimary => match self.nodes[at].postgres.process {
                Process::Primary => Next::Go,
                Process::Standby if self.waited(at) < 60 * SECOND => {
                    self.clear_readers(at);
                    Next::Again(POLL)
                }
                _ => Next::Fail("it did not become primary"),
            },
            Step::Mark(term) => self.mark(at, *term),
            Step::Marked(term) => {
                let node = &mut self.nodes[at];
                node.postgres.acknowledged = node.postgres.acknowledged.max(*term);
                node.agent.acknowledged = node.agent.acknowledged.max(*term);
                Next::Go
            }
            Step::Settle => {
                self.change_sync(at, |sync| sync.reclaimed.then_some(SyncRecord { reclaimed: false, ..sync }))
            }
            Step::RecordSync(mode, policies) => self.change_sync(at, |sync| {
                Some(SyncRecord { mode: *mode, policies: policies.clone(), heir: None, released: false, ..sync })
            }),
            Step::Report => self.change_sync(at, |sync| Some(SyncRecord { released: true, heir: None, ..sync })),
            Step::Prove(mode, quorum) => self.prove(at, *mode, quorum),
            Step::AskCandidate(to) if self.replayed_at(at, *to).is_some() => Next::Go,
            Step::AskCandidate(_) => Next::Fail("the candidate cannot be reached"),
            Step::Checkpoint if self.waited(at) < 20 * MS => Next::Again(40 * MS),
            Step::Checkpoint if !self.answers(at, Process::Primary) => Next::Fail("no checkpoint"),
            Step::Checkpoint => {
                self.checkpoint(at);
                Next::Go
            }
            Step::AwaitCheckpoint if self.nodes[at].postgres.control.state == ControlState::ShutDown => Next::Go,
            Step::AwaitCheckpoint if self.waited(at) > 10 * SECOND => Next::Fail("no shutdown checkpoint"),
            Step::AwaitCheckpoint => Next::Again(POLL),
            Step::AwaitReplayed(to) => {
                let last = lsn(self.nodes[at].postgres.control.checkpoint.saturating_sub(1));
                let replayed = self.replayed_at(at, *to).unwrap_or_default();
                match self.waited(at) > 5 * SECOND {
                    _ if replayed > last => Next::Go,
                    true => Next::Fail("the candidate has not replayed it all"),
                    false => Next::Again(POLL),
                }
            }
            Step::HandOver { to, request } => self.hand_the_lock_over(at, *to, *request),
            Step::Release => {
                let Some(sync) = self.seen(at).and_then(|seen| self.my_sync(at, &seen)) else {
                    return Next::Fail("the record is not mine");
                };
                let txn = self.release(at, SyncRecord { released: true, ..sync });
                self.send(at, Rc::new(txn))
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn seen(&self, at: At) -> Option<Rc<crate::etcd::Snapshot>> {
        self.nodes[at].agent.job.as_ref().map(|job| Rc::clone(&job.seen))
    }

    fn job_action(&self, at: At) -> Option<&'static str> {
        self.nodes[at].agent.job.as_ref().map(|job| job.action.code())
    }

    /// How long the present step has taken so far.
    fn waited(&self, at: At) -> Micros {
        let began = self.nodes[at].agent.job.as_ref().map_or(0, |job| job.step_began);
        self.local(at).saturating_sub(began)
    }

    fn answers(&self, at: At, as_process: Process) -> bool {
        let postgres = &self.nodes[at].postgres;
        postgres.process == as_process && postgres.has_postmaster() && !self.stands_still(at, Part::Postgres)
    }

    fn has_lock_lease(&mut self, at: At, needed: bool) -> Next {
        let has = self.ensure_lock_lease(at);
        match needed {
            _ if has => Next::Go,
            false => Next::Go,
            true if self.waited(at) > 3 * SECOND => Next::Fail("no lease for the lock"),
            true => Next::Again(2 * MS),
        }
    }

    fn give_lease_back(&mut self, at: At, always: bool) -> Next {
        let agent = &mut self.nodes[at].agent;
        if always || agent.spare_lease == 0 {
            agent.spare_lease = 0;
            if agent.leases[1].id().is_some() {
                self.drop_lock_lease(at);
            }
        }
        Next::Go
    }

    fn await_stopped(&mut self, at: At) -> Next {
        if !self.nodes[at].postgres.has_postmaster() {
            return Next::Go;
        }
        if self.waited(at) > 30 * SECOND {
            self.kill_server(at);
        }
        Next::Again(10 * MS)
    }

    fn configure(&mut self, at: At, upstream: Option<(At, Term)>) -> Next {
        if !self.answers(at, Process::Standby) {
            return Next::Fail("it is no running standby");
        }
        let timeline = self.timeline_of(at);
        let postgres = &mut self.nodes[at].postgres;
        if upstream.is_some() {
            postgres.drop_unused_reservations(timeline);
        }
        postgres.follows = upstream;
        self.reload(at);
        Next::Go
    }

    fn replace_receiver(&mut self, at: At, before: Option<u32>) -> Next {
        let postgres = &self.nodes[at].postgres;
        if postgres.process != Process::Standby {
            return Next::Fail("it is no running standby");
        }
        let wanted = postgres.follows;
        let old = postgres.receiver.as_ref().is_some_and(|receiver| {
            Some(receiver.connection) == before && Some((receiver.upstream, receiver.term)) != wanted
        });
        match self.waited(at) {
            _ if !old => return Next::Go,
            waited if waited > 5 * SECOND => return Next::Fail("the old walreceiver stays"),
            waited if waited > 20 * MS => self.end_receiver(at),
            _ => {}
        }
        Next::Again(POLL)
    }

    fn come_to_rest(&mut self, at: At) -> Next {
        if !self.answers(at, Process::Standby) {
            return Next::Fail("it is no running standby");
        }
        self.end_receiver(at);
        self.clear_readers(at);
        let waited = self.waited(at);
        let postgres = &self.nodes[at].postgres;
        let rests = postgres.obeys.is_none()
            && postgres.reload_at.is_none()
            && postgres.replayed == postgres.wal.len()
            && !postgres.held_up;
        let Some(job) = self.nodes[at].agent.job.as_mut() else { return Next::End };
        job.seen_so = if rests { job.seen_so + 1 } else { 0 };
        match job.seen_so {
            2.. => Next::Go,
            _ if waited > 3 * SECOND => Next::Fail("no ballot yet: replay has not ended"),
            _ => Next::Again(POLL),
        }
    }

    fn ballot(&mut self, at: At, revoked: Term) -> Next {
        if !self.answers(at, Process::Standby) {
            return Next::Fail("it is no running standby");
        }
        let standby = self.standby(at, &self.nodes[at].postgres);
        let ballot = Ballot {
            revoked,
            wal_term: standby.wal_term,
            received: standby.received,
            timeline: standby.timeline,
            revision: 0,
        };
        let txn = self.put_ballot(at, ballot);
        let Some(job) = self.nodes[at].agent.job.as_mut() else { return Next::End };
        job.steps.pop_front();
        job.steps.push_front(commit(txn));
        Next::Again(0)
    }

    /// Readers that hold up replay are ended, and it goes on.
    fn clear_readers(&mut self, at: At) {
        let postgres = &mut self.nodes[at].postgres;
        if std::mem::take(&mut postgres.held_up) {
            let (server, end) = (postgres.server, postgres.wal.len());
            self.after(2 * MS, crate::world::Event::Received { at, server, end });
            self.after(2 * MS, crate::world::Event::Stage { at, server });
        }
    }

    /// Processes without a postmaster still hold the shared memory; nothing starts beside them.
    fn kill_orphans(&mut self, at: At) {
        if self.nodes[at].postgres.orphaned {
            self.kill_server(at);
        }
    }

    fn start_standby(&mut self, at: At, upstream: Option<(At, Term)>) -> Next {
        if self.nodes[at].postgres.has_postmaster() {
            return Next::Go;
        }
        self.kill_orphans(at);
        let present = self.nodes[at].postgres.control.timeline;
        let postgres = &mut self.nodes[at].postgres;
        postgres.drop_unused_reservations(present);
        (postgres.follows, postgres.signal) = (upstream, true);
        self.start_server(at, false);
        Next::Go
    }

    fn start_primary(&mut self, at: At, quorum: &Quorum, term: Term) -> Next {
        if self.nodes[at].postgres.has_postmaster() {
            return Next::Go;
        }
        self.kill_orphans(at);
        let postgres = &mut self.nodes[at].postgres;
        (postgres.follows, postgres.signal) = (None, false);
        postgres.names = (quorum.clone(), term);
        self.start_server(at, true);
        Next::Go
    }

    fn survives(&mut self, at: At) -> Next {
        match self.nodes[at].postgres.process {
            Process::Down => Next::Fail("Postgres ended while it started"),
            Process::Starting { .. } if self.waited(at) < 1_500 * MS => Next::Again(20 * MS),
            _ => Next::Go,
        }
    }

    /// Where the source is, if it is there and fit.
    fn source(&self, at: At, from: At, checkpointed: bool) -> Option<Lsn> {
        let postgres = &self.nodes[from].postgres;
        let there = self.links.both_ways(at, from) && self.answers(from, Process::Primary);
        let ready = !checkpointed || postgres.control.timeline == self.timeline_of(from);
        (there && ready && from != at).then_some(lsn(postgres.flushed))
    }

    fn floor(&mut self, at: At, from: At, floor: Lsn, checkpointed: bool) -> Next {
        if self.nodes[at].postgres.has_postmaster() {
            return Next::Fail("a server runs in the data directory");
        }
        let Some(has) = self.source(at, from, checkpointed) else { return Next::Fail("the source is not ready") };
        if self.broken == Some(Broken::DropsTheFloor) {
            return Next::Go;
        }
        let txn = self.set_floor(at, floor.max(has));
        Next::First(vec![commit(txn)])
    }

    fn copy_begins(&mut self, at: At, from: At) -> Next {
        if self.source(at, from, false).is_none() {
            return Next::Fail("the source is not ready");
        }
        Next::First(vec![Step::CopyEnds { from, server: self.nodes[from].postgres.server }])
    }

    fn copy_ends(&mut self, at: At, from: At, server: u32) -> Next {
        if self.waited(at) < 800 * MS {
            let pause = self.toil(at, SECOND).clamp(800 * MS, 6 * SECOND);
            return Next::Again(pause);
        }
        if self.source(at, from, false).is_none() || self.nodes[from].postgres.server != server {
            return Next::Fail("the copy was cut off");
        }
        let source = &self.nodes[from].postgres;
        let wal = Rc::new(source.wal[..source.flushed].to_vec());
        let timeline = source.control.timeline;
        let term = self.nodes[at].agent.job.as_ref().map_or(Term(0), |job| match &job.action {
            decision::action::Action::Clone { from, .. } => from.term,
            _ => Term(0),
        });
        let install = Step::Install { from: (from, term), wal, timeline };
        Next::First(vec![Step::Unfit("clone"), install, Step::Fit])
    }

    fn install(&mut self, at: At, from: (At, Term), wal: &[u32], timeline: Timeline) -> Next {
        let source = &self.nodes[from.0].postgres;
        let (histories, reserved) = (source.histories.clone(), source.reserved.clone());
        let postgres = &mut self.nodes[at].postgres;
        (postgres.wal, postgres.flushed) = (wal.to_vec(), wal.len());
        (postgres.histories, postgres.reserved) = (histories, reserved);
        postgres.control = Control { state: ControlState::InArchiveRecovery, timeline, checkpoint: wal.len() };
        (postgres.signal, postgres.follows) = (true, Some(from));
        (postgres.names, postgres.begun) = ((Quorum::none(), Term(0)), None);
        postgres.server += 1;
        self.nodes[at].postgres.acknowledged = Term(0);
        Next::Go
    }

    fn rewind(&mut self, at: At, from: (At, Term)) -> Next {
        self.nodes[at].postgres.signal = false;
        if self.waited(at) < 300 * MS {
            let pause = self.toil(at, 500 * MS).clamp(300 * MS, 4 * SECOND);
            return Next::Again(pause);
        }
        if self.source(at, from.0, true).is_none() {
            return Next::Fail("pg_rewind lost its source");
        }
        let source = &self.nodes[from.0].postgres;
        let (theirs, end) = (source.wal.clone(), source.flushed);
        let least = common(&self.nodes[at].postgres.wal, &theirs).max(1).min(end);
        let keep = self.dice(at).usize(least..=end);
        let timeline = self.archive.timeline(&theirs[..keep]);
        self.install(at, from, &theirs[..keep], timeline)
    }

    fn take_number(&mut self, at: At, timeline: Timeline) -> Next {
        if !self.answers(at, Process::Standby) || self.broken == Some(Broken::ReusesTimelines) {
            return Next::Go;
        }
        let present = self.timeline_of(at);
        let newest = self.nodes[at].postgres.newest_number(present);
        if newest >= timeline {
            let next = Timeline(newest.0 + 1);
            let Some(sync) = self.seen(at).and_then(|seen| self.my_sync(at, &seen)) else {
                return Next::Fail("the record is not mine");
            };
            let revision = self.seen(at).map_or(0, |seen| seen.sync_revision);
            let txn = self.record_sync(at, SyncRecord { timeline: next, ..sync }, revision);
            let Some(job) = self.nodes[at].agent.job.as_mut() else { return Next::End };
            job.steps.clear();
            job.steps.push_back(commit(txn));
            return Next::Again(0);
        }
        let numbers: BTreeSet<u32> = (newest.0 + 1..timeline.0).collect();
        self.nodes[at].postgres.reserved.extend(numbers);
        Next::Go
    }

    fn configure_names(&mut self, at: At, quorum: &Quorum, term: Term) -> Next {
        let answers = self.answers(at, Process::Standby) || self.answers(at, Process::Primary);
        if !answers {
            return Next::Fail("Postgres does not answer");
        }
        self.nodes[at].postgres.names = (quorum.clone(), term);
        Next::Go
    }

    /// A marker is written once; its acknowledgement lets the job go on.
    fn mark(&mut self, at: At, term: Term) -> Next {
        let written = self.nodes[at].agent.job.as_ref().is_some_and(|job| job.seen_so > 0);
        if written {
            let id = self.nodes[at].agent.job.as_ref().map_or(0, |job| job.id);
            // The backend that waits is ended; what becomes of the row is unknown.
            self.nodes[at]
                .postgres
                .waiting
                .retain(|(_, waiter)| !matches!(waiter, Waiter::Job { job, .. } if *job == id));
            return Next::Fail("the marker is not acknowledged");
        }
        if !self.answers(at, Process::Primary) {
            return Next::Fail("Postgres does not take writes");
        }
        let end = self.insert(at, Kind::Marker(term));
        let (life, Some(job)) = (self.nodes[at].agent.life, self.nodes[at].agent.job.as_mut()) else {
            return Next::End;
        };
        job.seen_so = 1;
        let id = job.id;
        self.nodes[at].postgres.waiting.push_back((end, Waiter::Job { life, job: id }));
        Next::Again(2 * SECOND)
    }

    /// The marker of this job was acknowledged.
    pub fn marker_acknowledged(&mut self, at: At, life: u32, id: u32) {
        let local = self.local(at);
        let agent = &mut self.nodes[at].agent;
        let Some(job) = agent.job.as_mut().filter(|job| agent.life == life && job.id == id) else { return };
        if matches!(job.steps.front(), Some(Step::Mark(_))) {
            job.steps.pop_front();
            (job.step_began, job.seen_so) = (local, 0);
            self.next_step_after(at, MS);
        }
    }

    fn change_sync(&mut self, at: At, change: impl Fn(SyncRecord) -> Option<SyncRecord>) -> Next {
        let Some(seen) = self.seen(at) else { return Next::End };
        let Some(sync) = self.my_sync(at, &seen) else { return Next::Fail("the record is not mine to change") };
        match change(sync) {
            None => Next::Go,
            Some(changed) => {
                let txn = self.record_sync(at, changed, seen.sync_revision);
                self.send(at, Rc::new(txn))
            }
        }
    }

    fn prove(&mut self, at: At, mode: Mode, quorum: &Quorum) -> Next {
        self.change_sync(at, |sync| {
            let policies = vec![quorum.clone()];
            Some(SyncRecord { mode, policies, handover_lsn: None, reclaimed: false, ..sync })
        })
    }

    /// How far the candidate says that it has replayed: what its agent saw last.
    fn replayed_at(&self, at: At, to: At) -> Option<Lsn> {
        let reachable = self.links.both_ways(at, to) && self.nodes[to].powered;
        let agent = &self.nodes[to].agent;
        if !reachable || !agent.up || self.stands_still(to, Part::Agent) {
            return None;
        }
        match agent.look.as_ref().map(|(seen, _)| &seen.server) {
            Some(Server::Standby(standby)) => Some(standby.replayed),
            _ => None,
        }
    }

    fn hand_the_lock_over(&mut self, at: At, to: At, request: i64) -> Next {
        let Some(seen) = self.seen(at) else { return Next::End };
        let Some(before) = seen.cluster.sync.clone() else { return Next::Fail("there is no durability record") };
        let name = self.names[to].clone();
        let Some(candidate) = seen.cluster.members.get(&name) else { return Next::Fail("the candidate is gone") };
        let quorum = quorum_for_new_leader(&name, &seen.cluster, &self.settings_at(at));
        let last = lsn(self.nodes[at].postgres.control.checkpoint.saturating_sub(1));
        let sync = SyncRecord {
            leader: name.clone(),
            term: seen.cluster.term.next(),
            mode: before.mode,
            policies: ending_with(&inherited(&before), &quorum),
            timeline: Timeline(before.timeline.0 + 1),
            released: false,
            reclaimed: false,
            handover_lsn: Some(Lsn(last.0 + 1)),
            heir: None,
        };
        let txn = self.hand_over(at, to, candidate.lock_lease, request, seen.cluster.term, sync);
        self.send(at, Rc::new(txn))
    }
}
