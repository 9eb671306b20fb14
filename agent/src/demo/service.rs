//! One program of a cluster that runs until it is told otherwise: an agent, an etcd member, HAProxy. It is known as a child of this
//! process, so its process id can never be somebody else's.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::account::Account;
use super::processes::signal;

/// How much of a log goes into an error.
const LAST_LINES: usize = 8;

/// Where programs run, if not on this machine as it is: a host of a network of its own.
pub trait Ground: fmt::Debug + Send + Sync {
    /// Runs the command there.
    ///
    /// # Errors
    /// It cannot be run.
    fn spawn(&self, command: Command) -> io::Result<Child>;
}

/// A program, and the process that runs it.
#[derive(Debug)]
pub struct Service {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    account: Account,
    ground: Option<Arc<dyn Ground>>,
    child: Mutex<Option<Child>>,
}

impl Service {
    /// Describes it; nothing is started yet.
    pub fn new(account: Account, name: &str, program: &Path, arguments: Vec<OsString>, log: PathBuf) -> Self {
        let (name, program) = (name.to_owned(), program.to_owned());
        Self { name, program, arguments, log, account, ground: None, child: Mutex::new(None) }
    }

    /// The same with more arguments.
    #[must_use]
    pub fn with_arguments(mut self, more: &[String]) -> Self {
        self.arguments.extend(more.iter().map(OsString::from));
        self
    }

    /// It is to run there.
    pub fn on(mut self, ground: Arc<dyn Ground>) -> Self {
        self.ground = Some(ground);
        self
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        let mut child = self.child();
        let child = child.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| i32::try_from(child.id()).ok())?
    }

    /// Starts it, in a process group of its own: what the terminal sends to this process does not reach it.
    ///
    /// # Errors
    /// It runs already, or the program cannot be run.
    pub fn start(&self) -> Result<()> {
        if self.pid().is_some() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = self.account.command(&self.program);
        command.args(&self.arguments).process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = match &self.ground {
            Some(ground) => ground.spawn(command),
            None => command.spawn(),
        };
        let child = child.with_context(|| format!("cannot run {}", self.program.display()))?;
        *self.child() = Some(child);
        Ok(())
    }

    /// `SIGKILL`; returns when it is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `SIGTERM`; returns with its exit status when it has ended.
    ///
    /// # Errors
    /// It does not run, or has not ended within the given time.
    pub async fn stop(&self, within: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        self.send(Signal::SIGTERM)?;
        while begin.elapsed() < within {
            if let Some(status) = self.ended() {
                *self.child() = None;
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("{} has not ended within {within:?} of SIGTERM", self.name);
    }

    /// `SIGSTOP`.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        self.send(Signal::SIGSTOP)
    }

    /// `SIGCONT`.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self) -> Result<()> {
        self.send(Signal::SIGCONT)
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().as_mut()?.try_wait().ok()?
    }

    /// Makes sure that it has not ended by itself.
    ///
    /// # Errors
    /// It has; the error shows its last words.
    pub fn must_run(&self) -> Result<()> {
        let Some(status) = self.ended() else { return Ok(()) };
        bail!(
            "{} has ended by itself ({status}); its last words in {}:\n{}",
            self.name,
            self.log.display(),
            self.last_words()
        );
    }

    /// Lets it live on when this is dropped.
    pub fn leave_running(&self) {
        *self.child() = None;
    }

    fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| format!("  {line}\n")).collect()
    }

    fn send(&self, what: Signal) -> Result<()> {
        let Some(pid) = self.pid() else { bail!("{} does not run", self.name) };
        signal(pid, what);
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}
