//! An action as a slow job: the steps of the real agent (`agent/src/execute/`, `handover.rs`) in their order. Between any two of them the
//! agent may be broken off, killed, or stand still.

use std::collections::VecDeque;
use std::rc::Rc;

use decision::action::{Action, StartAs, StopMode};
use decision::durability::Quorum;
use decision::names::{Lsn, Term, Timeline};
use decision::settings::Mode;
use decision::view::{SyncRecord, Upstream};

use crate::broken::Broken;
use crate::etcd::{Outcome, Snapshot, Txn};
use crate::requests::{Ask, Purpose};
use crate::time::{MS, Micros};
use crate::world::{At, Event, World};

/// What hangs is looked at again so soon after it goes on.
const HANGS: Micros = 2 * MS;

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Has a living lease for the lock; where it is not needed, it is only asked for.
    LockLease {
        needed: bool,
    },
    /// Takes the lock.
    Acquire(Box<decision::action::Claim>),
    /// Binds the lock to a lease again.
    Resume(Term),
    /// Sends a write and waits for its answer.
    Commit(Rc<Txn>, Refused),
    /// Looks which record the last words replace.
    LastRecord,
    /// Says in the record that this primary is done for.
    Report,
    /// Writes the record anew, so that nothing that was sent before it can come true.
    RecordAnew,
    Arm,
    Disarm,
    KillAll,
    BeginStop,
    AwaitStopped,
    /// Writes whom to follow, and has a running standby read it.
    Configure(Option<(At, Term)>),
    /// Waits until nothing streams from anybody but the upstream that was configured.
    ReplaceReceiver {
        before: Option<u32>,
    },
    /// Ends walreceivers until there is none any more and replay rests.
    ComeToRest,
    Ballot(Term),
    /// Notes that this term is not followed any more, unless a promise forbids it.
    Revoke(Term),
    ClearReaders,
    StartStandby(Option<(At, Term)>),
    StartPrimary(Quorum, Term),
    Survive,
    /// Asks the source where it is, and writes the floor.
    Floor {
        from: At,
        floor: Lsn,
        checkpointed: bool,
    },
    /// Notes in etcd the number of a timeline that is in no history, before it is forgotten here.
    NoteTimeline,
    /// Says durably that the directory is unfit from here on.
    Unfit(&'static str),
    /// The copy begins; the whole of it takes as long as the next step waits.
    CopyBegins {
        from: At,
    },
    CopyEnds {
        from: At,
        server: u32,
    },
    /// What was copied is put in place.
    Install {
        from: (At, Term),
        wal: Rc<Vec<u32>>,
        timeline: Timeline,
    },
    Rewind {
        from: (At, Term),
    },
    Fit,
    FindEnd,
    SpareLease(bool),
    DropLockLease {
        always: bool,
    },
    /// Takes the number for the new timeline, or has another recorded.
    Number(Timeline),
    Names(Quorum, Term),
    NamesInForce,
    /// Cuts off standbys that are not waited for any more.
    EndOthers,
    Promote,
    AwaitPrimary,
    /// Writes a marker and waits for its acknowledgement.
    Mark(Term),
    Marked(Term),
    Settle,
    RecordSync(Mode, Vec<Quorum>),
    Prove(Mode, Quorum),
    AskCandidate(At),
    Checkpoint,
    AwaitCheckpoint,
    AwaitReplayed(At),
    /// Says who is about to be handed the lock, where the others may go over ahead.
    NameHeir(At),
    AwaitOthers(At),
    HandOver {
        to: At,
        request: i64,
    },
    /// Takes back what a hand-over that failed has said.
    BreakOff {
        request: i64,
    },
    ClearAway,
    Failed(&'static str),
    Release,
}

/// What a refused write means to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Ends,
    Fails,
}

