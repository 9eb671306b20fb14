//! Arguments of the commands for a cluster as a whole: how it stands, why, and who is to lead it.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCandidates;
use decision::names::MemberName;

use super::{ConfigArg, Expect, Later, Output, member_name};
use crate::commands::{explained, health_paths, members, transition_ids};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Print again every so often (default 1 s).
    #[arg(short, long, num_args = 0..=1, default_missing_value = "1s", value_parser = humantime::parse_duration, value_name = "EVERY")]
    pub watch: Option<Duration>,
    /// Exit with 10 when degraded, 11 when nobody accepts writes.
    #[arg(long)]
    pub exit_code: bool,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How often to look.
    #[arg(long, default_value = "250ms", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub every: Duration,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Whose view (default: this host's, or else the leader's).
    #[arg(add = ArgValueCandidates::new(members))]
    pub member: Option<String>,
    /// Only what is answered to this health path there, and which condition fails, such as '/replica?lag=16MB'.
    #[arg(long, value_name = "PATH", add = ArgValueCandidates::new(health_paths))]
    pub path: Option<String>,
    /// Say what a reason or a bar of this code means, and what to do; asks nobody.
    #[arg(long, value_name = "CODE", conflicts_with_all = ["member", "path"], add = ArgValueCandidates::new(explained))]
    pub explain: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `switchover`.
#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Who is to lead (default: the best standby).
    #[arg(long, value_name = "MEMBER", add = ArgValueCandidates::new(members))]
    pub to: Option<String>,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
    /// Print the checks and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// When.
    #[command(flatten)]
    pub later: Later,
    /// Take back what was asked for and has not been carried out: a request that waits, a failover as well, and what is scheduled.
    #[arg(long, conflicts_with_all = ["to", "expect_leader", "dry_run", "time"])]
    pub cancel: bool,
    /// How long to wait for the end.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the transition record.
    #[arg(long)]
    pub reason: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Go on although planned actions are held (pgvigil hold); it is recorded against whose hold.
    #[arg(long)]
    pub ignore_hold: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `failover`.
#[derive(Debug, Args)]
pub struct FailoverArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Who is to lead.
    #[arg(long, value_name = "MEMBER", add = ArgValueCandidates::new(members))]
    pub to: String,
    /// Only if this member led last; where another did, or leads, it is refused and nothing is changed.
    #[arg(long, value_name = "MEMBER", value_parser = member_name, add = ArgValueCandidates::new(members))]
    pub expect_leader: Option<MemberName>,
    /// Acknowledged writes may be lost: this is your word for it, and it is recorded.
    #[arg(long)]
    pub accept_data_loss: bool,
    /// Print the checks and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the end.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the transition record.
    #[arg(long)]
    pub reason: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// For how long, at most 7 days; after that automatic actions return by themselves.
    #[arg(long = "for", default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub duration: Duration,
    /// Why; shown to everybody who asks.
    #[arg(long)]
    pub reason: Option<String>,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}

/// Arguments of `slo`.
#[derive(Debug, Args)]
pub struct SloArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `transitions`.
#[derive(Debug, Args)]
pub struct TransitionsArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Only this one, in full; `show ID` is the same, `export ID` is `ID --md`, and `list` is all of them.
    #[arg(value_name = "ID", num_args = 0..=2, add = ArgValueCandidates::new(transition_ids))]
    pub words: Vec<String>,
    /// As the beginning of a post-mortem in Markdown.
    #[arg(long, requires = "words", conflicts_with = "output")]
    pub md: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
