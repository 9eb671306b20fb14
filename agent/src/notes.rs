//! What one life of the agent leaves for the next: the leases it held and the term it led. A killed agent's successor finds them here,
//! keeps the leases alive and goes on leading the running Postgres without a missed write.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The notes, as they are on disk. Losing them is safe: the successor then waits for the old lease to expire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// The lease of the member key.
    pub member_lease: Option<i64>,
    /// The lease of the leader lock.
    pub lock_lease: Option<i64>,
}

/// Where the notes are kept.
#[derive(Clone, Debug)]
pub struct Notebook {
    path: PathBuf,
    last: Notes,
}

impl Notebook {
    /// Opens the notes in `state_dir`. Unreadable notes count as none, for they only save time.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("agent.json");
        let last = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Self { path, last }
    }

    /// The notes as last read or written.
    pub fn notes(&self) -> &Notes {
        &self.last
    }

    /// Writes the notes if they differ from what is there; whole or not at all.
    ///
    /// # Errors
    /// The state directory cannot be written (full, read-only, not ours).
    pub fn write(&mut self, notes: Notes) -> io::Result<()> {
        if notes == self.last {
            return Ok(());
        }
        let text = serde_json::to_string(&notes)?;
        let fresh = self.path.with_extension("json.new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.path)?;
        self.last = notes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_reads_what_this_one_wrote() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut book = Notebook::open(dir.path());
        assert_eq!(*book.notes(), Notes::default());
        let notes = Notes { member_lease: Some(7), lock_lease: Some(i64::MAX) };
        book.write(notes.clone()).expect("writable");
        assert_eq!(*Notebook::open(dir.path()).notes(), notes);
    }

    #[test]
    fn garbage_counts_as_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("agent.json"), "{\"member_lease\": ").expect("writable");
        assert_eq!(*Notebook::open(dir.path()).notes(), Notes::default());
    }
}
