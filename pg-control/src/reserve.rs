//! A timeline number that no promotion had before. Postgres takes the number after the highest that it knows of, so two promotions that
//! do not know of each other take the same one, and `pg_rewind` then sees no divergence between them (measured). Empty history files
//! for the numbers in between make Postgres skip them.

use std::fs;

use decision::names::Timeline;

use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;

impl Instance {
    /// Lets the next promotion here take the number `next`, by reserving the numbers between the newest one known here and it.
    ///
    /// # Errors
    /// `WrongState` when a number as high as that is known here already, `Io` when a file cannot be written.
    pub fn reserve_timeline(&self, present: Timeline, next: Timeline) -> Result<()> {
        let wal_dir = self.data_dir().join("pg_wal");
        let listed = fs::read_dir(&wal_dir).map_err(|error| Error::io("list", &wal_dir, error))?;
        let known = listed.filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            u32::from_str_radix(name.strip_suffix(".history")?, 16).ok()
        });
        let newest = known.max().unwrap_or(0).max(present.0);
        if newest >= next.0 {
            return Err(Error::WrongState(format!(
                "timeline {newest} is known here already, so a promotion would not take {next}"
            )));
        }
        for skipped in newest + 1..next.0 {
            let path = wal_dir.join(format!("{skipped:08X}.history"));
            durable::write(&path, b"# reserved by pgvigil: no timeline has this number\n", 0o600)?;
        }
        Ok(())
    }
}
