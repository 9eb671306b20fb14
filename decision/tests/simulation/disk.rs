//! The disk under a node's database: frozen, failing, about to fill or full. What the agent learns by trying it out, it learns at once here.

use decision::view::{Disk as Seen, DiskFault};

use crate::jobs::Step;
use crate::postgres::Process;
use crate::time::{Micros, duration};
use crate::world::{At, Event, Part, World};

#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    /// Since when it has taken no write, by its host's clock.
    pub frozen_since: Option<Micros>,
    /// Every write fails.
    pub failing: bool,
    pub low: bool,
    pub full: bool,
}

impl Disk {
    /// Whether a server would die of it.
    pub fn takes_no_wal(&self) -> bool {
        self.failing || self.full
    }
}

impl Event {
    /// Whose disk must take writes for it to happen.
    pub fn writes(&self) -> Option<At> {
        match self {
            Event::Flushed { at, .. } | Event::Received { at, .. } | Event::Stage { at, .. } => Some(*at),
            _ => None,
        }
    }
}

impl Step {
    /// Whether it writes files of the database.
    pub fn writes(&self) -> bool {
        matches!(
            self,
            Step::Configure(_)
                | Step::StartStandby(_)
                | Step::StartPrimary(..)
                | Step::Unfit(_)
                | Step::Install { .. }
                | Step::Rewind { .. }
                | Step::Fit
                | Step::Number(_)
                | Step::Names(..)
                | Step::Promote
        )
    }
}

impl World {
    pub fn disk_seen(&self, at: At) -> Seen {
        let disk = &self.nodes[at].disk;
        Seen {
            frozen_for: disk.frozen_since.map(|since| duration(self.local(at).saturating_sub(since))),
            fault: disk.failing.then_some(DiskFault::InputOutput),
            free_bytes: disk.low.then_some(0),
            low: disk.low,
            full: disk.full,
        }
    }

    pub fn freeze_disk(&mut self, at: At) {
        let local = self.local(at);
        self.nodes[at].disk.frozen_since.get_or_insert(local);
        self.hold(at, &[Part::Disk]);
    }

    pub fn thaw_disk(&mut self, at: At) {
        self.let_go(at, &[Part::Disk], false);
        if !self.stands_still(at, Part::Disk) {
            self.nodes[at].disk.frozen_since = None;
        }
    }

    pub fn disk_fails(&mut self, at: At) {
        self.nodes[at].disk.failing = true;
        self.dies_of_its_disk(at);
    }

    /// It has been filling, unless that was mended. Some servers live on without writing, as long as they need no new segment.
    pub fn disk_is_full(&mut self, at: At, number: usize) {
        if !self.struck.contains_key(&number) {
            return;
        }
        self.tell(|world| format!("{}: its disk is full", world.name(at)));
        self.nodes[at].disk.full = true;
        if self.dice(at).bool() && self.nodes[at].postgres.process == Process::Primary {
            self.dies_of_its_disk(at);
        }
    }

    fn dies_of_its_disk(&mut self, at: At) {
        if self.nodes[at].postgres.runs() {
            self.kill_server(at);
            self.wake_soon(at);
        }
    }

    /// A server that is starting or promoting writes. Whether it died of that.
    pub fn died_writing(&mut self, at: At) -> bool {
        let postgres = &self.nodes[at].postgres;
        let writes_much =
            matches!(postgres.process, Process::Starting { as_primary: true, .. }) || postgres.promotion.is_some();
        let dies = self.nodes[at].disk.failing || (self.nodes[at].disk.full && writes_much);
        if dies {
            self.dies_of_its_disk(at);
        }
        dies
    }

    /// Whether the job under way is in the middle of a write that does not end.
    pub fn hangs_with_its_disk(&self, at: At) -> bool {
        let step = self.nodes[at].agent.job.as_ref().and_then(|job| job.steps.front());
        self.stands_still(at, Part::Disk) && step.is_some_and(Step::writes)
    }
}
