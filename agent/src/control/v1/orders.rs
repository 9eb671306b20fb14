//! `POST /v1/restart`, `POST /v1/reinitialize` and `POST /v1/reload`: what one node is to do, which need not be the one that is asked.

use axum::http::StatusCode;
use consensus::records::{OrderRecord, order_id};
use decision::names::MemberName;
use decision::schedule::Turn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::answers::{accepted, expected, passes, refused};
use super::later::{plan, scheduled};
use crate::control::answer::Answer;
use crate::control::guard::Call;
use crate::control::verbs::may_ignore;
use crate::openapi::Name;
use crate::operate::actions::{Action, State};
use crate::operate::orders::{self, read, refusal, waits_for_restart};
use crate::operate::preflight::{Check, Grade};
use crate::operate::proviso::Proviso;
use crate::operate::schedule::shown::Shown;
use crate::operate::schedule::{self, Plan};

/// The role that a node must have.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OnlyRole {
    /// It accepts writes.
    Primary,
    /// It does not.
    Standby,
}

/// A restart.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"member": "pg2", "role": "standby", "reason": "shared_buffers"}))]
pub struct RestartWanted {
    /// Whose Postgres.
    #[schema(value_type = Name)]
    member: MemberName,
    /// Only if it has this role when it begins.
    role: Option<OnlyRole>,
    /// Only if a parameter waits for a restart of it: now, or, where it is scheduled, then.
    #[serde(default)]
    only_pending: bool,
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

/// A new copy of the data.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"member": "pg3", "expect_leader": "pg1", "reason": "a broken disk"}))]
pub struct ReinitializeWanted {
    /// Whose data.
    #[schema(value_type = Name)]
    member: MemberName,
    /// Who must lead now; where another does, nothing is done.
    #[schema(value_type = Option<Name>)]
    expect_leader: Option<MemberName>,
    /// Go on against a hold. Takes admin.
    #[serde(default)]
    ignore_hold: bool,
    /// Why, for the records.
    reason: Option<String>,
}

/// Reading a node's file again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "new tags"}))]
pub struct ReloadWanted {
    /// Whose file; missing: that of the node which is asked.
    #[schema(value_type = Option<Name>)]
    member: Option<MemberName>,
    /// Who must lead now; where another does, nothing is done.
    #[schema(value_type = Option<Name>)]
    expect_leader: Option<MemberName>,
    /// Why, for the records.
    reason: Option<String>,
}

/// A file that has been read again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reloaded {
    /// `pgvigil.reload/v1`
    schema: &'static str,
    /// Whose.
    member: String,
    /// What has changed, and what waits for something, a sentence each.
    changes: Vec<String>,
}

/// Restarts the Postgres of a node, at once or at a time.
#[utoipa::path(post, path = "/v1/restart", tag = "actions", operation_id = "restart", request_body = RestartWanted,
    responses(
        (status = 202, description = "It is ordered, or scheduled", body = Action),
        (status = 409, description = "Another order waits there, or another restart is scheduled", body = super::answers::Refusal),
        (status = 412, description = "A check forbids it", body = super::answers::Refusal),
    ))]
pub async fn restart(call: Call) -> Result<Answer, Answer> {
    let wanted: RestartWanted = call.words.read()?;
    let role = wanted.role.map(|role| match role {
        OnlyRole::Primary => "primary".to_owned(),
        OnlyRole::Standby => "replica".to_owned(),
    });
    let told = (call.caller.who(), call.asides.or(wanted.reason.clone()));
    if let Some(plan) = plan(wanted.at.as_deref(), wanted.window_s, wanted.ignore_hold, told)? {
        return later(&call, &wanted, role, &plan).await;
    }
    if wanted.only_pending && !waits_for_restart(&read(&call.control.reach).await?, &wanted.member) {
        let check = Check::fail(format!("no parameter waits for a restart of {}", wanted.member));
        return Err(refused(StatusCode::PRECONDITION_FAILED, &[check], None).about(format!("of {}", wanted.member)));
    }
    let order = OrderRecord { order: "restart".to_owned(), role, reason: wanted.reason, ..OrderRecord::default() };
    give(&call, &wanted.member, (wanted.expect_leader.as_ref(), wanted.ignore_hold), order).await
}

