//! The last word on the lease: when it is over and Postgres may still accept writes, every Postgres process is killed, whatever the
//! loop is doing. A thread of its own, which needs nothing but the lease's deadline and the clock that goes on during suspend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pg_control::Instance;
use pg_control::process::kill_all;

use crate::authority::Authority;

/// The fence of this agent.
pub struct Fence {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    armed: AtomicBool,
}

impl Fence {
    /// Starts the thread, disarmed.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(instance: Instance, authority: Authority, safety_margin: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        thread::Builder::new()
            .name("fence".into())
            .spawn(move || stand_guard(&watched, &instance, &authority, safety_margin))?;
        Ok(Self { shared })
    }

    /// From now on Postgres dies with the lease. Called before Postgres may become primary.
    pub fn arm(&self) {
        self.shared.armed.store(true, Ordering::SeqCst);
    }

    /// Postgres is known not to accept writes any more.
    pub fn disarm(&self) {
        self.shared.armed.store(false, Ordering::SeqCst);
    }
}

fn stand_guard(shared: &Shared, instance: &Instance, authority: &Authority, safety_margin: Duration) {
    // Whoever starts the fence holds it for the life of the process; the thread ends with the process.
    loop {
        let left = authority.left();
        if left.is_zero() && shared.armed.load(Ordering::SeqCst) {
            // The error matters little here: the next round tries again until nothing is left.
            match kill_all(&instance.config().data_dir) {
                Ok(_) => {
                    shared.armed.store(false, Ordering::SeqCst);
                    tracing::error!("the lease is over: killed Postgres before anybody else may lead");
                }
                Err(error) => tracing::error!(%error, "the lease is over and Postgres cannot be killed; trying again"),
            }
        }
        thread::sleep(nap(left, shared.armed.load(Ordering::SeqCst), safety_margin));
    }
}

/// How long until the next look: at most a quarter of the safety margin, which leaves the rest of it for the kill (80 ms with a hundred
/// sessions). An unarmed fence has nothing to hurry for: it is armed under a lease that has just begun.
fn nap(left: Duration, armed: bool, safety_margin: Duration) -> Duration {
    let longest = safety_margin / 4;
    if armed { left.clamp(Duration::from_millis(5), longest) } else { longest }
}
