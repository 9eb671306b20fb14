//! `pgvigil config`: the settings of the whole cluster, looked at, changed, and made what they were.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;

use super::{ConfigArg, Expect, Output};
use crate::commands::{setting_assignments, setting_names};

/// What `config` can do.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings as they are, or as they were.
    Show(ShowConfigArgs),
    /// Change some, by their names.
    Set(SetArgs),
    /// Change them in an editor ($VISUAL, $EDITOR).
    Edit(EditArgs),
    /// What differs between two states (default: the last change).
    Diff(DiffArgs),
    /// Who changed them, when and why.
    History(HistoryArgs),
    /// Make them what they were once.
    Rollback(RollbackArgs),
}

/// Arguments of `config show`.
#[derive(Debug, Args)]
pub struct ShowConfigArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// As they were in this revision.
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
    /// What this node goes by, and where each value comes from: the cluster, the node's file, or neither.
    #[arg(long, conflicts_with = "revision")]
    pub effective: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `config set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// What is to be, such as durability.mode=strict.
    #[arg(value_name = "NAME=VALUE", required_unless_present_any = ["unset", "parameters"], add = ArgValueCandidates::new(setting_assignments))]
    pub assignments: Vec<String>,
    /// A parameter of Postgres, on every node: -p work_mem=8MB is short for postgres.parameters.work_mem=8MB.
    #[arg(short = 'p', long = "parameter", value_name = "NAME=VALUE")]
    pub parameters: Vec<String>,
    /// What the cluster is to say nothing about any more: each node goes by its own file again.
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(setting_names))]
    pub unset: Vec<String>,
    /// Only if this is the newest revision.
    #[arg(long, value_name = "N")]
    pub expect_revision: Option<u64>,
    /// Why; goes into the history.
    #[arg(long)]
    pub reason: Option<String>,
    /// Print what would change and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}

/// Arguments of `config edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Why; goes into the history.
    #[arg(long)]
    pub reason: Option<String>,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}

/// Arguments of `config diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The earlier revision.
    #[arg(value_name = "FROM")]
    pub from: Option<u64>,
    /// The later one (default: as they are).
    #[arg(value_name = "TO")]
    pub to: Option<u64>,
}

/// Arguments of `config history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// At most so many, the newest.
    #[arg(short, long, default_value_t = 20, value_name = "N")]
    pub number: usize,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `config rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// To this revision.
    #[arg(value_name = "N")]
    pub revision: u64,
    /// Why; goes into the history.
    #[arg(long)]
    pub reason: Option<String>,
    /// Print what would change and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}
