//! What one life of the agent leaves for the next: the leases it held and the term it led. A killed agent's successor finds them here,
//! keeps the leases alive and goes on leading the running Postgres without a missed write. They are written on a thread of their own, for
//! the disk may hang and the loop must not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::state_dir::in_its_directory;
use crate::unattended::LedUntil;

/// The notes, as they are on disk. Losing them is safe: the successor then waits for the old lease to expire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// The lease of the member key.
    pub member_lease: Option<i64>,
    /// The lease of the leader lock.
    pub lock_lease: Option<i64>,
    /// Until when it led at most, where it was told to end meanwhile.
    pub led_until: Option<LedUntil>,
}

/// What lies on disk: the notes, and where they were written. A copied host has the same name and the same notes, and would keep alive, as its own, the
/// leases of a node that lives.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    notes: Notes,
    #[serde(default)]
    home: Option<String>,
}

/// A directory on one machine: a copy of it is another.
fn home_of(state_dir: &Path) -> Option<String> {
    let inode = fs::metadata(state_dir).ok()?.ino();
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Some(format!("{}:{inode}", machine.trim()))
}

/// How often is looked whether somebody has deleted the notes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the notes are kept.
#[derive(Debug)]
pub struct Notebook {
    path: PathBuf,
    last: Notes,
    looked: Instant,
    scribe: Option<Sender<Errand>>,
}

/// What the thread is asked: to write these; to do so if there are none; or to say when it has written all before.
#[derive(Debug)]
enum Errand {
    Write(Notes),
    Keep(Notes),
    Tell(Sender<()>),
}

impl Notebook {
    /// Opens the notes in `state_dir`. Notes that are unreadable, or were written elsewhere, count as none, for they only save time.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("agent.json");
        let written = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
        let of_here = |written: &Written| written.home.is_none() || written.home == home_of(state_dir);
        let last = match written {
            Some(written) if of_here(&written) => written.notes,
            Some(_) => {
                tracing::warn!(notes = %path.display(), "these notes were written on another host or in another directory: no lease is taken over by them");
                Notes::default()
            }
            None => Notes::default(),
        };
        Self { path, last, looked: Instant::now(), scribe: None }
    }

    /// The notes as last read or written.
    pub fn notes(&self) -> &Notes {
        &self.last
    }

    /// Has the notes written if they differ from the last ones or somebody has deleted them; whole or not at all. What cannot be written is
    /// told in the log.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn write(&mut self, notes: Notes) -> io::Result<()> {
        if notes != self.last {
            self.last = notes.clone();
            return self.send(Errand::Write(notes));
        }
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        self.send(Errand::Keep(notes))
    }

    fn send(&mut self, errand: Errand) -> io::Result<()> {
        if self.scribe.is_none() {
            let (scribe, errands) = channel();
            let path = self.path.clone();
            std::thread::Builder::new().name("notes".into()).spawn(move || write_down(&path, &errands))?;
            self.scribe = Some(scribe);
        }
        let sent = self.scribe.as_ref().map(|scribe| scribe.send(errand));
        sent.transpose().map_err(io::Error::other).map(|_| ())
    }

    /// Waits until what was written is on its way to the disk, but not for a disk that hangs.
    pub fn settle(&self, within: Duration) {
        let (tell, told) = channel();
        if self.scribe.as_ref().is_some_and(|scribe| scribe.send(Errand::Tell(tell)).is_ok()) {
            let _ = told.recv_timeout(within);
        }
    }
}

fn write_down(path: &Path, errands: &Receiver<Errand>) {
    while let Ok(errand) = errands.recv() {
        match errand {
            Errand::Write(notes) => {
                if let Err(error) = replace(path, &notes) {
                    tracing::warn!(%error, "the agent's notes cannot be written; a restart would cost the leadership");
                }
            }
            // Whoever keeps the directory tells why it cannot be made again.
            Errand::Keep(notes) => {
                if !path.exists() {
                    let _ = replace(path, &notes);
                }
            }
            Errand::Tell(tell) => drop(tell),
        }
    }
}

fn replace(path: &Path, notes: &Notes) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    let write = || {
        let written = Written { notes: notes.clone(), home: path.parent().and_then(home_of) };
        fs::write(&fresh, serde_json::to_string(&written)?).and_then(|()| fs::rename(&fresh, path))
    };
    in_its_directory(path, write)
        .map_err(|error| io::Error::new(error.kind(), format!("{} cannot be written: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_reads_what_this_one_wrote() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut book = Notebook::open(dir.path());
        assert_eq!(*book.notes(), Notes::default());
        let notes = Notes { member_lease: Some(7), lock_lease: Some(i64::MAX), ..Notes::default() };
        book.write(notes.clone()).expect("writable");
        book.settle(Duration::from_secs(10));
        assert_eq!(*Notebook::open(dir.path()).notes(), notes);
    }

    #[test]
    fn notes_of_another_directory_or_host_are_none_and_those_of_an_older_version_count() {
        let (here, copy) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("another"));
        let notes = Notes { member_lease: Some(7), ..Notes::default() };
        let mut book = Notebook::open(here.path());
        book.write(notes.clone()).expect("writable");
        book.settle(Duration::from_secs(10));
        let file = |of: &tempfile::TempDir| of.path().join("agent.json");
        fs::copy(file(&here), file(&copy)).expect("copied");
        assert_eq!(*Notebook::open(copy.path()).notes(), Notes::default());
        fs::write(file(&copy), r#"{"member_lease":7}"#).expect("writable");
        assert_eq!(*Notebook::open(copy.path()).notes(), notes);
    }

    #[test]
    fn notes_that_were_deleted_are_written_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut book = Notebook::open(dir.path());
        let notes = Notes { member_lease: Some(7), ..Notes::default() };
        book.write(notes.clone()).expect("writable");
        book.settle(Duration::from_secs(10));
        fs::remove_file(dir.path().join("agent.json")).expect("it is there");
        book.looked = Instant::now().checked_sub(LOOK_EVERY).expect("the host is up for longer");
        book.write(notes.clone()).expect("writable");
        book.settle(Duration::from_secs(10));
        assert_eq!(*Notebook::open(dir.path()).notes(), notes);
    }

    #[test]
    fn garbage_counts_as_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("agent.json"), "{\"member_lease\": ").expect("writable");
        assert_eq!(*Notebook::open(dir.path()).notes(), Notes::default());
    }
}
