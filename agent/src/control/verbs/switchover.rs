//! `POST /switchover` and `DELETE /switchover`: checked like `pgvigil switchover`, asked for in etcd, and followed until it is known what came of it.

use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use consensus::Snapshot;
use decision::names::MemberName;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::later::later;
use super::{may_ignore, member, scheduled};
use crate::control::Control;
use crate::control::access::Caller;
use crate::control::answer::{Answer, Outcome};
use crate::control::guard::{Asides, Call};
use crate::operate::follow::{Asked, End, Followed, Kind, follow};
use crate::operate::hold::Shown;
use crate::operate::preflight::{Preflight, Wish};
use crate::operate::switchover::{self, look, request};
use crate::operate::words;

/// How long whoever asks waits for the end; Patroni has the same patience.
const WITHIN: Duration = Duration::from_secs(20);

/// What may be asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PatroniSwitchover, example = json!({"leader": "pg1", "candidate": "pg2"}))]
pub struct Wanted {
    /// Who leads now.
    pub leader: Option<String>,
    /// Who is to lead.
    #[serde(alias = "member")]
    pub candidate: Option<String>,
    /// When, with the time zone; missing: at once.
    #[schema(value_type = Option<String>, example = "2030-01-01T03:00:00+01:00")]
    pub scheduled_at: Option<Value>,
    /// For how long after that it may still begin, in seconds (600).
    #[schema(minimum = 1, maximum = 604800)]
    pub window_s: Option<u32>,
    /// Why.
    pub reason: Option<String>,
    /// It goes on against a hold.
    pub ignore_hold: bool,
    /// In a failover: what is missing may be lost.
    pub accept_data_loss: bool,
}

/// Hands the lead over, and waits for the end.
#[utoipa::path(post, path = "/switchover", tag = "patroni", operation_id = "patroni_switchover", request_body = Wanted,
    responses(
        (status = 200, description = "Somebody leads", body = String, content_type = "text/plain"),
        (status = 202, description = "It is scheduled", body = String, content_type = "text/plain"),
        (status = 409, description = "Another request waits, or another switchover is scheduled", body = crate::openapi::Error),
        (status = 412, description = "A check forbids it", body = crate::openapi::Error),
        (status = 422, description = "The time for which it is to be scheduled will not do", body = crate::openapi::Error),
        (status = 503, description = "It failed, or what came of it is not known yet", body = crate::openapi::Error),
    ))]
pub async fn ask(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let wanted: Wanted = words.read()?;
    if wanted.accept_data_loss {
        let why = "`accept_data_loss`: a switchover loses nothing; POST /failover takes it";
        return Err(Answer::error(StatusCode::BAD_REQUEST, why));
    }
    asked_for(&control, &caller, &asides, &wanted).await
}

/// The same for whoever says in a failover that somebody leads.
pub(super) async fn asked_for(
    control: &Control,
    caller: &Caller,
    asides: &Asides,
    wanted: &Wanted,
) -> Result<Answer, Answer> {
    let bad = |why: &str| Answer::error(StatusCode::BAD_REQUEST, why);
    may_ignore(caller, wanted.ignore_hold)?;
    let leader = member("leader", wanted.leader.as_deref())?
        .ok_or_else(|| bad("Switchover could be performed only from a specific leader"))?;
    let candidate = member("candidate", wanted.candidate.as_deref())?;
    let later = later("scheduled_at", wanted.scheduled_at.as_ref(), wanted.window_s)?;
    if candidate.as_ref() == Some(&leader) {
        return Err(bad("Switchover target and source are the same"));
    }
    let to = candidate.as_ref().map_or_else(|| "the best standby".to_owned(), ToString::to_string);
    let what = format!("from {leader} to {to}");
    let reason = asides.or(wanted.reason.clone());
    if let Some(later) = later {
        let what = format!("{what}, at {}", later.text);
        let wish = Wish { to: candidate, expect_leader: Some(leader), ignore_hold: wanted.ignore_hold };
        let scheduled = scheduled::switchover(control, caller, wish, &later, reason).await;
        return scheduled.map(|answer| answer.about(what.clone())).map_err(|answer| answer.about(what));
    }
    let wish = Wish { to: candidate, expect_leader: Some(leader), ignore_hold: wanted.ignore_hold };
    let handed_over = hand_over(control, caller, wish, reason.as_deref()).await;
    handed_over.map(|answer| answer.about(what.clone())).map_err(|answer| answer.about(what))
}

async fn hand_over(control: &Control, caller: &Caller, wish: Wish, reason: Option<&str>) -> Result<Answer, Answer> {
    let world = look(&control.reach, &wish).await;
    let snapshot = world.etcd.as_ref().map_err(|why| unreachable(why))?;
    let preflight = Preflight::of(&world, snapshot, &wish, Timestamp::now());
    let (Some(from), Some(to), true) = (&preflight.leader, &preflight.candidate, preflight.passed()) else {
        return Err(refusal(&preflight, snapshot, &wish));
    };
    let asked = request(&control.reach, snapshot, (from, to), &caller.who(), reason, wish.ignore_hold).await?;
    let followed = follow(&control.reach, &asked, WITHIN, &mut |_| {}).await;
    Ok(conclusion(&asked, &followed))
}

