//! The native API, in its first version: what Patroni's verbs do and more, in objects that name their schema. A request that takes time is answered at
//! once with the id under which any agent of the cluster tells how it stands, now or as a stream.

mod actions;
mod answers;
mod cluster;
mod events;
mod forthcoming;
mod later;
mod orders;
mod pause;
mod requests;
mod streams;

use axum::Router;
use axum::http::Method;
use axum::routing::{get, post};
use utoipa::OpenApi;

use super::Control;
use super::verbs::{Verb, another_method, verb};
use crate::config::Role;

pub use streams::STREAMS_MAX;

/// What is said of it in the OpenAPI document.
#[derive(OpenApi)]
#[openapi(
    paths(
        cluster::status,
        cluster::transitions,
        cluster::transition,
        events::stream,
        requests::switchover,
        requests::failover,
        orders::restart,
        orders::reinitialize,
        orders::reload,
        pause::pause,
        pause::resume,
        actions::look,
        actions::take_back,
        actions::stream,
    ),
    components(schemas(
        events::ClusterSeen,
        events::LeaderSeen,
        events::MemberSeen,
        events::PauseSeen,
        events::TransitionSeen,
        forthcoming::ScheduleSeen,
        forthcoming::CertificateSeen
    ))
)]
pub struct Native;

/// What changes something.
pub(super) const VERBS: &[Verb] = &[
    verb(Method::POST, "/v1/switchover", Role::Operate),
    verb(Method::POST, "/v1/failover", Role::Operate),
    verb(Method::POST, "/v1/restart", Role::Operate),
    verb(Method::POST, "/v1/reinitialize", Role::Admin),
    verb(Method::POST, "/v1/reload", Role::Operate),
    verb(Method::POST, "/v1/pause", Role::Operate),
    verb(Method::POST, "/v1/resume", Role::Operate),
    verb(Method::DELETE, "/v1/actions/{id}", Role::Operate),
];

/// All of it.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/cluster", get(cluster::status))
        .route("/v1/transitions", get(cluster::transitions))
        .route("/v1/transitions/{id}", get(cluster::transition))
        .route("/v1/events", get(events::stream))
        .route("/v1/switchover", post(requests::switchover))
        .route("/v1/failover", post(requests::failover))
        .route("/v1/restart", post(orders::restart))
        .route("/v1/reinitialize", post(orders::reinitialize))
        .route("/v1/reload", post(orders::reload))
        .route("/v1/pause", post(pause::pause))
        .route("/v1/resume", post(pause::resume))
        .route("/v1/actions/{id}", get(actions::look).delete(actions::take_back))
        .route("/v1/actions/{id}/events", get(actions::stream))
        .method_not_allowed_fallback(another_method)
        .with_state(control)
}
