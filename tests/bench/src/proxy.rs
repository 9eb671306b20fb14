//! The demo's own figures: the outage that a client of HAProxy sees, who waits for a health check besides.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::results::{Results, Shown};

/// The faults of the demo.
pub const FAULTS: [&str; 4] = ["node", "postgres", "hang", "switchover"];
const LONGEST: Duration = Duration::from_secs(120);

/// Plays each fault of the demo so many times.
///
/// # Errors
/// The results cannot be kept.
pub async fn run(pgvigil: &Path, runs: usize, results: &Results) -> Result<()> {
    for fault in FAULTS {
        for run in 1..=runs {
            let file = format!("{fault}.{run}");
            if results.has("proxy", &file) {
                continue;
            }
            match one(pgvigil, fault, run).await {
                Ok(shown) => {
                    println!("through HAProxy, {fault} run {run}: {:.0} ms, {} rows lost", shown.outage_ms, shown.lost);
                    results.put("proxy", &file, &shown)?;
                }
                Err(error) => println!("through HAProxy, {fault} run {run}: {error:#}"),
            }
        }
    }
    Ok(())
}

async fn one(pgvigil: &Path, fault: &str, run: usize) -> Result<Shown> {
    let mut command = std::process::Command::new(pgvigil);
    // This program is pgvigil where it is called so.
    command.arg0("pgvigil").args(["demo", "--json", "--fault", fault]).stdin(Stdio::null());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output();
    let Ok(output) = tokio::time::timeout(LONGEST, output).await else { bail!("not over within {LONGEST:?}") };
    let output = output.context("running the demo")?;
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{}: {told}", output.status);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let card: Value =
        serde_json::from_str(said.lines().last().unwrap_or_default()).context("the demo tells no result")?;
    let outage_ms = card["write_outage_ms"].as_f64().context("the demo tells no outage")?;
    let lost = usize::try_from(card["lost_rows"].as_u64().context("the demo tells no losses")?)?;
    Ok(Shown { fault: fault.to_owned(), run, outage_ms, lost })
}
