//! Every key that may be written, with its default and its effect, in one table: it finds unknown keys, feeds the
//! suggestions and the help of errors, and a test holds `docs/configuration.md` and the structs of `raw.rs` to it.

use decision::catalogue::edits;

/// One key.
pub struct Key {
    /// Its place, with dots: `etcd.tls.ca`.
    pub path: &'static str,
    /// What holds when it is not written.
    pub default: &'static str,
    /// What it does, in a few words.
    pub does: &'static str,
}

impl Key {
    /// A few words about it, for the help of an error: what it does, and what holds without it.
    pub fn explain(&self) -> String {
        match self.default {
            REQUIRED => format!("{} (required)", self.does),
            default => format!("{} (default: {default})", self.does),
        }
    }
}

/// In place of a default: there is none, and nothing works without the key.
pub const REQUIRED: &str = "none: required";

const fn key(path: &'static str, default: &'static str, does: &'static str) -> Key {
    Key { path, default, does }
}

/// The table whose keys are Postgres' business, not ours.
pub const PARAMETERS: &str = "postgres.parameters";

/// All keys, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("cluster", REQUIRED, "the name that all nodes of one cluster share"),
    key("name", "the short host name", "the name of this node, unique in its cluster"),
    key("zone", "none", "the part of the world in which this node may be lost together with others"),
    key("state_dir", "<data_dir>.pgvigil", "where the agent keeps its own notes"),
    key("etcd.endpoints", REQUIRED, "the members of etcd"),
    key("etcd.tls.ca", "none: required with tls", "who signs the certificates of etcd"),
    key("etcd.tls.cert", "none", "the certificate shown to etcd"),
    key("etcd.tls.key", "none", "the key of that certificate"),
    key("etcd.username", "none", "the user of etcd"),
    key("etcd.password_file", "none", "the file with the password of that user"),
    key("etcd.namespace", "\"service\"", "the first part of every etcd key"),
    key("etcd.request_timeout", "\"700ms\"", "the deadline of one request to etcd"),
    key("timing.ttl", "\"5s\"", "the time to live of the leader's lease"),
    key("timing.heartbeat", "\"1s\"", "how often the lease is renewed"),
    key("timing.safety_margin", "\"500ms\"", "how long before the lease ends Postgres must be dead"),
    key("timing.primary_start_timeout", "\"30s\"", "how long a primary may take to start"),
    key("timing.voter_drop_after", "\"1s\"", "how long a voter must be away before it is no voter any more"),
    key("timing.degrade_after", "\"3s\"", "how long all voters must be away before quorum mode degrades"),
    key("timing.ballot_window", "\"1s\"", "how long candidates wait for each other's ballots in async mode"),
    key("timing.reclaim_after", "\"2s\"", "how long a leader that let go leaves the lock to others"),
    key("timing.hang_after", "\"500ms\"", "how long a primary may be silent before it counts as hung"),
    key("timing.suspect_after", "\"500ms\"", "how long the leader must be silent before its voters suspect it"),
    key("timing.retry_after", "\"3s\"", "how long before a failed clone, rewind or start is tried again"),
    key("durability.mode", "\"auto\"", "what an acknowledged commit is promised: auto, async, quorum or strict"),
    key("durability.acknowledgers", "1", "how many voters must have a commit before it is acknowledged"),
    key(
        "durability.other_zone",
        "false",
        "whether voters are those of other zones than the leader's while there are enough",
    ),
    key("durability.max_lag_on_failover", "\"1MB\"", "how far behind a candidate may be in async mode"),
    key("failover.wait_for_lease", "false", "never take over before the leader's lease has ended"),
    key(
        "watchdog.mode",
        "\"off\"",
        "whether the kernel's watchdog stands behind the fencer: off, automatic or required",
    ),
    key("watchdog.device", "/dev/watchdog", "the watchdog device"),
    key("write_probe.every", "never", "how often a commit is tried on a primary, for the metrics"),
    key("disk.min_free", "1 % of the file system, 64MB to 4GB", "how much is kept free on the disk of a primary"),
    key("disk.frozen_after", "\"3s\"", "how long a write may take before the disk counts as frozen"),
    key("postgres.version", REQUIRED, "the major version"),
    key("postgres.bin_dir", "/usr/lib/postgresql/<version>/bin", "where the programs of Postgres are"),
    key("postgres.data_dir", "/var/lib/postgresql/<version>/main", "the data directory"),
    key("postgres.socket_dir", "/var/run/postgresql", "where the unix socket is"),
    key("postgres.advertise", REQUIRED, "where clients and the other nodes reach Postgres"),
    key("postgres.listen", "\"*\"", "the addresses on which Postgres listens"),
    key(PARAMETERS, "empty", "settings for postgresql.conf"),
    key("postgres.hba", "empty", "lines put first into the pg_hba.conf of a new cluster"),
    key("postgres.replication_password_file", "none", "the file with the password of the replication role"),
    key("postgres.rewind_password_file", "none", "the file with the password of the rewind role"),
    key("postgres.initdb.encoding", "\"UTF8\"", "the encoding of a new cluster"),
    key("postgres.initdb.locale", "\"C.UTF-8\"", "the locale of a new cluster"),
    key("postgres.initdb.wal_segment_size_mb", "4", "the WAL segment size of a new cluster"),
    key("postgres.initdb.options", "empty", "more options for initdb"),
    key("bootstrap.from", "\"initdb\"", "what a new cluster is made from: initdb, command, pgbackrest or site"),
    key("bootstrap.site", "none", "the servers of another site, which is copied and followed"),
    key("bootstrap.command", "empty", "the program that fills the data directory, with its arguments"),
    key("bootstrap.stanza", "none", "the stanza of pgBackRest whose backup is restored"),
    key("bootstrap.config", "its usual place", "the configuration file of pgBackRest"),
    key("bootstrap.restore_command", "none (pgBackRest: its own)", "how WAL is fetched while a backup is recovered"),
    key("bootstrap.target_time", "none", "the time at which recovery ends"),
    key("bootstrap.target_lsn", "none", "the position at which recovery ends"),
    key("bootstrap.target_name", "none", "the restore point at which recovery ends"),
    key("bootstrap.target_timeline", "\"latest\"", "the timeline that recovery follows"),
    key("bootstrap.post_sql", "none", "a file of SQL that is run once in a new cluster"),
    key("bootstrap.post_command", "empty", "a program that is run once in a new cluster"),
    key("bootstrap.timeout", "\"24h\"", "how long the creation of a cluster may take"),
    key("clone.methods", "[\"replica\", \"leader\"]", "how data is copied: replica, leader, pgbackrest, command"),
    key("clone.command", "empty", "the program that fills the directory of a copy, with its arguments"),
    key("clone.stanza", "none", "the stanza of pgBackRest whose backup becomes a standby"),
    key("clone.config", "its usual place", "the configuration file of pgBackRest"),
    key("clone.restore_command", "none (pgBackRest: its own)", "how WAL is fetched until a restored standby streams"),
    key("clone.max_rate", "none", "what pg_basebackup may transfer in a second"),
    key("api.listen", "\"0.0.0.0:8008\"", "where the health API listens"),
    key("api.advertise", "derived from listen", "where the others reach the health API"),
    key("control.socket", "control.sock in state_dir", "the unix socket of the control API"),
    key("control.group", "none", "the group whose members may operate by that socket"),
    key("control.listen", "none", "the address on which the control API listens as well"),
    key("control.on_health_listener", "false", "carries the control API on the address of the health API as well"),
    key("control.tokens", "empty", "who may come in over TCP: name, role and the file with the token"),
    key("control.tls.cert", "none", "the certificate of the control API over TCP"),
    key("control.tls.key", "none", "the key of that certificate"),
    key("control.tls.client_ca", "none", "who signs the certificates of those who come in with one"),
    key("control.certificates", "empty", "who may come in over TCP with a certificate: name and role"),
    key("haproxy.runtime_sockets", "empty", "the runtime sockets of the HAProxies that are told of each change"),
    key("haproxy.primary_backend", "\"primary\"", "their backend that leads to the primary"),
    key("haproxy.standbys_backend", "\"standbys\"", "their backend that leads to the standbys"),
    key("pgbouncer.admin", "empty", "the PgBouncers that hold their clients during a planned switchover"),
    key("pgbouncer.user", "\"pgbouncer\"", "one of their admin_users"),
    key("pgbouncer.password_file", "none", "the file with the password of that user"),
    key("pgbouncer.databases", "empty", "the databases whose clients are held"),
    key("pgbouncer.pause_within", "\"1s\"", "how long a switchover waits for the transactions of those clients to end"),
    key("tags.nofailover", "false", "bars this node from ever leading"),
    key("tags.failover_priority", "1", "ranks this node among equal candidates"),
    key("tags.noloadbalance", "false", "takes this node out of /replica"),
    key("tags.clonefrom", "false", "offers this node as the source of copies"),
    key("tags.nosync", "false", "bars this node from being a voter"),
    key("tags.replicatefrom", "none", "names the standby from which this node streams"),
    key("tags.nostream", "false", "takes WAL from the archive alone"),
    key("log.format", "\"auto\"", "how a log line looks: human, json or auto"),
    key("log.filter", "\"info\"", "what is logged"),
    key("hooks.on_transition", "empty", "the program that gets each transition, with its arguments"),
    key("hooks.on_role_change", "empty", "the program that is told each other role of this node, with its arguments"),
    key("hooks.timeout", "\"30s\"", "how long such a program may run"),
    key("webhooks", "empty", "the receivers of transitions: url, token_file, ca, timeout and retries"),
];

