//! What may be written: the shape of the file, nothing filled in. Every struct refuses keys it does not know, so a
//! typing error is never a setting that silently keeps its default.

use std::path::PathBuf;

use decision::settings::{Mode, Tags};
use serde::{Deserialize, Serialize};

use super::value::{Lasting, List, Parameters, Size};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    pub cluster: Option<String>,
    pub name: Option<String>,
    pub zone: Option<String>,
    pub state_dir: Option<PathBuf>,
    pub etcd: RawEtcd,
    pub timing: RawTiming,
    pub durability: RawDurability,
    pub failover: RawFailover,
    pub watchdog: RawWatchdog,
    pub write_probe: RawWriteProbe,
    pub disk: RawDisk,
    pub bootstrap: RawBootstrap,
    pub clone: RawClone,
    pub postgres: RawPostgres,
    pub api: RawApi,
    pub control: RawControl,
    pub haproxy: RawHaproxy,
    pub pgbouncer: RawPgbouncer,
    pub tags: Tags,
    pub log: RawLog,
    pub hooks: RawHooks,
    pub webhooks: Vec<RawWebhook>,
}

/// `[etcd]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawEtcd {
    pub endpoints: Option<List>,
    pub tls: Option<RawTls>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub namespace: Option<String>,
    pub request_timeout: Option<Lasting>,
}

/// `etcd.tls`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawTls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// `[timing]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawTiming {
    pub ttl: Option<Lasting>,
    pub heartbeat: Option<Lasting>,
    pub safety_margin: Option<Lasting>,
    pub primary_start_timeout: Option<Lasting>,
    pub voter_drop_after: Option<Lasting>,
    pub degrade_after: Option<Lasting>,
    pub ballot_window: Option<Lasting>,
    pub suspect_after: Option<Lasting>,
    pub reclaim_after: Option<Lasting>,
    pub hang_after: Option<Lasting>,
    pub retry_after: Option<Lasting>,
}

/// `[durability]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawDurability {
    pub mode: Option<Mode>,
    pub acknowledgers: Option<u32>,
    pub other_zone: Option<bool>,
    pub max_lag_on_failover: Option<Size>,
}

/// `[failover]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawFailover {
    pub wait_for_lease: Option<bool>,
}

/// `[write_probe]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawWriteProbe {
    pub every: Option<Lasting>,
}

/// `[watchdog]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawWatchdog {
    pub mode: Option<WatchdogMode>,
    pub device: Option<PathBuf>,
}

/// Whether the kernel's watchdog stands behind the fencer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogMode {
    /// No.
    #[default]
    Off,
    /// Where it can be used; else a warning.
    Automatic,
    /// Yes, and a node where it cannot be used never leads.
    Required,
}

/// `[disk]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawDisk {
    pub min_free: Option<Size>,
    pub frozen_after: Option<Lasting>,
}

/// `[postgres]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPostgres {
    pub version: Option<u32>,
    pub bin_dir: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub socket_dir: Option<PathBuf>,
    pub advertise: Option<String>,
    pub listen: Option<String>,
    pub parameters: Parameters,
    pub hba: List,
    pub replication_password_file: Option<PathBuf>,
    pub rewind_password_file: Option<PathBuf>,
    pub initdb: RawInitdb,
}

/// `postgres.initdb`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawInitdb {
    pub encoding: Option<String>,
    pub locale: Option<String>,
    pub wal_segment_size_mb: Option<u32>,
    pub options: List,
}

/// `[bootstrap]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawBootstrap {
    pub from: Option<BootstrapFrom>,
    pub site: Option<String>,
    pub command: List,
    pub stanza: Option<String>,
    pub config: Option<PathBuf>,
    pub restore_command: Option<String>,
    pub target_time: Option<String>,
    pub target_lsn: Option<String>,
    pub target_name: Option<String>,
    pub target_timeline: Option<String>,
    pub post_sql: Option<PathBuf>,
    pub post_command: List,
    pub timeout: Option<Lasting>,
}

/// What a new cluster is made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootstrapFrom {
    /// Nothing: an empty database.
    #[default]
    Initdb,
    /// What a program of the operator's puts into the data directory.
    Command,
    /// A backup of pgBackRest.
    PgBackRest,
    /// Another site, which is copied and then followed.
    Site,
}

/// `[clone]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawClone {
    pub methods: Option<Vec<CloneWay>>,
    pub command: List,
    pub stanza: Option<String>,
    pub config: Option<PathBuf>,
    pub restore_command: Option<String>,
    pub max_rate: Option<Size>,
}

/// How a copy can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloneWay {
    /// `pg_basebackup` from the leader.
    Leader,
    /// `pg_basebackup` from a standby that offers itself.
    Replica,
    /// A backup of pgBackRest.
    PgBackRest,
    /// A program of the operator's.
    Command,
}

/// `[api]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawApi {
    pub listen: Option<String>,
    pub advertise: Option<String>,
}

/// `[control]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawControl {
    pub socket: Option<PathBuf>,
    pub group: Option<String>,
    pub listen: Option<String>,
    pub on_health_listener: Option<bool>,
    pub tokens: Vec<RawToken>,
    pub tls: Option<RawControlTls>,
    pub certificates: Vec<Certificate>,
}

/// `[haproxy]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawHaproxy {
    pub runtime_sockets: List,
    pub primary_backend: Option<String>,
    pub standbys_backend: Option<String>,
}

/// `[pgbouncer]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPgbouncer {
    pub admin: List,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub databases: List,
    pub pause_within: Option<Lasting>,
}

/// `control.tls`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawControlTls {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub client_ca: Option<PathBuf>,
}

/// One of `control.certificates`: somebody who comes in with a certificate of this name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// A DNS name in it, or the common name of its subject.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// One of `control.tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawToken {
    pub name: String,
    pub role: Role,
    pub file: PathBuf,
}

/// What somebody may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Read,
    /// Ask whether a planned change may begin.
    Gate,
    /// Switch over, restart, reload, pause.
    Operate,
    /// Everything: settings, copies made anew, a loss of data accepted.
    Admin,
}

/// `[hooks]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawHooks {
    pub on_transition: List,
    pub on_role_change: List,
    pub timeout: Option<Lasting>,
}

/// One of `[[webhooks]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWebhook {
    pub url: String,
    pub token_file: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub timeout: Option<Lasting>,
    pub retries: Option<u32>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawLog {
    pub format: Option<LogFormat>,
    pub filter: Option<String>,
}

/// The forms of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// `human` on a terminal, `json` elsewhere.
    #[default]
    Auto,
}
