//! `POST /reload`: the node's file is read again, as at a SIGHUP. It needs no etcd.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::super::answer::Answer;
use crate::control::Control;

/// Reads it, and only then says so.
pub async fn ask(State(control): State<Control>) -> Answer {
    let hands = Arc::clone(&control.hands);
    let read = tokio::task::spawn_blocking(move || hands.reload()).await;
    match read {
        Ok(Ok(told)) => Answer::sentence(StatusCode::ACCEPTED, "reload scheduled").about(told.join("; ")),
        Ok(Err(errors)) => Answer::error(StatusCode::UNPROCESSABLE_ENTITY, format!("{errors:#}")),
        Err(_) => Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "reading the file has broken off"),
    }
}
