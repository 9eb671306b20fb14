//! The door. Before anything is done it is settled who asks and whether they may; what they ask for goes on to its end even where they hang up
//! meanwhile, and is told to the audit.

use axum::extract::{Extension, FromRequest, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use decision::names::MemberName;
use serde::Deserialize;

use super::Control;
use super::access::{Caller, Peer, Stranger};
use super::answer::{Answer, Told};
use super::audit::Attempt;
use super::body::Words;
use super::standing::Standing;
use super::verbs;
use crate::config::Role;

/// Longer reasons are cut off.
const REASON_CHARS_MAX: usize = 500;

/// What may be said beside the body.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Asides {
    /// Why, for the records.
    pub reason: Option<String>,
    /// Who must lead now; where another does, nothing is done.
    pub expect_leader: Option<MemberName>,
}

impl Asides {
    /// What stands in the query of a request that changes something.
    ///
    /// # Errors
    /// 400: it cannot be read, or names a condition that this verb does not keep to. Neither may look as if it were kept to.
    fn of(method: &Method, uri: &Uri) -> Result<Self, Answer> {
        let bad = |why: String| Answer::error(StatusCode::BAD_REQUEST, why);
        let Query(asides) = Query::<Self>::try_from_uri(uri).map_err(|error| bad(error.body_text()))?;
        if asides.expect_leader.is_some() && !verbs::expects_in_query(method, uri.path()) {
            let why = "`expect_leader` does not go into the query here: /v1 takes it in the body, POST /switchover as `leader`";
            return Err(bad(why.to_owned()));
        }
        Ok(Self { reason: asides.reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect()), ..asides })
    }

    /// The reason in the body, or else the one beside it. A long one is cut off: every agent reads it.
    pub fn or(&self, in_body: Option<String>) -> Option<String> {
        let said = in_body.or_else(|| self.reason.clone().filter(|reason| !reason.is_empty()));
        said.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect())
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
    let asides = Asides::of(&method, request.uri());
    let reason = asides.as_ref().ok().and_then(|asides| asides.reason.clone()).unwrap_or_default();
    let caller = control.access.caller(&peer, request.headers()).await;
    let (who, role) = match &caller {
        Ok(caller) => (caller.name.clone(), word(caller.role)),
        Err(stranger) => (stranger.name.clone(), "none"),
    };
    let attempt = Attempt { verb: verbs::name(&method, &path), peer: peer.clone(), who, role, reason };
    let metrics = std::sync::Arc::clone(&control.hands.metrics);
    let caller = match admitted(caller, needed, &peer) {
        Ok(caller) => caller,
        Err(denied) => {
            let denied = turned_away(denied);
            attempt.ended(&Told::of(&denied), denied.status().as_u16(), &metrics);
            return denied;
        }
    };
    request.extensions_mut().insert(caller);
    if matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        let standing = Standing::of(control.access, attempt, request.headers(), needed, metrics);
        request.extensions_mut().insert(standing);
        return next.run(request).await;
    }
    let response = match asides {
        Ok(asides) => {
            request.extensions_mut().insert(asides);
            tokio::spawn(next.run(request)).await.unwrap_or_else(|_| fault())
        }
        Err(bad) => bad.into_response(),
    };
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
            Err(Answer::error(StatusCode::FORBIDDEN, &*why).about(why))
        }
        // Whom the kernel does not let in needs no other word to say.
        Err(Stranger { why, .. }) if matches!(peer, Peer::Socket { .. }) => {
            Err(Answer::error(StatusCode::FORBIDDEN, &*why).about(why))
        }
        Err(Stranger { why, .. }) => Err(Answer::error(StatusCode::UNAUTHORIZED, &*why).about(why)),
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
