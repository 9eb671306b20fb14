//! The health API: what load balancers, monitoring and people ask an agent. It runs on a thread of its own and answers from the
//! picture in memory, over HTTP/1.0 and 1.1, with or without a Host header. Nothing here can change anything, save that members of the
//! cluster, who have its key, ask each other for promises (see `promises`), and that the control API may be let in (see `control`).

mod accept;
mod beats;
pub mod bodies;
pub mod health;
mod places;
mod server;
mod ui;
pub mod unhealthy;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, OriginalUri, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::json;

use pg_control::{DiskWatch, Pulse};

use crate::activity::ActivityLook;
use crate::control::{Elsewhere, not_here};
use crate::metrics::Metrics;
use crate::promises::{self, Promises, Reply};
use crate::published::{Board, Picture};
use crate::slo::Slo;
use crate::strike::Strike;
use crate::transitions::Ledger;

pub use accept::{Arrived, arrivals, bind};
pub use places::{Places, Whose};
pub use server::{listen, registered, serve};
pub use ui::Shared;

/// No honest question is longer.
const QUESTION_BYTES_MAX: usize = 4096;
/// Nor does one take longer to come.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);

/// What the handlers see.
#[derive(Clone)]
pub struct Api {
    /// The picture.
    pub board: Arc<Board>,
    /// The transition records this agent has seen.
    pub ledger: Arc<Ledger>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the primary here answers.
    pub pulse: Pulse,
    /// Whether its disk does.
    pub disk: DiskWatch,
    /// What this node promises other members.
    pub promises: Arc<Promises>,
    /// What goes on in the server here.
    pub activity: Arc<ActivityLook>,
    /// What the pages at `/ui` are told.
    pub page: Arc<Shared>,
    /// Nobody is let in here who may not look; elsewhere secrets among the settings are struck.
    pub knows_who_asks: bool,
}

/// The paths that only look.
pub fn reading(api: Api) -> Router {
    let mut router = Router::new();
    for path in health::PATHS {
        router = router.route(path, health_routes());
    }
    router
        .route("/patroni", open(get(patroni)))
        .route("/cluster", open(get(cluster)))
        .route("/history", open(get(history)))
        .route("/config", open(get(config)))
        .route("/why", open(get(why)))
        .route("/parameters", open(get(parameters)))
        .route("/slots", open(get(slots)))
        .route("/activity", open(get(activity)))
        .route("/transitions", open(get(transitions)))
        .route("/slo", open(get(slo)))
        .route("/beat", open(get(beat)))
        .route("/metrics", open(get(metrics)))
        .route("/openapi.json", open(get(openapi)))
        .merge(ui::pages())
        .fallback(unknown)
        .method_not_allowed_fallback(read_only)
        .with_state(api)
}

/// Every path of the health API. `control` are the verbs where it carries them, `elsewhere` says where they are otherwise.
pub fn router(api: Api, control: Option<Router>, elsewhere: Elsewhere) -> Router {
    let between_agents = Router::new()
        .route("/beats", post(beats::beats))
        .route(promises::PATH, post(promise).layer(DefaultBodyLimit::max(QUESTION_BYTES_MAX)))
        .with_state(api.clone());
    let router = reading(api).merge(between_agents);
    match control {
        Some(verbs) => router.merge(verbs),
        None => router.layer(from_fn_with_state(Arc::new(elsewhere), not_here)),
    }
}

