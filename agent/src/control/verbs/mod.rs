//! Patroni's verbs, with its codes and sentences, in one table: which there are, and what role each takes. The work is that of the command line
//! (`operate`); one file has one subject.

mod config;
mod failover;
mod gate;
mod later;
mod reinitialize;
mod reload;
mod restart;
mod scheduled;
mod switchover;

use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{Method, StatusCode};
use axum::routing::{get, patch, post};
use decision::names::MemberName;
use utoipa::OpenApi;

use super::Control;
use super::access::Caller;
use super::answer::{Answer, Outcome};
use crate::config::Role;
use crate::operate::{Kind, Unable};

/// One verb.
pub(super) struct Verb {
    /// Its method.
    pub(super) method: Method,
    /// Its path, with `{id}` where any one name may stand.
    pub(super) path: &'static str,
    /// Whom it takes.
    pub(super) takes: Role,
}

pub(super) const fn verb(method: Method, path: &'static str, takes: Role) -> Verb {
    Verb { method, path, takes }
}

/// What changes something, and what takes more than a look. A handler may ask for more than is said here.
const VERBS: &[Verb] = &[
    verb(Method::POST, "/switchover", Role::Operate),
    verb(Method::DELETE, "/switchover", Role::Operate),
    verb(Method::POST, "/failover", Role::Operate),
    verb(Method::POST, "/restart", Role::Operate),
    verb(Method::DELETE, "/restart", Role::Operate),
    verb(Method::POST, "/reload", Role::Operate),
    verb(Method::POST, "/reinitialize", Role::Admin),
    // A pause takes no more; any other setting does.
    verb(Method::PATCH, "/config", Role::Operate),
    verb(Method::PUT, "/config", Role::Admin),
    verb(Method::GET, "/gate/migrate", Role::Gate),
    verb(Method::HEAD, "/gate/migrate", Role::Gate),
];

/// What is said of them in the OpenAPI document.
#[derive(OpenApi)]
#[openapi(paths(
    switchover::ask,
    switchover::cancel,
    failover::ask,
    restart::ask,
    restart::cancel,
    reload::ask,
    reinitialize::ask,
    config::patch,
    config::put,
    gate::ask,
))]
pub struct Patronis;

/// The role that a request takes. What is not known here takes the highest, and comes to nothing.
pub fn role(method: &Method, path: &str) -> Role {
    match (find(method, path), method) {
        (Some(verb), _) => verb.takes,
        (None, &Method::GET | &Method::HEAD | &Method::OPTIONS) => Role::Read,
        (None, _) => Role::Admin,
    }
}

/// Its name, which is one of few whatever is asked for.
pub fn name(method: &Method, path: &str) -> String {
    match (find(method, path), method) {
        (Some(verb), _) => format!("{} {}", verb.method, verb.path),
        (None, &Method::GET | &Method::HEAD | &Method::OPTIONS) => "look".to_owned(),
        (None, _) => "unknown".to_owned(),
    }
}

/// Whether a verb of Patroni's, whose body is taken as it is, takes who must lead from the query.
pub(super) fn expects_in_query(method: &Method, path: &str) -> bool {
    match path {
        "/config" => true,
        "/restart" | "/reinitialize" => *method == Method::POST,
        _ => false,
    }
}

/// Whether it is one of the verbs.
pub fn is_verb(method: &Method, path: &str) -> bool {
    find(method, path).is_some()
}

fn find(method: &Method, path: &str) -> Option<&'static Verb> {
    all().find(|verb| verb.method == method && fits(verb.path, path))
}

/// Patroni's and the native ones.
pub(super) fn all() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter().chain(super::v1::VERBS)
}

/// Whether a path is one of a pattern.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut parts, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(text)) if part == text || (part.starts_with('{') && !text.is_empty()) => {}
            _ => return false,
        }
    }
}

/// All of them.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/switchover", post(switchover::ask).delete(switchover::cancel))
        .route("/failover", post(failover::ask))
        .route("/restart", post(restart::ask).delete(restart::cancel))
        .route("/reload", post(reload::ask))
        .route("/reinitialize", post(reinitialize::ask))
        .route("/gate/migrate", get(gate::ask))
        .method_not_allowed_fallback(another_method)
        // Its GET is among the paths that only look, whose answer to other methods it shares.
        .route("/config", patch(config::patch).put(config::put))
        .with_state(control)
}

/// There is something under this path, and it is asked for otherwise.
pub(super) async fn another_method(method: Method, OriginalUri(uri): OriginalUri) -> Answer {
    let allowed: Vec<&str> =
        all().filter(|verb| fits(verb.path, uri.path())).map(|verb| verb.method.as_str()).collect();
    let by = if allowed.is_empty() { "GET".to_owned() } else { allowed.join(", ") };
    Answer::error(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not answered here; {by} is (GET /openapi.json has all)"),
    )
}

/// A member as somebody has named it; an empty name is none.
fn member(field: &str, text: Option<&str>) -> Result<Option<MemberName>, Answer> {
    let named = text.filter(|text| !text.is_empty()).map(MemberName::new).transpose();
    named.map_err(|bad| Answer::error(StatusCode::BAD_REQUEST, format!("`{field}`: {bad}")))
}

/// To go on against a hold takes more than the verb.
pub(super) fn may_ignore(caller: &Caller, ignore_hold: bool) -> Result<(), Answer> {
    takes_admin(caller, ignore_hold, "ignore a hold")
}

/// So does the word that acknowledged writes may be lost.
pub(super) fn may_lose(caller: &Caller, accept_data_loss: bool) -> Result<(), Answer> {
    takes_admin(caller, accept_data_loss, "accept a loss of data")
}

fn takes_admin(caller: &Caller, wanted: bool, what: &str) -> Result<(), Answer> {
    if !wanted || caller.role >= Role::Admin {
        return Ok(());
    }
    let why = format!("{} may not {what}: that takes admin", caller.name);
    Err(Answer::error(StatusCode::FORBIDDEN, why))
}

/// Tells the log what keeps a wait blind, and only what is new.
fn once() -> impl FnMut(&str) {
    let mut told = String::new();
    move |why: &str| {
        if told != why {
            tracing::warn!("{why}");
            why.clone_into(&mut told);
        }
    }
}

/// Another order is what Patroni calls in progress.
fn waits(action: &str, unable: Unable) -> Answer {
    if unable.kind != Kind::Overtaken {
        return unable.into();
    }
    let why = format!("{action} already in progress: {}", unable.text());
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, why).ended(Outcome::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_has_one_name_and_one_role_whatever_stands_for_its_id() {
        assert_eq!(name(&Method::DELETE, "/v1/actions/s-17"), "DELETE /v1/actions/{id}");
        assert_eq!(role(&Method::DELETE, "/v1/actions/s-17"), Role::Operate);
        assert_eq!(role(&Method::POST, "/v1/reinitialize"), Role::Admin);
        for (method, path) in
            [(Method::DELETE, "/v1/actions/"), (Method::DELETE, "/v1/actions/a/b"), (Method::POST, "/v1")]
        {
            assert_eq!((name(&method, path).as_str(), role(&method, path)), ("unknown", Role::Admin), "{path}");
        }
        assert_eq!(role(&Method::GET, "/v1/actions/s-17"), Role::Read);
    }
}
