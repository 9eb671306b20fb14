//! What somebody was let in by, for an answer that goes on after it has begun: a token that is taken away, or a certificate that runs out, ends it. On
//! the socket it is the kernel's word about a process, which does not change.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};

use super::access::{Access, Peer};
use super::answer::{Outcome, Told};
use super::audit::Attempt;
use super::guard::word;
use crate::config::Role;
use crate::metrics::Metrics;

/// How soon what does not count any more ends an answer.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// By what somebody may ask what they have asked.
#[derive(Clone)]
pub struct Standing {
    /// Who may come in.
    pub access: Arc<Access>,
    /// What they have asked.
    pub attempt: Attempt,
    /// What they have shown.
    shown: HeaderMap,
    /// What that takes.
    takes: Role,
    /// Where it is counted that it has ended.
    metrics: Arc<Metrics>,
}

impl Standing {
    /// Of a request with these headers, that was let in.
    pub fn of(access: Arc<Access>, attempt: Attempt, headers: &HeaderMap, takes: Role, metrics: Arc<Metrics>) -> Self {
        let shown = headers.get(header::AUTHORIZATION).map(|shown| (header::AUTHORIZATION, shown.clone()));
        Self { access, attempt, shown: shown.into_iter().collect(), takes, metrics }
    }

    /// Resolves once they may not any more, with why, and tells the audit.
    pub async fn lost(self) -> String {
        if matches!(self.attempt.peer, Peer::Socket { .. }) {
            return std::future::pending().await;
        }
        let why = loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.access.caller(&self.attempt.peer, &self.shown).await {
                Ok(caller) if caller.role >= self.takes => {}
                Ok(caller) => break format!("{} has the role {} by now", caller.name, word(caller.role)),
                Err(stranger) => break stranger.why,
            }
        };
        let what = format!("the stream was ended: {why}");
        self.attempt.ended(&Told { outcome: Outcome::Denied, what }, 200, &self.metrics);
        why
    }
}
