//! Taking a running server over.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::ConfigArg;

/// Arguments of `adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Where the cluster and its node are described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The configuration of this node's Patroni, which kept the server until now and is paused and stopped. Where there is no node file yet, it is made
    /// from that.
    #[arg(long, value_name = "FILE")]
    pub from_patroni: Option<PathBuf>,
    /// Only say what would be changed.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the lead, where the agent runs already.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the history of the settings.
    #[arg(long)]
    pub reason: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}
