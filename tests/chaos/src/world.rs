//! A world of its own for the processes of a run: network, mounts and process ids in new namespaces, so that nothing of the machine is
//! touched, and nothing of the run can outlive it: with its first process the kernel ends all others. Root makes it as root; anybody else
//! in a user namespace, where the kernel lets them.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Uid;

/// How far in this process is. Programs of the run never see it: they start with a clean environment.
const DEPTH: &str = "PGVIGIL_CHAOS_WORLD";
/// The process that is seen from outside.
const RUN: &str = "PGVIGIL_CHAOS_RUN";
/// Set by whoever does not want the run to outlive them.
const END_WITH_PARENT: &str = "PGVIGIL_CHAOS_END_WITH_PARENT";
/// Directories of runs begin like this.
pub const PREFIX: &str = "pgvigil-chaos-";
/// Held while the run lives.
const LOCK: &str = "lock";
/// Whoever finds this leaves the directory alone: its logs are wanted.
const KEPT: &str = "kept";

/// What to go on with.
pub enum Entered {
    /// This process is inside.
    Inside,
    /// This process only waits for the one inside, which has ended like this.
    Over(ExitCode),
}

/// Enters the world: the program runs itself anew there, with the same arguments.
///
/// # Errors
/// The kernel does not allow it; the message names the mend.
pub fn enter() -> Result<Entered> {
    match std::env::var(DEPTH).as_deref() {
        Ok("inside") => Ok(Entered::Inside),
        Ok(_) => be_first().map(Entered::Over),
        Err(_) => {
            sweep();
            go_in()
        }
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !Uid::effective().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--net", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

fn go_in() -> Result<Entered> {
    let tried = unshare().args(["ip", "link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    let tried = tried.context("cannot run `unshare`: apt-get install util-linux iproute2")?;
    if !tried.status.success() {
        bail!(
            "this needs namespaces for networks and processes, and may not make them ({}): run it as root, or let users \
             make them (sysctl -w kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0); \
             in a container, give it CAP_SYS_ADMIN and CAP_NET_ADMIN",
            String::from_utf8_lossy(&tried.stderr).trim()
        );
    }
    if std::env::var_os(END_WITH_PARENT).is_some() {
        set_pdeathsig(Signal::SIGKILL).context("asking to end with the parent")?;
    }
    let me = std::env::current_exe().context("finding this program")?;
    // This process becomes `unshare`, and takes everything inside with it when it is killed.
    let error = unshare()
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(DEPTH, "first")
        .env(RUN, std::process::id().to_string())
        .exec();
    Err(error).context("cannot run `unshare`")
}

/// The first process inside: it only buries whoever lost their parent, as init does.
fn be_first() -> Result<ExitCode> {
    let me = std::env::current_exe().context("finding this program")?;
    let child = Command::new(me).args(std::env::args_os().skip(1)).env(DEPTH, "inside").spawn();
    let child = child.context("running inside")?.id();
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw().cast_unsigned() == child => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid.as_raw().cast_unsigned() == child => return Ok(ExitCode::FAILURE),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting inside"),
        }
    }
}

/// The programs of a test that let the run end with them.
pub fn ends_with_parent(command: &mut Command) -> &mut Command {
    command.env(END_WITH_PARENT, "yes")
}

/// The mark of a living run on its directory.
#[derive(Debug)]
pub struct Claim {
    _lock: Flock<File>,
}

/// Marks the directory as this run's.
///
/// # Errors
/// The disk is full.
pub fn claim(directory: &Path) -> Result<Claim> {
    let run = std::env::var(RUN).unwrap_or_default();
    let file = File::create(directory.join(LOCK)).context("marking the directory")?;
    (&file).write_all(run.as_bytes()).context("marking the directory")?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error);
    Ok(Claim { _lock: lock.context("marking the directory")? })
}

/// Which run a directory belongs to: the process that is seen from outside.
pub fn run_of(directory: &Path) -> Option<u32> {
    std::fs::read_to_string(directory.join(LOCK)).ok()?.parse().ok()
}

/// Whoever comes next leaves the directory alone.
pub fn keep(directory: &Path) {
    // Without the mark the next run removes it, which loses logs and nothing else.
    let _ = File::create(directory.join(KEPT));
}

/// Removes what killed runs have left: their processes and networks have ended with them, their directories have not. A frozen disk
/// is thawed first, for whoever waits for it cannot even be killed.
fn sweep() {
    thaw_left_disks();
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    let ours = entries.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for directory in ours.map(|entry| entry.path()) {
        let dead = File::open(directory.join(LOCK))
            .is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok());
        if dead && !directory.join(KEPT).exists() && std::fs::remove_dir_all(&directory).is_ok() {
            eprintln!("removed what a killed run left in {}", directory.display());
        }
    }
}

/// Disks of runs whose inside has been killed, but could not end because they wait for a disk.
fn thaw_left_disks() {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for process in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        for disk in left_disks(&process) {
            let root = process.join("root").join(disk.strip_prefix("/").unwrap_or(&disk));
            let _ = Command::new("fsfreeze").arg("-u").arg(root).stderr(Stdio::null()).status();
        }
    }
}

fn left_disks(process: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string(process.join("mounts")).unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let of_a_run = points.filter_map(|point| {
        let run = point
            .ancestors()
            .find(|above| above.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)))?;
        let dead =
            File::open(run.join(LOCK)).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok());
        dead.then_some(point.clone())
    });
    of_a_run.collect()
}
