//! `POST /restart` and `DELETE /restart`: the Postgres of this node, if it is as whoever asks expects it.

use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use consensus::Snapshot;
use consensus::records::{OrderRecord, Transition, order_id};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::later::later;
use super::scheduled::{self, Conditions};
use super::{may_ignore, once, waits};
use crate::control::Control;
use crate::control::access::Caller;
use crate::control::answer::{Answer, Outcome};
use crate::control::guard::Call;
use crate::operate::orders::{self, refusal};
use crate::operate::proviso::Proviso;
use crate::operate::schedule::restart::cancel as cancel_restart;
use crate::operate::words;

/// How long whoever asks waits unless they say otherwise, and at most.
const USUAL: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(86_400);

/// What may be asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PatroniRestart, example = json!({"role": "replica", "timeout": 60}))]
pub struct Wanted {
    #[schema(value_type = Option<String>, example = "2030-01-01T03:00:00+01:00")]
    schedule: Option<Value>,
    #[schema(minimum = 1, maximum = 604800)]
    window_s: Option<u32>,
    role: Option<String>,
    postgres_version: Option<String>,
    timeout: Option<Value>,
    /// As with Patroni it says so by being there.
    restart_pending: Option<Value>,
    ignore_hold: bool,
    reason: Option<String>,
}

/// Restarts the Postgres of this node, and waits for it.
#[utoipa::path(post, path = "/restart", tag = "patroni", operation_id = "patroni_restart", request_body = Wanted,
    params(("expect_leader" = Option<String>, Query, description = "Who must lead now; where another does, nothing is done",
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length = 48)),
    responses(
        (status = 200, description = "It was restarted", body = String, content_type = "text/plain"),
        (status = 202, description = "It is scheduled", body = String, content_type = "text/plain"),
        (status = 409, description = "Another is scheduled already", body = crate::openapi::Error),
        (status = 412, description = "Another leads, or planned actions are held", body = crate::openapi::Error),
        (status = 422, description = "The time for which it is to be scheduled will not do", body = crate::openapi::Error),
        (status = 500, description = "It is to be scheduled in a pause", body = crate::openapi::Error),
        (status = 503, description = "Its conditions are not satisfied, or it failed", body = crate::openapi::Error),
    ))]
pub async fn ask(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let wanted: Wanted = words.read()?;
    let proviso =
        Proviso { expect_leader: asides.expect_leader.clone(), ignore_hold: wanted.ignore_hold, ..Proviso::default() };
    may_ignore(&caller, wanted.ignore_hold)?;
    let later = later("schedule", wanted.schedule.as_ref(), wanted.window_s)?;
    let role = role(wanted.role.as_deref())?;
    let within = patience(wanted.timeout.as_ref())?;
    let older_than = wanted.postgres_version.as_deref().map(version).transpose()?;
    if let Some(later) = later {
        if older_than.is_some() {
            return Err(bad("`postgres_version` goes with a restart at once, and not with `schedule`"));
        }
        let what = format!("at {}", later.text);
        let conditions = Conditions { role, only_pending: wanted.restart_pending.is_some() };
        let plan = later.plan("restart", &caller, (wanted.ignore_hold, asides.or(wanted.reason)))?;
        let scheduled = scheduled::restart(&control, conditions, &plan, &proviso).await;
        return scheduled.map(|answer| answer.about(what.clone())).map_err(|answer| answer.about(what));
    }
    conditions(&control, older_than, wanted.restart_pending.is_some())?;
    let snapshot = orders::read(&control.reach).await?;
    proviso.lead(&snapshot)?;
    let reason = asides.or(wanted.reason);
    let order =
        OrderRecord { order: "restart".to_owned(), role, requested_by: caller.who(), reason, ..OrderRecord::default() };
    let me = control.hands.me();
    if let Some(why) = refusal(&snapshot, me, &order) {
        return Err(unsatisfied(&why));
    }
    let given = orders::give(&control.reach, me, &order, &proviso).await;
    let revision = given.map_err(|unable| waits("restart", unable))?;
    let record = orders::follow(&control.reach, revision, within, |_| false, once()).await;
    if record.is_none() && take_back(&control, &caller.who(), &order, revision).await {
        let why = format!("it had not begun within {}, and is taken back", words::length(within));
        return Err(Answer::error(StatusCode::SERVICE_UNAVAILABLE, why).ended(Outcome::Refused));
    }
    Ok(told(record.as_ref(), revision, within))
}

/// Whether an order that nobody has begun was taken back: nobody would expect it later.
async fn take_back(control: &Control, by: &str, order: &OrderRecord, revision: i64) -> bool {
    let me = control.hands.me();
    let mut snapshot = Snapshot::default();
    snapshot.order_records.insert(me.clone(), order.clone());
    matches!(orders::withdraw(&control.reach, &snapshot, (me, revision), by).await, Ok(Some(_)))
}

