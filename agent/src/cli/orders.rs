//! Orders to one node: restart its Postgres, copy its data anew, read its file again.

use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::ArgValueCandidates;

use super::{ConfigArg, Expect, Later};
use crate::commands::members;

/// What every order needs.
#[derive(Clone, Debug, Args)]
pub struct OrderArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How long to wait for the end.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the record.
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

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// The member whose Postgres is restarted.
    #[arg(required_unless_present_any = ["rolling", "pending"], add = ArgValueCandidates::new(members))]
    pub member: Option<String>,
    /// All of them: the standbys one after another, then a switchover, which restarts the old leader (where max_connections or its kin is lowered:
    /// the leader first, in place).
    #[arg(long, conflicts_with_all = ["member", "role", "time"])]
    pub rolling: bool,
    /// Only those for which a parameter waits for a restart; without a member, one after another as with --rolling.
    #[arg(long)]
    pub pending: bool,
    /// How.
    #[command(flatten)]
    pub order: OrderArgs,
    /// When.
    #[command(flatten)]
    pub later: Later,
    /// Take back the restart of this member that is scheduled, or has not begun.
    #[arg(long, requires = "member", conflicts_with_all = ["time", "pending", "role", "expect_leader", "ignore_hold"])]
    pub cancel: bool,
    /// Only if it has this role when it comes to that.
    #[arg(long, value_enum, value_name = "ROLE", requires = "member")]
    pub role: Option<Role>,
}

/// Arguments of `reinit`.
#[derive(Debug, Args)]
pub struct ReinitArgs {
    /// The standby whose data is copied anew.
    #[arg(add = ArgValueCandidates::new(members))]
    pub member: String,
    /// Take the order back that this member has not begun.
    #[arg(long, conflicts_with_all = ["expect_leader", "ignore_hold"])]
    pub cancel: bool,
    /// How.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Arguments of `reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// The member whose file is read again (default: all).
    #[arg(add = ArgValueCandidates::new(members))]
    pub member: Option<String>,
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How long to wait for each.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the record.
    #[arg(long)]
    pub reason: Option<String>,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// It accepts writes.
    Primary,
    /// It follows (replica, as Patroni has it, is the same).
    #[value(alias = "replica")]
    Standby,
}

impl Role {
    /// The word in etcd.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "replica",
        }
    }
}
