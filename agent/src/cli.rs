//! The command line: what can be said, and what each word promises. Standard output is data, standard error is chatter;
//! exit codes tell done, failed, misused, refused, still running, done otherwise and unreachable apart.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What a command ended with. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed; nothing was changed.
    Failed = 1,
    /// Misused: wrong arguments or configuration.
    Usage = 2,
    /// Refused by a check; the reasons are listed.
    Refused = 3,
    /// Accepted, but not finished within the wait.
    StillRunning = 4,
    /// Done, but not as asked (another leader, or redundancy not back).
    DoneOtherwise = 5,
    /// Neither etcd nor an agent could be reached.
    Unreachable = 6,
    /// `status --exit-code`: a leader that writes, but not everything is well.
    Degraded = 10,
    /// `status --exit-code`: nobody accepts writes.
    NoPrimary = 11,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// pgvigil keeps PostgreSQL writable: one agent on every database host, a leader lock in etcd.
#[derive(Debug, Parser)]
#[command(name = "pgvigil", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the cluster is described.
#[derive(Clone, Debug, Args)]
pub struct ConfigArg {
    /// The node's configuration file.
    #[arg(short, long, env = "PGVIGIL_CONFIG", default_value = "/etc/pgvigil/pgvigil.toml", value_name = "FILE")]
    pub config: PathBuf,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs; stable, units in the key names.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this host (what systemd starts).
    Agent(ConfigArg),
    /// Show the members, their roles and lag, and one sentence on how things stand.
    Status(StatusArgs),
    /// Explain what an agent is doing and why, and what bars each member from leading.
    Why(WhyArgs),
    /// Let another member lead, planned, without losing anything.
    Switchover(SwitchoverArgs),
    /// Let a member lead where nobody does and nothing could be proven.
    Failover(FailoverArgs),
    /// Stop automatic actions for a while (health answers go on).
    Pause(PauseArgs),
    /// Allow automatic actions again.
    Resume(ConfigArg),
    /// The settings of the whole cluster: look, change, go back.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What happened: every failover, switchover and restart with its phases.
    Transitions(TransitionsArgs),
    /// Check a configuration file, and the world around it.
    Validate(ValidateArgs),
    /// Start a real cluster on this machine, break it, and measure the outage.
    Demo(DemoArgs),
    /// Print configuration for the programs around a cluster.
    #[command(subcommand)]
    Show(ShowCommand),
}

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

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Whose view (default: this host's, or else the leader's).
    pub member: Option<String>,
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
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<String>,
    /// Only if this member leads now.
    #[arg(long, value_name = "MEMBER")]
    pub expect_leader: Option<String>,
    /// Print the checks and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Take back what was asked for, a failover as well, while it has not been carried out.
    #[arg(long, conflicts_with_all = ["to", "expect_leader", "dry_run"])]
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
    #[arg(long, value_name = "MEMBER")]
    pub to: String,
    /// Acknowledged writes may be lost: this is your word for it, and it is recorded.
    #[arg(long)]
    pub accept_data_loss: bool,
    /// How long to wait for the end.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Why; goes into the transition record.
    #[arg(long)]
    pub reason: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of `pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// For how long; after that automatic actions return by themselves.
    #[arg(long = "for", default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub duration: Duration,
    /// Why; shown to everybody who asks.
    #[arg(long)]
    pub reason: Option<String>,
}

/// Arguments of `transitions`.
#[derive(Debug, Args)]
pub struct TransitionsArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Only this one, in full.
    pub id: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The file.
    pub file: PathBuf,
    /// Do not look beyond the file.
    #[arg(long)]
    pub offline: bool,
}

/// What the demo breaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The whole primary node: agent and Postgres, SIGKILL.
    #[default]
    Node,
    /// Only Postgres: its postmaster, SIGKILL.
    Postgres,
    /// Postgres is frozen (SIGSTOP).
    Hang,
    /// Nothing: a planned switchover.
    Switchover,
}

impl Fault {
    /// The word on the command line and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Fault::Node => "node",
            Fault::Postgres => "postgres",
            Fault::Hang => "hang",
            Fault::Switchover => "switchover",
        }
    }
}

/// Arguments of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// What to break.
    #[arg(long, value_enum, default_value_t)]
    pub fault: Fault,
    /// Leave the cluster running and print how to look around.
    #[arg(long)]
    pub keep: bool,
    /// End standard output with one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Where PostgreSQL's programs are (default: the newest under /usr/lib/postgresql, then PATH).
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub nodes: u8,
    /// Time to live of the leader lease.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// First of the loopback ports to use (default: free ones).
    #[arg(long, value_name = "PORT")]
    pub base_port: Option<u16>,
}

/// What `show` can print.
#[derive(Debug, Subcommand)]
pub enum ShowCommand {
    /// A complete haproxy.cfg for this cluster.
    Haproxy(ShowArgs),
    /// Connection strings that find the primary by themselves.
    Uri(UriArgs),
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
    #[arg(value_name = "NAME=VALUE", required_unless_present = "unset")]
    pub assignments: Vec<String>,
    /// What the cluster is to say nothing about any more: each node goes by its own file again.
    #[arg(long, value_name = "NAME")]
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
}
