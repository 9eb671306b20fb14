//! `POST /reload`: the node's file is read again, as at a SIGHUP. It needs no etcd.

use axum::extract::State;
use axum::http::StatusCode;

use super::super::answer::Answer;
use crate::control::Control;

/// Reads the file of this node again.
#[utoipa::path(post, path = "/reload", tag = "patroni", operation_id = "patroni_reload",
    responses(
        (status = 202, description = "It was read", body = String, content_type = "text/plain"),
        (status = 422, description = "It has a mistake", body = crate::openapi::Error),
    ))]
pub async fn ask(State(control): State<Control>) -> Answer {
    match control.hands.reload().await {
        Ok(told) => Answer::sentence(StatusCode::ACCEPTED, "reload scheduled").about(told.join("; ")),
        Err(errors) => {
            Answer::error(StatusCode::UNPROCESSABLE_ENTITY, format!("{errors:#}")).about("a file with a mistake")
        }
    }
}
