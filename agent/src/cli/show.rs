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
    /// A complete pgbouncer.ini, for a pooler before the HAProxy of `show haproxy`.
    Pgbouncer(PgbouncerArgs),
    /// A configuration of vip-manager for this node: an address that follows the primary.
    VipManager(VipManagerArgs),
    /// A configuration of keepalived for this node: an address that follows the primary.
    Keepalived(KeepalivedArgs),
    /// Alerts and recording rules for Prometheus.
    PrometheusRules,
    /// The unit for systemd, with a reason for each line.
    Systemd,
    /// The SQL by which the agent makes its roles and its table, for whoever wants to read it or to run it beforehand.
    SqlRoles(ShowArgs),
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

/// Arguments of `show pgbouncer`.
#[derive(Debug, Args)]
pub struct PgbouncerArgs {
    /// The database that clients ask for; NAME_ro leads to a standby.
    #[arg(long, default_value = "postgres")]
    pub database: String,
}

/// The address that follows the primary.
#[derive(Debug, Args)]
pub struct VirtualArgs {
    /// The address and the length of its network: 10.0.0.100/24.
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    pub ip: String,
    /// The interface of this host that gets it.
    #[arg(long, value_name = "NAME")]
    pub interface: String,
}

/// Arguments of `show vip-manager`.
#[derive(Debug, Args)]
pub struct VipManagerArgs {
    /// Where the node is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The address.
    #[command(flatten)]
    pub address: VirtualArgs,
}

/// Arguments of `show keepalived`.
#[derive(Debug, Args)]
pub struct KeepalivedArgs {
    /// Where the node is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The address.
    #[command(flatten)]
    pub address: VirtualArgs,
    /// The number by which keepalived's on one network tell themselves apart; the same on each node of a cluster, and no other's.
    #[arg(long, default_value_t = 51, value_parser = clap::value_parser!(u8).range(1..))]
    pub router: u8,
}
