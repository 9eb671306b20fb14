//! Asking whether something may begin.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ConfigArg, Output};
use crate::operate::gate::{Lag, Limits};

/// What may be asked for.
#[derive(Debug, Subcommand)]
pub enum GateCommand {
    /// May a change of the schema begin? 0 go, 3 no-go with its reasons, 6 not known, which is no go either.
    Migrate(MigrateArgs),
}

/// Arguments of `gate migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How far a standby may be behind in replay: a time (2s) or an amount of WAL (16MB).
    #[arg(long, default_value = "2s", value_name = "TIME|SIZE")]
    pub max_lag: Lag,
    /// Commits must wait for a standby, by settings and in fact.
    #[arg(long)]
    pub require_sync: bool,
    /// How old the oldest transaction may be.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub max_transaction: Duration,
    /// So many standbys must stream and be near enough (default: all that belong to the cluster).
    #[arg(long, value_name = "N")]
    pub min_replicas: Option<usize>,
    /// A hold of this name is no obstacle: it is one's own.
    #[arg(long, env = "PGVIGIL_HOLD", value_name = "ID")]
    pub hold: Option<String>,
    /// Ask again for so long, until it is a go.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl MigrateArgs {
    /// What is to be kept to.
    pub fn limits(&self) -> Limits {
        Limits {
            lag: self.max_lag,
            require_sync: self.require_sync,
            transaction: self.max_transaction,
            min_replicas: self.min_replicas,
            hold: self.hold.clone().filter(|id| !id.is_empty()),
        }
    }
}
