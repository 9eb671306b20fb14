//! The command line: what can be said, and what each word promises. Standard output is data, standard error is chatter;
//! exit codes tell done, failed, misused, refused, still running, done otherwise, unreachable, aborted and unauthorised apart.

mod adopt;
mod check;
mod cluster;
mod config;
mod demo;
mod fleet;
mod gate;
mod hold;
mod later;
mod manual;
mod member;
mod mistakes;
mod orders;
mod report;
mod show;
mod site;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCandidates;
use decision::names::MemberName;

pub use adopt::AdoptArgs;
pub use check::{CheckArgs, What};
pub use cluster::{
    FailoverArgs, PauseArgs, ResumeArgs, SloArgs, StatusArgs, SwitchoverArgs, TransitionsArgs, WatchArgs, WhyArgs,
};
pub use config::{ConfigCommand, DiffArgs, EditArgs, HistoryArgs, RollbackArgs, SetArgs, ShowConfigArgs};
pub use demo::{DemoArgs, Fault};
pub use fleet::{FleetCommand, FleetStatusArgs, FleetSwitchoverArgs};
pub use gate::{GateCommand, MigrateArgs};
pub use hold::{HoldArgs, ReleaseArgs};
pub use later::Later;
pub use manual::{CompletionsArgs, ManArgs};
pub use member::{MemberCommand, RemoveArgs};
pub use orders::{OrderArgs, ReinitArgs, ReloadArgs, RestartArgs, Role};
pub use report::ReportArgs;
pub use show::{KeepalivedArgs, PgbouncerArgs, ShowArgs, ShowCommand, UriArgs, VipManagerArgs, VirtualArgs};
pub use site::{DemoteArgs, How, PromoteArgs, SiteCommand};

use crate::commands::members;
use crate::operate::proviso::Proviso;

/// What a command ended with. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed, and nothing was changed.
    Failed,
    /// Misused: wrong arguments or configuration.
    Usage,
    /// Refused by a check; the reasons are listed.
    Refused,
    /// Accepted, but not finished within the wait.
    StillRunning,
    /// Done, but not as asked (another leader, or redundancy not back).
    DoneOtherwise,
    /// Neither etcd nor an agent could be reached.
    Unreachable,
    /// Whoever asked took it back: no to a question, or Ctrl-C before anything was done.
    Aborted,
    /// etcd or an agent does not know who asks, or does not let them.
    Unauthorised,
    /// `status --exit-code`: a leader that writes, but not everything is well.
    Degraded,
    /// `status --exit-code`: nobody accepts writes.
    NoPrimary,
    /// `hold`: with this, the command that it ran has ended, or [`NOT_THE_COMMAND`].
    Command(u8),
}

impl Exit {
    /// Its number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::StillRunning => 4,
            Exit::DoneOtherwise => 5,
            Exit::Unreachable => 6,
            Exit::Aborted => 7,
            Exit::Unauthorised => 8,
            Exit::Degraded => 10,
            Exit::NoPrimary => 11,
            Exit::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// What the numbers mean, at the end of `pgvigil --help` and of its manual page.
const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  failed, and nothing was changed
   2  wrong arguments or configuration
   3  refused by a check; the reasons are listed
   4  accepted, and not finished within the wait: see `pgvigil status`
   5  done, but not as asked
   6  neither etcd nor an agent could be reached
   7  taken back by whoever asked, and nothing was changed
   8  etcd or an agent does not know who asks, or does not let them
  10  status --exit-code: a leader that writes, but not everything is well
  11  status --exit-code: nobody accepts writes
 125  hold -- COMMAND: it is not the command that went wrong

First steps: pgvigil demo, pgvigil validate FILE, pgvigil status, pgvigil why";

/// pgvigil keeps PostgreSQL writable: one agent on every database host, a leader lock in etcd.
#[derive(Debug, Parser)]
#[command(name = "pgvigil", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    /// It will not do, which has been told, or help was asked for and given. Before a command that `hold` was to run, no mistake of ours may look like
    /// an end of that command.
    pub fn read() -> Result<Self, ExitCode> {
        let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        Self::try_parse().map_err(|error| mistakes::with_tip(error, &words)).map_err(|error| {
            let holds = words.get(1).is_some_and(|word| word == "hold") && words.iter().any(|word| word == "--");
            let _ = error.print();
            match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if holds => ExitCode::from(NOT_THE_COMMAND),
                code => ExitCode::from(u8::try_from(code).unwrap_or(Exit::Usage.code())),
            }
        })
    }
}

/// `hold`, as `timeout`, `env` and `docker run` say it: what went wrong is not the command's doing.
pub const NOT_THE_COMMAND: u8 = 125;

/// Where the configuration files of a host are.
const CONFIG_DIRECTORY: &str = "/etc/pgvigil";

/// The configuration file of which nobody says where it is: `pgvigil.toml`, or the only one that is there, whatever the cluster is called.
pub fn usual_config() -> PathBuf {
    usual_config_in(Path::new(CONFIG_DIRECTORY))
}

fn usual_config_in(directory: &Path) -> PathBuf {
    let usual = directory.join("pgvigil.toml");
    match config_files(directory).as_slice() {
        [only] if !usual.is_file() => only.clone(),
        _ => usual,
    }
}

/// The configuration files in a directory, by name; none where it cannot be read.
fn config_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml") && path.is_file()).collect();
    files.sort();
    files
}

/// The mend where the usual file is not there: which ones are, as far as there are any.
pub fn other_configs(missing: &Path) -> Option<String> {
    let directory = missing.parent().filter(|_| !missing.exists())?;
    let files: Vec<String> = config_files(directory).iter().map(|file| file.display().to_string()).collect();
    (!files.is_empty()).then(|| format!("there is {}: name it with -c, or in PGVIGIL_CONFIG", files.join(", ")))
}

