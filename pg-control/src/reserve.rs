//! A timeline number that no promotion had before. Postgres takes the number after the highest that it knows of, so two promotions that
//! do not know of each other take the same one, and `pg_rewind` then sees no divergence between them (measured). Empty history files
//! for the numbers in between make Postgres skip them.

use std::fs;

use decision::names::Timeline;

use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;

/// What such a file says. Postgres reads it as a history without ancestors.
const RESERVED: &[u8] = b"# reserved by pgvigil: no timeline has this number\n";

impl Instance {
    /// The newest timeline number that is taken here: the present one, or that of a promotion that was cut off or happened elsewhere.
    ///
    /// # Errors
    /// `Io` when the WAL directory cannot be listed.
    pub fn newest_timeline(&self, present: Timeline) -> Result<Timeline> {
        let wal_dir = self.data_dir().join("pg_wal");
        let listed = fs::read_dir(&wal_dir).map_err(|error| Error::io("list", &wal_dir, error))?;
        let known = listed.filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            u32::from_str_radix(name.strip_suffix(".history")?, 16).ok()
        });
        Ok(Timeline(known.max().unwrap_or(0)).max(present))
    }

    /// Lets the next promotion here take the number `next`, by reserving the numbers between the newest one known here and it.
    ///
    /// # Errors
    /// `WrongState` when a number as high as that is known here already, `Io` when a file cannot be written.
    pub fn reserve_timeline(&self, present: Timeline, next: Timeline) -> Result<()> {
        let wal_dir = self.data_dir().join("pg_wal");
        let newest = self.newest_timeline(present)?.0;
        if newest >= next.0 {
            return Err(Error::WrongState(format!(
                "timeline {newest} is known here already, so a promotion would not take {next}"
            )));
        }
        for skipped in newest + 1..next.0 {
            let path = wal_dir.join(format!("{skipped:08X}.history"));
            durable::write(&path, RESERVED, 0o600)?;
        }
        Ok(())
    }

    /// Gives numbers back whose promotion never came. Above the newest real timeline they are in the way: a standby that starts takes the
    /// highest number for the latest timeline, finds that it does not descend from it, and waits for ever (measured).
    pub(crate) fn drop_unused_reservations(&self, present: Timeline) -> Result<()> {
        let wal_dir = self.data_dir().join("pg_wal");
        let listed = fs::read_dir(&wal_dir).map_err(|error| Error::io("list", &wal_dir, error))?;
        let files = listed.filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = u32::from_str_radix(path.file_name()?.to_str()?.strip_suffix(".history")?, 16).ok()?;
            Some((number, fs::read(&path).is_ok_and(|content| content == RESERVED), path))
        });
        let files: Vec<_> = files.collect();
        let newest = files.iter().filter(|(_, reserved, _)| !reserved).map(|(number, _, _)| *number).max();
        let newest = newest.unwrap_or(0).max(present.0);
        for (_, _, path) in files.iter().filter(|(number, reserved, _)| *reserved && *number > newest) {
            durable::remove(path)?;
        }
        Ok(())
    }
}
