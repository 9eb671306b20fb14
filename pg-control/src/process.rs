//! The server's processes, seen through `/proc`. A process id alone proves nothing (it outlives its process in `postmaster.pid` and is
//! used again), so a process counts as ours only when it runs a `postgres` program inside our data directory. Killing the postmaster
//! alone is no fence: its backends go on committing until they next wait, so all of them are killed, orphans included.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use procfs::process::Process;

use crate::error::{Error, Result};
use crate::pidfile::{self, PidFile, Status};

/// The running postmaster of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postmaster {
    /// Its process id.
    pub pid: i32,
    /// The port of its sockets, once it has said so.
    pub port: Option<u16>,
    /// How far it says it has come.
    pub status: Status,
    /// How long it has run.
    pub age: Duration,
}

/// Finds the running postmaster of a data directory.
pub fn find(data_dir: &Path) -> Option<Postmaster> {
    let file = pidfile::parse(&fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)?;
    let process = Process::new(file.pid).ok()?;
    let age = alive_for(&process)?;
    let ours = lives_in(&process, &canonical(data_dir)) && is_that_postmaster(&process, &file, age);
    ours.then_some(Postmaster { pid: file.pid, port: file.port, status: file.status, age })
}

/// Whether the process started when the file says. After a step of the wall clock the two disagree although all is well; then its command
/// line tells: a server process renames itself to `postgres: ...`, and a standalone one says so.
fn is_that_postmaster(process: &Process, file: &PidFile, age: Duration) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let started_at = now.saturating_sub(age).as_secs();
    if i64::try_from(started_at).is_ok_and(|at| at.abs_diff(file.started_at) <= 3) {
        return true;
    }
    let line = process.cmdline().unwrap_or_default();
    let standalone = line.iter().any(|word| ["--single", "--boot", "--check"].contains(&word.as_str()));
    line.first().is_some_and(|name| !name.starts_with("postgres:")) && !standalone
}

fn canonical(data_dir: &Path) -> PathBuf {
    fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_path_buf())
}

/// Runs a `postgres` program inside the directory. An upgraded package leaves ` (deleted)` behind the name.
fn lives_in(process: &Process, data_dir: &Path) -> bool {
    let program = |exe: PathBuf| exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres"));
    process.cwd().is_ok_and(|cwd| cwd == data_dir) && process.exe().is_ok_and(program)
}

/// Waits in the kernel with SIGKILL pending (for a frozen disk, as a rule). It never runs an instruction of its own program again: it can
/// answer nobody and begin no write, and is as good as dead, though its memory and its files stay taken until the disk answers.
fn is_doomed(process: &Process) -> bool {
    let kill = 1_u64 << (Signal::SIGKILL as u64 - 1);
    process.status().is_ok_and(|status| (status.shdpnd | status.sigpnd) & kill != 0)
}

/// How long the process has been alive; `None` when it is gone, dead and not yet reaped, or doomed.
fn alive_for(process: &Process) -> Option<Duration> {
    let stat = process.stat().ok()?;
    if matches!(stat.state, 'Z' | 'X') || stat.state == 'D' && is_doomed(process) {
        return None;
    }
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
    let started = Duration::from_millis(stat.starttime.saturating_mul(1000) / procfs::ticks_per_second().max(1));
    Some(Duration::from(now).saturating_sub(started))
}

/// Whether somebody has stopped the process, or traces it and holds it up: it does nothing until it is let go on.
pub fn is_stopped(pid: i32) -> bool {
    Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| matches!(stat.state, 'T' | 't'))
}

/// Whether a debugger holds the process up: it does not go on by a signal.
pub(crate) fn is_traced(pid: i32) -> bool {
    Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.state == 't')
}

pub(crate) fn is_alive(pid: i32) -> bool {
    Process::new(pid).ok().and_then(|process| alive_for(&process)).is_some()
}

/// Takes note of a dead process that is a child of this one (the agent is the first process of a container, or a subreaper). Nobody
/// else would, and Postgres takes a process that nobody has taken note of for a living one.
pub(crate) fn reap(pid: i32) {
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}

/// Takes note of every dead server process that has become a child of this one. Only those are meant that led or followed in a session
/// of their own: what this process runs itself, it waits for itself.
pub fn reap_orphans() {
    let Some(me) = Process::myself().ok().and_then(|process| process.stat().ok()) else { return };
    let Ok(all) = procfs::process::all_processes() else { return };
    let dead = all.filter_map(|process| process.ok()?.stat().ok()).filter(|stat| {
        stat.state == 'Z' && stat.ppid == me.pid && stat.comm == "postgres" && stat.session != me.session
    });
    dead.for_each(|stat| reap(stat.pid));
}

/// Whether the id in `postmaster.pid` is still taken by a dead process. Postgres refuses to start as long as it is.
pub(crate) fn unreaped(data_dir: &Path) -> bool {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    let Some(pid) = pidfile::parse(&text).map(|file| file.pid) else { return false };
    reap(pid);
    Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.state == 'Z')
}

/// Every server process in the data directory, the postmaster and its children included.
pub fn family(data_dir: &Path) -> Vec<i32> {
    let data_dir = canonical(data_dir);
    let postmaster = find(&data_dir).map(|postmaster| postmaster.pid);
    let belongs = |process: &Process| {
        let child = process.stat().is_ok_and(|stat| Some(stat.ppid) == postmaster);
        (child || lives_in(process, &data_dir)) && alive_for(process).is_some()
    };
    let Ok(all) = procfs::process::all_processes() else { return Vec::new() };
    all.filter_map(|process| process.ok()).filter(belongs).map(|process| process.pid).collect()
}

/// Server processes that are there although their postmaster is not. They can still commit.
pub fn orphans(data_dir: &Path) -> Vec<i32> {
    if find(data_dir).is_some() { Vec::new() } else { family(data_dir) }
}

/// Kills every process of the server at once and waits until all are gone; returns how long that took. Blocks its thread.
///
/// The postmaster is stopped first, so that it starts nobody while the others are collected.
///
/// # Errors
/// `Timeout` after ten seconds. Processes that hang in the kernel with a dead disk are not waited for: they never go on.
pub fn kill_all(data_dir: &Path) -> Result<Duration> {
    let begin = Instant::now();
    if let Some(postmaster) = find(data_dir) {
        send(postmaster.pid, Signal::SIGSTOP);
    }
    loop {
        let pids = family(data_dir);
        if pids.is_empty() {
            // The file still names the postmaster: it is taken note of, so that the next start need not wait.
            let _ = unreaped(data_dir);
            return Ok(begin.elapsed());
        }
        for pid in &pids {
            send(*pid, Signal::SIGKILL);
        }
        while pids.iter().any(|pid| is_alive(*pid)) {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(Error::timeout("killing the processes of the server", begin.elapsed()));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        pids.iter().for_each(|pid| reap(*pid));
    }
}

pub(crate) fn send(pid: i32, signal: Signal) {
    // The only errors are "gone already", which is as good, and "not permitted", which shows in what happens next.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Signals those of `pids` that are children of the postmaster. An id read a moment ago may be somebody else's by now.
pub(crate) fn send_to_children(postmaster: i32, pids: &[i32], signal: Signal) {
    for pid in pids {
        let child = Process::new(*pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.ppid == postmaster);
        if child {
            send(*pid, signal);
        }
    }
}
