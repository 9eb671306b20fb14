//! Whether a hold is still there while its command runs. One that is lost with its lease, because etcd was silent for too long, is taken again; one that
//! somebody has released, or that has come to its end, is told and left. The two are told apart by the lease: whoever releases a hold leaves it alone.

use std::cell::Cell;
use std::time::Duration;

use consensus::Lease;
use consensus::records::HoldRecord;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::commands::screen::tell;
use crate::operate::hold::take;
use crate::operate::proviso::Proviso;
use crate::operate::world::Reach;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A hold that is watched over.
pub struct Watch<'a> {
    reach: &'a Reach,
    record: &'a HoldRecord,
    lease: watch::Receiver<Lease>,
    /// The lease under which it was taken last.
    taken_under: Cell<i64>,
    /// It has gone, and what became of it was told.
    lost: Cell<bool>,
    /// It is there no more by somebody's word, or at its end: nobody watches any more.
    left: Cell<bool>,
}

/// What is to be seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It is there.
    There,
    /// It has gone, and its lease lives.
    Released,
    /// It has gone with its lease.
    Lost,
    /// etcd does not say.
    Unknown,
}

impl<'a> Watch<'a> {
    /// Of a hold that was taken under this lease.
    pub fn new(reach: &'a Reach, record: &'a HoldRecord, lease: watch::Receiver<Lease>, taken_under: i64) -> Self {
        Self {
            reach,
            record,
            lease,
            taken_under: Cell::new(taken_under),
            lost: Cell::new(false),
            left: Cell::new(false),
        }
    }

    /// Watches over it to its end.
    pub async fn over(&self) {
        while self.record.lasts(Timestamp::now()) {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.look().await {
                Seen::There => self.lost.set(false),
                Seen::Unknown => {}
                Seen::Released => {
                    tell(
                        "warning: the hold was released by somebody else: planned actions may go on; the command runs on",
                    );
                    return self.left.set(true);
                }
                Seen::Lost => self.take_again().await,
            }
        }
        tell("warning: the hold has come to its end (--for): planned actions may go on; the command runs on");
        self.left.set(true);
    }

    /// Whether it has gone with its lease, and is not there again.
    pub async fn is_lost(&self) -> bool {
        !self.left.get()
            && match self.look().await {
                Seen::Lost => true,
                Seen::There | Seen::Released => false,
                Seen::Unknown => self.lost.get(),
            }
    }

    async fn look(&self) -> Seen {
        let store = &self.reach.store;
        match store.hold_id().await {
            Ok(Some(id)) if id == self.record.id => return Seen::There,
            Ok(_) => {}
            Err(_) => return Seen::Unknown,
        }
        // In this order: a lease that lives now has lived when the hold had gone.
        match store.lease_lives(self.taken_under.get()).await {
            Ok(true) => Seen::Released,
            Ok(false) => Seen::Lost,
            Err(_) => Seen::Unknown,
        }
    }

    async fn take_again(&self) {
        let granted = self.lease.borrow().id().filter(|id| *id != self.taken_under.get());
        let taken = match granted {
            Some(lease) => take(self.reach, self.record, Some(lease), &Proviso::default()).await.map(|()| lease),
            None => return self.tell_lost("another is taken as soon as etcd grants a lease"),
        };
        match taken {
            Ok(lease) => {
                tell("warning: etcd was silent for too long and the hold was gone for a while; it is taken again");
                self.taken_under.set(lease);
                self.lost.set(false);
            }
            Err(unable) => self.tell_lost(&unable.text()),
        }
    }

    fn tell_lost(&self, more: &str) {
        if !self.lost.replace(true) {
            tell(&format!(
                "warning: the hold is lost with its lease, planned actions may go on; the command runs on: {more}"
            ));
        }
    }
}
