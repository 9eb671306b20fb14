//! Which parameters of Postgres each node is to run with. They come from its own file and from the cluster; some belong to the agent, some
//! are only the node's to say, and five must never be lower on a standby than on its primary, or its replay stops: these are raised on the
//! standbys first and lowered on the primary first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::settings::Mode;

/// Names of parameters with their values, as they are written into `postgresql.conf`.
pub type Parameters = BTreeMap<String, String>;

/// The settings of [`CAPACITIES`] with their values.
pub type Capacities = BTreeMap<String, u64>;

/// What a standby must not have less of than its primary, and what Postgres has where nobody says anything.
pub const CAPACITIES: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_locks_per_transaction", 64),
    ("max_prepared_transactions", 0),
    ("max_wal_senders", 10),
    ("max_worker_processes", 8),
];

/// What must be the same on all nodes, so that what the cluster says goes over what a node's file says.
const SHARED: [&str; 3] = ["max_replication_slots", "track_commit_timestamp", "wal_level"];

/// The parameters that the agent alone sets, since who leads and what a commit is promised hang on them, and what to do instead.
const OWNED: [(&str, &str); 21] = [
    ("cluster_name", "it is `cluster`"),
    ("config_file", "it is that of the data directory"),
    ("data_directory", "set `postgres.data_dir`"),
    ("hot_standby", "a standby that answers no query cannot be observed"),
    ("listen_addresses", "set `postgres.listen`"),
    ("port", "it is the port of `postgres.advertise`"),
    ("primary_conninfo", "it follows the leader"),
    ("primary_slot_name", "it follows the leader"),
    ("recovery_target", "a standby never stops on its way"),
    ("recovery_target_action", "a standby never stops on its way"),
    ("recovery_target_inclusive", "a standby never stops on its way"),
    ("recovery_target_lsn", "a standby never stops on its way"),
    ("recovery_target_name", "a standby never stops on its way"),
    ("recovery_target_time", "a standby never stops on its way"),
    ("recovery_target_timeline", "a standby always follows the latest timeline"),
    ("recovery_target_xid", "a standby never stops on its way"),
    ("synchronized_standby_slots", "it is the slots of those that commits wait for"),
    ("synchronous_standby_names", "set `durability.mode` and `durability.acknowledgers`"),
    ("unix_socket_directories", "set `postgres.socket_dir`"),
    ("wal_log_hints", "without it no former leader could be rewound"),
    ("wal_receiver_timeout", "it decides how soon a lost leader is noticed"),
];

/// Parameters below which nothing replicates, and the lowest value that will do.
const AT_LEAST: [(&str, u32); 3] = [("max_connections", 10), ("max_replication_slots", 10), ("max_wal_senders", 10)];

/// Why a parameter is not set, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objection {
    /// What is wrong.
    pub what: String,
    /// The way out.
    pub mend: String,
}

/// Whether the agent alone sets this parameter.
pub fn is_owned(name: &str) -> bool {
    OWNED.iter().any(|(owned, _)| name.eq_ignore_ascii_case(owned))
}

/// Whether only the node's own file may set it: whoever may write to etcd must not thereby run programs or read files on every host.
pub fn is_local_only(name: &str) -> bool {
    const ENDINGS: [&str; 9] =
        ["_command", "_library", "_libraries", "_file", "_keyfile", "_directory", "_directories", "_dir", "start_proc"];
    const NAMES: [&str; 5] = [
        "dynamic_library_path",
        "extension_control_path",
        "jit_provider",
        "log_filename",
        "ssl_passphrase_command_supports_reload",
    ];
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
        || NAMES.contains(&name.as_str())
        || name.starts_with("plperl.on_")
}

/// Whether a switch is off.
pub fn is_off(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "off" | "false" | "no" | "0")
}

