//! Carrying out the steps of whoever leads, or is about to: promotion, the marker, the record, the hand-over.

use std::collections::BTreeSet;
use std::rc::Rc;

use decision::durability::Quorum;
use decision::names::{Term, Timeline};
use decision::settings::Mode;
use decision::view::{ControlState, SyncRecord};

use crate::broken::Broken;
use crate::carry::POLL;
use crate::etcd::Snapshot;
use crate::jobs::{Next, Step, commit};
use crate::postgres::{Process, Waiter};
use crate::requests::{Ask, Purpose};
use crate::time::{MS, SECOND};
use crate::wal::{Kind, lsn};
use crate::world::{At, World};

impl World {
    /// The steps of whoever leads, or is about to.
    #[allow(clippy::too_many_lines, reason = "one arm a step, nothing to take apart")]
    pub fn carry_out_as_leader(&mut self, at: At, step: &Step) -> Next {
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
            Step::RecordAnew if self.breaks(Broken::StartsOnTheOldRecord) => Next::Go,
            Step::RecordAnew => self.change_sync(at, |sync| Some(SyncRecord { heir: None, ..sync })),
            Step::Settle => {
                self.change_sync(at, |sync| sync.reclaimed.then_some(SyncRecord { reclaimed: false, ..sync }))
            }
            Step::RecordSync(mode, policies) => {
                let keeps = self.breaks(Broken::KeepsTheHeirOnRecord);
                self.change_sync(at, |sync| {
                    let heir = sync.heir.clone().filter(|_| keeps);
                    Some(SyncRecord { mode: *mode, policies: policies.clone(), heir, released: false, ..sync })
                })
            }
            Step::LastRecord => {
                let Some(id) = self.nodes[at].agent.job.as_ref().map(|job| job.id) else { return Next::End };
                self.ask(at, Purpose::Job(id), Ask::Read);
                Next::Wait
            }
            Step::Report => {
                // Whoever has promised is free as soon as it hears of it.
                if let Some(seen) = self.seen(at) {
                    self.gives_ground_up(at, seen.cluster.term, self.last_record(at, &seen));
                }
                self.change_sync(at, |sync| Some(SyncRecord { released: true, heir: None, ..sync }))
            }
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
                match self.waited(at) > SECOND {
                    _ if replayed > last || self.breaks(Broken::HandsOverTooEarly) => Next::Go,
                    true => Next::Fail("the candidate has not replayed it all"),
                    false => Next::Again(POLL),
                }
            }
            Step::NameHeir(to) => self.name_heir(at, *to),
            Step::AwaitOthers(to) => self.others_go_over(at, *to),
            Step::HandOver { to, request } => self.hand_the_lock_over(at, *to, *request),
            Step::BreakOff { request } => self.break_off(at, *request),
            Step::ClearAway => self.clear_away(at),
            Step::Failed(why) => Next::Fail(why),
            Step::Release => self.let_the_lock_go(at),
            other => unreachable!("{other:?}"),
        }
    }

    fn take_number(&mut self, at: At, timeline: Timeline) -> Next {
        if !self.answers(at, Process::Standby) || self.breaks(Broken::ReusesTimelines) {
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
        let k = quorum.k.saturating_sub(u32::from(self.breaks(Broken::WaitsForOneTooFew)));
        self.nodes[at].postgres.names = (Quorum::of(k, quorum.voters.clone()), term);
        Next::Go
    }

    fn let_the_lock_go(&mut self, at: At) -> Next {
        let Some((seen, told)) = self.seen_and_written(at) else { return Next::End };
        let Some(sync) = self.my_sync(at, &seen) else { return Next::Fail("the record is not mine") };
        let over = self.last_record(at, &seen);
        self.gives_ground_up(at, sync.term, over.max(told));
        self.bind(at, None);
        let txn = match told {
            0 => self.release(at, SyncRecord { released: true, ..sync }, over),
            told => self.let_go_of_lock(at, sync.term, told),
        };
        self.send(at, Rc::new(txn))
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
        if self.breaks(Broken::TrustsAMarkerThatNobodyAcknowledged) {
            return Next::Go;
        }
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

    pub fn change_sync(&mut self, at: At, change: impl Fn(SyncRecord) -> Option<SyncRecord>) -> Next {
        let Some(seen) = self.seen(at) else { return Next::End };
        let Some(sync) = self.my_sync(at, &seen) else { return Next::Fail("the record is not mine to change") };
        match change(sync) {
            None => Next::Go,
            Some(changed) => {
                if !changed.released && !self.may_write(at, &seen, Some((changed.mode, changed.policies.clone())), None)
                {
                    return Next::Fail("not while promises carry this leader");
                }
                let over = self.last_record(at, &seen);
                let txn = self.record_sync(at, changed, over);
                self.send(at, Rc::new(txn))
            }
        }
    }

    /// The revision of the record that a write replaces: the one that was seen, or at the end of a reign what was there unseen.
    fn last_record(&self, at: At, seen: &Snapshot) -> i64 {
        let found = self.nodes[at].agent.job.as_ref().and_then(|job| job.last_record);
        found.unwrap_or(seen.sync_revision)
    }

    fn prove(&mut self, at: At, mode: Mode, quorum: &Quorum) -> Next {
        self.change_sync(at, |sync| {
            let policies = vec![quorum.clone()];
            Some(SyncRecord { mode, policies, handover_lsn: None, reclaimed: false, ..sync })
        })
    }
}
