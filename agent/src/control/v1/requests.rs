//! `POST /v1/switchover` and `POST /v1/failover`: checked as the commands check them, asked for in etcd, and answered at once.

use axum::http::StatusCode;
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::ToSchema;

use super::answers::{accepted, refused};
use super::later::{plan, scheduled};
use crate::control::Control;
use crate::control::answer::Answer;
use crate::control::guard::Call;
use crate::control::verbs::{may_ignore, may_lose};
use crate::openapi::Name;
use crate::operate::actions::{Action, State};
use crate::operate::failover;
use crate::operate::follow::Asked;
use crate::operate::preflight::{Check, Preflight, Wish};
use crate::operate::schedule::shown::Shown;
use crate::operate::schedule::switchover::checked;
use crate::operate::schedule::{self, Plan};
use crate::operate::switchover::{look, request};

/// A switchover.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "pg2", "expect_leader": "pg1", "reason": "kernel upgrade"}))]
pub struct SwitchoverWanted {
    /// Who is to lead; missing: the best standby.
    #[schema(value_type = Option<Name>)]
    to: Option<MemberName>,
    /// Who must lead now; where another does, nothing is done.
    #[schema(value_type = Option<Name>)]
    expect_leader: Option<MemberName>,
    /// Go on against a hold. Takes admin.
    #[serde(default)]
    ignore_hold: bool,
    /// Not at once, but not before this time, which says its zone (RFC 3339).
    #[schema(example = "2030-01-01T03:00:00+01:00")]
    at: Option<String>,
    /// For how long after that it may still begin, in seconds; missing: 600.
    #[schema(minimum = 1, maximum = 604800)]
    window_s: Option<u32>,
    /// Why, for the records.
    reason: Option<String>,
}

/// A failover.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "pg2", "accept_data_loss": false, "reason": "pg1 and pg3 burned"}))]
pub struct FailoverWanted {
    /// Who is to lead.
    #[schema(value_type = Name)]
    to: MemberName,
    /// Who must have led last; where another did, or leads, nothing is done.
    #[schema(value_type = Option<Name>)]
    expect_leader: Option<MemberName>,
    /// What is missing may be lost. Takes admin.
    #[serde(default)]
    accept_data_loss: bool,
    /// Why, for the records.
    reason: Option<String>,
}

/// Hands the lead over, at once or at a time.
#[utoipa::path(post, path = "/v1/switchover", tag = "actions", operation_id = "switchover", request_body = SwitchoverWanted,
    responses(
        (status = 202, description = "It is asked for, or scheduled", body = Action),
        (status = 409, description = "Another request waits, or another is scheduled", body = super::answers::Refusal),
        (status = 412, description = "A check forbids it", body = super::answers::Refusal),
    ))]
pub async fn switchover(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let wanted: SwitchoverWanted = words.read()?;
    may_ignore(&caller, wanted.ignore_hold)?;
    let wish = Wish { to: wanted.to, expect_leader: wanted.expect_leader, ignore_hold: wanted.ignore_hold };
    let told = (caller.who(), asides.or(wanted.reason.clone()));
    if let Some(plan) = plan(wanted.at.as_deref(), wanted.window_s, wanted.ignore_hold, told)? {
        return later(&control, &wish, &plan).await;
    }
    let world = look(&control.reach, &wish).await;
    let snapshot = world.etcd.as_ref().map_err(|why| silent(why))?;
    let preflight = Preflight::of(&world, snapshot, &wish, Timestamp::now());
    let (Some(from), Some(to), true) = (&preflight.leader, &preflight.candidate, preflight.passed()) else {
        let status = conflict_where(snapshot.request_record.is_some());
        return Err(refused(status, &preflight.checks, preflight.instead.as_ref()));
    };
    let (what, reason) = (format!("from {from} to {to}"), asides.or(wanted.reason));
    let asked = request(&control.reach, snapshot, (from, to), &caller.who(), reason.as_deref(), wish.ignore_hold).await;
    let asked = asked.map_err(|unable| Answer::from(unable).about(what.clone()))?;
    Ok(accepted(&action(&asked, caller.who(), reason)).about(what))
}

/// Leaves it in etcd for its time.
async fn later(control: &Control, wish: &Wish, plan: &Plan) -> Result<Answer, Answer> {
    let world = control.reach.look().await;
    let snapshot = world.etcd.as_ref().map_err(|why| silent(why))?;
    let preflight = checked(&world, snapshot, wish, Timestamp::now());
    let (Some(leader), true) = (&preflight.leader, preflight.passed()) else {
        let status = conflict_where(snapshot.scheduled.switchover.is_some());
        return Err(refused(status, &preflight.checks, None));
    };
    let planned = schedule::switchover::request(&control.reach, leader, wish.to.as_ref(), plan).await?;
    Ok(scheduled(&Shown::of_switchover(&planned, Turn::Ahead, Timestamp::now())))
}

/// Lets a member lead where nobody does.
#[utoipa::path(post, path = "/v1/failover", tag = "actions", operation_id = "failover", request_body = FailoverWanted,
    responses(
        (status = 202, description = "It is asked for", body = Action),
        (status = 409, description = "Another request waits", body = super::answers::Refusal),
        (status = 412, description = "A check forbids it: somebody leads, for instance", body = super::answers::Refusal),
    ))]
pub async fn failover(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let wanted: FailoverWanted = words.read()?;
    let (to, accepts) = (wanted.to, wanted.accept_data_loss);
    may_lose(&caller, accepts)?;
    let what = format!("to {to}{}", if accepts { ", a loss of data accepted" } else { "" });
    let world = control.reach.look().await;
    let snapshot = world.etcd.as_ref().map_err(|why| silent(why).about(what.clone()))?;
    let lead = failover::lead(snapshot, wanted.expect_leader.as_ref()).map_err(|unable| {
        refused(StatusCode::PRECONDITION_FAILED, &[Check::fail(unable.text())], None).about(what.clone())
    })?;
    if let Some(why) = failover::refusal(&world, snapshot, &to).or_else(|| failover::unproven(&world, &to, accepts)) {
        let status = conflict_where(snapshot.cluster.leader.is_none() && snapshot.request_record.is_some());
        return Err(refused(status, &[Check::fail(why)], None).about(what));
    }
    let reason = asides.or(wanted.reason);
    let by = caller.who();
    let asked = failover::request(&control.reach, snapshot, &to, (accepts, lead), &by, reason.as_deref()).await;
    let asked = asked.map_err(|unable| Answer::from(unable).about(what.clone()))?;
    Ok(accepted(&action(&asked, by, reason)).about(what))
}

fn conflict_where(another_waits: bool) -> StatusCode {
    if another_waits { StatusCode::CONFLICT } else { StatusCode::PRECONDITION_FAILED }
}

fn silent(why: &str) -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, format!("it is asked for in etcd, which does not answer: {why}"))
}

fn action(asked: &Asked, by: String, reason: Option<String>) -> Action {
    let action = Action::new(asked.id(), asked.kind.word(), State::Accepted, (by, reason));
    Action { from: asked.from.as_ref().map(ToString::to_string), to: Some(asked.to.to_string()), ..action }
}
