//! Verbs that are asked for at a listener which does not carry them. They come to nothing, and are told to the audit like any other attempt; whoever may
//! reach a port may knock as often as they like, so the log has a bounded number of lines of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::access::Peer;
use super::answer::Told;
use super::audit::Attempt;
use super::verbs;
use crate::metrics::Metrics;

/// So many lines in so long.
const LINES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Where control is not.
pub struct Elsewhere {
    /// Where it is.
    whereabouts: String,
    metrics: Arc<Metrics>,
    pace: Mutex<Pace>,
}

impl Elsewhere {
    /// Whoever asks is told this.
    pub fn new(whereabouts: String, metrics: Arc<Metrics>) -> Self {
        Self { whereabouts, metrics, pace: Mutex::default() }
    }

    fn turned_away(&self, verb: String, peer: Peer) -> Response {
        let attempt = Attempt { verb, peer, who: "nobody".to_owned(), role: "none", reason: String::new() };
        let mut told = Told::denied("control is not at this listener");
        let untold = self.pace.lock().unwrap_or_else(PoisonError::into_inner).another(Instant::now());
        match untold {
            None => attempt.counted(&told, &self.metrics),
            Some(untold) => {
                if untold > 0 {
                    told.what.push_str(&format!("; {untold} more before it were counted and not told"));
                }
                attempt.ended(&told, StatusCode::FORBIDDEN.as_u16(), &self.metrics);
            }
        }
        (StatusCode::FORBIDDEN, Json(json!({"error": self.whereabouts}))).into_response()
    }
}

/// Lets through whatever is no verb.
pub async fn not_here(State(elsewhere): State<Arc<Elsewhere>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    match request.extensions().get::<Peer>() {
        Some(peer) if verbs::is_verb(method, path) => elsewhere.turned_away(verbs::name(method, path), peer.clone()),
        _ => next.run(request).await,
    }
}

/// How many lines there were of late.
#[derive(Default)]
struct Pace {
    began: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Pace {
    /// Whether another one is told, and how many before it were not.
    fn another(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            (self.began, self.told) = (Some(now), 0);
        }
        if self.told == LINES_MAX {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_by_a_few_lines_and_the_next_one_says_how_many_there_were() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let told = (0..100).filter_map(|_| pace.another(now)).count();
        assert_eq!(told, LINES_MAX as usize);
        assert_eq!(pace.another(now + WINDOW), Some(90));
        assert_eq!(pace.another(now + WINDOW), Some(0));
    }
}
