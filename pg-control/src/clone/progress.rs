//! How far a copy is: what lies in its directory, of what its source has. Told to whoever watches, about once in two seconds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

/// How often the directory is looked through.
const LOOKS_EVERY: Duration = Duration::from_secs(2);

/// A copy under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How it is made.
    pub method: String,
    /// What has been written, in bytes.
    pub done_bytes: u64,
    /// What the databases of the source have, in bytes; `None`: it would not tell. WAL comes on top.
    pub total_bytes: Option<u64>,
    /// When this method began.
    pub began: Instant,
}

impl Progress {
    /// Bytes a second since it began.
    pub fn bytes_per_second(&self) -> Option<u64> {
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).ok().filter(|elapsed| *elapsed > 0)?;
        Some(self.done_bytes.saturating_mul(1000) / milliseconds)
    }

    /// How much longer it takes if it goes on like this.
    pub fn left(&self) -> Option<Duration> {
        let missing = self.total_bytes?.saturating_sub(self.done_bytes);
        let rate = self.bytes_per_second().filter(|rate| *rate > 0)?;
        Some(Duration::from_secs(missing / rate))
    }
}

/// Where the progress of this node's copy can be read.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<Mutex<Option<Progress>>>);

impl Watched {
    /// The copy under way, if there is one.
    pub fn now(&self) -> Option<Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, progress: Option<Progress>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Watches a copy into `into` until what is returned goes.
    pub(super) fn begin(&self, method: String, into: PathBuf, total_bytes: Option<u64>) -> Watching {
        let progress = Progress { method, done_bytes: 0, total_bytes, began: Instant::now() };
        self.set(Some(progress.clone()));
        let (ended, watched) = (CancellationToken::new(), self.clone());
        let until = ended.clone();
        // Looking through a large directory takes a while, on a slow disk for long: not on a thread that others need.
        std::thread::spawn(move || {
            let mut looked = Instant::now();
            while !until.is_cancelled() {
                std::thread::sleep(Duration::from_millis(100));
                if looked.elapsed() < LOOKS_EVERY {
                    continue;
                }
                let done_bytes = size_of(&into);
                looked = Instant::now();
                if !until.is_cancelled() {
                    watched.set(Some(Progress { done_bytes, ..progress.clone() }));
                }
            }
        });
        Watching { watched: self.clone(), _ended: ended.drop_guard() }
    }
}

/// Ends the watching when it goes.
pub(super) struct Watching {
    watched: Watched,
    _ended: DropGuard,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.watched.set(None);
    }
}

/// What the files below this directory have, without WAL. What vanishes meanwhile counts nothing.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && entry.file_name() == "pg_wal" => 0,
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_was_done() {
        let began = Instant::now().checked_sub(Duration::from_secs(10)).expect("the machine has run for longer");
        let progress =
            Progress { method: "pg_basebackup".to_owned(), done_bytes: 1000, total_bytes: Some(3000), began };
        assert!(progress.bytes_per_second().is_some_and(|rate| (98..=100).contains(&rate)), "{progress:?}");
        assert!(progress.left().is_some_and(|left| (20..=21).contains(&left.as_secs())), "{progress:?}");
        assert_eq!(Progress { total_bytes: None, ..progress.clone() }.left(), None);
        assert_eq!(Progress { done_bytes: 0, ..progress }.left(), None);
    }

    #[test]
    fn wal_does_not_count() {
        let home = tempfile::tempdir().expect("a temporary directory");
        for (file, bytes) in [("base/1/2", 100), ("PG_VERSION", 3), ("pg_wal/1", 1000)] {
            let path = home.path().join(file);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
            std::fs::write(path, vec![0; bytes]).expect("writable");
        }
        assert_eq!(size_of(home.path()), 103);
    }
}
