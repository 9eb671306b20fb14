//! Carrying out the steps that replace a data directory: the floor, the copy, the rewind.

use std::rc::Rc;

use decision::durability::Quorum;
use decision::names::{Lsn, MemberName, Term, Timeline};
use decision::view::{ControlState, Data};

use crate::broken::Broken;
use crate::etcd::{Key, Txn, Value, Write};
use crate::jobs::{Next, Step, commit};
use crate::postgres::{Control, Process};
use crate::time::{MS, SECOND};
use crate::wal::{Kind, common, lsn};
use crate::world::{At, World};

impl World {
    /// Where the source is, if it is there and fit.
    fn source(&self, at: At, from: At, checkpointed: bool) -> Option<Lsn> {
        let postgres = &self.nodes[from].postgres;
        let there = self.links.both_ways(at, from) && self.answers(from, Process::Primary);
        let ready = !checkpointed || postgres.control.timeline == self.timeline_of(from);
        (there && ready && from != at).then_some(lsn(postgres.flushed))
    }

    /// The names of a standby: nobody bears them, so whoever promotes it behind the agent's back gets no commit acknowledged.
    pub fn hold_back(&mut self, at: At) {
        let nobody = MemberName::new("nobody").into_iter().collect();
        let names = if self.breaks(Broken::LetsAStandbyAcknowledge) { Quorum::none() } else { Quorum::of(1, nobody) };
        self.nodes[at].postgres.names = (names, Term(0));
    }

    pub fn note_timeline(&mut self, at: At) -> Next {
        let Some(seen) = self.seen(at) else { return Next::End };
        let Data::Present(disk) = self.observe(at).data else { return Next::Go };
        let recorded = seen.cluster.sync.as_ref().map_or(Timeline(0), |sync| sync.timeline);
        let known = match self.etcd.get(Key::StrayTimeline) {
            Some(Value::Timeline(timeline)) => *timeline,
            _ => Timeline(0),
        };
        if disk.timeline <= recorded.max(known) || self.breaks(Broken::ForgetsAStrayTimeline) {
            return Next::Go;
        }
        let writes = vec![Write::Put(Key::StrayTimeline, Value::Timeline(disk.timeline), None)];
        Next::First(vec![commit(Txn { guards: Vec::new(), writes })])
    }

    pub fn floor(&mut self, at: At, from: At, floor: Lsn, checkpointed: bool) -> Next {
        if self.nodes[at].postgres.has_postmaster() {
            return Next::Fail("a server runs in the data directory");
        }
        let Some(has) = self.source(at, from, checkpointed) else { return Next::Fail("the source is not ready") };
        if self.breaks(Broken::DropsTheFloor) {
            return Next::Go;
        }
        let txn = self.set_floor(at, floor.max(has));
        Next::First(vec![commit(txn)])
    }

    pub fn copy_begins(&mut self, at: At, from: At) -> Next {
        if self.source(at, from, false).is_none() {
            return Next::Fail("the source is not ready");
        }
        Next::First(vec![Step::CopyEnds { from, server: self.nodes[from].postgres.server }])
    }

    pub fn copy_ends(&mut self, at: At, from: At, server: u32) -> Next {
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

    pub fn install(&mut self, at: At, from: (At, Term), wal: &[u32], timeline: Timeline) -> Next {
        let source = &self.nodes[from.0].postgres;
        let (histories, reserved) = (source.histories.clone(), source.reserved.clone());
        let postgres = &mut self.nodes[at].postgres;
        (postgres.wal, postgres.flushed) = (wal.to_vec(), wal.len());
        (postgres.histories, postgres.reserved) = (histories, reserved);
        postgres.control = Control { state: ControlState::InArchiveRecovery, timeline, checkpoint: wal.len() };
        (postgres.signal, postgres.follows) = (true, Some(from));
        postgres.begun = None;
        postgres.server += 1;
        self.hold_back(at);
        self.nodes[at].postgres.acknowledged = Term(0);
        Next::Go
    }

    pub fn rewind(&mut self, at: At, from: (At, Term)) -> Next {
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
        // It begins again at the last checkpoint that both have, and may be cut off from its source before it has regained what it had.
        let shared = common(&self.nodes[at].postgres.wal, &theirs).min(end);
        let is_checkpoint = |id: &u32| self.archive.get(*id).kind == Kind::Checkpoint;
        let least = theirs[..shared].iter().rposition(is_checkpoint).map_or(1, |before| before + 1);
        let keep = self.dice(at).usize(least..=end);
        let timeline = self.archive.timeline(&theirs[..keep]);
        self.install(at, from, &theirs[..keep], timeline)
    }
}
