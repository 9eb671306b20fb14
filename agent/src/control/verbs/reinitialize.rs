//! `POST /reinitialize`: the data of this node is copied anew. The answer comes when that has begun; its record tells how it ends.

use std::time::Duration;

use axum::http::StatusCode;
use consensus::records::{OrderRecord, order_id};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{once, waits};
use crate::control::Control;
use crate::control::answer::{Answer, Outcome};
use crate::control::guard::Call;
use crate::operate::orders;
use crate::operate::proviso::Proviso;
use crate::operate::words;

/// How soon a node begins.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// What may be asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PatroniReinitialize, example = json!({"force": true}))]
pub struct Wanted {
    /// With Patroni it breaks off what is under way. Here an order waits for its turn anyway.
    #[serde(rename = "force")]
    _force: Option<bool>,
    from_leader: Option<bool>,
    ignore_hold: bool,
    reason: Option<String>,
}

/// Copies the data of this node anew; answers when that has begun.
#[utoipa::path(post, path = "/reinitialize", tag = "patroni", operation_id = "patroni_reinitialize", request_body = Wanted,
    params(("expect_leader" = Option<String>, Query, description = "Who must lead now; where another does, nothing is done",
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length = 48)),
    responses(
        (status = 200, description = "It has begun", body = String, content_type = "text/plain"),
        (status = 412, description = "Another leads, or planned actions are held", body = crate::openapi::Error),
        (status = 422, description = "It asks for what is not done here", body = crate::openapi::Error),
        (status = 503, description = "It cannot be done, for instance because this node leads", body = crate::openapi::Error),
    ))]
pub async fn ask(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let wanted: Wanted = words.read()?;
    let proviso =
        Proviso { expect_leader: asides.expect_leader.clone(), ignore_hold: wanted.ignore_hold, ..Proviso::default() };
    if wanted.from_leader == Some(true) {
        let why = "`from_leader`: where data comes from is the node file's to say (clone.methods = [\"leader\"])";
        return Err(Answer::error(StatusCode::UNPROCESSABLE_ENTITY, why));
    }
    let refused = |why: &str| Answer::error(StatusCode::SERVICE_UNAVAILABLE, why).ended(Outcome::Refused);
    let (me, snapshot) = (control.hands.me(), orders::read(&control.reach).await?);
    proviso.lead(&snapshot)?;
    match &snapshot.cluster.leader {
        None => return Err(refused("Cluster has no leader, can not reinitialize")),
        Some(leader) if leader == me => return Err(refused("I am the leader, can not reinitialize")),
        Some(_) => {}
    }
    let (requested_by, reason) = (caller.who(), asides.or(wanted.reason));
    let order = OrderRecord { order: "reinit".to_owned(), requested_by, reason, ..OrderRecord::default() };
    if let Some(why) = orders::refusal(&snapshot, me, &order) {
        return Err(refused(&why));
    }
    let given = orders::give(&control.reach, me, &order, &proviso).await;
    let revision = given.map_err(|unable| waits("reinitialize", unable))?;
    Ok(begun(&control, revision).await)
}

async fn begun(control: &Control, revision: i64) -> Answer {
    let (busy, id) = (StatusCode::SERVICE_UNAVAILABLE, order_id(revision));
    let record = orders::follow(&control.reach, revision, BEGINS_WITHIN, |_| true, once()).await;
    let Some(record) = record else {
        let why = format!("it has not begun within {}; the order {id} stands", words::length(BEGINS_WITHIN));
        return Answer::error(busy, why).ended(Outcome::Unknown).about(id);
    };
    match record.outcome.as_str() {
        "in_progress" | "done" => {
            Answer::sentence(StatusCode::OK, "reinitialize started").ended(Outcome::Accepted).about(id)
        }
        "refused" => Answer::error(busy, record.cause_text).ended(Outcome::Refused).about(id),
        _ => Answer::error(busy, format!("reinitialize failed: {}", record.notes.join("; "))).about(id),
    }
}