/// How a step went.
pub enum Next {
    Go,
    /// These steps come next.
    First(Vec<Step>),
    Again(Micros),
    /// Somebody else lets it go on.
    Wait,
    Fail(&'static str),
    /// Nothing is left to do.
    End,
}

#[derive(Clone, Debug)]
pub struct Job {
    pub id: u32,
    pub action: Action,
    pub began: Micros,
    pub seen: Rc<Snapshot>,
    pub steps: VecDeque<Step>,
    pub step_began: Micros,
    /// How often in a row the step has seen what it waits for.
    pub seen_so: u32,
    /// The timer that counts; earlier ones are void.
    turn: u32,
    /// The revision of the last write of the job; 0: it has written nothing.
    pub revision: i64,
    /// The revision of the record that the last words of a reign replace, where it is not the one that was seen.
    pub last_record: Option<i64>,
    asked: Option<Rc<Txn>>,
    recalled: bool,
}

impl World {
    pub fn begin_job(&mut self, at: At, action: &Action) {
        let Some(seen) = self.nodes[at].agent.picture.clone() else { return };
        let began = self.local(at);
        if matches!(action, Action::AskSwitchover { .. }) {
            self.nodes[at].agent.ages.asked_switchover(began);
        }
        let steps = self.steps_of(at, action, &seen);
        let revision = seen.cluster.revision;
        self.tell(|world| format!("{}: begins {} as of revision {revision}", world.name(at), action.code()));
        let agent = &mut self.nodes[at].agent;
        agent.jobs += 1;
        let id = agent.jobs;
        agent.job = Some(Job {
            id,
            action: action.clone(),
            began,
            seen,
            steps: steps.into(),
            step_began: began,
            seen_so: 0,
            turn: 0,
            revision: 0,
            last_record: None,
            asked: None,
            recalled: false,
        });
        let pause = self.toil(at, MS);
        self.next_step_after(at, pause);
    }

    pub fn next_step_after(&mut self, at: At, pause: Micros) {
        let agent = &mut self.nodes[at].agent;
        let Some(job) = agent.job.as_mut() else { return };
        job.turn += 1;
        let (life, id, turn) = (agent.life, job.id, job.turn);
        self.after_local(at, pause, Event::Step { at, life, job: id, turn });
    }

    fn whom(&self, upstream: &Upstream) -> (At, Term) {
        (self.place(&upstream.member).unwrap_or_default(), upstream.term)
    }

