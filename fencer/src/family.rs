//! The processes of one Postgres, found through `/proc` alone: those that run a `postgres` program and work in the data directory. The
//! links there are names in the kernel's memory, so that a frozen disk does not stop the search; the postmaster's pid file would. Its
//! orphans are found in the same way as the postmaster, which is never killed alone: its backends would go on committing.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Each takes an open file, of which a process may have 1024.
const MOST_AIMED_AT: usize = 900;

/// Whoever can be struck until nobody is left.
pub trait Family {
    /// Takes aim: looks up who is there, so that the first strike need not. Nobody is killed.
    fn aim(&mut self, data_dir: &Path) -> usize;

    /// Kills whoever is there; says how many were. None: nobody was left. After [`Family::aim`] the first strike hits those aimed at.
    fn strike(&mut self, data_dir: &Path) -> usize;
}

/// The processes of this host.
#[derive(Debug, Default)]
pub struct Processes {
    aimed_at: Vec<OwnedFd>,
}

impl Family for Processes {
    fn aim(&mut self, data_dir: &Path) -> usize {
        self.aimed_at.clear();
        self.aimed_at.extend(members(data_dir).filter_map(|pid| open_if_still(pid, data_dir)).take(MOST_AIMED_AT));
        self.aimed_at.len()
    }

    fn strike(&mut self, data_dir: &Path) -> usize {
        if self.aimed_at.is_empty() {
            return members(data_dir).filter_map(|pid| open_if_still(pid, data_dir)).filter(kill).count();
        }
        // A search of a starved host takes a hundred milliseconds; this takes less than one.
        let struck = self.aimed_at.iter().filter(|process| kill(process)).count();
        self.aimed_at.clear();
        // Somebody may be there whom nobody aimed at.
        struck.max(1)
    }
}

/// The processes of the server in this data directory, given by its whole path without links. A dead process that nobody has reaped
/// yet has no directory any more and is not among them.
pub fn members(data_dir: &Path) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| works_for(*pid, data_dir))
}

fn works_for(pid: i32, data_dir: &Path) -> bool {
    let link = |name: &str| fs::read_link(PathBuf::from(format!("/proc/{pid}/{name}")));
    // An upgraded package leaves " (deleted)" behind the name of the program.
    let postgres = |exe: PathBuf| exe.file_name().is_some_and(|name: &OsStr| name.as_bytes().starts_with(b"postgres"));
    link("cwd").is_ok_and(|cwd| cwd == data_dir) && link("exe").is_ok_and(postgres)
}

/// A descriptor of the process that has this id now, if it is one of the family: it stands for one process, whatever becomes of the id.
fn open_if_still(pid: i32, data_dir: &Path) -> Option<OwnedFd> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    works_for(pid, data_dir).then_some(process)
}

fn kill(process: &OwnedFd) -> bool {
    pidfd_send_signal(process, Signal::KILL).is_ok()
}
