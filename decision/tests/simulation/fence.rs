//! The fence: a process of its own that knows the deadline and kills every Postgres process when it has passed. It outlives its agent.

use crate::broken::Broken;
use crate::leases::Lease;
use crate::time::{MS, Micros};
use crate::world::{At, Event, World};

#[derive(Clone, Copy, Debug, Default)]
pub struct Fence {
    pub armed: bool,
    /// When Postgres must be dead, by this host's clock.
    pub deadline: Micros,
    look: u32,
}

impl World {
    pub fn arm_fence(&mut self, at: At) {
        self.nodes[at].fence.armed = true;
        self.look_later(at);
    }

    pub fn disarm_fence(&mut self, at: At) {
        self.nodes[at].fence.armed = false;
    }

    /// The agent's lock lease is another one, or has been renewed.
    pub fn fence_hears(&mut self, at: At) {
        let deadline = self.authority(at);
        // Of an earlier life's lease nothing is known yet; the fence knows its deadline.
        if deadline == 0 && self.nodes[at].agent.leases[1].state == Lease::Asking {
            return;
        }
        self.nodes[at].fence.deadline = deadline;
        self.look_later(at);
    }

    fn look_later(&mut self, at: At) {
        let local = self.local(at);
        let fence = &mut self.nodes[at].fence;
        fence.look += 1;
        if fence.armed {
            let (look, left) = (fence.look, fence.deadline.saturating_sub(local));
            let late = self.dice(at).u64(MS..125 * MS);
            self.after_local(at, left + late, Event::Fence { at, look });
        }
    }

    /// What the agent knows of its fence: a process that outlives it, and whose deadline the next life of the agent reads.
    pub fn fence_seen(&self, at: At) -> decision::view::Fence {
        let fence = &self.nodes[at].fence;
        let left = fence.deadline.saturating_sub(self.local(at));
        decision::view::Fence { trouble: None, covers: fence.armed.then_some(crate::time::duration(left)) }
    }

    pub fn fence_looks(&mut self, at: At, look: u32) {
        let fence = self.nodes[at].fence;
        if !fence.armed || fence.look != look || !self.nodes[at].powered || self.breaks(Broken::DoesNotFence) {
            return;
        }
        if self.local(at) < fence.deadline {
            return self.look_later(at);
        }
        if self.nodes[at].postgres.runs() {
            self.tell(|world| format!("{}: the lease is over, the fence strikes", world.name(at)));
            self.kill_server(at);
            self.wake_soon(at);
        }
        self.nodes[at].fence.armed = false;
    }
}
