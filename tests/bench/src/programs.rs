//! Running the programs of peers on their hosts, as the user that runs Postgres, in an environment of their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use agent::demo::account::Account;
use agent::demo::programs::PostgresPrograms;
use agent::demo::service::{Ground, Service};
use agent::demo::session::{DATABASE, USER};
use anyhow::{Context, Result, bail, ensure};
use chaos::host::Host;
use chaos::system::Spot;
use nix::sys::signal::Signal;

/// How much of what a program says goes into an error.
const LAST_LINES: usize = 12;
/// How long a program that took too long may take to end.
const FAREWELL: Duration = Duration::from_secs(15);

/// A program with its environment.
#[derive(Clone, Debug)]
pub struct Call {
    /// Variables, as `NAME=value`.
    pub environment: Vec<String>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Call {
    /// As one command line: `env NAME=value program arguments`. `env` becomes the program, so the process id is the program's.
    fn line(&self) -> Vec<OsString> {
        let environment = self.environment.iter().map(OsString::from);
        environment.chain([self.program.clone().into_os_string()]).chain(self.arguments.iter().cloned()).collect()
    }

    /// It runs until it is told otherwise.
    pub fn service(&self, account: Account, name: &str, host: &Arc<Host>, log: PathBuf) -> Service {
        Service::new(account, name, Path::new("/usr/bin/env"), self.line(), log).on(Arc::clone(host) as _)
    }

    /// Runs it on a host to its end; returns what it says.
    ///
    /// # Errors
    /// It fails, or has not ended in time; the error is what it says.
    pub async fn run(&self, account: Account, host: &Host, within: Duration) -> Result<String> {
        let mut command = account.command("/usr/bin/env");
        command.args(self.line()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = self.program.display();
        let child = host.spawn(command).with_context(|| format!("cannot run {what}"))?;
        let pid = i32::try_from(child.id())?;
        let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output());
        let (output, in_time) = match tokio::time::timeout(within, &mut ended).await {
            Ok(output) => (output??, true),
            Err(_) => {
                agent::demo::processes::signal(pid, Signal::SIGTERM);
                let output = tokio::time::timeout(FAREWELL, ended).await;
                (output.with_context(|| format!("{what} does not end"))???, false)
            }
        };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
        if !output.status.success() || !in_time {
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join(" / ");
            let how = if in_time { output.status.to_string() } else { format!("not ended within {within:?}") };
            bail!("{what}: {how}: {last}");
        }
        Ok(said)
    }
}

/// Runs SQL as the superuser of a node, over its unix socket in `<home>/s`.
///
/// # Errors
/// What psql says.
pub async fn psql(account: Account, postgres: &PostgresPrograms, spot: &Spot, sql: &str) -> Result<String> {
    let mut command = account.command(postgres.bin_dir.join("psql"));
    command.args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-p"]);
    // A unix socket knows no hosts.
    command.arg(spot.port.to_string()).arg("-h").arg(spot.home.join("s")).arg("-c").arg(sql);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await.context("running psql")?;
    ensure!(output.status.success(), "psql on {}: {}", spot.name, String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The statements that make the writers' user and database.
pub fn client() -> [String; 2] {
    [
        format!("CREATE ROLE {USER} LOGIN; GRANT pg_monitor, pg_signal_backend TO {USER}"),
        format!("CREATE DATABASE {DATABASE} OWNER {USER}"),
    ]
}