/// What people who come from Patroni write, and where it is here.
const KNOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("scope", "cluster"),
    ("postgresql", "postgres"),
    ("restapi", "api"),
    ("etcd3", "etcd"),
    ("host", "etcd.endpoints"),
    ("hosts", "etcd.endpoints"),
    ("cacert", "etcd.tls.ca"),
    ("cert", "etcd.tls.cert"),
    ("key", "etcd.tls.key"),
    ("password", "etcd.password_file"),
    ("loop_wait", "timing.heartbeat"),
    ("retry_timeout", "etcd.request_timeout"),
    ("master_start_timeout", "timing.primary_start_timeout"),
    ("synchronous_mode", "durability.mode"),
    ("synchronous_mode_strict", "durability.mode"),
    ("synchronous_node_count", "durability.acknowledgers"),
    ("maximum_lag_on_failover", "durability.max_lag_on_failover"),
    ("pg_hba", "postgres.hba"),
    ("callbacks", "hooks"),
];

/// The key with this path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a table that holds keys.
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether `path` may be written: a key, a section, or a parameter of Postgres.
pub fn is_known(path: &str) -> bool {
    let parameter = path.strip_prefix(PARAMETERS).and_then(|rest| rest.strip_prefix('.'));
    parameter.is_some_and(|name| !name.is_empty()) || find(path).is_some() || is_section(path)
}

