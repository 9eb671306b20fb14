//! Whether a hold is still there while its command runs. One that went with its lease, because etcd was silent for too long, is taken again; one that
//! somebody has released, or that has come to its end, is told and left.

use std::time::Duration;

use consensus::Lease;
use consensus::records::HoldRecord;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::commands::screen::tell;
use crate::operate::hold::take;
use crate::operate::proviso::Proviso;
use crate::operate::world::Reach;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches over it to its end.
pub async fn over(reach: &Reach, record: &HoldRecord, lease: watch::Receiver<Lease>, mut taken_under: i64) {
    let mut warned = false;
    while record.lasts(Timestamp::now()) {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(there) = reach.store.hold_id().await else { continue };
        if there.as_ref() == Some(&record.id) {
            continue;
        }
        let Some(now) = lease.borrow().id() else { continue };
        if now == taken_under {
            tell("warning: the hold was released by somebody else: planned actions may go on; the command runs on");
            return;
        }
        match take(reach, record, Some(now), &Proviso::default()).await {
            Ok(()) => {
                tell("warning: etcd was silent for too long and the hold was gone for a while; it is taken again");
                (taken_under, warned) = (now, false);
            }
            Err(unable) if !warned => {
                tell(&format!(
                    "warning: the hold is lost, planned actions may go on; the command runs on: {}",
                    unable.text()
                ));
                warned = true;
            }
            Err(_) => {}
        }
    }
    tell("warning: the hold has come to its end (--for): planned actions may go on; the command runs on");
}
