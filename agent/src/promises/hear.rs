//! A peer's side: one sealed question, judged by the rules, and written down before it is answered with a promise. What a stranger sends
//! changes nothing. Whoever has the key can delay a failover, by `ttl` after its last question, and do nothing else.

use std::io;
use std::time::Duration;

use decision::promise::{Question, answer};
use decision::view::{Upstream, View};

use super::book::{No, To};
use super::{Answered, Asked, Promises, answer_to};

/// What to reply.
pub enum Reply {
    /// The answer, and its seal.
    Sealed {
        /// JSON.
        body: String,
        /// Its seal.
        seal: String,
    },
    /// Nothing was looked at; the status, and why.
    TurnedAway(u16, &'static str),
}

/// Answers the question `body`, sealed with `seal`, as seen in `view`. Writes to disk, so it may take a moment.
pub fn hear(promises: &Promises, view: &View, body: &str, seal: &str) -> Reply {
    if promises.seal.sign("question", "").is_none() {
        return Reply::TurnedAway(503, "this node does not know the key of its cluster yet");
    }
    if !promises.seal.fits("question", body, seal) {
        return Reply::TurnedAway(403, "the seal does not fit: promises are between members of one cluster");
    }
    let Ok(asked) = serde_json::from_str::<Asked>(body) else {
        return Reply::TurnedAway(400, "the question cannot be understood: do all agents have the same version?");
    };
    if asked.cluster != promises.cluster || asked.to != promises.me {
        return Reply::TurnedAway(403, "the question is to somebody else");
    }
    let answered = match judge(promises, view, &asked) {
        Ok(answered) => answered,
        Err(error) => {
            tracing::warn!(%error, "a promise, or the end of one, cannot be written down: the question stays without an answer");
            return Reply::TurnedAway(503, "the book of promises cannot be written");
        }
    };
    let Ok(body) = serde_json::to_string(&answered) else {
        return Reply::TurnedAway(500, "the answer cannot be written");
    };
    match promises.seal.sign(&answer_to(seal), &body) {
        Some(seal) => Reply::Sealed { body, seal },
        None => Reply::TurnedAway(503, "the key of the cluster is gone"),
    }
}

/// What could not be written down is not answered: the leader would take a peer for free that its own notes still bind.
fn judge(promises: &Promises, view: &View, asked: &Asked) -> io::Result<Answered> {
    let time = Duration::from_millis(asked.for_ms).min(view.settings.timing.ttl);
    let question = Question { system_id: asked.system_id, leader: asked.leader.clone(), term: asked.term };
    let of_the_asker = |upstream: &&Upstream| upstream.member == asked.leader && upstream.term == asked.term;
    let to = To {
        leader: asked.leader.clone(),
        term: asked.term,
        upstream: asked.upstream.as_ref().filter(of_the_asker).cloned(),
    };
    let rules = |revoked, running| answer(&View { promise: running, ..view.clone() }, revoked, &question);
    let none =
        Answered { from: promises.me.clone(), number: asked.number, for_ms: 0, refusal: None, last_number: None };
    Ok(match promises.book.promise(to, asked.number, time, rules) {
        Ok(()) => Answered { for_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX), ..none },
        Err(No::Refused(refusal)) => {
            tracing::info!(leader = %asked.leader, term = %asked.term, ?refusal, "no promise to a leader without etcd");
            Answered { refusal: Some(refusal), ..none }
        }
        Err(No::Stale(last)) => Answered { last_number: Some(last), ..none },
        Err(No::Unwritten(error)) => return Err(error),
    })
}
