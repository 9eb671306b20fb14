//! The steps of a switchover (`agent/src/handover.rs`): the others go over to the heir, the lock changes hands, and the way back.

use std::rc::Rc;

use decision::action::Action;
use decision::candidacy::highest_timeline;
use decision::durability::{ending_with, inherited, may_go_over_ahead, quorum_for_new_leader};
use decision::names::Lsn;
use decision::names::Timeline;
use decision::view::{MemberRole, Server, SyncRecord};

use crate::broken::Broken;
use crate::jobs::{Next, Step};
use crate::postgres::Process;
use crate::time::MS;
use crate::wal::lsn;
use crate::world::{At, Part, World};

impl World {
    pub fn handover_steps(&self, to: At, request: i64) -> Vec<Step> {
        vec![
            Step::AskCandidate(to),
            Step::Checkpoint,
            Step::Checkpoint,
            Step::NameHeir(to),
            Step::AwaitOthers(to),
            Step::BeginStop,
            Step::AwaitCheckpoint,
            Step::AwaitReplayed(to),
            Step::HandOver { to, request },
            Step::Disarm,
        ]
    }

    /// Who else is to stream from the heir before clients have to wait.
    fn others(&self, at: At, to: At) -> Vec<At> {
        let Some(seen) = self.seen(at) else { return Vec::new() };
        let is_standby = |name| seen.cluster.members.get(name).is_some_and(|it| it.role == MemberRole::Standby);
        (0..self.nodes.len()).filter(|other| ![at, to].contains(other) && is_standby(&self.names[*other])).collect()
    }

    pub fn name_heir(&mut self, at: At, to: At) -> Next {
        let heir = self.names[to].clone();
        let others = self.others(at, to);
        self.change_sync(at, |sync| {
            let goes = !others.is_empty() && may_go_over_ahead(&sync.policies, &heir);
            goes.then(|| SyncRecord { heir: Some(heir.clone()), ..sync })
        })
    }

    /// Waits a moment for the others, and not longer.
    pub fn others_go_over(&mut self, at: At, to: At) -> Next {
        let named = self.nodes[at].agent.job.as_ref().is_some_and(|job| job.revision > 0);
        let streams =
            |other: &At| self.nodes[*other].postgres.receiver.as_ref().is_some_and(|receiver| receiver.upstream == to);
        let all = self.others(at, to).iter().all(streams);
        if !named || all || self.waited(at) > 400 * MS { Next::Go } else { Next::Again(5 * MS) }
    }

    /// How far the candidate says that it has replayed: what its agent saw last.
    pub fn replayed_at(&self, at: At, to: At) -> Option<Lsn> {
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

    pub fn hand_the_lock_over(&mut self, at: At, to: At, request: i64) -> Next {
        let Some((seen, named)) = self.seen_and_written(at) else { return Next::End };
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
            timeline: Timeline(highest_timeline(&seen.cluster, before.timeline).0 + 1),
            released: false,
            reclaimed: false,
            handover_lsn: (!self.breaks(Broken::HandsOverWithoutAPosition)).then_some(Lsn(last.0 + 1)),
            heir: None,
            follows: false,
        };
        let over = seen.sync_revision.max(named);
        // From here on another may lead without anybody's ballot.
        self.gives_ground_up(at, seen.cluster.term, over);
        self.bind(at, None);
        let txn = self.hand_over(at, (to, candidate.lock_lease), request, sync, over);
        self.send(at, Rc::new(txn))
    }

    /// A hand-over that failed goes back before it says so: true, if that has only just begun.
    pub fn goes_back(&mut self, at: At, why: &'static str) -> bool {
        let Some(job) = self.nodes[at].agent.job.as_mut() else { return false };
        let under_way = job.steps.iter().any(|step| matches!(step, Step::Failed(_)));
        let Action::HandOver { request, .. } = job.action else { return false };
        if !under_way {
            job.steps = [Step::BreakOff { request }, Step::ClearAway, Step::Failed(why)].into();
            self.next_step_after(at, MS);
        }
        !under_way
    }

    /// Takes heir and request back in one write, after which the hand-over can never be.
    pub fn break_off(&mut self, at: At, request: i64) -> Next {
        let Some((seen, named)) = self.seen_and_written(at) else { return Next::End };
        let Some(sync) = self.my_sync(at, &seen).filter(|_| !self.breaks(Broken::DoesNotTakeAHandOverBack)) else {
            return Next::Go;
        };
        let Action::HandOver { to, .. } =
            self.nodes[at].agent.job.as_ref().map(|job| job.action.clone()).unwrap_or(Action::Wait)
        else {
            return Next::End;
        };
        let keeps = self.breaks(Broken::KeepsTheHeirWhenItBreaksOff) && named > 0;
        let sync = SyncRecord { heir: keeps.then_some(to), ..sync };
        let txn = self.break_off_hand_over(at, sync, seen.sync_revision.max(named), request);
        self.send(at, Rc::new(txn))
    }

    /// A server that has written its last checkpoint and only waits for its standbys is cleared away.
    pub fn clear_away(&mut self, at: At) -> Next {
        match self.nodes[at].postgres.process {
            Process::Stopping { checkpoint: true, .. } if self.waited(at) < 300 * MS => Next::Again(10 * MS),
            Process::Stopping { checkpoint: true, .. } => {
                self.kill_server(at);
                Next::Go
            }
            _ => Next::Go,
        }
    }
}
