//! What the native API answers in common: what was accepted, and why something was refused, with every check.

use axum::http::StatusCode;
use consensus::Snapshot;
use decision::names::MemberName;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::control::answer::{Answer, Outcome};
use crate::operate::actions::Action;
use crate::operate::preflight::{Check, Grade};

/// Why something was not done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refusal {
    /// What forbids it, in one sentence.
    pub error: String,
    /// Everything that was checked.
    #[schema(required = false)]
    pub checks: Vec<Check>,
    /// Who would pass, where the candidate does not.
    pub instead: Option<String>,
}

/// It goes on without whoever asked.
pub fn accepted(action: &Action) -> Answer {
    Answer::object(StatusCode::ACCEPTED, json!(action)).at(&action.links.this)
}

/// A check, or something that stands in the way, forbids it.
pub fn refused(status: StatusCode, checks: &[Check], instead: Option<&MemberName>) -> Answer {
    let failed = checks.iter().filter(|check| check.grade == Grade::Fail).map(|check| check.text.as_str());
    let error = failed.collect::<Vec<_>>().join("; ");
    let refusal = Refusal { error, checks: checks.to_vec(), instead: instead.map(ToString::to_string) };
    Answer::object(status, json!(refusal)).ended(Outcome::Refused)
}

/// Nothing of what was checked forbids it.
///
/// # Errors
/// 412, with all checks.
pub fn passes(checks: &[Check]) -> Result<(), Answer> {
    if checks.iter().any(|check| check.grade == Grade::Fail) {
        return Err(refused(StatusCode::PRECONDITION_FAILED, checks, None));
    }
    Ok(())
}

/// Whether the one leads who is expected to; `None`: nobody in particular is.
pub fn expected(snapshot: &Snapshot, leader: Option<&MemberName>) -> Option<Check> {
    let expected = leader?;
    Some(match &snapshot.cluster.leader {
        Some(leader) if leader == expected => Check::ok(format!("{leader} leads")),
        Some(leader) => Check::fail(format!("{leader} leads, not {expected}")),
        None => Check::fail(format!("nobody leads, so {expected} does not")),
    })
}
