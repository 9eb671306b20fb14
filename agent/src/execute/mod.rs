//! Carrying out one action: one match, and nothing left to choose. Each arm persists before it acts and may be repeated.

mod durability;
mod joining;
mod making;
mod orders;
mod promotion;
mod requests;
mod running;
mod site;

use std::sync::Arc;

use anyhow::Result;
use consensus::{Outcome, Snapshot};
use decision::action::Action;
use tokio_util::sync::CancellationToken;

pub use durability::my_sync;
pub(crate) use orders::record_of as order_record;

use crate::ballots;
use crate::handover;
use crate::hands::Hands;
use crate::lock;

/// What an action leaves to be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The etcd revision that it made; decisions wait until they see it.
    pub revision: i64,
}

impl Effect {
    /// Nothing in etcd has changed.
    pub const LOCAL: Effect = Effect { revision: 0 };

    /// What became of a guarded write: applied, or refused because the world had moved on, which the next look will show.
    pub fn of(outcome: Outcome) -> Effect {
        match outcome {
            Outcome::Applied { revision } => Effect { revision },
            Outcome::Refused => Effect::LOCAL,
        }
    }
}

/// Carries out `action`, decided from `seen`.
///
/// # Errors
/// Whatever went wrong, for the log; the next decision starts from what is then seen.
pub async fn act(hands: Arc<Hands>, action: Action, seen: Arc<Snapshot>, cancel: CancellationToken) -> Result<Effect> {
    match action {
        Action::Wait | Action::Cancel => Ok(Effect::LOCAL),
        Action::Bootstrap => making::bootstrap(&hands, &seen, &cancel).await,
        Action::Clone { from, floor } => joining::clone(&hands, &seen, &from, floor, &cancel).await,
        Action::Rewind { from, floor } => joining::rewind(&hands, &seen, &from, floor, &cancel).await,
        Action::FindEndOfWal => joining::find_end_of_wal(&hands, &cancel).await,
        Action::Start(how) => running::start(&hands, &seen, how).await,
        Action::Stop(mode) => running::stop(&hands, mode).await,
        Action::Follow(upstream) => running::follow(&hands, &seen, &upstream).await,
        Action::Pledge { revoked } => ballots::pledge(&hands, &seen, revoked).await,
        Action::Withdraw { revoked } => ballots::withdraw(&hands, &seen, revoked).await,
        Action::ClearFloor => joining::clear_floor(&hands, &seen).await,
        Action::StandReady => promotion::stand_ready(&hands, &seen).await,
        Action::StandDown => promotion::stand_down(&hands).await,
        Action::Acquire(claim) => lock::acquire(&hands, &claim, &seen).await,
        Action::Resume { term } => lock::resume(&hands, &seen, term).await,
        Action::Promote { term, timeline, quorum } => promotion::promote(&hands, &seen, term, timeline, &quorum).await,
        Action::Mark { term } => promotion::mark(&hands, &seen, term).await,
        Action::RecordSync { mode, policies } => durability::record_sync(&hands, &seen, mode, policies).await,
        Action::ApplySync(quorum) => durability::apply_sync(&hands, &seen, &quorum).await,
        Action::ProveSync { mode, quorum } => durability::prove_sync(&hands, &seen, mode, quorum).await,
        Action::HandOver { to, request } if seen.cluster.follows() => {
            site::hand_over(&hands, &seen, &to, request).await
        }
        Action::HandOver { to, request } => handover::hand_over(&hands, &seen, &to, request).await,
        Action::Release => lock::release(&hands, &seen).await,
        Action::Abdicate => lock::abdicate(&hands, &seen).await,
        Action::LeaveRemote => site::leave(&hands).await,
        Action::DemoteSite { to } => site::demote(&hands, &seen, to).await,
        Action::AskSwitchover { to, why } => requests::ask_switchover(&hands, &to, why).await,
        Action::Restart { order, then } => orders::restart(&hands, &seen, order, then).await,
        Action::Reinit { order, from, floor } => orders::reinit(&hands, &seen, order, &from, floor, &cancel).await,
        Action::RefuseOrder { order, why } => orders::refuse(&hands, &seen, order, why).await,
        Action::RefuseRequest { request, why } => requests::refuse(&hands, &seen, request, why).await,
    }
}
