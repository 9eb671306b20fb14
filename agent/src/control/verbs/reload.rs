//! `POST /reload`: the node's file is read again, as at a SIGHUP. It needs no etcd.

use axum::extract::State;
use axum::http::StatusCode;

use super::super::answer::Answer;
use crate::control::Control;

/// Reads it, and only then says so.
pub async fn ask(State(control): State<Control>) -> Answer {
    match control.hands.reload().await {
        Ok(told) => Answer::sentence(StatusCode::ACCEPTED, "reload scheduled").about(told.join("; ")),
        Err(errors) => {
            Answer::error(StatusCode::UNPROCESSABLE_ENTITY, format!("{errors:#}")).about("a file with a mistake")
        }
    }
}
