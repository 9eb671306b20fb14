//! `POST /failover`: an operator's word where nobody leads. Who names a leader asks for a switchover, as with Patroni.

use axum::http::StatusCode;
use consensus::Lead;

use super::later::later;
use super::switchover::{Wanted, asked_for, followed, unreachable};
use super::{may_lose, member};
use crate::control::Control;
use crate::control::access::Caller;
use crate::control::answer::{Answer, Outcome};
use crate::control::guard::{Asides, Call};
use crate::operate::failover::{refusal, request, unproven};

/// Lets a member lead where nobody does, and waits for the end. With `leader` it is a switchover.
#[utoipa::path(post, path = "/failover", tag = "patroni", operation_id = "patroni_failover", request_body = Wanted,
    responses(
        (status = 200, description = "Somebody leads", body = String, content_type = "text/plain"),
        (status = 409, description = "Another request waits", body = crate::openapi::Error),
        (status = 412, description = "A check forbids it", body = crate::openapi::Error),
        (status = 202, description = "The switchover is scheduled, where `leader` makes it one", body = String, content_type = "text/plain"),
        (status = 422, description = "The time for which it is to be scheduled will not do", body = crate::openapi::Error),
        (status = 503, description = "It failed, or what came of it is not known yet", body = crate::openapi::Error),
    ))]
pub async fn ask(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let wanted: Wanted = words.read()?;
    may_lose(&caller, wanted.accept_data_loss)?;
    if wanted.leader.as_deref().is_some_and(|leader| !leader.is_empty()) {
        if wanted.accept_data_loss {
            let why = "`leader` asks for a switchover, which loses nothing: without `accept_data_loss`";
            return Err(Answer::error(StatusCode::BAD_REQUEST, why));
        }
        return asked_for(&control, &caller, &asides, &wanted).await;
    }
    fail_over(&control, &caller, &asides, &wanted).await
}

async fn fail_over(control: &Control, caller: &Caller, asides: &Asides, wanted: &Wanted) -> Result<Answer, Answer> {
    let bad = |why: &str| Answer::error(StatusCode::BAD_REQUEST, why);
    let to = member("candidate", wanted.candidate.as_deref())?
        .ok_or_else(|| bad("Failover could be performed only to a specific candidate"))?;
    if !matches!(later("scheduled_at", wanted.scheduled_at.as_ref(), wanted.window_s), Ok(None)) {
        return Err(bad("Failover can't be scheduled"));
    }
    let accepts = if wanted.accept_data_loss { ", a loss of data accepted" } else { "" };
    let what = format!("to {to}{accepts}");
    let world = control.reach.look().await;
    let snapshot = world.etcd.as_ref().map_err(|why| unreachable(why).about(what.clone()))?;
    if let Some(why) = refusal(&world, snapshot, &to).or_else(|| unproven(&world, &to, wanted.accept_data_loss)) {
        let why = format!("failover is not possible: {why}");
        return Err(Answer::error(StatusCode::PRECONDITION_FAILED, why).ended(Outcome::Refused).about(what));
    }
    let reason = asides.or(wanted.reason.clone());
    let given = (wanted.accept_data_loss, Lead::Whoever);
    let asked = request(&control.reach, snapshot, &to, given, &caller.who(), reason.as_deref()).await;
    let asked = asked.map_err(|unable| Answer::from(unable).about(what.clone()))?;
    Ok(followed(control, &asked).await.about(what))
}
