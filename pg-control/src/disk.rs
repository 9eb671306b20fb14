//! The disks under the data directory and its WAL, tried out by writing: a small file of ours is written and flushed once a second, beside
//! the data or, where WAL lies on another device, there. One thread writes and may hang with its disk; another counts for how
//! long. What is free is looked up on the way.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use decision::view::{Disk, DiskFault};
use tokio::sync::Notify;

use crate::instance::Instance;

/// How often a disk is tried.
const EVERY: Duration = Duration::from_secs(1);
/// How often a write that has not ended is looked at; one look that comes late counts no more than two.
const TICK: Duration = Duration::from_millis(100);
/// A write that takes no longer than this is no news.
const ORDINARY: Duration = Duration::from_millis(300);
/// Below this nobody can add a segment of WAL (16 MB as a rule), and Postgres ends with PANIC.
const FULL_BELOW: u64 = 16 << 20;
/// Below so many inodes a disk is about to fill, whatever is free; below the second number it is full.
const INODES: (u64, u64) = (1000, 16);
/// Without a configured value: a hundredth of the file system, but within these.
const LEAST_KEPT: u64 = 64 << 20;
const MOST_KEPT: u64 = 4 << 30;
/// A disk whose free space would be gone within this at the rate of the last minute is about to fill, if it is not far from the limit.
const SOON: Duration = Duration::from_secs(30);
const RATE_OVER: Duration = Duration::from_secs(60);
/// The name of the file that is written.
const PROBE: &str = ".pgvigil-probe";
const PROBE_BYTES: usize = 512;

/// What one round brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    fault: Option<DiskFault>,
    /// Of the fullest file system.
    space: Option<Space>,
    out_of_space: bool,
}

/// The room on one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Space {
    size: u64,
    free: u64,
    /// `u64::MAX` where the file system does not count them.
    inodes: u64,
}

/// The trying out of the disks of one server. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct DiskWatch {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    disk: Mutex<Disk>,
    worked_at: Mutex<Option<Instant>>,
    news: Notify,
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Disk)) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let before = disk.clone();
        change(&mut disk);
        let urgent = |disk: &Disk| (disk.fault, disk.low, disk.full, disk.frozen_for.is_some());
        if urgent(&before) != urgent(&disk) || disk.frozen_for.is_some() {
            self.news.notify_one();
        }
    }
}

impl DiskWatch {
    /// Starts the threads. `min_free` is what is to be kept free; `None`: a hundredth of the file system.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(instance: Instance, min_free: Option<u64>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let ((ask, asked), (answer, answers)) = (channel(), channel());
        let write = move || write_when_asked(&instance, &asked, &answer);
        thread::Builder::new().name("disk".into()).spawn(write)?;
        let mine = Arc::clone(&shared);
        let count = move || keep_watch(&mine, min_free, &ask, &answers);
        thread::Builder::new().name("disk-watch".into()).spawn(count)?;
        Ok(Self { shared })
    }

    /// What is known now.
    pub fn disk(&self) -> Disk {
        self.shared.disk.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When a write of our own last began that came to a good end, with room left for others.
    pub fn worked_at(&self) -> Option<Instant> {
        *self.shared.worked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when something has changed that a decision may depend on.
    pub async fn news(&self) {
        self.shared.news.notified().await;
    }
}

fn write_when_asked(instance: &Instance, asked: &Receiver<()>, answer: &Sender<Found>) {
    let mut failures = 0;
    while asked.recv().is_ok() {
        let mut found = try_out(&places(instance));
        // One error may be of the moment in which a directory was swapped.
        failures = if found.fault.is_some() { failures + 1 } else { 0 };
        found.fault = found.fault.filter(|_| failures > 1);
        if answer.send(found).is_err() {
            return;
        }
    }
}

fn keep_watch(shared: &Shared, min_free: Option<u64>, ask: &Sender<()>, answers: &Receiver<Found>) {
    let mut filling = Filling::default();
    while ask.send(()).is_ok() {
        let asked = Instant::now();
        let mut silence = Duration::ZERO;
        let found = loop {
            let looked = Instant::now();
            match answers.recv_timeout(TICK) {
                Ok(found) => break found,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => silence += looked.elapsed().min(TICK * 2),
            }
            if silence >= ORDINARY {
                shared.tell(|disk| disk.frozen_for = Some(silence));
            }
        };
        let room = found.space.map(|space| filling.judge(space, min_free, Instant::now()));
        let full = found.out_of_space || room.is_some_and(|room| room.full);
        // The probe writes over its own file, for which a full disk has room.
        if found.fault.is_none() && !full {
            *shared.worked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        }
        shared.tell(|disk| {
            *disk = Disk {
                frozen_for: None,
                fault: found.fault,
                free_bytes: found.space.map(|space| space.free),
                low: full || room.is_some_and(|room| room.low),
                full,
            };
        });
        thread::sleep(EVERY);
    }
}

/// Where is written: in the directory of the agent where that is on the disk of the data, and in each directory that is on another.
fn places(instance: &Instance) -> Vec<PathBuf> {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let data = instance.data_dir();
    if !data.join("PG_VERSION").exists() {
        return Vec::new();
    }
    let mut places = vec![(instance.config().state_dir.clone(), device(&instance.config().state_dir))];
    if places[0].1 != device(data) {
        places[0] = (data.to_path_buf(), device(data));
    }
    let wal = data.join("pg_wal");
    let of_wal = device(&wal);
    if of_wal.is_some() && of_wal != places[0].1 {
        places.push((wal, of_wal));
    }
    places.into_iter().map(|(place, _)| place).collect()
}

fn try_out(places: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for place in places {
        match write_and_flush(&place.join(PROBE)) {
            Ok(()) => {}
            Err(error) => match fault_of(&error) {
                Some(fault) => found.fault = Some(fault),
                None => {
                    found.out_of_space |= matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
                }
            },
        }
        let Ok(system) = nix::sys::statvfs::statvfs(place) else { continue };
        let space = Space {
            size: system.blocks().saturating_mul(system.fragment_size()),
            free: system.blocks_available().saturating_mul(system.fragment_size()),
            inodes: if system.files() == 0 { u64::MAX } else { system.files_available() },
        };
        if found.space.is_none_or(|other| (space.free, space.inodes) < (other.free, other.inodes)) {
            found.space = Some(space);
        }
    }
    found
}

fn write_and_flush(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&[b'.'; PROBE_BYTES])?;
    file.sync_data()
}