/// What speaks against a parameter wherever it is set: it is the agent's, or no cluster could live with that value.
pub fn objection(name: &str, value: &str, mode: Mode) -> Option<Objection> {
    let object = |what: String, mend: &str| Some(Objection { what, mend: mend.to_owned() });
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) || value.contains(['\n', '\r', '\0']) {
        return object(format!("parameter \"{name}\" cannot be written into postgresql.conf"), "one name, one line");
    }
    let lower = name.to_ascii_lowercase();
    if ["include", "include_dir", "include_if_exists"].contains(&lower.as_str()) {
        return object(format!("\"{name}\" is no parameter"), "write each parameter itself");
    }
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == lower) {
        return object(format!("parameter \"{name}\" belongs to the agent"), instead);
    }
    let given = value.trim().to_ascii_lowercase();
    let off = is_off(&given);
    let would = match lower.as_str() {
        "wal_level" if !matches!(given.as_str(), "replica" | "logical") => "nothing could be replicated",
        "full_page_writes" if off => "pg_rewind would refuse to work",
        "fsync" if off => "a crash would destroy the data directory",
        "synchronous_commit" if given == "remote_write" => {
            "a standby would acknowledge what its disk does not have yet"
        }
        "synchronous_commit" if (off || given == "local") && matches!(mode, Mode::Quorum | Mode::Strict) => {
            "commits would not wait for the voters that the durability mode promises"
        }
        _ => "",
    };
    if !would.is_empty() {
        return object(format!("with parameter {name} = \"{value}\" {would}"), "remove it");
    }
    let (_, least) = AT_LEAST.iter().find(|(limited, _)| *limited == lower)?;
    if given.parse::<u32>().is_ok_and(|number| number >= *least) {
        return None;
    }
    object(format!("parameter {name} = \"{value}\" is too small for a cluster"), &format!("{least} or more"))
}

/// What speaks against a parameter in the settings of the whole cluster.
pub fn cluster_objection(name: &str, value: &str, mode: Mode) -> Option<Objection> {
    if is_local_only(name) {
        return Some(Objection {
            what: format!(
                "parameter \"{name}\" runs programs or reads files of a host: only the node's own file sets it"
            ),
            mend: format!("set `postgres.parameters.{name}` in the file of each node"),
        });
    }
    objection(name, value, mode)
}

/// What of the cluster's parameters may be used, and what speaks against the others. Etcd can be written by others than our commands.
pub fn usable(cluster: &Parameters, mode: Mode) -> (Parameters, Vec<Objection>) {
    let (mut good, mut bad) = (Parameters::new(), Vec::new());
    for (name, value) in cluster {
        match cluster_objection(name, value, mode) {
            None => drop(good.insert(name.to_ascii_lowercase(), value.clone())),
            Some(objection) => bad.push(objection),
        }
    }
    (good, bad)
}

/// Which part a node has, for the settings that a standby must not have less of than its primary.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// It leads.
    Leads {
        /// What its server runs with; empty: it does not run, or has not said.
        mine: &'a Capacities,
        /// What the servers of the standbys run with; empty: one runs and has not said.
        standbys: &'a [&'a Capacities],
    },
    /// It follows.
    Follows {
        /// What the leader's server runs with, where that is known.
        leader: Option<&'a Capacities>,
    },
}

/// Whether this is the same on all nodes where the cluster says what it is, whatever their files say.
pub fn is_alike(name: &str) -> bool {
    SHARED.contains(&name) || CAPACITIES.iter().any(|(capacity, _)| *capacity == name)
}

/// What a node's server is to be configured with: the cluster's parameters, over them the node's, save for what must be alike everywhere.
/// `base` is what `postgresql.conf` says of the capacities without either.
pub fn effective(cluster: &Parameters, node: &Parameters, base: &Capacities, part: Part<'_>) -> Parameters {
    let mut wanted = cluster.clone();
    for (name, value) in node {
        if !(is_alike(name) && cluster.contains_key(name)) {
            wanted.insert(name.clone(), value.clone());
        }
    }
    for (name, usual) in CAPACITIES {
        let without = base.get(name).copied().unwrap_or(usual);
        let asked = wanted.get(name).map_or(Some(without), |value| value.trim().parse().ok());
        // What is no number is Postgres' to refuse.
        let Some(asked) = asked else { continue };
        let now = part.capacity(name, asked);
        if now != asked {
            wanted.insert(name.to_owned(), now.to_string());
        }
    }
    wanted
}

impl Part<'_> {
    /// What a node may have at this moment of what it is asked to have.
    fn capacity(self, name: &str, asked: u64) -> u64 {
        match self {
            Part::Follows { leader } => asked.max(leader.and_then(|leader| leader.get(name)).copied().unwrap_or(0)),
            Part::Leads { mine, standbys } => {
                let Some(mine) = mine.get(name).copied() else {
                    // A server that does not run has standbys that run with what it had, or more.
                    let least = standbys.iter().filter_map(|standby| standby.get(name)).min().copied();
                    return least.map_or(asked, |least| asked.min(least));
                };
                let least = standbys.iter().map(|standby| standby.get(name).copied().unwrap_or(mine)).min();
                asked.min(least.unwrap_or(asked).max(mine))
            }
        }
    }
}
