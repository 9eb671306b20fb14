//! `/v1/actions/{id}`: how something stands that was asked for, now or as a stream, and its withdrawal while nobody has begun.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::cluster::{id_of, unknown};
use super::streams::{self, Gone, Teller};
use crate::control::Control;
use crate::control::access::Caller;
use crate::control::answer::{Answer, Outcome};
use crate::control::standing::Standing;
use crate::operate::actions::{self, Action, State as Stands, TakenBack};

/// How often a stream looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A record is written by several, a moment after the deed.
const RECORD_WITHIN: Duration = Duration::from_secs(2);

/// How it stands.
#[utoipa::path(get, path = "/v1/actions/{id}", tag = "actions", operation_id = "action",
    params(("id" = String, Path, description = "Its id, as it was answered", pattern = "^[A-Za-z0-9._-]+$", max_length = 64, example = "s-1234")),
    responses(
        (status = 200, description = "How it stands", body = Action),
        (status = 404, description = "Nothing was asked for under this id, or its record is not kept any more", body = crate::openapi::Error),
    ))]
pub async fn look(State(control): State<Control>, id: Result<Path<String>, PathRejection>) -> Result<Answer, Answer> {
    Ok(Answer::object(StatusCode::OK, json!(found(&control, id).await?)))
}

async fn found(control: &Control, id: Result<Path<String>, PathRejection>) -> Result<Action, Answer> {
    let id = id_of(id, "action")?;
    actions::find(&control.reach, &id).await?.ok_or_else(|| unknown("action", &id))
}

/// Takes it back while nobody has begun.
#[utoipa::path(delete, path = "/v1/actions/{id}", tag = "actions", operation_id = "take_back",
    params(("id" = String, Path, description = "Its id, as it was answered", pattern = "^[A-Za-z0-9._-]+$", max_length = 64, example = "s-1234")),
    responses(
        (status = 200, description = "It is taken back", body = Action),
        (status = 404, description = "Nothing was asked for under this id", body = crate::openapi::Error),
        (status = 409, description = "It has been begun, or has ended", body = crate::openapi::Error),
    ))]
pub async fn take_back(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Answer, Answer> {
    let id = id_of(id, "action")?;
    match actions::take_back(&control.reach, &id, &caller.who()).await? {
        TakenBack::Now(action) => Ok(Answer::object(StatusCode::OK, json!(action)).about(id)),
        TakenBack::TooLate(action) => {
            let state = json!(action.state);
            let why = format!("{id} cannot be taken back any more: it is {}", state.as_str().unwrap_or_default());
            Err(Answer::error(StatusCode::CONFLICT, why).ended(Outcome::Refused).about(id))
        }
        TakenBack::Unknown => Err(unknown("action", &id).about(id)),
    }
}

/// Each phase as it becomes known (`phase`), and at last how it ended (`end`).
#[utoipa::path(get, path = "/v1/actions/{id}/events", tag = "actions", operation_id = "action_events",
    params(("id" = String, Path, description = "Its id, as it was answered", pattern = "^[A-Za-z0-9._-]+$", max_length = 64, example = "s-1234")),
    responses(
        (status = 200, description = "Server-sent events: `phase` with a phase of the record, and at last `end` with the action. \
            Whoever comes back is told all of them again, under the same ids", body = String, content_type = "text/event-stream"),
        (status = 404, description = "Nothing was asked for under this id", body = crate::openapi::Error),
    ))]
pub async fn stream(
    State(control): State<Control>,
    Extension(standing): Extension<Standing>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Answer> {
    let action = found(&control, id).await?;
    let room = control.streams.clone();
    streams::open(&room, standing.lost(), |teller| follow(control, action, teller))
}

async fn follow(control: Control, mut action: Action, teller: Teller) -> Result<(), Gone> {
    let mut told = BTreeSet::new();
    let (mut gone_since, mut final_since) = (None, None);
    loop {
        for phase in &action.phases {
            let id = format!("{}@{}", phase.name, phase.measured_on);
            if told.insert(id.clone()) {
                teller.tell("phase", Some(&id), phase).await?;
            }
        }
        let is_old = |since: Instant| since.elapsed() > RECORD_WITHIN;
        let ended = action.state.is_final() && is_old(*final_since.get_or_insert_with(Instant::now));
        if action.is_complete() || ended || gone_since.is_some_and(is_old) {
            if !action.state.is_final() {
                action.state = Stands::Unknown;
            }
            return teller.tell("end", Some("end"), &action).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        match actions::find(&control.reach, &action.id).await {
            Ok(Some(now)) => (action, gone_since) = (now, None),
            Ok(None) => gone_since = gone_since.or_else(|| Some(Instant::now())),
            // It is told that the stream is there, and nothing else, until etcd answers again.
            Err(_) => {}
        }
    }
}