/// Leaves it in etcd for its time.
async fn later(call: &Call, wanted: &RestartWanted, role: Option<String>, plan: &Plan) -> Result<Answer, Answer> {
    may_ignore(&call.caller, wanted.ignore_hold)?;
    let (snapshot, of, leader) = (read(&call.control.reach).await?, &wanted.member, wanted.expect_leader.as_ref());
    let mut checks: Vec<Check> = expected(&snapshot, leader).into_iter().collect();
    checks.push(match schedule::restart::refusal(&snapshot, of, Timestamp::now()) {
        Some(why) => Check::fail(why),
        None => Check::ok(format!("{of} is registered")),
    });
    if checks.iter().any(|check| check.grade == Grade::Fail) {
        let another = snapshot.scheduled.restarts.contains_key(of);
        let status = if another { StatusCode::CONFLICT } else { StatusCode::PRECONDITION_FAILED };
        return Err(refused(status, &checks, None).about(format!("of {of}")));
    }
    let proviso = Proviso::expecting(leader.cloned());
    let planned =
        schedule::restart::request(&call.control.reach, &snapshot, of, (role, wanted.only_pending), plan, &proviso)
            .await?;
    Ok(scheduled(&Shown::of_restart(of, &planned, Turn::Ahead, Timestamp::now())))
}

/// Copies the data of a node anew.
#[utoipa::path(post, path = "/v1/reinitialize", tag = "actions", operation_id = "reinitialize", request_body = ReinitializeWanted,
    responses(
        (status = 202, description = "It is ordered", body = Action),
        (status = 409, description = "Another order waits there", body = super::answers::Refusal),
        (status = 412, description = "A check forbids it", body = super::answers::Refusal),
    ))]
pub async fn reinitialize(call: Call) -> Result<Answer, Answer> {
    let wanted: ReinitializeWanted = call.words.read()?;
    let order = OrderRecord { order: "reinit".to_owned(), reason: wanted.reason, ..OrderRecord::default() };
    give(&call, &wanted.member, (wanted.expect_leader.as_ref(), wanted.ignore_hold), order).await
}

/// Reads a node's file again: at once where it is the node that is asked.
#[utoipa::path(post, path = "/v1/reload", tag = "actions", operation_id = "reload", request_body = ReloadWanted,
    responses(
        (status = 200, description = "It was read", body = Reloaded),
        (status = 202, description = "Another node is to read its file", body = Action),
        (status = 409, description = "Another order waits there", body = super::answers::Refusal),
        (status = 412, description = "A check forbids it", body = super::answers::Refusal),
    ))]
pub async fn reload(call: Call) -> Result<Answer, Answer> {
    let wanted: ReloadWanted = call.words.read()?;
    let me = call.control.hands.me();
    let expects = wanted.expect_leader.as_ref();
    if let Some(member) = wanted.member.filter(|member| member != me) {
        let order = OrderRecord { order: "reload".to_owned(), reason: wanted.reason, ..OrderRecord::default() };
        return give(&call, &member, (expects, false), order).await;
    }
    if expects.is_some() {
        let checks: Vec<Check> = expected(&read(&call.control.reach).await?, expects).into_iter().collect();
        passes(&checks)?;
    }
    let broken = |errors: anyhow::Error| {
        let answer = Answer::error(StatusCode::UNPROCESSABLE_ENTITY, format!("{errors:#}"));
        answer.about("a file with a mistake")
    };
    let changes = call.control.hands.reload().await.map_err(broken)?;
    let what = changes.join("; ");
    let reloaded = Reloaded { schema: "pgvigil.reload/v1", member: me.to_string(), changes };
    Ok(Answer::object(StatusCode::OK, json!(reloaded)).about(what))
}

/// Leaves the order in etcd, if nothing forbids it.
async fn give(
    call: &Call,
    member: &MemberName,
    (leader, ignore_hold): (Option<&MemberName>, bool),
    order: OrderRecord,
) -> Result<Answer, Answer> {
    may_ignore(&call.caller, ignore_hold)?;
    let what = format!("of {member}");
    let reason = call.asides.or(order.reason.clone());
    let order = OrderRecord { requested_by: call.caller.who(), reason, ..order };
    let snapshot = read(&call.control.reach).await?;
    let mut checks: Vec<Check> = expected(&snapshot, leader).into_iter().collect();
    checks.push(match refusal(&snapshot, member, &order) {
        Some(why) => Check::fail(why),
        None => Check::ok(format!("{member} is registered")),
    });
    if order.order == "reinit" && snapshot.cluster.leader.is_none() {
        checks.push(Check::fail("nobody leads: there is nothing to copy from"));
    }
    passes(&checks).map_err(|answer| answer.about(what.clone()))?;
    let proviso = Proviso { expect_leader: leader.cloned(), ignore_hold, ..Proviso::default() };
    let given = orders::give(&call.control.reach, member, &order, &proviso).await;
    let revision = given.map_err(|unable| Answer::from(unable).about(what.clone()))?;
    Ok(accepted(&Action::of_order(order_id(revision), State::Accepted, member, &order)).about(what))
}
