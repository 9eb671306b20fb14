//! Arguments of `check`, which is for Nagios and its kin: one line, performance data, and their exit codes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Whether somebody leads and takes writes.
    Leader,
    /// Whether every standby streams, and how far it is behind.
    Replication,
    /// Whether every member of etcd answers, and how fast.
    Etcd,
    /// Whether the settings are in force as they are asked for.
    Config,
    /// All of these.
    All,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// What to look at.
    #[arg(value_enum)]
    pub what: What,
    /// From here on it is a warning: a lag such as 16MB (replication), a time such as 200ms (etcd).
    #[arg(short, long, value_name = "LIMIT")]
    pub warning: Option<String>,
    /// From here on it is critical.
    #[arg(short, long, value_name = "LIMIT")]
    pub critical: Option<String>,
    // -c is what every program of this kind has for the critical limit.
    /// The node's configuration file (default: /etc/pgvigil/pgvigil.toml, or the only *.toml there).
    #[arg(long, env = "PGVIGIL_CONFIG", default_value_os_t = super::usual_config(), hide_default_value = true, value_name = "FILE")]
    pub config: PathBuf,
}