pub(super) fn unreachable(why: &str) -> Answer {
    let why = format!("failed to write failover key into DCS: etcd does not answer: {why}");
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Why it is not asked for: in Patroni's words where it has any, and with every check.
fn refusal(preflight: &Preflight, snapshot: &Snapshot, wish: &Wish) -> Answer {
    let precondition = StatusCode::PRECONDITION_FAILED;
    let (status, sentence) = if let Some(sentence) = misnamed(preflight, snapshot, wish) {
        (precondition, sentence)
    } else if snapshot.request_record.is_some() {
        (StatusCode::CONFLICT, "another switchover or failover is under way")
    } else if !wish.ignore_hold && Shown::of(snapshot, Timestamp::now()).is_some() {
        (precondition, "planned actions are held")
    } else if snapshot.config.paused_at(Timestamp::now()) && wish.to.is_none() {
        (StatusCode::BAD_REQUEST, "Switchover is possible only to a specific candidate in a paused state")
    } else {
        (precondition, "switchover is not possible: no good candidates have been found")
    };
    refused(preflight, status, sentence)
}

/// Who is named does not lead, or is nobody: Patroni's words for it.
pub(super) fn misnamed(preflight: &Preflight, snapshot: &Snapshot, wish: &Wish) -> Option<&'static str> {
    let leads = |expected: &MemberName| preflight.leader.as_ref() == Some(expected);
    let is_nobody = |name: &MemberName| !snapshot.cluster.members.contains_key(name);
    if !wish.expect_leader.as_ref().is_some_and(leads) {
        return Some("leader name does not match");
    }
    wish.to.as_ref().is_some_and(is_nobody).then_some("candidate does not exists")
}

/// A refusal in this sentence, with every check.
pub(super) fn refused(preflight: &Preflight, status: StatusCode, sentence: &str) -> Answer {
    let failed = preflight.failures().collect::<Vec<_>>().join("; ");
    let body = json!({
        "error": format!("{sentence} ({failed})"),
        "checks": preflight.checks,
        "instead": preflight.instead,
    });
    Answer::object(status, body).ended(Outcome::Refused)
}

/// What came of it, in Patroni's sentences.
pub(super) fn conclusion(asked: &Asked, followed: &Followed) -> Answer {
    let (to, id) = (&asked.to, asked.id());
    let (done, otherwise, noun) = match asked.kind {
        Kind::Switchover => ("switched over", "Switched over", "Switchover"),
        Kind::Failover => ("failed over", "Failed over", "Failover"),
    };
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    match &followed.end {
        Some(End::Done) => Answer::sentence(StatusCode::OK, format!("Successfully {done} to \"{to}\"")),
        Some(End::Otherwise(other)) => {
            Answer::sentence(StatusCode::OK, format!("{otherwise} to \"{other}\" instead of \"{to}\""))
        }
        Some(End::Failed(why)) => Answer::error(busy, format!("{noun} failed: {why} ({id})")),
        Some(End::Refused(why)) => {
            Answer::error(StatusCode::PRECONDITION_FAILED, format!("{noun} refused: {why} ({id})"))
        }
        None => {
            let silent = followed.unreachable.as_ref().map(|why| format!("; etcd does not answer: {why}"));
            let within = words::length(WITHIN);
            let why = format!(
                "{noun} status unknown after {within}; operation may still be in progress: GET /transitions has {id} once it has begun{}",
                silent.unwrap_or_default()
            );
            Answer::error(busy, why).ended(Outcome::Unknown)
        }
    }
}

/// Watches a request that has been written, with the patience of whoever asked.
pub(super) async fn followed(control: &Control, asked: &Asked) -> Answer {
    conclusion(asked, &follow(&control.reach, asked, WITHIN, &mut |_| {}).await)
}

/// Takes back the switchover that is scheduled, and the request that waits, that of a failover as well.
#[utoipa::path(delete, path = "/switchover", tag = "patroni", operation_id = "patroni_cancel_switchover",
    responses(
        (status = 200, description = "It is taken back", body = String, content_type = "text/plain"),
        (status = 404, description = "None is scheduled, and none waits", body = crate::openapi::Error),
        (status = 409, description = "It was answered at this very moment, or is under way", body = crate::openapi::Error),
    ))]
pub async fn cancel(State(control): State<Control>, Extension(caller): Extension<Caller>) -> Answer {
    match switchover::cancel(&control.reach, &caller.who()).await {
        Ok(taken) if !taken.is_empty() => {
            for why in taken.iter().filter_map(|taken| taken.unrecorded.as_ref()) {
                tracing::warn!(why, "that a request was taken back is not on record");
            }
            let what: Vec<String> = taken.into_iter().map(|taken| taken.what).collect();
            Answer::sentence(StatusCode::OK, "scheduled switchover deleted").about(what.join("; "))
        }
        Ok(_) => Answer::error(StatusCode::NOT_FOUND, "no switchover is scheduled"),
        Err(unable) => unable.into(),
    }
}