fn unsatisfied(why: &str) -> Answer {
    let why = format!("restart conditions are not satisfied: {why}");
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, why).ended(Outcome::Refused)
}

fn bad(why: impl Into<String>) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, why)
}

fn role(text: Option<&str>) -> Result<Option<String>, Answer> {
    match text {
        None => Ok(None),
        Some("primary" | "master") => Ok(Some("primary".to_owned())),
        Some("replica" | "standby") => Ok(Some("replica".to_owned())),
        Some(other) => Err(bad(format!("PostgreSQL role should be either primary or replica, not \"{other}\""))),
    }
}

/// A number of seconds, or a text with its unit.
fn patience(value: Option<&Value>) -> Result<Duration, Answer> {
    let read = match value {
        None | Some(Value::Null) => return Ok(USUAL),
        Some(Value::Number(number)) => number.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        Some(Value::String(text)) => match text.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => humantime::parse_duration(text).ok(),
        },
        Some(_) => None,
    };
    read.filter(|read| !read.is_zero() && *read <= LONGEST)
        .ok_or_else(|| bad("`timeout`: a number of seconds above 0, or a text such as \"30s\""))
}

/// `15.3` as Postgres numbers it: 150003.
fn version(text: &str) -> Result<i64, Answer> {
    let parts: Option<Vec<i64>> =
        text.split('.').map(|part| part.parse().ok().filter(|n| (0..100).contains(n))).collect();
    match parts.as_deref() {
        Some([major, minor]) if *major >= 10 => Ok(major * 10_000 + minor),
        _ => Err(bad(format!("PostgreSQL version should be in the first.minor format, such as 15.3, not \"{text}\""))),
    }
}

/// What this node can say by itself.
fn conditions(control: &Control, older_than: Option<i64>, only_pending: bool) -> Result<(), Answer> {
    let picture = control.board.load();
    if only_pending && picture.parameters.pending().is_empty() {
        return Err(unsatisfied("no parameter waits for a restart"));
    }
    match (older_than, picture.extras.as_ref().map(|extras| extras.server_version)) {
        (Some(limit), Some(runs)) if runs >= limit => Err(unsatisfied(&format!("PostgreSQL {runs} is not older"))),
        (Some(_), None) => Err(unsatisfied("which version runs is not known")),
        _ => Ok(()),
    }
}

fn told(record: Option<&Transition>, revision: i64, within: Duration) -> Answer {
    let Some(record) = record else {
        let (after, id) = (words::length(within), order_id(revision));
        let why =
            format!("restart status unknown after {after}; it may still be in progress: GET /transitions has {id}");
        return Answer::error(StatusCode::SERVICE_UNAVAILABLE, why).ended(Outcome::Unknown);
    };
    match record.outcome.as_str() {
        "done" => Answer::sentence(StatusCode::OK, "restarted successfully"),
        "refused" => unsatisfied(&record.cause_text),
        _ => Answer::error(StatusCode::SERVICE_UNAVAILABLE, format!("restart failed: {}", record.notes.join("; "))),
    }
}

/// Takes back the restart of this node that is scheduled, and the one that it has not begun.
#[utoipa::path(delete, path = "/restart", tag = "patroni", operation_id = "patroni_cancel_restart",
    responses(
        (status = 200, description = "It is taken back", body = String, content_type = "text/plain"),
        (status = 404, description = "None is scheduled, and none waits", body = crate::openapi::Error),
    ))]
pub async fn cancel(State(control): State<Control>, Extension(caller): Extension<Caller>) -> Answer {
    match cancel_restart(&control.reach, control.hands.me(), &caller.who()).await {
        Ok(taken) if taken.is_empty() => Answer::error(StatusCode::NOT_FOUND, "no restarts are scheduled"),
        Ok(taken) => Answer::sentence(StatusCode::OK, "scheduled restart deleted").about(taken.join("; ")),
        Err(unable) => unable.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patience_is_a_number_of_seconds_or_has_its_unit() {
        let read = |value: Value| patience(Some(&value)).ok();
        for (value, seconds) in [(json!(30), 30), (json!("30"), 30), (json!("2min"), 120), (json!(null), 600)] {
            assert_eq!(read(value.clone()), Some(Duration::from_secs(seconds)), "{value}");
        }
        for value in [json!(0), json!(-1), json!("soon"), json!(1e300), json!([]), json!(true), json!("0s")] {
            assert_eq!(read(value.clone()), None, "{value}");
        }
    }

    #[test]
    fn versions_are_compared_as_postgres_numbers_them() {
        assert_eq!(version("15.3").unwrap(), 150_003);
        for nonsense in ["15", "9.6", "15.3.1", "15.x", "", "-15.3", "15.100"] {
            assert!(version(nonsense).is_err(), "{nonsense}");
        }
    }
}
