//! Keeping planned actions waiting, and letting them go on.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::{ConfigArg, Expect};

/// Arguments of `hold`.
///
/// Switchovers, restarts, copies, removals of members and changes of sites are refused meanwhile, whoever asks for them. A failover never waits: not the
/// automatic one, and not `pgvigil failover`.
#[derive(Debug, Args)]
#[command(after_help = "\
The hold ends with the command, with --for, or with `pgvigil release`, whichever comes first; within seconds where this program is killed, and then the
command runs on without it. When --for is over planned actions may go on: the command is warned about that on standard error, and not ended.
This program ends with the exit code of the command, or 128 + n where signal n ended it. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed
on to it. The command finds the name of the hold in PGVIGIL_HOLD. What goes wrong with the hold itself ends with 125, as with timeout and env: where none
can be had, and then the command is not run; and where it was lost and the command has ended with 0.

  pgvigil hold --reason \"flyway V42\" --for 30m -- flyway migrate
  pgvigil hold --reason \"by hand\" --for 2h")]
pub struct HoldArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Why; whoever is refused reads it.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    /// When it ends by itself, at most 7 days (with a command: 1h).
    #[arg(long = "for", value_parser = humantime::parse_duration, value_name = "TIME", required_unless_present = "command")]
    pub duration: Option<Duration>,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
    /// What to run meanwhile. Without it the hold is taken, its name is printed, and it ends by --for or by `pgvigil release`.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Arguments of `release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Where the cluster is described.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Only if the hold has this name.
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// On what condition.
    #[command(flatten)]
    pub expect: Expect,
}
