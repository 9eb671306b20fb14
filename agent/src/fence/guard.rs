//! The agent, while it is alive, is a fence as well: for the moment in which a fencer is replaced, and where none can be had. A thread
//! of its own, which needs nothing but the deadline and the clock that goes on during suspend.

use std::thread;
use std::time::Duration;

use pg_control::process::{kill_all, reap_orphans};
use tokio::sync::watch;

use super::Wanted;
use crate::authority::Authority;

/// Starts the thread.
pub(super) fn start(
    wanted: watch::Sender<Wanted>,
    authority: Authority,
    safety_margin: Duration,
) -> std::io::Result<()> {
    thread::Builder::new().name("guard".into()).spawn(move || stand_guard(&wanted, &authority, safety_margin))?;
    Ok(())
}

fn stand_guard(wanted: &watch::Sender<Wanted>, authority: &Authority, safety_margin: Duration) {
    // Whoever starts the fence holds it for the life of the process; the thread ends with the process.
    loop {
        // In this order: whoever disarms before the lease goes is never struck.
        let left = authority.left();
        let armed = wanted.borrow().clone();
        if let Wanted::Armed(data_dir) = &armed
            && left.is_zero()
        {
            // The error matters little here: the next round tries again until nothing is left.
            match kill_all(data_dir) {
                Ok(took) => {
                    tracing::error!(
                        ?took,
                        "this node may not rely on its leadership any more: no process of Postgres is left"
                    );
                    wanted.send_if_modified(|now| {
                        let same = *now == armed;
                        if same {
                            *now = Wanted::Disarmed;
                        }
                        same
                    });
                }
                Err(error) => tracing::error!(%error, "Postgres must be dead and cannot be killed; trying again"),
            }
            reap_orphans();
        }
        thread::sleep(nap(left, matches!(armed, Wanted::Armed(_)), safety_margin));
    }
}

/// How long until the next look: at most a quarter of the safety margin, which leaves the rest of it for the kill (80 ms with a hundred
/// sessions). An unarmed fence has nothing to hurry for: it is armed under a lease that has just begun.
fn nap(left: Duration, armed: bool, safety_margin: Duration) -> Duration {
    let longest = safety_margin / 4;
    if armed { left.clamp(Duration::from_millis(5), longest) } else { longest }
}
