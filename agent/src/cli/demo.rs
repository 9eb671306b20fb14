//! `pgvigil demo`: a cluster to be broken, and how.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

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
