//! The leases of an agent, as its lease thread keeps them: renewed every heartbeat, counted from before the renewal was sent, given up only
//! when etcd says that they are gone.

use crate::broken::Broken;
use crate::requests::{Ask, Purpose};
use crate::time::{MS, Micros, micros};
use crate::world::{At, Event, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Member,
    Lock,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    #[default]
    Idle,
    Asking,
    /// Until when, by this host's clock.
    Alive {
        id: i64,
        ends: Micros,
    },
    Lost,
}

/// One lease and what keeps it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tending {
    pub state: Lease,
    held: Option<i64>,
    always: bool,
    /// The timer that counts; earlier ones are void.
    turn: u32,
    asked: bool,
}

impl Tending {
    pub fn id(&self) -> Option<i64> {
        match self.state {
            Lease::Alive { id, .. } => Some(id),
            Lease::Idle | Lease::Asking | Lease::Lost => None,
        }
    }

    /// The time left by a clock that shows `now`.
    pub fn left(&self, now: Micros) -> Micros {
        match self.state {
            Lease::Alive { ends, .. } => ends.saturating_sub(now),
            Lease::Idle | Lease::Asking | Lease::Lost => 0,
        }
    }
}

impl World {
    pub fn begin_leases(&mut self, at: At, adopted: [Option<i64>; 2]) {
        for (side, adopted) in [Side::Member, Side::Lock].into_iter().zip(adopted) {
            let always = side == Side::Member;
            let state = if always || adopted.is_some() { Lease::Asking } else { Lease::Idle };
            let tending = Tending { state, held: adopted, always, turn: 0, asked: false };
            self.nodes[at].agent.leases[side as usize] = tending;
            self.set_lease_timer(at, side, 0);
        }
    }

    fn set_lease_timer(&mut self, at: At, side: Side, span: Micros) {
        let agent = &mut self.nodes[at].agent;
        let tending = &mut agent.leases[side as usize];
        tending.turn += 1;
        let (life, turn) = (agent.life, tending.turn);
        self.after_local(at, span, Event::Lease { at, life, side, turn });
    }

    pub fn tend_lease(&mut self, at: At, life: u32, side: Side, turn: u32) {
        let agent = &self.nodes[at].agent;
        let tending = agent.leases[side as usize];
        if !agent.up || agent.life != life || tending.turn != turn || tending.asked {
            return;
        }
        match tending.held {
            Some(id) => self.ask(at, Purpose::Lease(side), Ask::Renew(id)),
            None if tending.always => self.ask(at, Purpose::Lease(side), Ask::Grant),
            None => return,
        }
        self.nodes[at].agent.leases[side as usize].asked = true;
    }

    pub fn lease_answered(&mut self, at: At, side: Side, sent: Micros, lease: Option<i64>) {
        let timing = self.settings_of_house().timing;
        let sent = if self.breaks(Broken::CountsTheLeaseFromTheAnswer) { self.local(at) } else { sent };
        let tending = &mut self.nodes[at].agent.leases[side as usize];
        tending.asked = false;
        match lease {
            // Dropped meanwhile: it ends by itself.
            Some(_) if !tending.always && tending.state == Lease::Idle => return,
            Some(id) => {
                tending.held = Some(id);
                tending.state = Lease::Alive { id, ends: sent + micros(timing.ttl) };
                self.set_lease_timer(at, side, micros(timing.heartbeat));
            }
            None => {
                (tending.held, tending.state) = (None, Lease::Lost);
                self.set_lease_timer(at, side, 0);
                if side == Side::Lock {
                    self.tell(|world| format!("{}: the lock lease is lost", world.name(at)));
                }
            }
        }
        match side {
            Side::Member => self.register_soon(at),
            Side::Lock => {
                self.fence_hears(at);
                let seen = self.nodes[at].agent.lock_seen;
                if self.nodes[at].agent.leases[1].id() != seen {
                    self.wake_soon(at);
                }
            }
        }
    }

    pub fn lease_silent(&mut self, at: At, side: Side) {
        self.nodes[at].agent.leases[side as usize].asked = false;
        self.set_lease_timer(at, side, 250 * MS);
    }

    /// Has a lock lease that lives: true, or asks for one.
    pub fn ensure_lock_lease(&mut self, at: At) -> bool {
        let now = self.local(at);
        let tending = &mut self.nodes[at].agent.leases[Side::Lock as usize];
        if tending.left(now) > 0 {
            return true;
        }
        if !tending.asked {
            tending.asked = true;
            if tending.state == Lease::Idle {
                tending.state = Lease::Asking;
            }
            let ask = tending.held.map_or(Ask::Grant, Ask::Renew);
            self.ask(at, Purpose::Lease(Side::Lock), ask);
        }
        false
    }

    /// Stops renewing the lock lease, and revokes it.
    pub fn drop_lock_lease(&mut self, at: At) {
        let tending = &mut self.nodes[at].agent.leases[Side::Lock as usize];
        let held = tending.held.take();
        (tending.state, tending.asked) = (Lease::Idle, false);
        tending.turn += 1;
        self.bind(at, None);
        if let Some(id) = held {
            self.ask(at, Purpose::Errand, Ask::Revoke(id));
        }
        self.fence_hears(at);
    }
}
