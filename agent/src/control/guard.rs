//! The door. Before anything is done it is settled who asks and whether they may; what they ask for goes on to its end even where they hang up
//! meanwhile, and is told to the audit.

use axum::extract::{Extension, FromRequest, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Control;
use super::access::{Caller, Peer, Stranger};
use super::answer::{Answer, Told};
use super::audit::Attempt;
use super::body::Words;
use super::verbs;
use crate::config::Role;

/// Longer reasons are cut off.
const REASON_CHARS_MAX: usize = 500;

/// What may be said beside the body.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Asides {
    /// Why, for the records.
    pub reason: Option<String>,
}

impl Asides {
    /// The reason in the body, or else the one beside it. A long one is cut off: every agent reads it.
    pub fn or(&self, in_body: Option<String>) -> Option<String> {
        in_body.or_else(|| self.reason.clone()).map(|reason| reason.chars().take(REASON_CHARS_MAX).collect())
    }
}

/// What a verb works with: everything that is known of one request.
pub struct Call {
    /// The agent.
    pub control: Control,
    /// Who asks.
    pub caller: Caller,
    /// What they said beside the body.
    pub asides: Asides,
    /// The body.
    pub words: Words,
}

impl FromRequest<Control> for Call {
    type Rejection = Answer;

    async fn from_request(request: Request, control: &Control) -> Result<Self, Answer> {
        let known = request.extensions();
        let (Some(caller), asides) = (known.get::<Caller>().cloned(), known.get::<Asides>().cloned()) else {
            return Err(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "nobody has asked who that is"));
        };
        let words = Words::from_request(request, control).await?;
        Ok(Self { control: control.clone(), caller, asides: asides.unwrap_or_default(), words })
    }
}

/// Lets in whoever may, on the thread of the control API wherever they have come in. Whoever hangs up meanwhile, a guesser for instance, is told to the
/// audit all the same.
pub async fn guard(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let on_it = control.thread.clone();
    on_it.spawn(lets_in(control, peer, request, next)).await.unwrap_or_else(|_| fault())
}

async fn lets_in(control: Control, peer: Peer, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let needed = verbs::role(&method, &path);
    let asides = Query::<Asides>::try_from_uri(request.uri()).map(|Query(asides)| asides).unwrap_or_default();
    let reason: String = asides.reason.iter().flat_map(|text| text.chars()).take(REASON_CHARS_MAX).collect();
    let caller = control.access.caller(&peer, request.headers()).await;
    let (who, role) = match &caller {
        Ok(caller) => (caller.name.clone(), word(caller.role)),
        Err(stranger) => (stranger.name.clone(), "none"),
    };
    let attempt = Attempt { verb: verbs::name(&method, &path), peer: peer.clone(), who, role, reason: reason.clone() };
    let metrics = std::sync::Arc::clone(&control.hands.metrics);
    let caller = match admitted(caller, needed, &peer) {
        Ok(caller) => caller,
        Err(denied) => {
            let denied = turned_away(denied);
            attempt.ended(&Told::of(&denied), denied.status().as_u16(), &metrics);
            return denied;
        }
    };
    let looks = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(Asides { reason: (!reason.is_empty()).then_some(reason) });
    if looks {
        return next.run(request).await;
    }
    let response = tokio::spawn(next.run(request)).await.unwrap_or_else(|_| fault());
    attempt.ended(&Told::of(&response), response.status().as_u16(), &metrics);
    response
}

fn fault() -> Response {
    Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the agent's own: its log says which").into_response()
}

fn admitted(caller: Result<Caller, Stranger>, needed: Role, peer: &Peer) -> Result<Caller, Answer> {
    match caller {
        Ok(caller) if caller.role >= needed => Ok(caller),
        Ok(caller) => {
            let why = format!("{} has the role {}; that takes {}", caller.name, word(caller.role), word(needed));
            Err(Answer::error(StatusCode::FORBIDDEN, why))
        }
        // Whom the kernel does not let in needs no other word to say.
        Err(stranger) if matches!(peer, Peer::Socket { .. }) => Err(Answer::error(StatusCode::FORBIDDEN, stranger.why)),
        Err(stranger) => Err(Answer::error(StatusCode::UNAUTHORIZED, stranger.why)),
    }
}

fn turned_away(answer: Answer) -> Response {
    let mut response = answer.into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        // Programs made for Patroni wait to be asked for a name and a password.
        for challenge in ["Bearer realm=\"pgvigil\"", "Basic realm=\"pgvigil\""] {
            response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
    }
    response
}

/// The name of a role, as the configuration has it.
pub fn word(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Gate => "gate",
        Role::Operate => "operate",
        Role::Admin => "admin",
    }
}
