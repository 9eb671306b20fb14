//! The agent's own directory, which somebody may delete while the agent runs. What lies there binds the next life of the agent: promises,
//! leases, the way to the fencer. As long as this life lasts it has all of it in memory, and puts it back.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fencer::protocol::{VERSION, socket_name};

use crate::chore::Chore;
use crate::hands::Hands;

/// How often is looked: a few names in one directory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is missing there and could not be put back, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

/// Whether everything is there.
pub struct StateDir {
    hands: Arc<Hands>,
    chore: Chore,
    missing: Arc<Mutex<Option<Missing>>>,
}

impl StateDir {
    /// As the start of the agent has left it.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("the agent's own directory"), missing: Arc::default() }
    }

    /// What could not be put back when it was last looked at.
    pub fn missing(&self) -> Option<Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks, where it is time, and puts back what is missing.
    pub fn see(&mut self) {
        let (hands, missing) = (Arc::clone(&self.hands), Arc::clone(&self.missing));
        self.chore.begin(LOOK_EVERY, async move {
            // Every file may hang with its disk.
            let found = tokio::task::spawn_blocking(move || keep(&hands)).await?;
            let before = std::mem::replace(&mut *missing.lock().unwrap_or_else(PoisonError::into_inner), found.clone());
            if let Some(Missing { problem, hint }) = found.filter(|now| before.as_ref() != Some(now)) {
                tracing::error!(hint, "{problem}");
            }
            Ok(())
        });
    }
}

fn keep(hands: &Hands) -> Option<Missing> {
    let dir = &hands.instance.config().state_dir;
    let put_back = hands.instance.keep_state_dir().map_err(|error| match error {
        pg_control::Error::Host { problem, mend } => Missing { problem, hint: mend },
        error => unwritten(dir, &error.to_string()),
    });
    let noted = put_back.and_then(|files| match hands.promises.keep() {
        Ok(notes) => Ok(files || notes),
        Err(error) => Err(unwritten(dir, &error.to_string())),
    });
    match noted {
        Ok(true) => tracing::error!(
            state_dir = %dir.display(),
            "somebody has deleted what is the agent's own: it is put back. Postgres goes on writing its log to the deleted file until it is started again"
        ),
        Ok(false) => {}
        Err(missing) => return Some(missing),
    }
    let way = dir.join(socket_name(VERSION));
    if way.exists() {
        return None;
    }
    hands.fence.is_out_of_reach();
    let why = hands.fence.standing().out_of_reach?;
    let problem = format!("the next agent would not find the fencer, for {} was deleted: {why}", way.display());
    let hint = "do not restart the agent until this has passed: Postgres would be killed at the deadline that the fencer was given last";
    Some(Missing { problem, hint: hint.to_owned() })
}

fn unwritten(dir: &Path, error: &str) -> Missing {
    let problem = format!("what was deleted of the agent's own directory cannot be put back: {error}");
    let hint = format!(
        "make {} writable for the agent, and do not restart it before: what it has noted is in its memory alone",
        dir.display()
    );
    Missing { problem, hint }
}

/// Does `work` on `path`, once more where its directory was deleted and could be made again.
pub fn in_its_directory<T>(path: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match (work(), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            pg_control::make_again(dir).map_err(io::Error::other)?;
            work()
        }
        (done, _) => done,
    }
}
