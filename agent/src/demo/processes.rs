//! Processes of a cluster on this machine, found by the directory in which they work. The directory belongs to one cluster alone, so
//! nothing else on the machine is ever touched.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_control::shared_memory::SharedMemory;

/// The programs that a cluster starts. An editor or a shell in the directory is somebody's, and stays.
const PROGRAMS: [&str; 6] = ["pgvigil", "postgres", "pg_", "initdb", "etcd", "haproxy"];

/// Sends a signal. Whoever is gone already needs none.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// The server processes of a data directory.
pub fn of_server(data_dir: &Path) -> Vec<i32> {
    all(|process| process.runs("postgres") && process.link("cwd").is_some_and(|cwd| cwd == data_dir))
}

/// Every program of ours that works in a directory, or was told of it.
pub fn of_directory(directory: &Path) -> Vec<i32> {
    let inside = |process: &Process| {
        process.link("cwd").is_some_and(|cwd| cwd.starts_with(directory)) || process.was_told_of(directory)
    };
    all(|process| PROGRAMS.iter().any(|name| process.runs(name)) && inside(process))
}

/// As [`end`], for servers that are never started again: what they leave in shared memory goes too.
///
/// # Errors
/// As there.
pub fn end_for_good(find: impl Fn() -> Vec<i32>) -> Result<()> {
    let left = SharedMemory::of(&find());
    end(find)?;
    left.remove();
    Ok(())
}

/// Kills every process that `find` finds, and whatever those start meanwhile.
///
/// # Errors
/// Some process cannot be killed (a dead disk).
pub fn end(find: impl Fn() -> Vec<i32>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let found = find();
        if found.is_empty() {
            return Ok(());
        }
        found.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        if begin.elapsed() > Duration::from_secs(10) {
            bail!("processes {found:?} cannot be killed");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Stops every server process of a data directory where it is: `SIGSTOP`. The postmaster comes first, so that nobody new is started.
pub fn freeze_server(data_dir: &Path) {
    if let Some(postmaster) = pg_control::process::find(data_dir) {
        signal(postmaster.pid, Signal::SIGSTOP);
    }
    of_server(data_dir).into_iter().for_each(|pid| signal(pid, Signal::SIGSTOP));
}

/// Lets them go on.
pub fn thaw_server(data_dir: &Path) {
    of_server(data_dir).into_iter().for_each(|pid| signal(pid, Signal::SIGCONT));
}

/// One entry of `/proc`. Whatever cannot be read is no process of ours.
struct Process {
    pid: i32,
}

impl Process {
    fn link(&self, name: &str) -> Option<std::path::PathBuf> {
        std::fs::read_link(format!("/proc/{}/{name}", self.pid)).ok()
    }

    fn runs(&self, program: &str) -> bool {
        let name = self.link("exe").and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()));
        name.is_some_and(|name| name.starts_with(program))
    }

    fn was_told_of(&self, directory: &Path) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*directory.to_string_lossy())
    }
}

fn all(wanted: impl Fn(&Process) -> bool) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    pids.map(|pid| Process { pid })
        .filter(|process| process.pid != me && wanted(process))
        .map(|process| process.pid)
        .collect()
}
