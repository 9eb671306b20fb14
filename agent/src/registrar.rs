//! Keeps this node's member record in etcd: written when a slow fact changes or the lease does, and when etcd has another one than was written
//! (an older write that came late, a restored backup); never on a timer, so that an idle cluster writes nothing. A name that another living agent holds is an operator's mistake and ends this agent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use consensus::records::MemberRecord;
use consensus::{BootInstant, ClusterView, Outcome};
use tokio::sync::{Notify, watch};

use crate::hands::Hands;

const RETRY_AFTER: Duration = Duration::from_millis(300);

/// The task; ends when the sender of the record is dropped. `taken` is notified when the name has been somebody else's for so long
/// (`patience`) that it cannot be an earlier life of this agent.
pub async fn keep_registered(
    hands: Arc<Hands>,
    mut record: watch::Receiver<MemberRecord>,
    mut views: watch::Receiver<ClusterView>,
    patience: Duration,
    taken: Arc<Notify>,
) {
    let mut lease = hands.leases.member();
    let mut written: Option<(i64, MemberRecord)> = None;
    let mut written_at = BootInstant::now();
    let mut refused_since: Option<Instant> = None;
    loop {
        let wanted = lease.borrow_and_update().id().map(|id| (id, record.borrow_and_update().clone()));
        let mut settled = true;
        if let Some((id, wanted)) = wanted.filter(|wanted| written.as_ref() != Some(wanted)) {
            match hands.store.register_member(hands.me(), &wanted, id).await {
                Ok(Outcome::Applied { .. }) => {
                    hands.name_is_mine.store(true, Ordering::SeqCst);
                    written_at = BootInstant::now();
                    written = Some((id, wanted));
                    refused_since = None;
                }
                Ok(Outcome::Refused) => {
                    settled = false;
                    if refused_since.get_or_insert_with(Instant::now).elapsed() > patience {
                        taken.notify_one();
                    }
                }
                Err(error) => {
                    settled = false;
                    tracing::debug!(%error, "the member record could not be written; trying again");
                }
            }
        }
        let changed = async {
            loop {
                tokio::select! {
                    record = record.changed() => return record.is_ok(),
                    lease = lease.changed() => return lease.is_ok(),
                    view = views.changed() => if view.is_err() { return false },
                }
                if let Some(written_there) = &written
                    && has_another(&views.borrow(), &hands, written_there, written_at)
                {
                    written = None;
                    return true;
                }
            }
        };
        if settled {
            if !changed.await {
                return;
            }
        } else {
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Whether etcd, asked after `written_at`, has another record than the one that was written then, one that nobody can read, or none. Revisions do
/// not tell: a restored etcd has lower ones.
fn has_another(view: &ClusterView, hands: &Hands, written: &(i64, MemberRecord), written_at: BootInstant) -> bool {
    let Some(snapshot) = view.snapshot.as_ref().filter(|_| view.confirmed_at > written_at) else { return false };
    let (lease, record) = written;
    let there = snapshot.member_records.get(hands.me());
    // As text: what is not written when it is empty comes back as its default.
    let same = there.is_some_and(|there| there.to_json() == record.to_json());
    !same || snapshot.member_leases.get(hands.me()) != Some(lease)
}