    /// The steps of an action. Every action has its arm, so that a new one is noticed.
    #[allow(clippy::too_many_lines, reason = "one arm a action, nothing to take apart")]
    fn steps_of(&self, at: At, action: &Action, seen: &Snapshot) -> Vec<Step> {
        match action {
            Action::Wait | Action::Cancel => Vec::new(),
            // The simulation begins with a cluster that is there.
            Action::Bootstrap => vec![],
            Action::Clone { from, floor } => self.clone_steps(at, self.whom(from), *floor),
            Action::Rewind { from, floor } => self.rewind_steps(self.whom(from), *floor),
            Action::FindEndOfWal => vec![Step::FindEnd],
            Action::Start(StartAs::Primary { term, quorum, record_anew }) => {
                let mut steps = vec![Step::Arm, Step::StartPrimary(quorum.clone(), *term), Step::Survive];
                if *record_anew {
                    steps.insert(0, Step::RecordAnew);
                }
                steps
            }
            Action::Start(StartAs::Standby(upstream)) => {
                vec![Step::StartStandby(upstream.as_ref().map(|upstream| self.whom(upstream))), Step::Survive]
            }
            Action::Stop(StopMode::Fast) => vec![Step::BeginStop, Step::AwaitStopped, Step::Disarm],
            Action::Stop(StopMode::Kill) => vec![Step::KillAll, Step::Disarm],
            Action::Follow(upstream) => {
                let before = self.nodes[at].postgres.receiver.as_ref().map(|receiver| receiver.connection);
                let configure = Step::Configure(Some(self.whom(upstream)));
                let mut steps =
                    vec![configure, Step::ReplaceReceiver { before }, Step::DropLockLease { always: false }];
                if self.may_have_balloted(at, upstream.term) {
                    let before = seen.cluster.ballots.get(&self.names[at]).map_or(0, |ballot| ballot.revision);
                    let void = self.void_ballot(at, upstream.term, before);
                    steps.insert(0, Step::Commit(Rc::new(void), Refused::Fails));
                }
                steps
            }
            Action::Pledge { revoked } if self.breaks(Broken::PledgesWhileItStreams) => {
                let lease = Step::LockLease { needed: false };
                vec![Step::Revoke(*revoked), lease, Step::Ballot(*revoked), Step::Configure(None), Step::ComeToRest]
            }
            Action::Pledge { revoked } => {
                let lease = Step::LockLease { needed: false };
                vec![Step::Revoke(*revoked), lease, Step::Configure(None), Step::ComeToRest, Step::Ballot(*revoked)]
            }
            Action::Withdraw { revoked } => {
                let ballot = seen.cluster.ballots.get(&self.names[at]).filter(|ballot| ballot.revoked == *revoked);
                ballot.map(|ballot| commit(self.withdraw_ballot(at, ballot))).into_iter().collect()
            }
            Action::ClearFloor => {
                let floor = seen.cluster.floors.get(&self.names[at]);
                floor.map(|floor| commit(self.clear_floor(at, *floor))).into_iter().collect()
            }
            Action::StandReady => vec![Step::LockLease { needed: true }, Step::ClearReaders, Step::SpareLease(true)],
            Action::StandDown => vec![Step::DropLockLease { always: true }],
            Action::Acquire(claim) => {
                vec![Step::LockLease { needed: true }, Step::Acquire(Box::new(claim.clone())), Step::Arm]
            }
            Action::Resume { term } => vec![Step::LockLease { needed: true }, Step::Resume(*term)],
            Action::Promote { term, quorum, .. } if self.breaks(Broken::RestartsInsteadOfPromoting) => {
                vec![Step::Arm, Step::KillAll, Step::StartPrimary(quorum.clone(), *term), Step::Survive]
            }
            Action::Promote { term, timeline, quorum } => vec![
                Step::Arm,
                Step::SpareLease(false),
                Step::Number(*timeline),
                Step::Names(quorum.clone(), *term),
                Step::NamesInForce,
                Step::ClearReaders,
                Step::Promote,
                Step::AwaitPrimary,
            ],
            Action::Mark { term } => vec![Step::Mark(*term), Step::Marked(*term), Step::Settle],
            Action::RecordSync { mode, policies } => vec![Step::RecordSync(*mode, policies.clone())],
            Action::ApplySync(quorum) => {
                let term = self.my_sync(at, seen).map_or(Term(0), |sync| sync.term);
                vec![Step::Names(quorum.clone(), term), Step::NamesInForce, Step::EndOthers]
            }
            Action::ProveSync { mode, quorum } => {
                let term = self.my_sync(at, seen).map_or(Term(0), |sync| sync.term);
                vec![Step::Mark(term), Step::Prove(*mode, quorum.clone())]
            }
            Action::HandOver { to, request } => self.handover_steps(self.place(to).unwrap_or_default(), *request),
            Action::Release if self.breaks(Broken::ReleasesBeforeItIsDead) => {
                vec![Step::Release, Step::KillAll, Step::Disarm, Step::DropLockLease { always: true }]
            }
            Action::Release => {
                vec![Step::LastRecord, Step::KillAll, Step::Disarm, Step::Release, Step::DropLockLease { always: true }]
            }
            // Told first and killed after: the voters ballot against a primary that still runs.
            Action::Abdicate => {
                let told = [Step::LastRecord, Step::Report, Step::KillAll, Step::Disarm, Step::Release];
                [told.as_slice(), &[Step::DropLockLease { always: true }]].concat()
            }
            Action::AskSwitchover { to, .. } => vec![commit(self.ask_to_be_relieved(at, to))],
            Action::Restart { then, .. } => {
                let stop = self.steps_of(at, &Action::Stop(StopMode::Fast), seen);
                [stop, self.steps_of(at, &Action::Start(then.clone()), seen)].concat()
            }
            Action::Reinit { from, floor, .. } => {
                let stop = self.steps_of(at, &Action::Stop(StopMode::Fast), seen);
                [stop, vec![Step::Unfit("reinit")], self.clone_steps(at, self.whom(from), *floor)].concat()
            }
            // There is one site here; two are played in `decision/src/tests/site_walk.rs`.
            Action::LeaveRemote | Action::DemoteSite { .. } => Vec::new(),
            // Nobody orders anything here.
            Action::RefuseOrder { .. } => Vec::new(),
            Action::RefuseRequest { request, .. } => vec![commit(self.remove_request(*request))],
        }
    }

