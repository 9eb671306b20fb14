//! What this life of the agent has begun. An order that is in progress and not among it is an earlier life's, and nobody carries it out any more: when the
//! record began says nothing of that, since the clock may have been set back meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How far an order has come in this life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Begun,
    NotTaken,
}

/// What this life has begun.
#[derive(Default)]
pub struct Begun {
    orders: Mutex<BTreeMap<String, Order>>,
    copied: AtomicBool,
    held: Mutex<BTreeMap<String, String>>,
}

impl Begun {
    /// The order of this record is about to be taken.
    pub fn order(&self, record: &str) {
        self.note(record, Order::Begun);
    }

    /// Whether this life has begun the order of this record.
    pub fn has_order(&self, record: &str) -> bool {
        self.came_to(record, Order::Begun)
    }

    /// The order could not be taken, as far as etcd's answer was heard: nothing was done of it, whatever its record says.
    pub fn was_not_taken(&self, record: &str) {
        self.note(record, Order::NotTaken);
    }

    /// Whether nothing was done of this order in this life, though its record may say that it is under way.
    pub fn is_not_taken(&self, record: &str) -> bool {
        self.came_to(record, Order::NotTaken)
    }

    fn note(&self, record: &str, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(record.to_owned(), order);
    }

    fn came_to(&self, record: &str, order: Order) -> bool {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).get(record) == Some(&order)
    }

    /// A copy of the data has been made here, from its beginning to its end.
    pub fn has_copied(&self) {
        self.copied.store(true, Ordering::SeqCst);
    }

    /// Whether this life has made one.
    pub fn copied(&self) -> bool {
        self.copied.load(Ordering::SeqCst)
    }

    /// Clients are about to be held by PgBouncer for the sake of the switchover of this record, which says so by these words.
    pub fn hold(&self, record: &str, words: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(record.to_owned(), words.to_owned());
    }

    /// Whoever is held: the records, each with its words.
    pub fn held(&self) -> Vec<(String, String)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect()
    }

    /// Those of this record who were held by these words are let go, or another sees to it.
    pub fn let_go(&self, record: &str, words: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(record).is_some_and(|now| now == words) {
            held.remove(record);
        }
    }
}
