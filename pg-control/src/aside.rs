//! What the agent moves aside, and deletes once it is not needed any more. A name says nothing of whose a directory is: `main.old-before-upgrade`
//! may be an operator's only copy. So the agent deletes what it has moved itself and nothing else, by a list beside its other notes.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::datadir::is_empty;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;

const LIST: &str = "moved-aside";

/// Everything that lies where the agent has moved it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct MovedAside {
    /// Replaced by a copy, kept until that streams.
    old: Vec<PathBuf>,
    /// Attempts to create a cluster.
    failed: Vec<PathBuf>,
}

impl Instance {
    fn moved_aside(&self) -> MovedAside {
        let text = fs::read_to_string(self.config().state_dir.join(LIST)).unwrap_or_default();
        // Of a list that nobody can read nothing is deleted.
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn note_moved(&self, change: impl FnOnce(&mut MovedAside)) -> Result<()> {
        let _turn = self.0.aside_turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.moved_aside();
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let json = serde_json::to_vec(&after).map_err(|error| Error::WrongState(format!("{LIST}: {error}")))?;
        durable::write(&self.config().state_dir.join(LIST), &json, 0o600)
    }

    /// Moves a directory; it is noted first, so that whatever ends the agent leaves none that nobody knows.
    fn move_noted(&self, from: &Path, to: &Path, list: fn(&mut MovedAside) -> &mut Vec<PathBuf>) -> Result<()> {
        self.note_moved(|moved| list(moved).push(to.to_path_buf()))?;
        tracing::info!(from = %from.display(), to = %to.display(), "moving a directory aside");
        if let Err(error) = fs::rename(from, to) {
            self.note_moved(|moved| list(moved).retain(|path| path != to))?;
            return Err(Error::host(
                format!("cannot move {} aside: {error}", from.display()),
                "make its parent directory writable for the agent, or empty the directory by hand",
            ));
        }
        if self.data_dir().is_symlink() {
            // Or the link would lead nowhere.
            let made = fs::DirBuilder::new().mode(0o700).create(from);
            made.map_err(|error| Error::io("create", from, error))?;
        }
        durable::sync_parent(from)
    }

    /// Moves what is in the way of a new data directory aside, to `<data>.old-<unix time>`. An empty directory is in nobody's way.
    pub(crate) fn set_aside(&self) -> Result<()> {
        let data_dir = self.real_data_dir();
        if is_empty(&data_dir)? {
            return Ok(());
        }
        self.move_noted(&data_dir, &free_name(&data_dir, ".old"), |moved| &mut moved.old)
    }

    /// Keeps a failed attempt of ours beside the data directory, for whoever wants to know why; the one before it goes.
    pub(crate) fn keep_as_failed(&self) -> Result<()> {
        let data_dir = self.real_data_dir();
        self.remove_noted(self.moved_aside().failed)?;
        let failed = durable::beside(&data_dir, ".failed");
        let failed = if failed.exists() { free_name(&data_dir, ".failed") } else { failed };
        self.move_noted(&data_dir, &failed, |moved| &mut moved.failed)
    }

    /// Deletes what clones have moved aside or left behind; returns how many directories. Call it once the replacement streams.
    ///
    /// # Errors
    /// `Host` or `Io` when something cannot be deleted.
    pub async fn remove_old_copies(&self) -> Result<usize> {
        let (me, leftovers) = (self.clone(), self.leftovers());
        let remove = move || {
            for path in &leftovers {
                remove(path)?;
            }
            Ok(leftovers.len() + me.remove_noted(me.moved_aside().old)?)
        };
        let removed = tokio::task::spawn_blocking(remove).await;
        removed.map_err(|error| Error::WrongState(format!("removing old copies was cut off: {error}")))?
    }

    /// Deletes these, of the list, and says how many were there.
    fn remove_noted(&self, paths: Vec<PathBuf>) -> Result<usize> {
        let there = paths.iter().filter(|path| path.is_dir()).count();
        for path in &paths {
            if path.is_dir() {
                remove(path)?;
            }
        }
        self.note_moved(|moved| {
            moved.old.retain(|path| !paths.contains(path));
            moved.failed.retain(|path| !paths.contains(path));
        })?;
        Ok(there)
    }

    /// Deletes copies that were cut off.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        self.leftovers().iter().try_for_each(|leftover| remove(leftover))
    }

    /// Copies that were cut off: the data directory's name, `.cloning-`, the number of a process.
    fn leftovers(&self) -> Vec<PathBuf> {
        let data_dir = self.real_data_dir();
        let begin = durable::beside(&data_dir, ".cloning-");
        let begin = begin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(entries) = data_dir.parent().and_then(|parent| fs::read_dir(parent).ok()) else { return Vec::new() };
        let number = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix(begin.as_str())?;
            (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
        };
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| number(path).is_some()).collect()
    }
}

fn remove(path: &Path) -> Result<()> {
    tracing::info!(path = %path.display(), "deleting a directory that is not needed any more");
    fs::remove_dir_all(path).map_err(|error| Error::io("remove", path, error))
}

/// A name beside a directory that nothing bears yet.
fn free_name(path: &Path, infix: &str) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let first = durable::beside(path, &format!("{infix}-{seconds}"));
    let more = (1..).map(|number: u64| durable::beside(path, &format!("{infix}-{seconds}-{number}")));
    std::iter::once(first.clone()).chain(more).find(|name| name.symlink_metadata().is_err()).unwrap_or(first)
}