    fn clone_steps(&self, at: At, from: (At, Term), floor: Lsn) -> Vec<Step> {
        let floor = Step::Floor { from: from.0, floor, checkpointed: false };
        // Where the parent directory cannot be written the copy goes into the directory itself.
        let in_place = at.is_multiple_of(2) && self.nodes[at].postgres.directory != crate::postgres::Directory::Whole;
        let copy = Step::CopyBegins { from: from.0 };
        let unfit = in_place.then_some(Step::Unfit("clone"));
        [Step::NoteTimeline, floor].into_iter().chain(unfit).chain([copy]).collect()
    }

    fn rewind_steps(&self, from: (At, Term), floor: Lsn) -> Vec<Step> {
        vec![
            Step::NoteTimeline,
            Step::Floor { from: from.0, floor, checkpointed: true },
            Step::Unfit("rewind"),
            Step::Rewind { from },
            Step::Fit,
        ]
    }

    /// The record of my own reign, to be changed.
    pub fn my_sync(&self, at: At, seen: &Snapshot) -> Option<SyncRecord> {
        seen.cluster.sync.clone().filter(|sync| sync.leader == self.names[at])
    }

    /// What the job was decided from, and the revision of what it has written since; 0: nothing.
    pub fn seen_and_written(&self, at: At) -> Option<(Rc<Snapshot>, i64)> {
        self.nodes[at].agent.job.as_ref().map(|job| (Rc::clone(&job.seen), job.revision))
    }

    pub fn job_goes_on(&mut self, at: At, life: u32, id: u32, turn: u32) {
        let agent = &self.nodes[at].agent;
        let due = |job: &Job| job.id == id && job.turn == turn;
        if !agent.up || agent.life != life || !agent.job.as_ref().is_some_and(due) {
            return;
        }
        let Some(step) = agent.job.as_ref().and_then(|job| job.steps.front()).cloned() else {
            return self.job_ends(at);
        };
        let next = if self.hangs_with_its_disk(at) { Next::Again(HANGS) } else { self.carry_out(at, &step) };
        self.follow_up(at, next);
    }

    fn follow_up(&mut self, at: At, next: Next) {
        let local = self.local(at);
        let pause = match &next {
            Next::Again(pause) => *pause,
            _ => self.toil(at, MS),
        };
        let agent = &mut self.nodes[at].agent;
        // A fence or a fault that came of the step may have ended the job.
        let Some(job) = agent.job.as_mut() else { return };
        match next {
            Next::Wait => return,
            Next::Fail(why) => return self.job_fails(at, why),
            Next::End => return self.job_ends(at),
            Next::Again(_) => {}
            Next::Go | Next::First(_) => {
                job.steps.pop_front();
                (job.step_began, job.seen_so) = (local, 0);
                if let Next::First(steps) = next {
                    steps.into_iter().rev().for_each(|step| job.steps.push_front(step));
                }
                if job.steps.is_empty() {
                    return self.job_ends(at);
                }
            }
        }
        self.next_step_after(at, pause);
    }

    fn job_ends(&mut self, at: At) {
        let revision = self.nodes[at].agent.job.as_ref().map_or(0, |job| job.revision);
        self.job_done(at, revision);
    }

