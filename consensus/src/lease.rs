//! The leases of this agent, kept alive on a thread of their own that nothing else can block. Time is counted from before a renewal was
//! sent, on the boot clock: an answer that comes late, or not at all, can only make the agent believe in less time than it has.

use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::BootInstant;
use crate::endpoints::{Endpoints, EtcdOptions};
use crate::error::Error;
use crate::renewal::{Order, Tending};

/// A lease that etcd has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// etcd's name for it.
    pub id: i64,
    /// Its full time to live, as etcd granted it.
    pub ttl: Duration,
    /// When it ends unless it is renewed: `ttl` after the last confirmed renewal was *sent*.
    pub expires_at: BootInstant,
    /// How long the last renewal took.
    pub renewal_latency: Duration,
    /// Confirmed renewals since the keeper started.
    pub renewals: u64,
    /// Renewals without an answer since the keeper started.
    pub failures: u64,
}

/// The state of one lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// None is wanted.
    #[default]
    Idle,
    /// One is wanted (or a previous incarnation's is being adopted), and etcd has not answered yet.
    Asking,
    /// Confirmed. It may have run out since: see `expires_at`.
    Alive(LeaseState),
    /// etcd said that this lease does not exist any more.
    Lost(i64),
}

impl Lease {
    /// The confirmed lease, if there is one.
    pub fn alive(&self) -> Option<LeaseState> {
        match self {
            Lease::Alive(state) => Some(*state),
            Lease::Idle | Lease::Asking | Lease::Lost(_) => None,
        }
    }

    /// The id of the confirmed lease.
    pub fn id(&self) -> Option<i64> {
        self.alive().map(|state| state.id)
    }
}

/// Leases of this agent's previous incarnation, by their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Of the member key. Taken over if it lives and its time to live is not shorter than wanted; else a new one is granted, and
    /// registering under the same name is refused until the old one has ended.
    pub member: Option<i64>,
    /// Of the leader lock. Taken over if it lives, whatever its time to live, for the leader key is bound to it.
    pub lock: Option<i64>,
}

/// Keeps a member lease always, and a lock lease on demand. Dropping it stops the renewals and leaves the leases to the next incarnation.
pub struct LeaseKeeper {
    member: Side,
    lock: Side,
}

struct Side {
    orders: mpsc::Sender<Order>,
    lease: watch::Receiver<Lease>,
}

impl LeaseKeeper {
    /// Starts the thread. `ttl` is in whole seconds (etcd's unit); a renewal is sent every `heartbeat`.
    pub fn start(options: EtcdOptions, ttl: Duration, heartbeat: Duration, adopted: Adopted) -> Result<Self, Error> {
        let endpoints = Endpoints::new(options)?;
        let (member, tend_member) = side(endpoints.clone(), ttl, heartbeat, adopted.member);
        let (lock, tend_lock) = side(endpoints, ttl, heartbeat, adopted.lock);
        let no_thread = |error: std::io::Error| Error::Misconfigured(format!("cannot start the lease thread: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let tend = move || {
            // Both end when the keeper is dropped, and with them the thread.
            runtime.block_on(async { tokio::join!(tend_member.always(), tend_lock.on_demand()) });
        };
        thread::Builder::new().name("leases".to_owned()).spawn(tend).map_err(no_thread)?;
        Ok(Self { member, lock })
    }

    /// The member lease. When its id changes, everything that was bound to the old one is gone: register again.
    pub fn member(&self) -> watch::Receiver<Lease> {
        self.member.lease.clone()
    }

    /// The lock lease.
    pub fn lock(&self) -> watch::Receiver<Lease> {
        self.lock.lease.clone()
    }

    /// Has a living lock lease, granting one where there is none; returns its id. Ends within a few request timeouts.
    pub async fn ensure_lock_lease(&self) -> Result<i64, Error> {
        let (reply, answer) = oneshot::channel();
        ask(&self.lock, Order::Ensure(reply), answer).await
    }

    /// etcd has answered a write with [`Error::LeaseGone`]: the lock lease `id` counts for nothing from now on, whatever its renewals say.
    pub async fn lock_lease_is_gone(&self, id: i64) {
        let _ = self.lock.orders.send(Order::Gone(id)).await;
        // The order has been carried out when the state says so; a keeper that has stopped says nothing any more.
        let _ = self.lock.lease.clone().wait_for(|lease| lease.id() != Some(id)).await;
    }

    /// Asks etcd now whether the leases live, because what was bound to one has vanished. Never waits.
    pub fn check(&self) {
        for side in [&self.member, &self.lock] {
            // A full inbox means that the keeper is being asked already.
            let _ = side.orders.try_send(Order::Check);
        }
    }

    /// Revokes the lock lease, and with it deletes what is bound to it: only when no write of Postgres can follow. On an error renewals
    /// have stopped all the same, and the lease ends by itself.
    pub async fn drop_lock_lease(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        ask(&self.lock, Order::Drop(reply), answer).await
    }

    /// Revokes the member lease, so that this member vanishes at once; for a shutdown on purpose.
    pub async fn drop_member_lease(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        ask(&self.member, Order::Drop(reply), answer).await
    }
}

fn side(endpoints: Endpoints, ttl: Duration, heartbeat: Duration, adopt: Option<i64>) -> (Side, Tending) {
    let (orders, inbox) = mpsc::channel(4);
    let (publish, lease) = watch::channel(Lease::Idle);
    (Side { orders, lease }, Tending::new(endpoints, ttl, heartbeat, adopt, inbox, publish))
}

async fn ask<T>(side: &Side, order: Order, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    let stopped = || Error::Unreachable("the lease thread has stopped".to_owned());
    side.orders.send(order).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())?
}
