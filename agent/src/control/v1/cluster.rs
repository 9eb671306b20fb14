//! `GET /v1/cluster`, `GET /v1/transitions` and `GET /v1/transitions/{id}`: what `pgvigil status -o json` and `pgvigil transitions -o json` show.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use consensus::records::Transition;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::control::Control;
use crate::control::answer::Answer;
use crate::operate::status::facts::Status;

/// No cluster keeps more.
const LIMIT_MAX: u32 = 1000;
/// No id is longer.
const ID_CHARS_MAX: usize = 64;

/// How many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Limit {
    /// The newest so many; missing: all that are kept.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Records of what happened.
#[derive(Debug, Serialize, ToSchema)]
pub struct Transitions {
    /// `pgvigil.transitions/v1`
    schema: &'static str,
    /// The oldest first.
    transitions: Vec<Transition>,
}

/// How the cluster stands.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster", operation_id = "cluster_status",
    responses((status = 200, description = "As `pgvigil status -o json` shows it", body = Status)))]
pub async fn status(State(control): State<Control>) -> Answer {
    let world = control.reach.look().await;
    if world.is_dark() {
        let why = world.etcd.as_ref().err().map_or("", String::as_str);
        return Answer::error(StatusCode::SERVICE_UNAVAILABLE, format!("neither etcd nor an agent answers: {why}"));
    }
    Answer::object(StatusCode::OK, json!(Status::of(&world, &control.reach.config, Timestamp::now())))
}

/// What happened.
#[utoipa::path(get, path = "/v1/transitions", tag = "cluster", operation_id = "transitions", params(Limit),
    responses(
        (status = 200, description = "The records, the oldest first", body = Transitions),
        (status = 400, description = "No such limit", body = crate::openapi::Error),
    ))]
pub async fn transitions(
    State(control): State<Control>,
    limit: Result<Query<Limit>, QueryRejection>,
) -> Result<Answer, Answer> {
    let bad = |why: String| Answer::error(StatusCode::BAD_REQUEST, format!("`limit`: {why}"));
    let Query(Limit { limit }) = limit.map_err(|rejection| bad(rejection.body_text()))?;
    if limit.is_some_and(|limit| limit == 0 || limit > LIMIT_MAX) {
        return Err(bad(format!("a number from 1 to {LIMIT_MAX}")));
    }
    // Where etcd is silent this agent tells what it remembers, as the command line does.
    let mut transitions = match control.reach.store.transitions().await {
        Ok((records, _)) => records,
        Err(_) => control.hands.ledger.all(),
    };
    let surplus = transitions.len().saturating_sub(limit.unwrap_or(LIMIT_MAX) as usize);
    transitions.drain(..surplus);
    let schema = "pgvigil.transitions/v1";
    Ok(Answer::object(StatusCode::OK, json!(Transitions { schema, transitions })))
}

/// One record.
#[utoipa::path(get, path = "/v1/transitions/{id}", tag = "cluster", operation_id = "transition",
    params(("id" = String, Path, description = "Its id", pattern = "^[A-Za-z0-9._-]+$", max_length = 64, example = "s-1234")),
    responses(
        (status = 200, description = "The record", body = Transition),
        (status = 404, description = "There is none", body = crate::openapi::Error),
    ))]
pub async fn transition(
    State(control): State<Control>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Answer, Answer> {
    let id = id_of(id, "transition")?;
    let known = match control.reach.store.transition(&id).await {
        Ok(record) => record,
        Err(error) => {
            let remembered = control.hands.ledger.all().into_iter().find(|record| record.id == id);
            let silent = || Answer::error(StatusCode::SERVICE_UNAVAILABLE, format!("it cannot be read: {error}"));
            Some(remembered.ok_or_else(silent)?)
        }
    };
    known.map(|record| Answer::object(StatusCode::OK, json!(record))).ok_or_else(|| unknown("transition", &id))
}

/// An id as it may be.
///
/// # Errors
/// 404: nothing has such a one.
pub fn id_of(id: Result<Path<String>, PathRejection>, what: &str) -> Result<String, Answer> {
    let fits = |id: &String| {
        id.len() <= ID_CHARS_MAX && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    id.ok().map(|Path(id)| id).filter(fits).ok_or_else(|| unknown(what, "of that name"))
}

/// There is none.
pub fn unknown(what: &str, id: &str) -> Answer {
    Answer::error(
        StatusCode::NOT_FOUND,
        format!("there is no {what} {id}; GET /v1/transitions lists what has a record"),
    )
}
