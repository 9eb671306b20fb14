//! Processes of replication that somebody has stopped.

use std::sync::Arc;
use std::time::Instant;

use decision::names::application_name;
use decision::view::{Lock, View};
use pg_control::Extras;
use pg_control::process::is_stopped;

use crate::hands::Hands;

/// A WAL sender or a walreceiver that somebody has stopped holds up commits, and nobody takes its place while it is there. It is ended,
/// and its standby connects again: a leader ends the sender of a standby that rests, a standby its own walreceiver.
pub struct Frozen {
    hands: Arc<Hands>,
    /// A walreceiver that has been stopped, and since when.
    receiver: Option<(i32, Instant)>,
}

impl Frozen {
    /// None is known.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, receiver: None }
    }

    /// Ends those that have been stopped for too long.
    pub fn end(&mut self, view: &View, extras: &Extras) {
        let term = match view.lock {
            Lock::Held { term, .. } => Some(term),
            Lock::NotHeld => None,
        };
        let patience = view.settings.timing.voter_drop_after;
        let resting = view.ages.voters_resting.iter().filter(|(_, age)| **age >= patience).map(|(name, _)| name);
        let names: Vec<String> =
            term.iter().flat_map(|term| resting.clone().map(|name| application_name(name, *term))).collect();
        let senders =
            extras.replication.iter().filter(|row| names.iter().any(|name| row["application_name"] == **name));
        let senders = senders.filter_map(|row| i32::try_from(row["pid"].as_i64()?).ok());
        let receiver = extras.receiver.filter(|pid| is_stopped(*pid));
        self.receiver = receiver.map(|pid| match self.receiver {
            Some((before, since)) if before == pid => (pid, since),
            _ => (pid, Instant::now()),
        });
        let receiver = self.receiver.filter(|(_, since)| since.elapsed() >= patience).map(|(pid, _)| pid);
        for pid in senders.chain(receiver) {
            if self.hands.instance.end_stopped(pid) {
                tracing::warn!(
                    pid,
                    "this process of replication has been stopped by somebody: it is ended, so that another takes its place"
                );
            }
        }
    }
}
