//! A write load beside the writers: pgbench, which follows the primary wherever it goes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use agent::demo::account::Account;
use agent::demo::session::{DATABASE, USER};
use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::system::Spot;

/// Transactions in a second: enough to keep every connection of it busy when a fault strikes, and no more than two cores carry.
const RATE: &str = "150";
const CLIENTS: &str = "6";
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long the first attempts may fail.
const TABLES_WITHIN: Duration = Duration::from_secs(20);

/// pgbench at work.
pub struct Load {
    work: JoinHandle<()>,
}

impl Load {
    /// Makes its tables and begins.
    ///
    /// # Errors
    /// pgbench is not installed, or cannot write.
    pub async fn start(account: Account, spots: &[Spot]) -> Result<Self> {
        let hosts: Vec<String> = spots.iter().map(|spot| spot.host.address().to_string()).collect();
        let ports: Vec<String> = spots.iter().map(|spot| spot.port.to_string()).collect();
        let to = format!(
            "host={} port={} user={USER} dbname={DATABASE} target_session_attrs=read-write connect_timeout=2",
            hosts.join(","),
            ports.join(",")
        );
        make_tables(account, &to).await?;
        let work = tokio::spawn(async move {
            loop {
                // It ends with its connections, and is started anew until there is a primary again.
                let mut work = command(account, &["-n", "-c", CLIENTS, "-R", RATE, "-T", "3600", &to]);
                let _ = work.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        });
        Ok(Self { work })
    }
}

/// A standby that has not replayed the creation of the database yet turns libpq away for good, so this is tried again for a while.
async fn make_tables(account: Account, to: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let output = command(account, &["-i", "-q", "-s", "5", to]).output().await;
        let output = output.context("cannot run `pgbench`: apt-get install postgresql-15")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(begin.elapsed() < TABLES_WITHIN, "pgbench -i: {said}");
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.work.abort();
    }
}

fn command(account: Account, arguments: &[&str]) -> Command {
    let mut command = Command::from(account.command("pgbench"));
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
    command
}