/// The key or section that somebody who wrote `unknown` most likely meant.
pub fn suggest(unknown: &str) -> Option<&'static str> {
    let (section, leaf) = unknown.rsplit_once('.').unwrap_or(("", unknown));
    // What Patroni calls connect_address is ours in two sections.
    if leaf == "connect_address" {
        return Some(if matches!(section, "api" | "restapi") { "api.advertise" } else { "postgres.advertise" });
    }
    let elsewhere = || KNOWN_ELSEWHERE.iter().find(|(name, _)| *name == leaf).map(|(_, here)| *here);
    let misplaced = || KEYS.iter().map(|key| key.path).find(|path| leaf_of(path) == leaf);
    elsewhere().or_else(misplaced).or_else(|| nearest(section, leaf))
}

/// The key or section whose name is nearest: at most a third of the letters wrong, those of the same section first.
fn nearest(section: &str, leaf: &str) -> Option<&'static str> {
    let sections = KEYS.iter().filter_map(|key| key.path.rsplit_once('.')).map(|(section, _)| section);
    KEYS.iter()
        .map(|key| key.path)
        .chain(sections)
        .map(|path| {
            let same_section = path.rsplit_once('.').map_or("", |(section, _)| section) == section;
            (edits(leaf_of(path), leaf), !same_section, path)
        })
        .filter(|(edits, _, path)| *edits <= (leaf_of(path).len() / 3).max(1))
        .min()
        .map(|(_, _, path)| path)
}

fn leaf_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, leaf)| leaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_names_from_patroni_lead_to_the_key_that_was_meant() {
        for (written, meant) in [
            ("etcd.endpoint", Some("etcd.endpoints")),
            ("scope", Some("cluster")),
            ("ttl", Some("timing.ttl")),
            ("timing.loop_wait", Some("timing.heartbeat")),
            ("restapi", Some("api")),
            ("namespace", Some("etcd.namespace")),
            ("postgres.connect_address", Some("postgres.advertise")),
            ("restapi.connect_address", Some("api.advertise")),
            ("etcd.cert", Some("etcd.tls.cert")),
            ("tags.no_failover", Some("tags.nofailover")),
            ("durabilty", Some("durability")),
            ("api.name", Some("name")),
            ("api.listn", Some("api.listen")),
            ("postgres.shoe_size", None),
        ] {
            assert_eq!(suggest(written), meant, "{written}");
        }
    }
}
