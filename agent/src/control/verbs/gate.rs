//! `GET /gate/migrate`: the same question as `pgvigil gate migrate`, for pipelines that have no command line here. The status is the verdict.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, Uri};

use super::super::answer::{Answer, Outcome};
use crate::control::Control;
use crate::operate::gate::{Limits, Word, migrate};

/// May a planned change begin? Answers with every check.
#[utoipa::path(get, path = "/gate/migrate", tag = "reading", operation_id = "gate_migrate",
    params(
        ("max_lag" = Option<String>, Query, description = "How far a standby may be behind: a time such as 2s, or an amount of WAL such as 16MB"),
        ("require_sync" = Option<bool>, Query, description = "Commits must wait for a standby"),
        ("max_transaction" = Option<String>, Query, description = "How old the oldest transaction may be, such as 5m"),
        ("min_replicas" = Option<usize>, Query, description = "So many standbys must be near enough; missing: all"),
        ("hold" = Option<String>, Query, description = "One's own hold, which is no obstacle"),
    ),
    responses(
        (status = 200, description = "Go", body = std::collections::BTreeMap<String, serde_json::Value>),
        (status = 400, description = "A limit that nobody knows, or that will not do", body = crate::openapi::Error),
        (status = 409, description = "No go, and why", body = std::collections::BTreeMap<String, serde_json::Value>),
        (status = 503, description = "It is not known", body = std::collections::BTreeMap<String, serde_json::Value>),
    ))]
pub async fn ask(State(control): State<Control>, RawQuery(query): RawQuery) -> Result<Answer, Answer> {
    let limits = limits(query.as_deref().unwrap_or_default())?;
    let verdict = migrate(&control.reach, &limits).await;
    let status = match verdict.word() {
        Word::Go => StatusCode::OK,
        Word::NoGo => StatusCode::CONFLICT,
        Word::Unknown => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok(Answer::object(status, verdict.to_json()).ended(Outcome::Done))
}

/// `max_lag=2s&require_sync=true&max_transaction=5m&min_replicas=1&hold=h-1`. What is not known here is a mistake: a limit that nobody keeps to must not
/// look like one.
fn limits(query: &str) -> Result<Limits, Answer> {
    let bad = |why: String| Answer::error(StatusCode::BAD_REQUEST, why);
    let mut limits = Limits::default();
    for (name, value) in pairs(query).map_err(bad)? {
        let will_not_do = |wanted: &str| bad(format!("`{name}`: {wanted}, not \"{value}\""));
        match name.as_str() {
            "max_lag" => limits.lag = value.parse().map_err(|wanted: String| will_not_do(&wanted))?,
            "require_sync" => {
                limits.require_sync = match value.as_str() {
                    "" | "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(will_not_do("true or false")),
                };
            }
            "max_transaction" => {
                limits.transaction = time(&value).ok_or_else(|| will_not_do("a time such as 5m"))?;
            }
            "min_replicas" => {
                limits.min_replicas = Some(value.parse().map_err(|_| will_not_do("a number"))?);
            }
            "hold" => limits.hold = Some(value).filter(|id| !id.is_empty()),
            "reason" => {}
            _ => {
                let why = "max_lag, require_sync, max_transaction, min_replicas and hold can be said here";
                return Err(bad(format!("`{name}` is not known: {why}")));
            }
        }
    }
    Ok(limits)
}

fn time(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

fn pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let uri: Uri = format!("/?{query}").parse().map_err(|_| "the query will not do".to_owned())?;
    let read = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    read.map(|read| read.0).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::operate::gate::Lag;

    #[test]
    fn limits_are_read_from_the_query_and_none_is_overlooked() {
        assert_eq!(limits("").unwrap(), Limits::default());
        let read = limits("max_lag=16MB&require_sync&max_transaction=90s&min_replicas=1&hold=h-1").unwrap();
        assert_eq!((read.lag, read.require_sync), (Lag::Bytes(16 << 20), true));
        assert_eq!((read.transaction, read.min_replicas), (Duration::from_secs(90), Some(1)));
        assert_eq!(read.hold.as_deref(), Some("h-1"));
        for mistake in ["max_lagg=2s", "max_lag=much", "require_sync=perhaps", "min_replicas=all", "max_transaction=5"]
        {
            assert!(limits(mistake).is_err(), "{mistake}");
        }
    }
}
