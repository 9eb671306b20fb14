//! The audit: one record for each attempt to change something, allowed or not, and for each look or handshake by somebody who may not. It goes to the log under
//! the target `audit`, whatever else is filtered out, and is counted.

use super::access::Peer;
use super::answer::Told;
use crate::metrics::Metrics;

/// Somebody's attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// `POST /switchover`.
    pub verb: String,
    /// Where from.
    pub peer: Peer,
    /// Who, as far as that is known.
    pub who: String,
    /// What they may do.
    pub role: &'static str,
    /// Why, in their words.
    pub reason: String,
}

impl Attempt {
    /// Somebody wants to come in with a certificate.
    pub fn handshake(peer: Peer) -> Self {
        Self { verb: "TLS".to_owned(), peer, who: "nobody".to_owned(), role: "none", reason: String::new() }
    }

    /// It has ended, and is only counted: there have been too many like it.
    pub fn counted(&self, told: &Told, metrics: &Metrics) {
        metrics.asked(&self.verb, told.outcome.word());
    }

    /// It has ended.
    pub fn ended(&self, told: &Told, status: u16, metrics: &Metrics) {
        let Self { verb, peer, who, role, reason } = self;
        let outcome = told.outcome.word();
        self.counted(told, metrics);
        tracing::info!(target: "audit", verb, who, from = %peer, role, what = told.what, reason, outcome, status, "audit: {verb} by {who}: {outcome}");
    }
}
