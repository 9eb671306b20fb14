//! What comes back from a verb: Patroni's status and sentence where it has one, a JSON object with `error` where something was not done; and for
//! the audit what was asked for and how it ended.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::operate::{Kind, Unable};

/// How an attempt ended, in the words of the audit and of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// It goes on without whoever asked.
    Accepted,
    /// A check forbids it; nothing has changed.
    Refused,
    /// It was begun, or could not be, and has failed.
    Failed,
    /// Whether it was done is not known yet.
    Unknown,
    /// Whoever asked may not.
    Denied,
    /// Nobody can understand it.
    Invalid,
}

impl Outcome {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Accepted => "accepted",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
            Outcome::Denied => "denied",
            Outcome::Invalid => "invalid",
        }
    }

    /// What a status says by itself.
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            202 => Outcome::Accepted,
            200..300 => Outcome::Done,
            401 | 403 => Outcome::Denied,
            404 | 409 | 412 => Outcome::Refused,
            400..500 => Outcome::Invalid,
            _ => Outcome::Failed,
        }
    }
}

/// What the audit takes from an answer.
#[derive(Clone, Debug)]
pub struct Told {
    /// How it ended.
    pub outcome: Outcome,
    /// What was asked for, in a few words; never a value that may be secret.
    pub what: String,
}

impl Told {
    /// Of a client whose certificate does not count.
    pub fn refused_certificate(why: &str) -> Self {
        Self { outcome: Outcome::Denied, what: format!("a certificate that does not count: {why}") }
    }

    /// Of an attempt that was turned away for this.
    pub fn denied(why: &str) -> Self {
        Self { outcome: Outcome::Denied, what: why.to_owned() }
    }

    /// Of a response that may have come from elsewhere.
    pub fn of(response: &Response) -> Self {
        let said = response.extensions().get::<Told>().cloned();
        said.unwrap_or_else(|| Self { outcome: Outcome::of(response.status()), what: String::new() })
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Body,
    told: Told,
    /// Where to look for what comes of it.
    location: Option<HeaderValue>,
}

#[derive(Debug)]
enum Body {
    Sentence(String),
    Object(Value),
}

impl Answer {
    /// A sentence, as Patroni says it.
    pub fn sentence(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self::new(status, Body::Sentence(sentence.into()))
    }

    /// An object.
    pub fn object(status: StatusCode, value: Value) -> Self {
        Self::new(status, Body::Object(value))
    }

    /// Why something was not done.
    pub fn error(status: StatusCode, why: impl Into<String>) -> Self {
        Self::new(status, Body::Object(json!({"error": why.into()})))
    }

    fn new(status: StatusCode, body: Body) -> Self {
        Self { status, body, told: Told { outcome: Outcome::of(status), what: String::new() }, location: None }
    }

    /// Where to look for what comes of it.
    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        self.location = HeaderValue::from_str(path).ok();
        self
    }

    /// Where the status does not say how it ended.
    #[must_use]
    pub fn ended(mut self, outcome: Outcome) -> Self {
        self.told.outcome = outcome;
        self
    }

    /// What was asked for.
    #[must_use]
    pub fn about(mut self, what: impl Into<String>) -> Self {
        self.told.what = what.into();
        self
    }
}

impl From<Unable> for Answer {
    fn from(unable: Unable) -> Self {
        let (status, outcome) = match unable.kind {
            Kind::Misused => (StatusCode::UNPROCESSABLE_ENTITY, Outcome::Invalid),
            Kind::Refused => (StatusCode::UNPROCESSABLE_ENTITY, Outcome::Refused),
            Kind::Held | Kind::Unexpected => (StatusCode::PRECONDITION_FAILED, Outcome::Refused),
            Kind::Overtaken => (StatusCode::CONFLICT, Outcome::Refused),
            Kind::Failed | Kind::Unreachable | Kind::Unauthorised => (StatusCode::SERVICE_UNAVAILABLE, Outcome::Failed),
            Kind::Unknown => (StatusCode::SERVICE_UNAVAILABLE, Outcome::Unknown),
        };
        Self::error(status, unable.text()).ended(outcome)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            Body::Sentence(text) => {
                (self.status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
            }
            Body::Object(value) => (self.status, Json(value)).into_response(),
        };
        response.extensions_mut().insert(self.told);
        response.headers_mut().extend(self.location.map(|path| (header::LOCATION, path)));
        response
    }
}