fn fault_of(error: &io::Error) -> Option<DiskFault> {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::EROFS) => Some(DiskFault::ReadOnly),
        Some(nix::errno::Errno::EIO | nix::errno::Errno::ENXIO | nix::errno::Errno::ENODEV) => {
            Some(DiskFault::InputOutput)
        }
        _ => None,
    }
}

/// How the free space has gone lately.
#[derive(Default)]
struct Filling {
    low: bool,
    samples: Vec<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    low: bool,
    full: bool,
}

impl Filling {
    /// A disk that has been low is so until there is half as much again as is to be kept free: it must not be handed to and fro.
    fn judge(&mut self, space: Space, min_free: Option<u64>, now: Instant) -> Room {
        let kept = min_free.unwrap_or_else(|| (space.size / 100).clamp(LEAST_KEPT, MOST_KEPT));
        self.samples.retain(|(at, _)| now.duration_since(*at) <= RATE_OVER);
        let soon = self.gone_in(space.free, now).is_some_and(|left| left < SOON) && space.free < kept.saturating_mul(4);
        self.samples.push((now, space.free));
        let enough = if self.low { kept.saturating_add(kept / 2) } else { kept };
        self.low = kept > 0 && (space.free < enough || soon || space.inodes < INODES.0);
        Room { low: self.low, full: space.free < FULL_BELOW || space.inodes < INODES.1 }
    }

    /// In what time nothing would be left at the rate since the oldest sample.
    fn gone_in(&self, free: u64, now: Instant) -> Option<Duration> {
        let (then, had) = self.samples.first()?;
        let (used, took) = (had.checked_sub(free).filter(|used| *used > 0)?, now.duration_since(*then));
        (took >= Duration::from_secs(5)).then(|| took.mul_f64(free as f64 / used as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn space(free_mb: u64) -> Space {
        Space { size: 100_000 * MB, free: free_mb * MB, inodes: u64::MAX }
    }

    #[test]
    fn a_disk_is_low_below_its_limit_and_until_there_is_room_to_spare() {
        let mut filling = Filling::default();
        let now = Instant::now();
        let mut low = |free| filling.judge(space(free), None, now).low;
        assert_eq!([1001, 999, 1400, 1501, 1001].map(&mut low), [false, true, true, false, false]);
        assert!(Filling::default().judge(space(15), Some(0), now).full);
        assert!(!Filling::default().judge(space(900), Some(0), now).low, "0 keeps nothing free");
        assert!(Filling::default().judge(Space { inodes: 10, ..space(9000) }, None, now).low);
    }

    #[test]
    fn a_disk_that_fills_fast_is_low_before_its_limit() {
        let mut filling = Filling::default();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(!filling.judge(space(6000), None, begin).low);
        // 300 MB a second: 2,000 MB are gone in less than seven seconds, 5,000 are too far from the limit to tell.
        assert!(!filling.judge(space(5000), None, after(5)).low);
        assert!(filling.judge(space(3000), None, after(10)).low);
    }

    #[test]
    fn the_probe_writes_tells_the_space_and_names_the_fault() {
        let dir = tempfile::tempdir().expect("a directory");
        let found = try_out(&[dir.path().to_path_buf()]);
        assert!(found.fault.is_none() && !found.out_of_space && found.space.is_some_and(|space| space.size > 0));
        assert_eq!(fault_of(&io::Error::from_raw_os_error(30)), Some(DiskFault::ReadOnly));
        assert_eq!(fault_of(&io::Error::from_raw_os_error(5)), Some(DiskFault::InputOutput));
        assert_eq!(fault_of(&io::Error::from_raw_os_error(2)), None);
    }
}