/// A leader that has lost etcd asks to be let go on. Writing the promise down takes a moment of the disk, which no health check waits for.
async fn promise(State(api): State<Api>, headers: HeaderMap, request: Request) -> Response {
    let body = match tokio::time::timeout(QUESTION_WITHIN, String::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(rejection)) => return bad(rejection.status(), &rejection.body_text()),
        Err(_) => {
            return bad(StatusCode::REQUEST_TIMEOUT, &format!("the body has not come within {QUESTION_WITHIN:?}"));
        }
    };
    let seal = headers.get(promises::SEAL).and_then(|seal| seal.to_str().ok()).unwrap_or_default().to_owned();
    let judged = tokio::task::spawn_blocking(move || {
        let picture = api.board.load();
        promises::hear(&api.promises, &picture.view, &body, &seal)
    });
    match judged.await {
        Ok(Reply::Sealed { body, seal }) => ([(promises::SEAL, seal)], body).into_response(),
        Ok(Reply::TurnedAway(status, why)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
            (status, Json(json!({"error": why}))).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// GET and HEAD by the handler, OPTIONS as plain success.
fn open(router: MethodRouter<Api>) -> MethodRouter<Api> {
    router.options(|| async { StatusCode::OK })
}

fn health_routes() -> MethodRouter<Api> {
    get(answer_health).options(answer_health)
}

/// Health: the status says it all; GET adds the picture for people. With `wait=` the answer comes when it is news.
async fn answer_health(
    State(api): State<Api>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Response {
    let query = health::Query::parse(uri.query().unwrap_or_default());
    let question = |picture: &Picture| health::healthy(picture, uri.path(), &query);
    if let Some(within) = query.wait
        && let Some(known) = health::believed(&headers, question(&api.board.load()))
    {
        api.board.another_answer(known, within, question).await;
    }
    // The status, why it is so and the body are of one picture.
    let picture = api.board.load();
    let judged = health::judge(&picture, uri.path(), &query);
    let status = if judged.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if method == Method::GET && !health::STATUS_ONLY.contains(&uri.path()) {
        let mut body = bodies::patroni(&picture);
        body["pgvigil"]["health"] = health::told(uri.path(), &judged);
        (status, Json(body)).into_response()
    } else {
        status.into_response()
    }
}

async fn patroni(State(api): State<Api>) -> Response {
    Json(bodies::patroni(&api.board.load())).into_response()
}

async fn cluster(State(api): State<Api>) -> Response {
    Json(bodies::cluster(&api.board.load())).into_response()
}

async fn history(State(api): State<Api>) -> Response {
    Json(bodies::history(&api.board.load())).into_response()
}

async fn config(State(api): State<Api>) -> Response {
    match &api.board.load().snapshot {
        Some(snapshot) if !snapshot.config.raw.is_null() && api.knows_who_asks => {
            Json(snapshot.config.raw.clone()).into_response()
        }
        // A rule for connections may have the password of a directory in it, and a command anything.
        Some(snapshot) if !snapshot.config.raw.is_null() => {
            Json(Strike::new([]).json(&snapshot.config.raw)).into_response()
        }
        _ => (StatusCode::BAD_GATEWAY, Json(json!({"error": "there is no cluster configuration in etcd"})))
            .into_response(),
    }
}

/// With `path=` also what the answer to that health path is, and why.
#[derive(serde::Deserialize)]
struct Asked {
    path: Option<String>,
}

fn bad(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({"error": why}))).into_response()
}

async fn why(State(api): State<Api>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(rejection) => return bad(rejection.status(), &rejection.body_text()),
    };
    let picture = api.board.load();
    let mut body = bodies::why(&picture, &api.ledger.problems());
    if let Some(asked) = asked.path {
        let (path, query) = asked.split_once('?').unwrap_or((&asked, ""));
        body["health"] = health::told(&asked, &health::judge(&picture, path, &health::Query::parse(query)));
    }
    Json(body).into_response()
}

async fn parameters(State(api): State<Api>) -> Response {
    Json(bodies::parameters(&api.board.load())).into_response()
}

async fn slots(State(api): State<Api>) -> Response {
    Json(bodies::slots(&api.board.load())).into_response()
}

/// The only path that asks Postgres, and it does not more often than a few times in a second, whoever asks here.
async fn activity(State(api): State<Api>) -> Response {
    let me = api.board.load().view.me.clone();
    match api.activity.look().await {
        Ok((activity, age)) => Json(bodies::activity(&me, &activity, age)).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": error}))).into_response(),
    }
}

async fn transitions(State(api): State<Api>) -> Response {
    Json(json!({"schema": "pgvigil.transitions/v1", "transitions": api.ledger.all()})).into_response()
}

async fn slo(State(api): State<Api>) -> Response {
    Json(Slo::of(&api.ledger.all(), jiff::Timestamp::now())).into_response()
}

async fn beat(State(api): State<Api>) -> Response {
    Json(beats::beat(&api)).into_response()
}

async fn metrics(State(api): State<Api>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPENMETRICS)], api.metrics.render(&api.board.load(), &api.ledger.all())).into_response()
}

async fn openapi() -> Response {
    Json(crate::openapi::document()).into_response()
}

async fn unknown(OriginalUri(uri): OriginalUri) -> Response {
    let error = format!(
        "no such path: {}; see /ui, /cluster, /patroni, /why, /transitions, /metrics and the health paths",
        uri.path()
    );
    (StatusCode::NOT_FOUND, Json(json!({"error": error}))).into_response()
}

async fn read_only(method: Method) -> Response {
    let error = format!("{method} is not answered here: this listener only reads; use the pgvigil command line");
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD, OPTIONS")], Json(json!({"error": error})))
        .into_response()
}
