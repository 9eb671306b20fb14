//! Beats without being asked for each: `/beats` is one answer that never ends, a line ten times a second, and at once when this leader gives
//! up. Each line waits until the listener has confirmed the last one, with a byte in the body of its request: were packets lost in one
//! direction only, a leader that hears nobody would otherwise seem well. All listeners are told in the same turn.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use consensus::BootInstant;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use serde_json::Value;

use super::{Api, bodies};
use crate::beats::EVERY;
use crate::published::Picture;
use crate::worked;

/// One beat.
pub fn beat(api: &Api) -> Value {
    let heartbeat = api.pulse.heartbeat();
    let picture = api.board.load();
    let worked_at = worked::worked_at(&heartbeat, &api.disk.disk(), api.disk.worked_at());
    bodies::beat(&picture, heartbeat, [worked_at, picture.acknowledged_at].into_iter().flatten().min())
}

/// Beats until the listener hangs up.
pub async fn beats(State(api): State<Api>, confirmations: Body) -> Response {
    let (lines, body) = Channel::new(1);
    tokio::spawn(go_on(api, lines, confirmations));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}

async fn go_on(api: Api, mut lines: Sender<Bytes>, mut confirmations: Body) {
    loop {
        let gives_up = api.board.load().is_done_for();
        let line = Bytes::from(format!("{}\n", beat(&api)));
        if lines.send_data(line).await.is_err() {
            return;
        }
        api.board.another_answer(gives_up, until_next(), Picture::is_done_for).await;
        if !matches!(confirmations.frame().await, Some(Ok(_))) {
            return;
        }
    }
}

/// Until the next full tenth of a second since the host started: the same instant for all listeners. One that is all but there has been
/// served.
fn until_next() -> Duration {
    let every = u64::try_from(EVERY.as_nanos()).unwrap_or(u64::MAX);
    let left = EVERY - Duration::from_nanos(BootInstant::now().0 % every);
    if left < EVERY / 10 { left + EVERY } else { left }
}
