//! `POST /switchover` with `scheduled_at`, `POST /restart` with `schedule`: left in etcd for its time. Patroni's codes, and the checks that can be made
//! beforehand.

use axum::http::StatusCode;
use consensus::Snapshot;
use jiff::Timestamp;

use super::later::Later;
use super::switchover::{misnamed, refused, unreachable};
use crate::control::Control;
use crate::control::access::Caller;
use crate::control::answer::{Answer, Outcome};
use crate::operate::orders;
use crate::operate::preflight::{Preflight, Wish};
use crate::operate::proviso::Proviso;
use crate::operate::schedule::switchover::{checked, request};
use crate::operate::schedule::{Plan, paused, restart};

/// Schedules a switchover.
///
/// # Errors
/// As Patroni answers: 400 in a pause or without a time zone, 412 for another leader or an unknown candidate, 422 for any other time that will not do; and
/// 409 where another is scheduled.
pub(super) async fn switchover(
    control: &Control,
    caller: &Caller,
    wish: Wish,
    later: &Later,
    reason: Option<String>,
) -> Result<Answer, Answer> {
    let world = control.reach.look().await;
    let snapshot = world.etcd.as_ref().map_err(|why| unreachable(why))?;
    let now = Timestamp::now();
    if let Some(why) = paused(snapshot, now) {
        let why = format!("Can't schedule switchover in the paused state ({why})");
        return Err(Answer::error(StatusCode::BAD_REQUEST, why).ended(Outcome::Refused));
    }
    let plan = later.plan("switchover", caller, (wish.ignore_hold, reason))?;
    let preflight = checked(&world, snapshot, &wish, now);
    let (Some(leader), true) = (&preflight.leader, preflight.passed()) else {
        return Err(refusal(&preflight, snapshot, &wish));
    };
    let planned = request(&control.reach, leader, wish.to.as_ref(), &plan).await?;
    let answer = Answer::sentence(StatusCode::ACCEPTED, "Switchover scheduled");
    Ok(answer.at(&format!("/v1/actions/{}", planned.id())))
}

fn refusal(preflight: &Preflight, snapshot: &Snapshot, wish: &Wish) -> Answer {
    let precondition = StatusCode::PRECONDITION_FAILED;
    let (status, sentence) = if let Some(sentence) = misnamed(preflight, snapshot, wish) {
        (precondition, sentence)
    } else if snapshot.scheduled.switchover.is_some() {
        (StatusCode::CONFLICT, "Another switchover is already scheduled")
    } else {
        (precondition, "switchover is not possible")
    };
    refused(preflight, status, sentence)
}

/// What must be so of a node when it is restarted.
pub(super) struct Conditions {
    /// Its role, in the word of the record.
    pub(super) role: Option<String>,
    /// A parameter waits for it.
    pub(super) only_pending: bool,
}

/// Schedules a restart of this node.
///
/// # Errors
/// As Patroni answers: 500 in a pause, 409 where another is scheduled; 503 where this node is not registered, and 412 where another leads than the one who must.
pub(super) async fn restart(
    control: &Control,
    conditions: Conditions,
    plan: &Plan,
    proviso: &Proviso,
) -> Result<Answer, Answer> {
    let (snapshot, me) = (orders::read(&control.reach).await?, control.hands.me());
    let refused = |status, why: String| Err(Answer::error(status, why).ended(Outcome::Refused));
    proviso.lead(&snapshot)?;
    if let Some(why) = paused(&snapshot, Timestamp::now()) {
        let why = format!("Can't schedule restart in the paused state ({why})");
        return refused(StatusCode::INTERNAL_SERVER_ERROR, why);
    }
    if let Some(why) = restart::another(&snapshot, me) {
        return refused(StatusCode::CONFLICT, format!("Another restart is already scheduled ({why})"));
    }
    if let Some(why) = restart::refusal(&snapshot, me, Timestamp::now()) {
        return refused(StatusCode::SERVICE_UNAVAILABLE, format!("restart conditions are not satisfied: {why}"));
    }
    let wanted = (conditions.role, conditions.only_pending);
    let planned = restart::request(&control.reach, &snapshot, me, wanted, plan, proviso).await?;
    let answer = Answer::sentence(StatusCode::ACCEPTED, "Restart scheduled");
    Ok(answer.at(&format!("/v1/actions/{}", planned.id())))
}
