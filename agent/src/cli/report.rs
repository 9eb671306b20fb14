//! Arguments of `report`.

use std::path::PathBuf;

use clap::Args;

use super::ConfigArg;

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The file to write (default: pgvigil-report-CLUSTER-NODE-TIME.tgz, here).
    // -o is how to print everywhere else; here it is understood as well, for a file is what everybody means by it.
    #[arg(short, long, value_name = "FILE", short_alias = 'o', alias = "output")]
    pub file: Option<PathBuf>,
    /// The unit of systemd whose journal is taken (default: pgvigil@CLUSTER).
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// The file that the agent logs to, where that is not the journal.
    #[arg(long, value_name = "FILE", conflicts_with = "unit")]
    pub log: Option<PathBuf>,
    /// How many lines of it.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub lines: u32,
}
