//! What this life of the agent has begun. An order that is in progress and not among it is an earlier life's, and nobody carries it out any more: when the
//! record began says nothing of that, since the clock may have been set back meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What this life has begun.
#[derive(Default)]
pub struct Begun {
    orders: Mutex<BTreeSet<String>>,
    copied: AtomicBool,
}

impl Begun {
    /// The order of this record is about to be taken.
    pub fn order(&self, record: &str) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(record.to_owned());
    }

    /// Whether this life has begun the order of this record.
    pub fn has_order(&self, record: &str) -> bool {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).contains(record)
    }

    /// A copy of the data has been made here, from its beginning to its end.
    pub fn has_copied(&self) {
        self.copied.store(true, Ordering::SeqCst);
    }

    /// Whether this life has made one.
    pub fn copied(&self) -> bool {
        self.copied.load(Ordering::SeqCst)
    }
}
