//! The configuration of one node: one strict TOML file over the defaults, and the environment over both. A mistake is
//! told as a compiler would tell it, with its line and a suggestion, and an impossible relation never starts an agent.
//! Read on in `raw.rs` (what may be written), `layers.rs` (where it comes from), `resolve.rs` (what it means) and
//! `world.rs` (whether this host agrees).

mod bootstrap;
mod clone;
mod control;
pub(crate) mod keys;
mod layers;
mod neighbours;
mod pgbackrest;
mod ports;
mod problem;
mod raw;
mod reload;
mod resolve;
mod routes;
mod rules;
mod telling;
#[cfg(test)]
mod tests;
pub(crate) mod value;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use decision::names::MemberName;
use decision::settings::{Durability, Settings, Tags, Timing};
use decision::site::Remote;
use pg_control::Origin;

pub use clone::{Cloning, Way};
pub use control::{Control, ControlTls, Token};
pub use problem::{ConfigErrors, Problem};
pub use raw::{Certificate, LogFormat, Role, WatchdogMode};
pub use reload::Reread;
pub use routes::{Haproxy, Pgbouncer, RuntimeSocket};
pub use telling::{Hooks, Webhook, unfit};
pub use value::{HostPort, Size};
pub use world::{Line, Report, Verdict, validate};

/// Everything an agent is told before it starts: complete, checked, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// The name that all nodes of one cluster share.
    pub cluster: String,
    /// The name of this node.
    pub name: MemberName,
    /// The part of the world in which it may be lost together with others.
    pub zone: Option<String>,
    /// Where the agent keeps its own notes; beside the data directory, never inside it.
    pub state_dir: PathBuf,
    /// How to reach etcd.
    pub etcd: Etcd,
    /// Timings, already checked against each other; `request_timeout` is part of it.
    pub timing: Timing,
    /// What an acknowledged commit is promised.
    pub durability: Durability,
    /// In `async` mode: how many bytes a candidate may be behind.
    pub max_lag_on_failover_bytes: u64,
    /// Never take over before the leader's lease has ended.
    pub wait_for_lease: bool,
    /// The kernel's watchdog behind the fencer.
    pub watchdog: Watchdog,
    /// How often a commit is tried on a primary, for the metrics; `None`: never.
    pub write_probe_every: Option<Duration>,
    /// How much is kept free on the disk of a primary; `None`: a hundredth of it, within bounds.
    pub disk_min_free_bytes: Option<u64>,
    /// What a new cluster is made from.
    pub bootstrap: Origin,
    /// How this node gets a copy of the data.
    pub clone: Cloning,
    /// The site that a new cluster copies and follows; `None`: it leads by itself.
    pub bootstrap_site: Option<Remote>,
    /// The local Postgres.
    pub postgres: Postgres,
    /// The health API.
    pub api: Api,
    /// The control API.
    pub control: Control,
    /// The HAProxies that are told of each change.
    pub haproxy: Haproxy,
    /// The PgBouncers that hold their clients during a planned switchover.
    pub pgbouncer: Pgbouncer,
    /// What this node says about its own part.
    pub tags: Tags,
    /// How the agent logs.
    pub log: Log,
    /// The programs that are run when something has happened.
    pub hooks: Hooks,
    /// The receivers that are told then.
    pub webhooks: Vec<Webhook>,
}

/// Whether a zone may have this name.
pub fn is_zone(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(good)
}

/// The kernel's watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Whether it is used.
    pub mode: WatchdogMode,
    /// The device.
    pub device: PathBuf,
}

/// How to reach etcd.
#[derive(Clone, Debug, PartialEq)]
pub struct Etcd {
    /// One URL a member, with scheme and port, none twice.
    pub endpoints: Vec<String>,
    /// Certificates; present exactly when the endpoints are `https`.
    pub tls: Option<Tls>,
    /// The etcd user, when etcd asks for one; comes with `password_file`.
    pub username: Option<String>,
    /// Its password, for [`crate::secret::Secret::read`] at each login.
    pub password_file: Option<PathBuf>,
    /// The first part of every key, without slashes.
    pub namespace: String,
}

impl Etcd {
    /// What is wrong with the rights of the key of our own certificate.
    pub fn open_key(&self) -> Option<String> {
        crate::secret::key_is_open(&self.tls.as_ref()?.identity.as_ref()?.key)
    }
}

/// The files of a TLS client.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Who signs the server's certificate.
    pub ca: PathBuf,
    /// The certificate of this node, with its key, where the server asks for one.
    pub identity: Option<TlsIdentity>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsIdentity {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// The local Postgres.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    /// The major version.
    pub version: u32,
    /// Where `postgres`, `pg_ctl`, `pg_basebackup` and the others are.
    pub bin_dir: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where its unix socket is.
    pub socket_dir: PathBuf,
    /// Where clients and the other nodes reach it; Postgres listens on this port.
    pub advertise: HostPort,
    /// `listen_addresses`.
    pub listen: String,
    /// Settings for Postgres, in the form in which they are written into its configuration.
    pub parameters: BTreeMap<String, String>,
    /// Lines put first into the `pg_hba.conf` of a new cluster.
    pub hba: Vec<String>,
    /// The password of the replication role, when it is not made up by the agent.
    pub replication_password_file: Option<PathBuf>,
    /// The password of the rewind role, when it is not made up by the agent.
    pub rewind_password_file: Option<PathBuf>,
    /// How a new cluster is created.
    pub initdb: Initdb,
}

/// How a new cluster is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initdb {
    /// `--encoding`.
    pub encoding: String,
    /// `--locale`.
    pub locale: String,
    /// `--wal-segsize`: a power of two from 1 to 1024. The smaller, the sooner a promotion ends (ADR 0014).
    pub wal_segment_size_mb: u32,
    /// More options, as initdb takes them.
    pub options: Vec<String>,
}

/// The health API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Where it listens.
    pub listen: HostPort,
    /// Where the others reach it.
    pub advertise: HostPort,
}

/// How the agent logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is logged, in the words of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

/// Reads, layers and checks the configuration. `env` is usually [`std::env::vars`]; only names that begin with
/// `PGVIGIL__` matter.
///
/// # Errors
/// Every mistake that could be found, not only the first.
pub fn load(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
    let layers::Layered { raw, origins } = layers::read(path, env)?;
    resolve::resolve(path, raw, &origins).map_err(|problems| origins.errors(problems))
}

/// The keys that somebody has written, in the file or in the environment; none where the file cannot be read.
pub fn written_keys(path: &Path, env: impl Iterator<Item = (String, String)>) -> BTreeSet<String> {
    let Ok(layers::Layered { origins, .. }) = layers::read(path, env) else { return BTreeSet::new() };
    origins.keys.into_keys().chain(origins.variables.into_keys()).collect()
}

impl Config {
    /// The part of the configuration that a decision depends on.
    pub fn settings(&self) -> Settings {
        Settings {
            timing: self.timing,
            durability: self.durability,
            max_lag_on_failover_bytes: self.max_lag_on_failover_bytes,
            wait_for_lease: self.wait_for_lease,
            paused: false,
            held: false,
        }
    }

    /// The name of this node.
    pub fn member_name(&self) -> &MemberName {
        &self.name
    }
}
