//! Running the programs that come with Postgres (`initdb`, `pg_basebackup`, `pg_rewind`, `pg_waldump`). Each gets a clean environment, a
//! process group of its own, and never outlives its caller: `pg_basebackup` forks, and a copy left behind would go on writing.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::instance::Instance;

/// What a program said.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Gives a program only what it needs to know. Postgres must not speak to the agent's service manager (`NOTIFY_SOCKET`), inherit its
/// sockets, or carry its secrets.
pub(crate) fn scrub(command: &mut StdCommand) {
    command.env_clear();
    let kept = |name: &str| ["PATH", "HOME", "TZ", "LANG", "LANGUAGE"].contains(&name) || name.starts_with("LC_");
    for (name, value) in std::env::vars_os() {
        if name.to_str().is_some_and(kept) {
            command.env(name, value);
        }
    }
}

/// Kills the whole process group unless told that it has ended.
struct Group(Option<i32>);

impl Group {
    fn kill(&self) {
        if let Some(id) = self.0 {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Instance {
    /// Runs a program of Postgres to its end, or kills it when cancelled or dropped. Passwords come from the password file.
    pub(crate) async fn run(&self, name: &str, arguments: &[OsString], cancel: &CancellationToken) -> Result<Said> {
        self.run_at(&self.program(name), arguments, cancel).await
    }

    /// The same for any program, an operator's for instance.
    pub(crate) async fn run_at(
        &self,
        program: &Path,
        arguments: &[OsString],
        cancel: &CancellationToken,
    ) -> Result<Said> {
        let mut command = StdCommand::new(program);
        scrub(&mut command);
        command.env("LC_ALL", "C").env("PGPASSFILE", self.passfile()).args(arguments);
        // Somewhere that every user may stand: some programs look at their working directory.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut command = Command::from(command);
        let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(|error| missing(program, error))?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (out, err) = tokio::join!(read(out), read(err));
            (child.wait().await, out, err)
        };
        tokio::select! {
            () = cancel.cancelled() => {
                group.kill();
                Err(Error::Cancelled("running a program"))
            }
            (status, out, err) = ended => {
                group.0 = None;
                let status = status.map_err(|source| Error::io("wait for", program, source))?;
                tracing::debug!(program = %program.display(), %status, stderr = %err.trim(), "program ended");
                Ok(Said { ok: status.success(), out, err })
            }
        }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still worth having.
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn missing(program: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::host(
            format!("{} is not there", program.display()),
            "install the PostgreSQL server package, or set bin_dir to the directory of its programs",
        );
    }
    Error::io("run", program, error)
}

/// Finds the mend in what a failed program or server said; `None` where it says nothing that is known.
pub(crate) fn diagnose(text: &str) -> Option<Error> {
    let known = [
        (
            "could not create shared memory segment: No space left",
            "this host has no shared memory segment left",
            "remove those of servers that were killed for good (ipcs -m: nattch 0; ipcrm -m ID), or raise kernel.shmmni",
        ),
        (
            "could not resize shared memory segment",
            "/dev/shm is full",
            "remove what killed servers have left there, give it more room, or set dynamic_shared_memory_type = sysv",
        ),
        ("No space left on device", "the disk is full", "free space on the file system of the data directory"),
        (
            "Permission denied",
            "permission denied",
            "let the user that runs the agent own the data directory and its parent",
        ),
        ("Read-only file system", "the file system is read-only", "remount it writable, and look for disk errors"),
        (
            "invalid locale",
            "the locale does not exist on this host",
            "install it, or set another locale in the node file",
        ),
        ("cannot be run as root", "Postgres does not run as root", "run the agent as the user postgres"),
        ("Address already in use", "the port is taken", "stop the other server on that port, or set another port"),
        ("Cannot allocate memory", "there is too little memory", "lower shared_buffers, or free memory"),
        ("invalid permissions", "the data directory is readable by others", "chmod 0700 it"),
        (
            "incompatible with server",
            "the data directory is of another major version",
            "set bin_dir to that version's programs",
        ),
    ];
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let found = known.iter().find_map(|(sign, problem, mend)| {
        let line = lines.iter().rev().find(|line| line.contains(sign))?;
        Some(Error::host(format!("{problem} ({line})"), *mend))
    });
    found.or_else(|| {
        let away = ["Connection refused", "could not connect", "connection to server at", "the database system is"];
        let line = lines.iter().rev().find(|line| away.iter().any(|sign| line.contains(sign)))?;
        Some(Error::SourceNotReady((*line).to_owned()))
    })
}

/// The last words of a program, short enough for a log line.
pub(crate) fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}

pub(crate) fn failed(program: &str, said: &Said) -> Error {
    diagnose(&said.err).unwrap_or_else(|| Error::Tool { program: program.to_owned(), message: last_words(&said.err) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_an_unreachable_source() {
        let full = diagnose("pg_basebackup: error: could not write to file: No space left on device");
        assert!(full.is_some_and(|error| error.to_string().contains("the disk is full")));
        let memory = diagnose("FATAL:  could not create shared memory segment: No space left on device");
        assert!(memory.is_some_and(|error| error.to_string().contains("kernel.shmmni")));
        let away = diagnose(
            "pg_basebackup: error: connection to server at \"10.0.0.1\", port 5432 failed: Connection refused",
        );
        assert!(matches!(away, Some(Error::SourceNotReady(_))), "{away:?}");
        assert!(diagnose("something else").is_none());
    }
}
