//! A look at what goes on in the server here, for whoever asks whether a planned change may begin. All who ask at once get the same look, and a fresh
//! one comes only a few times in a second, so that nobody loads the server by asking.

use std::time::{Duration, Instant};

use pg_control::{Activity, Instance};
use tokio::sync::Mutex;

/// How old a look may be.
const FRESH: Duration = Duration::from_millis(200);

/// What was seen last; `Err`: why nothing was.
type Seen = (Instant, Result<Activity, String>);

/// The look.
pub struct ActivityLook {
    instance: Instance,
    last: Mutex<Option<Seen>>,
}

impl ActivityLook {
    /// Nothing has been looked at yet.
    pub fn new(instance: Instance) -> Self {
        Self { instance, last: Mutex::new(None) }
    }

    /// What goes on, and how long ago that was seen.
    ///
    /// # Errors
    /// The server does not answer, or does not let the agent see.
    pub async fn look(&self) -> Result<(Activity, Duration), String> {
        let mut last = self.last.lock().await;
        let fresh = last.take().filter(|(at, _)| at.elapsed() < FRESH);
        let seen = match fresh {
            Some(seen) => seen,
            None => {
                let asked_at = Instant::now();
                (asked_at, self.instance.activity().await.map_err(|error| error.to_string()))
            }
        };
        let (at, result) = last.insert(seen);
        result.clone().map(|activity| (activity, at.elapsed()))
    }
}
