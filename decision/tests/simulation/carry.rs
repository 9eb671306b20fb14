//! Carrying out one step of a job on the modelled Postgres and etcd.

use std::rc::Rc;

use decision::action::ClaimKind;
use decision::durability::Quorum;
use decision::names::Term;
use decision::view::{Ballot, SyncRecord};

use crate::broken::Broken;
use crate::jobs::{Next, Step, commit};
use crate::postgres::{Directory, Process};
use crate::time::{MS, Micros, SECOND};
use crate::world::{At, Part, World};

pub const POLL: Micros = 4 * MS;

impl World {
    #[allow(clippy::too_many_lines, reason = "one arm a step, nothing to take apart")]
    pub fn carry_out(&mut self, at: At, step: &Step) -> Next {
        match step {
            Step::LockLease { needed } => self.has_lock_lease(at, *needed),
            Step::Acquire(claim) => {
                let Some(lease) = self.nodes[at].agent.leases[1].id() else { return Next::Fail("no lease") };
                let Some(seen) = self.seen(at) else { return Next::End };
                // A primary that runs goes on under the claim that it has, until it has a better one.
                if !self.nodes[at].postgres.has_postmaster() || claim.kind != ClaimKind::Reclaim {
                    self.bind(at, Some(lease));
                }
                let txn = self.acquire(at, lease, claim, &seen);
                self.send(at, Rc::new(txn))
            }
            Step::Resume(term) => {
                let Some(lease) = self.nodes[at].agent.leases[1].id() else { return Next::Fail("no lease") };
                let Some(seen) = self.seen(at) else { return Next::End };
                let Some(sync) = self.my_sync(at, &seen).filter(|sync| sync.term == *term) else {
                    return Next::Fail("the record is not mine");
                };
                let txn = self.resume(at, lease, SyncRecord { heir: None, ..sync }, seen.sync_revision);
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
            Step::NoteTimeline => self.note_timeline(at),
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
            Step::Revoke(term) if self.revoke(at, *term) => Next::Go,
            Step::Revoke(_) => Next::Fail("a promise forbids it"),
            Step::SpareLease(ready) => {
                let lease = if *ready { self.nodes[at].agent.leases[1].id().unwrap_or_default() } else { 0 };
                self.nodes[at].agent.spare_lease = lease;
                if *ready {
                    self.bind(at, Some(lease));
                }
                Next::Go
            }
            Step::DropLockLease { always } => self.give_lease_back(at, *always),
            _ => self.carry_out_as_leader(at, step),
        }
    }

    pub fn seen(&self, at: At) -> Option<Rc<crate::etcd::Snapshot>> {
        self.nodes[at].agent.job.as_ref().map(|job| Rc::clone(&job.seen))
    }

    pub fn job_action(&self, at: At) -> Option<&'static str> {
        self.nodes[at].agent.job.as_ref().map(|job| job.action.code())
    }

    /// How long the present step has taken so far.
    pub fn waited(&self, at: At) -> Micros {
        let began = self.nodes[at].agent.job.as_ref().map_or(0, |job| job.step_began);
        self.local(at).saturating_sub(began)
    }

    pub fn answers(&self, at: At, as_process: Process) -> bool {
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
        let mut followed = None;
        let postgres = &mut self.nodes[at].postgres;
        if let Some((_, term)) = upstream {
            followed = Some(term);
            postgres.drop_unused_reservations(timeline);
        }
        postgres.follows = upstream;
        if followed.is_some() {
            self.hold_back(at);
            let postgres = &mut self.nodes[at].postgres;
            postgres.in_force = postgres.names.clone();
        }
        if let Some(term) = followed {
            self.follows_again(at, term, false);
        }
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
            late: false,
            revision: 0,
        };
        let seen = self.nodes[at].agent.job.as_ref().and_then(|job| job.seen.cluster.ballots.get(&self.names[at]));
        let txn = self.put_ballot(at, ballot, seen.map_or(0, |before| before.revision));
        self.unsure_of_its_ballot(at, revoked);
        let Some(job) = self.nodes[at].agent.job.as_mut() else { return Next::End };
        job.steps.pop_front();
        job.steps.push_front(commit(txn));
        Next::Again(0)
    }

    /// Readers that hold up replay are ended, and it goes on.
    pub fn clear_readers(&mut self, at: At) {
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
        self.hold_back(at);
        self.start_server(at, false);
        Next::Go
    }

    fn start_primary(&mut self, at: At, quorum: &Quorum, term: Term) -> Next {
        if self.nodes[at].postgres.has_postmaster() {
            return Next::Go;
        }
        self.kill_orphans(at);
        // What was written before this may have hung with its disk for any time.
        let fence = self.nodes[at].fence;
        let confirmed = fence.armed && fence.deadline > self.local(at);
        if !confirmed && !self.breaks(Broken::StartsWithoutALookAtTheFence) {
            return Next::Fail("what allowed the start is over");
        }
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
}
