//! How far a copy is: what lies in its directory, of what its source has. Told to whoever watches, about once in two seconds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

/// How often the directory is looked through.
const LOOKS_EVERY: Duration = Duration::from_secs(2);
/// A copy that has begun and then has not grown for so long has a source that stands still.
const STALLS_AFTER: Duration = Duration::from_secs(300);
/// The same where all may be there already, and is being flushed.
const FLUSHES_WITHIN: Duration = Duration::from_secs(1800);

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

    /// Watches a copy into `into` until what is returned goes, and cancels `stalled` when it stands still for longer than `stalls_after` (`None`: than
    /// is usual).
    pub(super) fn begin(
        &self,
        method: String,
        into: PathBuf,
        total_bytes: Option<u64>,
        stalls_after: Option<Duration>,
        stalled: CancellationToken,
    ) -> Watching {
        let progress = Progress { method, done_bytes: 0, total_bytes, began: Instant::now() };
        self.set(Some(progress.clone()));
        let (ended, watched) = (CancellationToken::new(), self.clone());
        let until = ended.clone();
        // Looking through a large directory takes a while, on a slow disk for long: not on a thread that others need.
        std::thread::spawn(move || {
            let (mut looked, mut growth) = (Instant::now(), Growth::default());
            while !until.is_cancelled() {
                std::thread::sleep(Duration::from_millis(100));
                if looked.elapsed() < LOOKS_EVERY {
                    continue;
                }
                let done_bytes = size_of(&into);
                looked = Instant::now();
                let patience = stalls_after.unwrap_or_else(|| patience(done_bytes, total_bytes));
                if growth.stands_still_for(done_bytes, looked) >= patience {
                    stalled.cancel();
                }
                if !until.is_cancelled() {
                    watched.set(Some(Progress { done_bytes, ..progress.clone() }));
                }
            }
        });
        Watching { watched: self.clone(), _ended: ended.drop_guard() }
    }
}

/// How long a copy that is so far may stand still.
fn patience(done_bytes: u64, total_bytes: Option<u64>) -> Duration {
    match total_bytes {
        Some(total) if done_bytes < total / 10 * 9 => STALLS_AFTER,
        Some(_) | None => FLUSHES_WITHIN,
    }
}

/// Since when a copy has not grown.
#[derive(Default)]
struct Growth(Option<(u64, Instant)>);

impl Growth {
    /// Counted from the first byte: before it the source makes a checkpoint.
    fn stands_still_for(&mut self, done_bytes: u64, now: Instant) -> Duration {
        match self.0 {
            Some((bytes, since)) if bytes == done_bytes => now.saturating_duration_since(since),
            _ if done_bytes == 0 => Duration::ZERO,
            _ => {
                self.0 = Some((done_bytes, now));
                Duration::ZERO
            }
        }
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

/// What the files below this directory have, with its tablespaces and without WAL. What vanishes meanwhile counts nothing.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && entry.file_name() == "pg_wal" => 0,
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) if meta.is_symlink() && dir.ends_with("pg_tblspc") => size_of(&entry.path()),
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
    fn a_copy_stands_still_when_it_has_begun_and_does_not_grow() {
        let (mut growth, begin) = (Growth::default(), Instant::now());
        let mut at = |bytes, seconds| growth.stands_still_for(bytes, begin + Duration::from_secs(seconds)).as_secs();
        assert_eq!([at(0, 0), at(0, 900), at(5, 901), at(5, 1000), at(6, 1001), at(6, 1003)], [0, 0, 0, 99, 0, 2]);
        assert_eq!(patience(80, Some(100)), STALLS_AFTER);
        assert_eq!([patience(95, Some(100)), patience(5, None)], [FLUSHES_WITHIN; 2], "it may be flushed");
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
        let elsewhere = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(elsewhere.path().join("3"), [0; 50]).expect("writable");
        std::fs::create_dir(home.path().join("pg_tblspc")).expect("writable");
        std::os::unix::fs::symlink(elsewhere.path(), home.path().join("pg_tblspc/7")).expect("writable");
        assert_eq!(size_of(home.path()), 153, "a tablespace lies elsewhere");
    }
}
