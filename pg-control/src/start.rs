//! Starting the server so that it outlives the agent: `pg_ctl` gives it a session of its own, a clean environment and a log file. A start
//! that fails is explained from that log, with the mend where the cause is known.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::process::{self, Postmaster};
use crate::tool;

impl Instance {
    /// The running postmaster of this data directory.
    pub fn postmaster(&self) -> Option<Postmaster> {
        let found = process::find(self.data_dir());
        // Remembered, for whoever connects must not wait for a disk that hangs.
        self.memory().port = found.and_then(|postmaster| postmaster.port);
        found
    }

    /// The port on which the running server listens, which is another than the configured one until it is restarted; the
    /// configured one where none is known to run.
    pub fn port(&self) -> u16 {
        self.memory().port.unwrap_or(self.config().port)
    }

    /// Starts the server as the data directory is configured, and returns as soon as its process is there.
    pub(crate) async fn start(&self) -> Result<Postmaster> {
        self.start_while(|| true).await
    }

    /// The same with settings that hold for this start alone, above those of every file.
    pub(crate) async fn start_with(&self, settings: &[(&str, String)]) -> Result<Postmaster> {
        self.launch(settings, || true).await
    }

    /// As [`Instance::start`], where it still may be started when nothing is left to write: a write can hang with its disk for any time.
    pub(crate) async fn start_while(&self, may_still: impl Fn() -> bool + Send) -> Result<Postmaster> {
        self.launch(&[], may_still).await
    }

    async fn launch(&self, settings: &[(&str, String)], may_still: impl Fn() -> bool + Send) -> Result<Postmaster> {
        if let Some(running) = self.postmaster() {
            return Ok(running);
        }
        self.settle().await?;
        self.close_seam()?;
        self.prepare_log()?;
        self.forget_sessions().await;
        let pg_ctl = self.program("pg_ctl");
        let mut command = StdCommand::new(&pg_ctl);
        tool::scrub(&mut command);
        if ranks_below_others() {
            // The agent may be protected from the kernel's out-of-memory killer; a backend must not inherit that.
            command.env("PG_OOM_ADJUST_FILE", "/proc/self/oom_score_adj").env("PG_OOM_ADJUST_VALUE", "0");
        }
        command.arg("start").arg("-w").args(["-t", "60"]).arg("-s");
        command.arg("-D").arg(self.data_dir()).arg("-l").arg(self.log_file());
        if !settings.is_empty() {
            command.arg("-o").arg(as_options(settings));
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !may_still() {
            return Err(Error::WrongState("what allowed the start is over".to_owned()));
        }
        // pg_ctl waits only to see an early death; dropping it kills the waiting, not the server in its own session.
        let mut pg_ctl =
            Command::from(command).kill_on_drop(true).spawn().map_err(|error| tool::missing(&pg_ctl, error))?;
        let begin = Instant::now();
        let mut gave_up = false;
        loop {
            if let Some(running) = self.postmaster() {
                tracing::info!(pid = running.pid, "Postgres is starting");
                return Ok(running);
            }
            if gave_up || begin.elapsed() > Duration::from_secs(20) {
                return Err(self.why_it_did_not_start());
            }
            // Look for the process once more after pg_ctl has ended: it may be quicker than this loop.
            gave_up = matches!(pg_ctl.try_wait(), Ok(Some(_)));
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the server accepts connections.
    ///
    /// # Errors
    /// `StartFailed` or `Host` when it has ended again, `Timeout` when it takes longer (recovery may go on), `Refused` when it is up and
    /// does not let the agent in.
    pub async fn wait_ready(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut missing_before = false;
        loop {
            match timeout_at(deadline, self.control()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error @ Error::Refused(_))) => return Err(error),
                Ok(Err(_)) if Instant::now() < deadline => {}
                _ => return Err(Error::timeout("waiting for postgres to accept connections", within)),
            }
            let missing = self.postmaster().is_none();
            if missing && missing_before {
                return Err(self.why_it_did_not_start());
            }
            missing_before = missing;
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Makes sure that nothing of the last server is left. Processes without a postmaster hold its shared memory and could still commit.
    pub(crate) async fn settle(&self) -> Result<()> {
        if !process::orphans(self.data_dir()).is_empty() {
            tracing::warn!("ending server processes that outlived their postmaster");
            self.kill_all().await?;
        }
        let begin = Instant::now();
        while process::unreaped(self.data_dir()) {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(Error::host(
                    "the last postmaster is dead, but its parent process takes no note of that (a zombie)",
                    "run the agent under an init that reaps orphans, or as the first process of its container",
                ));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Why a server that was started has ended again: what it has said since, the fatal lines first.
    pub fn why_it_did_not_start(&self) -> Error {
        let text = read_from(&self.log_file(), self.memory().log_length_at_start).unwrap_or_default();
        if let Some(error @ Error::Host { .. }) = tool::diagnose(&text) {
            return error;
        }
        let words = told_before_its_end(&text).unwrap_or_else(|| tool::last_words(&text));
        Error::StartFailed(format!("{words} (see {})", self.log_file().display()))
    }
}

/// The fatal lines, and before them those that name a mistake in its files: `FATAL: configuration file contains errors` names none.
fn told_before_its_end(text: &str) -> Option<String> {
    let fatal = |line: &&str| line.contains("FATAL:") || line.contains("PANIC:");
    let mistake = |line: &&str| line.contains("LOG:") && line.contains(" in file \"");
    let fatal: Vec<&str> = text.lines().filter(fatal).collect();
    let mistakes = text.lines().filter(mistake).filter(|_| fatal.iter().any(|line| line.contains("contains errors")));
    let told: Vec<&str> = mistakes.take(3).chain(fatal.iter().copied()).collect();
    (!fatal.is_empty()).then(|| tool::last_words(&told.join("\n")))
}

/// Settings as options of `postgres`, which `pg_ctl` hands to a shell.
fn as_options(settings: &[(&str, String)]) -> String {
    let quoted = |(key, value): &(&str, String)| format!("-c '{}'", format!("{key}={value}").replace('\'', r"'\''"));
    settings.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn read_from(path: &Path, offset: u64) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(1024 * 1024).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether this process is less likely than others to be chosen by the out-of-memory killer.
fn ranks_below_others() -> bool {
    let adjusted = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    adjusted.trim().parse::<i32>().is_ok_and(|value| value < 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_failed_for_a_mistake_in_a_file_names_it() {
        let mistake =
            "LOG:  unrecognized configuration parameter \"max_conections\" in file \"/d/pgvigil.conf\" line 12";
        let fatal = "FATAL:  configuration file \"/d/postgresql.conf\" contains errors";
        let told = told_before_its_end(&format!("LOG:  starting\n{mistake}\n{fatal}\n"));
        assert_eq!(told, Some(format!("{mistake} | {fatal}")));
        let other = "FATAL:  could not create lock file";
        assert_eq!(told_before_its_end(&format!("{mistake}\n{other}\n")), Some(other.to_owned()));
        assert_eq!(told_before_its_end("LOG:  starting\n"), None);
    }
}
