//! `/ui`: the cluster on a page, for whoever has a browser and no shell. The page is part of the program, asks nobody else for anything, and only reads;
//! what it draws comes as server-sent events, each of them the whole picture, so that whoever comes late has missed nothing.

mod shared;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use consensus::Snapshot;
use decision::names::MemberName;
use futures_util::stream::{self, Stream, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

pub use shared::Shared;

use super::{Api, beats, bodies};
use crate::control::Standing;
use crate::operate::status::facts::PauseStatus;
use crate::operate::status::member::expected;
use crate::slo::Slo;

/// So many pages at once are told what changes. The picture is made once for all; each page is worth a few kilobytes a second of the network.
const READERS_MAX: usize = 128;
/// A page that is told nothing for so long would take the agent for dead.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// No page is told more often, however much changes.
const TOLD_AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// After that a page asks anew, so that a place is never lost to somebody who has gone without a word.
const TOLD_FOR: Duration = Duration::from_secs(600);
/// So many of the newest records.
const RECORDS_MAX: usize = 30;

/// Nothing of the page comes from elsewhere, and no other page has it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// The page and what belongs to it.
pub fn pages() -> Router<Api> {
    let readers = Arc::new(Semaphore::new(READERS_MAX));
    Router::new()
        .route("/ui", get(|| async { page("text/html; charset=utf-8", HTML) }))
        .route("/ui/", get(|| async { Redirect::permanent("/ui") }))
        .route("/ui/page.css", get(|| async { page("text/css; charset=utf-8", CSS) }))
        .route("/ui/page.js", get(|| async { page("text/javascript; charset=utf-8", JS) }))
        .route(
            "/ui/events",
            get(move |State(api): State<Api>, known: Option<Extension<Standing>>| async move {
                events(api, &readers, known.map(|Extension(standing)| standing))
            }),
        )
}

fn page(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// The picture now, and whenever there is another one. Where only some may look, it ends with the right of whoever does.
fn events(api: Api, readers: &Arc<Semaphore>, standing: Option<Standing>) -> Response {
    let Ok(permit) = Arc::clone(readers).try_acquire_owned() else {
        let error = format!("{READERS_MAX} pages are open at this agent, and no more may be: look at another one's");
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": error}))).into_response();
    };
    let reading = (api.page.look(|| pictures(api.clone())), Box::pin(lost(standing)));
    let told = stream::unfold(Some(reading), |reading| async move {
        let (mut pictures, mut lost) = reading?;
        tokio::select! {
            biased;
            why = &mut lost => Some((event("denied", &json!({"error": why})), None)),
            picture = pictures.next() => Some((picture?, Some((pictures, lost)))),
        }
    });
    // The place is given back with the stream.
    let held = told.take_until(Box::pin(async move {
        let _permit = permit;
        sleep(TOLD_FOR).await;
    }));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(held.map(Ok::<_, Infallible>))).into_response()
}

/// An event for the picture now, and for each other one.
fn pictures(api: Api) -> impl Stream<Item = Bytes> + Send {
    stream::unfold((api, None), |(api, told)| async move {
        let made_at = match told {
            None => api.board.load().made_at,
            Some(before) => {
                sleep(TOLD_AT_MOST_EVERY).await;
                api.board.after(before, TOLD_EVERY).await.made_at
            }
        };
        Some((event("picture", &picture(&api)), (api, Some(made_at))))
    })
}

/// JSON is one line, so one line of data.
fn event(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// Resolves once whoever reads may not any more; where everybody may, never.
async fn lost(standing: Option<Standing>) -> String {
    match standing {
        Some(standing) => standing.lost().await,
        None => std::future::pending().await,
    }
}

/// All that the page draws.
fn picture(api: &Api) -> Value {
    let picture = api.board.load();
    let now = Timestamp::now();
    let records = api.ledger.all();
    let newest = &records[records.len().saturating_sub(RECORDS_MAX)..];
    json!({
        "schema": "pgvigil.ui/v1",
        "cluster": bodies::cluster(&picture),
        "missing": picture.snapshot.as_ref().map(|snapshot| missing(snapshot, now)),
        "pause": picture.snapshot.as_ref().and_then(|snapshot| PauseStatus::of(snapshot, now)).map(|pause| pause.in_words()),
        "why": bodies::why(&picture, &api.ledger.problems()),
        "beat": beats::beat(api),
        "transitions": newest,
        "slo": Slo::of(&records, now),
    })
}

/// Members that ought to be registered and are not: their agents are down.
fn missing(snapshot: &Snapshot, now: Timestamp) -> Vec<MemberName> {
    expected(snapshot, now).into_iter().filter(|name| !snapshot.member_records.contains_key(name)).collect()
}
