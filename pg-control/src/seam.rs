//! The seam between two timelines. A standby that goes over to a new timeline receives the segment in which that began once more, from its
//! start. If the new primary dies before all of it has come, Postgres finds the torn file first, although the whole of it is in that of the
//! timeline before: a promotion then ends in a PANIC ("invalid magic number 0000"), and a start waits for ever (measured). Up to the fork
//! the two files are the same by definition, so what is missing in the newer one is filled in from the older.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use decision::names::{Lsn, Timeline};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::timeline::{newest_with_wal, read_history};

const PAGE_BYTES: u64 = 8192;

impl Instance {
    /// Fills in what is missing up to the fork in the first segment of the newest timeline here. Nothing may be received meanwhile.
    ///
    /// # Errors
    /// `Io` when the WAL cannot be read or written.
    pub(crate) fn close_seam(&self) -> Result<()> {
        let wal_dir = self.data_dir().join("pg_wal");
        let (newest, _) = newest_with_wal(&wal_dir, Timeline(1))?;
        let history = if newest.0 > 1 { read_history(&wal_dir, newest)? } else { Vec::new() };
        let Some(fork) = history.last() else { return Ok(()) };
        let filled = fill(&wal_dir, fork.timeline, newest, fork.ended_at)?;
        if filled > 0 {
            tracing::warn!(pages = filled, timeline = newest.0, "filled in WAL that had not been received once more");
        }
        Ok(())
    }
}

/// Copies the pages before the fork that the newer file has not and the older one has; tells how many.
fn fill(wal_dir: &Path, older: Timeline, newer: Timeline, fork: Lsn) -> Result<u64> {
    let segment = |timeline: Timeline, bytes: u64| {
        let (number, per_word) = (fork.0 / bytes, 0x1_0000_0000 / bytes);
        wal_dir.join(format!("{:08X}{:08X}{:08X}", timeline.0, number / per_word, number % per_word))
    };
    let Some(bytes) = segment_bytes(wal_dir, newer)? else { return Ok(0) };
    let (from, to) = (segment(older, bytes), segment(newer, bytes));
    if !from.exists() || !to.exists() {
        return Ok(0);
    }
    let read = |error| Error::io("read", &from, error);
    let write = |error| Error::io("fill in", &to, error);
    let source = File::open(&from).map_err(read)?;
    let target = OpenOptions::new().read(true).write(true).open(&to).map_err(write)?;
    let start = fork.0 - fork.0 % bytes;
    let mut filled = 0;
    for page in (start..fork.0).step_by(8192) {
        let at = page - start;
        if has_page(&target, at, page).map_err(write)? || !has_page(&source, at, page).map_err(read)? {
            continue;
        }
        // Behind the fork the newer timeline goes its own way.
        let mut content = vec![0; usize::try_from(PAGE_BYTES.min(fork.0 - page)).unwrap_or(0)];
        source.read_exact_at(&mut content, at).map_err(read)?;
        target.write_all_at(&content, at).map_err(write)?;
        filled += 1;
    }
    if filled > 0 {
        target.sync_all().map_err(write)?;
    }
    Ok(filled)
}

/// Whether the page is there: its header names its own position (`XLogPageHeaderData`, `xlp_pageaddr` at offset 8). A file that was
/// recycled has other positions in it, a new one has zeros.
fn has_page(file: &File, at: u64, position: u64) -> std::io::Result<bool> {
    let mut header = [0; 16];
    file.read_exact_at(&mut header, at)?;
    let magic = u16::from_ne_bytes([header[0], header[1]]);
    let address: [u8; 8] = header[8..].try_into().unwrap_or_default();
    Ok(magic != 0 && u64::from_ne_bytes(address) == position)
}

/// All segments of a cluster have one size.
fn segment_bytes(wal_dir: &Path, timeline: Timeline) -> Result<Option<u64>> {
    let prefix = format!("{:08X}", timeline.0);
    let entries = std::fs::read_dir(wal_dir).map_err(|error| Error::io("read", wal_dir, error))?;
    let mut files = entries.filter_map(std::result::Result::ok).filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&prefix) && crate::timeline::segment(&name).is_some()
    });
    Ok(files.find_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).filter(|bytes| *bytes > 0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn page(position: u64, byte: u8) -> Vec<u8> {
        let mut page = vec![byte; 8192];
        page[..2].copy_from_slice(&0xD110_u16.to_ne_bytes());
        page[8..16].copy_from_slice(&position.to_ne_bytes());
        page
    }

    #[test]
    fn what_is_missing_before_the_fork_is_filled_in_and_nothing_else_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (older, newer) =
            (directory.path().join("000000010000000000000004"), directory.path().join("000000020000000000000004"));
        let (start, fork) = (4 * MIB, 4 * MIB + 3 * 8192 + 100);
        let mut source: Vec<u8> = (0..8).flat_map(|number| page(start + number * 8192, 1)).collect();
        let mut target = page(start, 2);
        source.resize(MIB as usize, 0);
        // A recycled file has pages of another position in it.
        target.extend(page(9 * MIB, 3));
        target.resize(MIB as usize, 0);
        std::fs::write(&older, &source).unwrap();
        std::fs::write(&newer, &target).unwrap();
        assert_eq!(fill(directory.path(), Timeline(1), Timeline(2), Lsn(fork)).unwrap(), 3);
        let filled = std::fs::read(&newer).unwrap();
        assert_eq!(filled[..8192], target[..8192], "what was received stays");
        assert_eq!(filled[8192..3 * 8192 + 100], source[8192..3 * 8192 + 100]);
        assert!(filled[3 * 8192 + 100..].iter().all(|byte| *byte == 0), "nothing behind the fork");
        assert_eq!(fill(directory.path(), Timeline(1), Timeline(2), Lsn(fork)).unwrap(), 0);
    }
}
