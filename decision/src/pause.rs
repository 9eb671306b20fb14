//! What still happens in a pause: commits go on being acknowledged as the mode has it, a leader whose lease has lapsed takes its own lock again, and a
//! switchover to a candidate that an operator has named. That is their own hand on the wheel, so it is carried
//! to its end, for a lock that has changed hands with nobody promoted would leave the cluster without a leader for as long as the pause lasts.
//! Of what would be done otherwise only the steps of that switchover pass.

use crate::action::{Action, StartAs};
use crate::decide::{Choice, wait};
use crate::reason::Reason;
use crate::view::{Cluster, ControlState, Data, Postgres, Request, RequestKind, Server, SyncRecord, View};

/// In so many times the life of a lease an old leader has come back from a switchover in a pause.
const COMES_BACK_TTLS: u32 = 6;

/// What to do in a pause, where `usual` would be done otherwise.
pub(crate) fn only_a_switchover(
    view: &View,
    cluster: &Cluster,
    postgres: &Postgres,
    usual: impl FnOnce() -> Choice,
) -> Choice {
    let concerned = match &cluster.leader {
        Some(leader) if *leader == view.me => {
            view.lock.leads(cluster.term) && leader_is_concerned(view, cluster, postgres)
        }
        Some(_) => other_is_concerned(view, cluster, postgres),
        None => false,
    };
    let choice = usual();
    let passes = (concerned && is_a_step(view, &choice)) || keeps_writes_going(view, cluster, postgres, &choice.0);
    if passes { choice } else { wait(Reason::Paused {}) }
}

/// Commits would wait for a voter that is gone until the pause ends; and without its lock the leader is seen by nobody. Neither promotes anybody.
fn keeps_writes_going(view: &View, cluster: &Cluster, postgres: &Postgres, action: &Action) -> bool {
    let Server::Primary(primary) = &postgres.server else { return false };
    let reigns = cluster.leader.as_ref() == Some(&view.me) && view.lock.leads(cluster.term);
    match action {
        Action::RecordSync { .. } | Action::ApplySync(_) | Action::ProveSync { .. } => {
            // Writing the record anew takes from it that the lock was handed over, by which the old leader comes back.
            let all_have_come_over = view.ages.reign.unwrap_or_default() >= view.settings.timing.ttl * COMES_BACK_TTLS;
            reigns && primary.marked_term >= cluster.term && (handed_over(cluster).is_none() || all_have_come_over)
        }
        Action::Resume { .. } => cluster.leader.is_none(),
        _ => false,
    }
}

/// Whether this is a step of a switchover. A Postgres that was stopped for it and is not needed elsewhere starts where it was; any other stop
/// may be the operator's.
fn is_a_step(view: &View, (action, reason): &Choice) -> bool {
    match action {
        Action::Wait => matches!(reason, Reason::AwaitingCandidate { .. } | Reason::AwaitingHandover { .. }),
        Action::Start(StartAs::Primary { .. }) => was_stopped_for_one(view),
        Action::HandOver { .. }
        | Action::RefuseRequest { .. }
        | Action::StandReady
        | Action::StandDown
        | Action::Promote { .. }
        | Action::Mark { .. }
        | Action::RecordSync { .. }
        | Action::ApplySync(_)
        | Action::ProveSync { .. }
        | Action::Follow(_)
        | Action::FindEndOfWal
        | Action::Start(StartAs::Standby(_)) => true,
        _ => false,
    }
}

/// The leader is asked to hand over; or it has broken that off; or the lock was handed to it, and its reign has not begun. That the lock
/// was handed over stays on record while the pause lasts, and tells the others what to do.
fn leader_is_concerned(view: &View, cluster: &Cluster, postgres: &Postgres) -> bool {
    let broken_off = cluster.heir().is_some() || (postgres.server == Server::Stopped && was_stopped_for_one(view));
    let begun = matches!(&postgres.server, Server::Primary(primary) if primary.marked_term >= cluster.term);
    switchover(cluster).is_some() || broken_off || (handed_over(cluster).is_some() && !begun)
}

/// It is to stand ready; or the lead moves, and what follows the old leader, or was it, is to follow the new one; or it does not move after all.
fn other_is_concerned(view: &View, cluster: &Cluster, postgres: &Postgres) -> bool {
    let candidate = switchover(cluster).is_some_and(|request| request.to.as_ref() == Some(&view.me));
    let holds_a_spare = cluster.members.get(&view.me).is_some_and(|member| member.lock_lease != 0);
    let moved = match (&postgres.server, &postgres.data) {
        (Server::Standby(standby), _) => {
            let goes_ahead = cluster.heir().is_some_and(|heir| *heir != view.me);
            let term = standby.follows.as_ref().map(|follows| follows.term);
            let comes_back = cluster.heir().is_none() && term == Some(cluster.term.next());
            let is_late = handed_over(cluster).is_some() && term.is_some_and(|term| term < cluster.term);
            goes_ahead || comes_back || is_late
        }
        // The old leader has ended with a checkpoint, on the timeline before.
        (Server::Stopped, Data::Present(disk)) => {
            let before = |sync: &SyncRecord| disk.timeline < sync.timeline;
            let was_primary = !disk.standby_signal && disk.state == ControlState::ShutDown;
            was_primary && handed_over(cluster).is_some_and(before)
        }
        _ => false,
    };
    candidate || holds_a_spare || moved
}

/// What has been tried since does not change that.
fn was_stopped_for_one(view: &View) -> bool {
    view.hand_over_failed() || view.ages.hand_over_undone
}

fn switchover(cluster: &Cluster) -> Option<&Request> {
    cluster.request.as_ref().filter(|request| request.kind == RequestKind::Switchover)
}

/// The record of a reign that began with a switchover.
fn handed_over(cluster: &Cluster) -> Option<&SyncRecord> {
    cluster.sync.as_ref().filter(|sync| sync.term == cluster.term && sync.handover_lsn.is_some())
}
