//! Requests for a change of leader: one that this node makes itself, and one of an operator that is refused and goes on record.

use anyhow::Result;
use consensus::Snapshot;
use consensus::records::{FailoverRecord, Transition};
use decision::names::MemberName;

use super::Effect;
use crate::hands::Hands;
use crate::transitions;

pub(super) async fn ask_switchover(hands: &Hands, to: &MemberName, why: String) -> Result<Effect> {
    tracing::warn!(%to, why, "asking to be relieved");
    let record = FailoverRecord {
        leader: Some(hands.me().to_string()),
        member: Some(to.to_string()),
        requested_by: Some(format!("pgvigil on {}", hands.me())),
        reason: Some(why),
        ..FailoverRecord::default()
    };
    Ok(Effect::of(hands.store.request_failover(&record).await?))
}

pub(super) async fn refuse(hands: &Hands, seen: &Snapshot, request: i64, why: String) -> Result<Effect> {
    tracing::warn!(request, why, "refused an operator's request");
    let asked = seen.request_record.clone().unwrap_or_default();
    let refused = Transition {
        from: seen.cluster.leader.as_ref().map(ToString::to_string).or_else(|| asked.leader.clone()),
        ..transitions::refused(request, &asked, "request_refused", why, seen.cluster.term)
    };
    if !hands.store.create_transition(&refused).await?.applied() {
        // It had been begun, perhaps by an earlier life of this agent.
        let close = |record: &mut Transition| {
            if record.outcome == "in_progress" {
                transitions::close(record, seen.cluster.leader.as_ref(), refused.cause_text.clone());
            }
        };
        hands.store.amend_transition(&refused.id, close).await?;
    }
    Ok(Effect::of(hands.store.remove_request(request).await?))
}
