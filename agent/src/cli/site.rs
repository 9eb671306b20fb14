//! Which of two sites leads.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ConfigArg, Expect};

/// The words of `site`.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Let this site, which follows another, lead by itself.
    Promote(PromoteArgs),
    /// Let this site follow another: its writes stop, and what it prints lets the other one lead without losing any.
    Demote(DemoteArgs),
}

/// How a change of sites is gone about, whichever way.
#[derive(Debug, Args)]
pub struct How {
    /// How long to wait for the end.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the settings' history.
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

/// Arguments of `site promote`.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// What `site demote` printed at the other site: this one leads once it has everything up to there.
    #[arg(long)]
    pub token: Option<String>,
    /// How it is gone about.
    #[command(flatten)]
    pub how: How,
}

/// Arguments of `site demote`.
#[derive(Debug, Args)]
pub struct DemoteArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// The servers of the site to follow: HOST or HOST:PORT, separated by commas.
    #[arg(long, value_name = "HOSTS")]
    pub host: String,
    /// The port of those that have none of their own.
    #[arg(long, default_value_t = 5432)]
    pub port: u16,
    /// The replication slot there by which this site is to stream; make it there first (`slots.permanent.NAME=physical`).
    #[arg(long, value_name = "NAME")]
    pub slot: Option<String>,
    /// How it is gone about.
    #[command(flatten)]
    pub how: How,
}
