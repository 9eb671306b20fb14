//! `pgvigil show`: configuration for the programs around a cluster.

use clap::{Args, Subcommand};

use super::ConfigArg;

/// What `show` can print.
#[derive(Debug, Subcommand)]
pub enum ShowCommand {
    /// A complete haproxy.cfg for this cluster.
    Haproxy(ShowArgs),
    /// Connection strings that find the primary by themselves.
    Uri(UriArgs),
    /// Alerts and recording rules for Prometheus.
    PrometheusRules,
}

/// Arguments of `show haproxy`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
}

/// Arguments of `show uri`.
#[derive(Debug, Args)]
pub struct UriArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The database.
    #[arg(long, default_value = "postgres")]
    pub database: String,
    /// For which driver: libpq or jdbc.
    #[arg(long, default_value = "libpq")]
    pub driver: String,
}