    fn job_fails(&mut self, at: At, why: &'static str) {
        if !self.goes_back(at, why) {
            self.job_failed(at, why);
        }
    }

    /// Sends a write of the job.
    pub fn send(&mut self, at: At, txn: Rc<Txn>) -> Next {
        let Some(job) = self.nodes[at].agent.job.as_mut() else { return Next::Wait };
        (job.asked, job.recalled) = (Some(Rc::clone(&txn)), false);
        let id = job.id;
        self.ask(at, Purpose::Job(id), Ask::Commit(txn));
        Next::Wait
    }

    /// What etcd says of the record before the last words of a reign.
    pub fn last_record_answered(&mut self, at: At, id: u32, picture: &Snapshot) {
        let mine = self.my_sync(at, picture);
        let Some(job) = self.nodes[at].agent.job.as_mut().filter(|job| job.id == id) else { return };
        let of_this_reign = mine.filter(|sync| sync.term == job.seen.cluster.term);
        job.last_record = of_this_reign.map(|_| picture.sync_revision.max(job.seen.sync_revision));
        self.follow_up(at, Next::Go);
    }

    pub fn job_answered(&mut self, at: At, id: u32, outcome: Outcome) {
        let Some(job) = self.nodes[at].agent.job.as_mut().filter(|job| job.id == id) else { return };
        job.asked = None;
        let refused = match job.steps.front() {
            Some(Step::Commit(_, refused)) => *refused,
            Some(Step::HandOver { .. } | Step::NameHeir(_)) => Refused::Fails,
            _ => Refused::Ends,
        };
        let (action, front) = (job.action.clone(), job.steps.front().cloned());
        self.settle_claims(at, &action, front.as_ref(), outcome);
        let Some(job) = self.nodes[at].agent.job.as_mut() else { return };
        let goes_back = matches!(job.steps.front(), Some(Step::BreakOff { .. }));
        let anew = matches!(job.steps.front(), Some(Step::RecordAnew));
        let next = match (outcome, refused) {
            // Whatever of the way back fails is done by the next decisions.
            (_, _) if goes_back => Next::Go,
            (Outcome::Applied(revision), _) => {
                job.revision = job.revision.max(revision);
                Next::Go
            }
            (Outcome::Refused, Refused::Ends) if matches!(job.action, Action::Release | Action::Abdicate) => Next::Go,
            (Outcome::Refused, Refused::Ends) => Next::End,
            // Nothing was started, so nothing has failed: the next picture of etcd tells.
            (Outcome::Unknown, _) if anew => Next::End,
            (Outcome::Refused, Refused::Fails) => Next::Fail("the cluster changed meanwhile"),
            (Outcome::LeaseGone, _) => Next::Fail("the lease is gone"),
            (Outcome::Unknown, _) => Next::Fail("nobody knows whether the write was applied"),
        };
        self.follow_up(at, next);
    }

    /// No answer: a write is read back, once.
    pub fn job_unanswered(&mut self, at: At, id: u32) {
        let Some(job) = self.nodes[at].agent.job.as_mut().filter(|job| job.id == id) else { return };
        match job.asked.clone() {
            Some(txn) if !job.recalled => {
                job.recalled = true;
                self.ask(at, Purpose::Job(id), Ask::Recall(txn));
            }
            _ if matches!(job.steps.front(), Some(Step::BreakOff { .. })) => self.follow_up(at, Next::Go),
            _ if matches!(job.steps.front(), Some(Step::RecordAnew | Step::LastRecord)) => {
                self.follow_up(at, Next::End)
            }
            _ => {
                let (action, front) = (job.action.clone(), job.steps.front().cloned());
                self.settle_claims(at, &action, front.as_ref(), Outcome::Unknown);
                self.job_fails(at, "etcd does not answer");
            }
        }
    }
}

pub fn commit(txn: Txn) -> Step {
    Step::Commit(Rc::new(txn), Refused::Ends)
}
