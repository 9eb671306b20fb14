//! `/ui`: the cluster on a page, for whoever has a browser and no shell. The page is part of the program, asks nobody else for anything, and only reads;
//! what it draws comes as server-sent events, each of them the whole picture, so that whoever comes late has missed nothing.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use consensus::BootInstant;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::{Api, beats, bodies};
use crate::control::Standing;
use crate::slo::Slo;

/// So many pages at once are told what changes; each is worth a few kilobytes a second.
const READERS_MAX: usize = 16;
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
    let reading = Reading { api, told: None, lost: Box::pin(lost(standing)) };
    let pictures = stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        let made_at = tokio::select! {
            biased;
            why = &mut reading.lost => return Some((Ok(event("denied", &json!({"error": why}))), None)),
            made_at = next(&reading.api, reading.told) => made_at,
        };
        reading.told = Some(made_at);
        Some((Ok::<_, Infallible>(event("picture", &picture(&reading.api))), Some(reading)))
    });
    // The place is given back with the stream.
    let held = pictures.take_until(Box::pin(async move {
        let _permit = permit;
        sleep(TOLD_FOR).await;
    }));
    Sse::new(held).into_response()
}

/// Whoever looks at a page.
struct Reading {
    api: Api,
    /// When the picture was made that they have seen last.
    told: Option<BootInstant>,
    /// Resolves once they may not look any more.
    lost: Pin<Box<dyn Future<Output = String> + Send>>,
}

fn event(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}

/// When the next picture was made that is worth telling.
async fn next(api: &Api, told: Option<BootInstant>) -> BootInstant {
    match told {
        None => api.board.load().made_at,
        Some(before) => {
            sleep(TOLD_AT_MOST_EVERY).await;
            api.board.after(before, TOLD_EVERY).await.made_at
        }
    }
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
    let records = api.ledger.all();
    let newest = &records[records.len().saturating_sub(RECORDS_MAX)..];
    json!({
        "schema": "pgvigil.ui/v1",
        "cluster": bodies::cluster(&picture),
        "why": bodies::why(&picture, &api.ledger.problems()),
        "beat": beats::beat(api),
        "transitions": newest,
        "slo": Slo::of(&records, jiff::Timestamp::now()),
    })
}
