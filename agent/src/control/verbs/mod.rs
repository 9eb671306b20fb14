//! The verbs, in one table: which there are, and what role each takes. One file has one subject.

mod reload;

use axum::Router;
use axum::http::Method;
use axum::routing::post;

use super::Control;
use crate::config::Role;

/// One verb.
struct Verb {
    method: Method,
    path: &'static str,
    takes: Role,
}

const fn verb(method: Method, path: &'static str, takes: Role) -> Verb {
    Verb { method, path, takes }
}

/// What changes something. A handler may ask for more than is said here.
const VERBS: &[Verb] = &[verb(Method::POST, "/reload", Role::Operate)];

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

/// Whether it is one of the verbs.
pub fn is_verb(method: &Method, path: &str) -> bool {
    find(method, path).is_some()
}

fn find(method: &Method, path: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.method == method && verb.path == path)
}

/// All of them.
pub fn router(control: Control) -> Router {
    Router::new().route("/reload", post(reload::reload)).with_state(control)
}
