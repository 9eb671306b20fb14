//! `POST /v1/pause` and `POST /v1/resume`: done when they are answered, in the settings that all agents follow.

use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use decision::names::MemberName;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answers::{expected, passes};
use crate::control::answer::Answer;
use crate::control::guard::Call;
use crate::openapi::Name;
use crate::operate::pause::{USUAL, paused, resumed, standing};
use crate::operate::proviso::Proviso;
use crate::operate::settings;

/// As [`LONGEST`](crate::operate::pause::LONGEST), in seconds.
const LONGEST_S: u32 = 604_800;

/// A pause.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"for_s": 5400, "reason": "kernel upgrade"}))]
pub struct PauseWanted {
    /// How long, in seconds from now; missing: an hour.
    #[schema(minimum = 1, maximum = 604800)]
    for_s: Option<u32>,
    /// Who must lead now; where another does, nothing is done.
    #[schema(value_type = Option<Name>)]
    expect_leader: Option<MemberName>,
    /// Why, for the records.
    reason: Option<String>,
}

/// The end of a pause.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "done earlier"}))]
pub struct ResumeWanted {
    /// Who must lead now; where another does, nothing is done.
    #[schema(value_type = Option<Name>)]
    expect_leader: Option<MemberName>,
    /// Why, for the records.
    reason: Option<String>,
}

/// Whether automatic actions are paused, from now on.
#[derive(Debug, Serialize, ToSchema)]
pub struct Paused {
    /// `pgvigil.pause/v1`
    schema: &'static str,
    /// Whether they are.
    paused: bool,
    /// Whether that is new.
    changed: bool,
    /// Until when; null: they are not.
    until: Option<String>,
    /// Who has paused.
    by: Option<String>,
    /// Why.
    reason: Option<String>,
    /// Whose pause this one takes the place of; null: nobody's.
    replaces: Option<String>,
}

/// Stops automatic actions for a while.
#[utoipa::path(post, path = "/v1/pause", tag = "actions", operation_id = "pause", request_body = PauseWanted,
    responses(
        (status = 200, description = "Paused until then", body = Paused),
        (status = 412, description = "Another leads", body = super::answers::Refusal),
    ))]
pub async fn pause(call: Call) -> Result<Answer, Answer> {
    let wanted: PauseWanted = call.words.read()?;
    let within = wanted.for_s.filter(|seconds| *seconds == 0 || *seconds > LONGEST_S);
    if within.is_some() {
        let why = format!("`for_s`: a number of seconds from 1 to {LONGEST_S}");
        return Err(Answer::error(StatusCode::BAD_REQUEST, why));
    }
    let proviso = proviso(&call, wanted.expect_leader).await?;
    let usual = i64::try_from(USUAL.as_secs()).unwrap_or_default();
    let length = SignedDuration::from_secs(wanted.for_s.map_or(usual, i64::from));
    let until = Timestamp::now().saturating_add(length).unwrap_or(Timestamp::MAX);
    let (by, reason) = (call.caller.who(), call.asides.or(wanted.reason));
    let replaced = Mutex::new(None);
    let new = |settings: &serde_json::Map<String, Value>| {
        *replaced.lock().unwrap_or_else(PoisonError::into_inner) = standing(settings, Timestamp::now());
        Ok(Some(paused(settings, until, &by, reason.as_deref())))
    };
    settings::change(&call.control.reach, &by, reason.as_deref(), &proviso, new).await?;
    let what = format!("until {until}");
    let (until, by) = (Some(until.to_string()), Some(by.clone()));
    let replaces = replaced.lock().unwrap_or_else(PoisonError::into_inner).take();
    let reason = reason.clone();
    let now = Paused { schema: "pgvigil.pause/v1", paused: true, changed: true, until, by, reason, replaces };
    Ok(Answer::object(StatusCode::OK, json!(now)).about(what))
}

/// Allows automatic actions again.
#[utoipa::path(post, path = "/v1/resume", tag = "actions", operation_id = "resume", request_body = ResumeWanted,
    responses(
        (status = 200, description = "Not paused any more", body = Paused),
        (status = 412, description = "Another leads", body = super::answers::Refusal),
    ))]
pub async fn resume(call: Call) -> Result<Answer, Answer> {
    let wanted: ResumeWanted = call.words.read()?;
    let proviso = proviso(&call, wanted.expect_leader).await?;
    let (by, reason) = (call.caller.who(), call.asides.or(wanted.reason).unwrap_or_else(|| "resumed".to_owned()));
    let changed = settings::change(&call.control.reach, &by, Some(&reason), &proviso, |now| Ok(resumed(now)));
    let changed = changed.await?.is_some();
    let schema = "pgvigil.pause/v1";
    let now = Paused { schema, paused: false, changed, until: None, by: None, reason: None, replaces: None };
    Ok(Answer::object(StatusCode::OK, json!(now)).about(if changed { "resumed" } else { "it was not paused" }))
}

/// Under whom it is done. Whoever is refused at once is told with the check.
async fn proviso(call: &Call, leader: Option<MemberName>) -> Result<Proviso, Answer> {
    if leader.is_some() {
        let snapshot = settings::read(&call.control.reach).await?;
        passes(&expected(&snapshot, leader.as_ref()).into_iter().collect::<Vec<_>>())?;
    }
    Ok(Proviso::expecting(leader))
}