/// Where the cluster is described.
#[derive(Clone, Debug, Args)]
pub struct ConfigArg {
    /// The node's configuration file (default: /etc/pgvigil/pgvigil.toml, or the only *.toml there).
    #[arg(short, long, env = "PGVIGIL_CONFIG", default_value_os_t = usual_config(), hide_default_value = true, value_name = "FILE")]
    pub config: PathBuf,
}

/// On what condition something is done.
#[derive(Clone, Debug, Default, Args)]
pub struct Expect {
    /// Only if this member leads now; where another does, or nobody, it is refused and nothing is changed.
    #[arg(long, value_name = "MEMBER", value_parser = member_name, add = ArgValueCandidates::new(members))]
    pub expect_leader: Option<MemberName>,
}

impl Expect {
    /// It as a condition, under which no hold is ignored.
    pub fn proviso(&self) -> Proviso {
        Proviso::expecting(self.expect_leader.clone())
    }
}

/// A name that a member can have.
fn member_name(text: &str) -> Result<MemberName, String> {
    MemberName::new(text).map_err(|bad| bad.to_string())
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
    /// Watch the cluster on a whole screen, live.
    Watch(WatchArgs),
    /// Every cluster that has its place in the same etcd: how they stand, and handing over in many at once.
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Explain what an agent is doing and why, and what bars each member from leading.
    Why(WhyArgs),
    /// One line for Nagios and its kin, with their exit codes.
    Check(CheckArgs),
    /// Let another member lead, planned, without losing anything.
    Switchover(SwitchoverArgs),
    /// Let a member lead where nobody does and nothing could be proven.
    Failover(FailoverArgs),
    /// Restart the Postgres of one node.
    Restart(RestartArgs),
    /// Let nodes read their configuration files again.
    Reload(ReloadArgs),
    /// Copy the data of one node anew from the leader.
    Reinit(ReinitArgs),
    /// Keep a PostgreSQL that runs already, without a restart.
    Adopt(AdoptArgs),
    /// Take a member out of the cluster.
    #[command(subcommand)]
    Member(MemberCommand),
    /// Keep planned actions waiting while a command runs, such as a change of the schema; failovers never wait.
    Hold(HoldArgs),
    /// Give a hold up before its end.
    Release(ReleaseArgs),
    /// Ask whether a planned change may begin: 0 go, 3 no-go, 6 unknown.
    #[command(subcommand)]
    Gate(GateCommand),
    /// Stop automatic actions for a while (health answers go on).
    Pause(PauseArgs),
    /// Allow automatic actions again.
    Resume(ResumeArgs),
    /// The settings of the whole cluster: look, change, go back.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Which of two sites leads: let this one lead, or follow the other.
    #[command(subcommand)]
    Site(SiteCommand),
    /// What is left of the month's 99.95 %, and what each transition has cost of it.
    Slo(SloArgs),
    /// What happened: every failover, switchover and restart with its phases.
    Transitions(TransitionsArgs),
    /// One file with what somebody needs who was not there, and no secret.
    Report(ReportArgs),
    /// Check a configuration file, and the world around it.
    Validate(ValidateArgs),
    /// Start a real cluster on this machine, break it, and measure the outage.
    Demo(DemoArgs),
    /// Print configuration for the programs around a cluster.
    #[command(subcommand)]
    Show(ShowCommand),
    /// Print the completions of a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages, one for each command.
    Man(ManArgs),
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The file (default: as of every other command).
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The same, as other commands name it.
    #[arg(short, long, env = "PGVIGIL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do not look beyond the file.
    #[arg(long)]
    pub offline: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every end that is not a command's.
    const OURS: [Exit; 11] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Refused,
        Exit::StillRunning,
        Exit::DoneOtherwise,
        Exit::Unreachable,
        Exit::Aborted,
        Exit::Unauthorised,
        Exit::Degraded,
        Exit::NoPrimary,
    ];

    #[test]
    fn the_exit_codes_of_the_help_are_those_of_the_document() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).expect("a text");
        let number = |line: &str| line.split_whitespace().next()?.parse::<u8>().ok();
        let told: Vec<u8> = EXIT_CODES.lines().filter_map(number).collect();
        for exit in OURS {
            let code = exit.code();
            assert!(told.contains(&code) && document.contains(&format!("\n| {code} | `")), "{exit:?}");
        }
        assert!(told.len() == 12 && told.contains(&NOT_THE_COMMAND), "{told:?}");
    }

    #[test]
    fn the_only_file_of_a_host_need_not_be_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let write = |name: &str| std::fs::write(at(name), "").expect("written");
        assert_eq!(usual_config_in(directory.path()), at("pgvigil.toml"), "nothing is there");
        write("orders.toml");
        write("orders.toml.bak");
        assert_eq!(usual_config_in(directory.path()), at("orders.toml"));
        write("users.toml");
        assert_eq!(usual_config_in(directory.path()), at("pgvigil.toml"), "it is not known which");
        let told = other_configs(&at("pgvigil.toml")).expect("some are there");
        assert!(told.contains("orders.toml, ") && told.contains("users.toml: name it"), "{told}");
        write("pgvigil.toml");
        assert_eq!(usual_config_in(directory.path()), at("pgvigil.toml"));
        assert_eq!(other_configs(&at("pgvigil.toml")), None);
    }

    #[test]
    fn help_tells_every_exit_code() {
        for exit in OURS.into_iter().chain([Exit::Command(NOT_THE_COMMAND)]) {
            let code = format!("{:>4}  ", exit.code());
            assert!(EXIT_CODES.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
