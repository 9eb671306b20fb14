//! Arguments of the commands for every cluster that has its place in the same etcd, under the same namespace.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ConfigArg, Output};

/// What can be done with all of them.
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// How every cluster stands, those with problems first.
    Status(FleetStatusArgs),
    /// Hand over in every cluster whose leader is in a zone, to standbys outside it.
    Switchover(FleetSwitchoverArgs),
}

/// Arguments of `fleet status`.
#[derive(Debug, Args)]
pub struct FleetStatusArgs {
    /// Any node's file: its etcd and its namespace count.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Exit with 10 when any cluster is degraded, 11 when in any nobody accepts writes.
    #[arg(long)]
    pub exit_code: bool,
}

/// Arguments of `fleet switchover`.
#[derive(Debug, Args)]
pub struct FleetSwitchoverArgs {
    /// Any node's file: its etcd and its namespace count.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The zone that no leader is to be in any more.
    #[arg(long, value_name = "ZONE")]
    pub from_zone: String,
    /// The zone in which they are to lead (default: any other).
    #[arg(long, value_name = "ZONE")]
    pub to_zone: Option<String>,
    /// In how many clusters at a time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_parallel: u16,
    /// Go on with the others where one is refused or fails.
    #[arg(long)]
    pub keep_going: bool,
    /// Go on although planned actions are held in some of them (pgvigil hold); it is recorded against whose hold.
    #[arg(long)]
    pub ignore_hold: bool,
    /// Print who would hand over to whom, with what the checks say, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the end of each.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the transition records.
    #[arg(long)]
    pub reason: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
