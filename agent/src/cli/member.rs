//! Members of the cluster, as an operator sees to them.

use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;

use super::{ConfigArg, Expect};
use crate::commands::members;

/// What can be done about a member.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Take a dead member out of the cluster for good: nothing counts on it any more, and its keys go.
    Remove(RemoveArgs),
}

/// Arguments of `member remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Whom.
    #[arg(add = ArgValueCandidates::new(members))]
    pub member: String,
    /// How long to wait until nothing counts on it any more.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into etcd.
    #[arg(long)]
    pub reason: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Go on although planned actions are held (pgvigil hold); it is recorded against whose hold.
    #[arg(long)]
    pub ignore_hold: bool,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}
