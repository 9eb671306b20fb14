//! What the keys owe each other, and what they must leave to the agent. One function a subject; each adds its mistakes
//! to the list.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use decision::names::MemberName;
use decision::parameters::objection;
use decision::settings::{Durability, Mode, Tags, Timing};
use decision::site::{Remote, is_another_site};

use super::problem::{Origins, Problem};
use super::value::Lasting;
use super::{Initdb, Postgres, Watchdog};
use crate::secret::Secret;

/// The Postgres versions that the agent knows. Before 15 only a superuser may write a checkpoint (`pg_checkpoint`).
const VERSIONS: std::ops::RangeInclusive<u32> = 15..=18;

/// Socket paths are cut off by the kernel after this many bytes.
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

/// Timings that cannot be kept.
pub fn timing(timing: &Timing, found: &mut Vec<Problem>) {
    for sentence in timing.check() {
        // The sentence begins with the key it is about; any key of the relation may be the one that was written.
        let first = sentence.split(' ').next().unwrap_or_default();
        let keys = match first {
            "ttl" => &["timing.ttl", "timing.heartbeat", "etcd.request_timeout", "timing.safety_margin"][..],
            "heartbeat" => &["timing.heartbeat"],
            "request_timeout" => &["etcd.request_timeout"],
            "hang_after" => &["timing.hang_after"],
            "suspect_after" => &["timing.suspect_after"],
            _ => &["timing.safety_margin"],
        };
        let (what, mend) = sentence.rsplit_once("; ").map_or((sentence.as_str(), None), |(a, b)| (a, Some(b)));
        let problem = Problem::about("E10", keys, what);
        found.push(match mend {
            Some(mend) => problem.help(mend),
            None => problem,
        });
    }
}

/// A promise that nobody is asked to keep.
pub fn durability(durability: &Durability, found: &mut Vec<Problem>) {
    if durability.acknowledgers == 0 && durability.mode != Mode::Async {
        let message = format!("mode \"{}\" with acknowledgers 0 promises nothing", durability.mode);
        let problem = Problem::about("E11", &["durability.acknowledgers", "durability.mode"], message);
        found.push(problem.help("acknowledgers = 1, or mode = \"async\""));
    }
}

/// Both sites are one database, with the same roles and passwords: those of the other cannot be made up here.
pub fn site(name: &MemberName, site: Option<&Remote>, postgres: &Postgres, found: &mut Vec<Problem>) {
    if is_another_site(name) {
        found.push(Problem::at("E11", "name", format!("\"{name}\" stands for another site")).help("take another name"));
    }
    let missing = postgres.replication_password_file.is_none() || postgres.rewind_password_file.is_none();
    if site.is_some() && missing {
        let keys = ["bootstrap.from", "postgres.replication_password_file", "postgres.rewind_password_file"];
        let message = "a copy of another site has that site's passwords, and they are not given";
        found.push(Problem::about("E11", &keys, message).help(
            "set `postgres.replication_password_file` and `postgres.rewind_password_file` to what the other site uses \
             (its own files, or what its etcd has in secrets/replication)",
        ));
    }
}

/// Tags that contradict each other.
pub fn tags(tags: &Tags, origins: &Origins, found: &mut Vec<Problem>) {
    let keys = ["tags.failover_priority", "tags.nofailover"];
    if tags.nofailover && tags.failover_priority > 1 {
        let message = format!("failover_priority {} for a node that never leads", tags.failover_priority);
        found.push(Problem::about("E11", &keys, message).help("remove either nofailover or failover_priority"));
    }
    if !tags.nofailover && tags.failover_priority == 0 && origins.is_written("tags.nofailover") {
        let message = "failover_priority 0 bars this node from leading, nofailover = false says it may";
        found.push(Problem::about("E11", &keys, message).help("remove one of the two"));
    }
}

/// Whom a node streams from.
pub fn streaming(tags: &Tags, me: Option<&str>, restores: bool, found: &mut Vec<Problem>) {
    let about = |message: &str| Problem::about("E11", &["tags.nostream", "tags.replicatefrom"], message);
    if tags.nostream && tags.replicatefrom.is_some() {
        let message = "nostream takes WAL from the archive alone, replicatefrom from another node";
        found.push(about(message).help("remove one of the two"));
    }
    if tags.nostream && !restores {
        let message = "nostream takes WAL from the archive alone, and no restore_command is set";
        found.push(about(message).help("write restore_command = \"...\" under [postgres.parameters]"));
    }
    if tags.replicatefrom.as_ref().is_some_and(|named| Some(named.as_str()) == me) {
        found.push(about("replicatefrom names this very node").help("name another one"));
    }
}

/// A user and its password come together.
pub fn credentials(username: Option<&str>, password_file: Option<&Path>, found: &mut Vec<Problem>) {
    match (username, password_file) {
        (Some(_), None) => {
            let problem = Problem::at("E08", "etcd.username", "`etcd.username` without `etcd.password_file`");
            found.push(problem.help("write password_file = \"...\" beside it"));
        }
        (None, Some(_)) => {
            let problem = Problem::at("E08", "etcd.password_file", "`etcd.password_file` without `etcd.username`");
            found.push(problem.help("write username = \"...\" beside it"));
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    if let Some(file) = password_file {
        secret("etcd.password_file", file, found);
    }
}

/// Certificates and encrypted endpoints come together.
pub fn schemes(endpoints: &[String], tls: bool, found: &mut Vec<Problem>) {
    for url in endpoints {
        let encrypted = url.starts_with("https://");
        if encrypted && !tls {
            let problem = Problem::at("E08", "etcd.endpoints", format!("{url} needs `etcd.tls`"));
            found.push(problem.help("write tls = { ca = \"...\", cert = \"...\", key = \"...\" } under [etcd]"));
        }
        if !encrypted && tls {
            let problem = Problem::at(
                "E08",
                "etcd.endpoints",
                format!("{url} would be spoken to in plain text, though `etcd.tls` is set"),
            );
            found.push(problem.help("write https://"));
        }
    }
}

/// A file that must be there.
pub fn readable(key: &str, file: &Path, found: &mut Vec<Problem>) {
    if let Err(error) = File::open(file) {
        found.push(Problem::at("E09", key, format!("`{key}`: cannot read {}: {error}", file.display())));
    }
}

/// A secret that only its owner may read.
pub fn secret(key: &str, file: &Path, found: &mut Vec<Problem>) {
    if let Err(error) = Secret::read(file) {
        found.push(Problem::at("E09", key, format!("`{key}`: {error}")));
    }
}

/// A version that the agent does not know.
pub fn version(version: u32, found: &mut Vec<Problem>) -> bool {
    let known = VERSIONS.contains(&version);
    if !known {
        let (first, last) = (VERSIONS.start(), VERSIONS.end());
        let message = format!("`postgres.version`: Postgres {version} is not known here");
        found.push(Problem::at("E13", "postgres.version", message).help(format!("major versions {first} to {last}")));
    }
    known
}

/// Parameters that belong to the agent, or with which no cluster can live.
pub fn parameters(parameters: &BTreeMap<String, String>, mode: Mode, found: &mut Vec<Problem>) {
    for (name, value) in parameters {
        let key = format!("postgres.parameters.{name}");
        if let Some(objection) = objection(name, value, mode) {
            found.push(Problem::at("E14", &key, objection.what).help(objection.mend));
        }
    }
}

/// Lines that Postgres would refuse, and with them every connection.
pub fn hba(lines: &[String], found: &mut Vec<Problem>) {
    const KINDS: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
    for line in lines {
        let first = line.split_whitespace().next().unwrap_or("#");
        if line.contains('\n') || !(first.starts_with('#') || KINDS.contains(&first)) {
            let message = format!("`postgres.hba`: \"{line}\" is no line of pg_hba.conf");
            found.push(
                Problem::at("E14", "postgres.hba", message)
                    .help("such as \"hostssl all all 10.0.0.0/8 scram-sha-256\""),
            );
        }
    }
}

/// The options of initdb that are not an operator's, and what is to be done instead.
const OWN_INITDB_OPTIONS: &[(&str, &str)] = &[
    ("--pgdata", "set `postgres.data_dir`"),
    ("-D", "set `postgres.data_dir`"),
    ("--username", "the superuser is `postgres`"),
    ("-U", "the superuser is `postgres`"),
    ("--pwfile", "the superuser has no password: it comes in by its own user"),
    ("--pwprompt", "the superuser has no password: it comes in by its own user"),
    ("-W", "the superuser has no password: it comes in by its own user"),
    ("--auth", "write lines into `postgres.hba`"),
    ("-A", "write lines into `postgres.hba`"),
    ("--encoding", "set `postgres.initdb.encoding`"),
    ("-E", "set `postgres.initdb.encoding`"),
    ("--locale", "set `postgres.initdb.locale`"),
    ("--wal-segsize", "set `postgres.initdb.wal_segment_size_mb`"),
    ("--no-data-checksums", "without checksums a damaged page goes from node to node unseen"),
    ("--no-sync", "a power loss would destroy the new database"),
    ("-N", "a power loss would destroy the new database"),
];

/// `--name`, `--name=value`; `-X`, `-Xvalue`.
fn is_option(written: &str, option: &str) -> bool {
    let long = option.starts_with("--");
    let rest = written.strip_prefix(option);
    rest.is_some_and(|rest| rest.is_empty() || if long { rest.starts_with('=') } else { !written.starts_with("--") })
}

/// What initdb would refuse.
pub fn initdb(initdb: &Initdb, found: &mut Vec<Problem>) {
    let size = initdb.wal_segment_size_mb;
    if !size.is_power_of_two() || size > 1024 {
        let message = format!("`postgres.initdb.wal_segment_size_mb`: {size} is no WAL segment size");
        let problem = Problem::at("E14", "postgres.initdb.wal_segment_size_mb", message);
        found.push(problem.help("a power of two from 1 to 1024"));
    }
    let taken = |option: &&String| OWN_INITDB_OPTIONS.iter().any(|(own, _)| is_option(option, own));
    for option in initdb.options.iter().filter(taken) {
        let instead =
            OWN_INITDB_OPTIONS.iter().find(|(own, _)| is_option(option, own)).map_or("", |(_, instead)| instead);
        let message = format!("`postgres.initdb.options`: {option} is pgvigil's to say");
        found.push(Problem::at("E14", "postgres.initdb.options", message).help(instead));
    }
}

/// How often a write is tried; not so often that probes would be the load.
pub fn write_probe(every: Option<Lasting>, found: &mut Vec<Problem>) -> Option<Duration> {
    let every = every.map(|every| every.0);
    if every.is_some_and(|every| every < Duration::from_secs(1)) {
        let message = "`write_probe.every` is less than a second: each probe is a connection and a commit";
        found.push(Problem::at("E10", "write_probe.every", message).help("write \"10s\""));
    }
    every
}

/// A device that depends on where the agent is started.
pub fn watchdog(watchdog: &Watchdog, found: &mut Vec<Problem>) {
    if watchdog.device.is_relative() {
        let message = format!("`watchdog.device`: \"{}\" is not a whole path", watchdog.device.display());
        found.push(Problem::at("E15", "watchdog.device", message).help("such as \"/dev/watchdog\""));
    }
}

/// Directories that would be in each other's way.
pub fn directories(postgres: &Postgres, state_dir: &Path, found: &mut Vec<Problem>) {
    let all = [
        ("postgres.bin_dir", postgres.bin_dir.as_path()),
        ("postgres.data_dir", &postgres.data_dir),
        ("postgres.socket_dir", &postgres.socket_dir),
        ("state_dir", state_dir),
    ];
    for (key, directory) in all {
        if directory.is_relative() {
            let message = format!("`{key}`: \"{}\" depends on where the agent is started", directory.display());
            found.push(Problem::at("E15", key, message).help("write the whole path, from /"));
        }
    }
    if state_dir.starts_with(&postgres.data_dir) {
        let message = "`state_dir` is inside the data directory, which is emptied before a clone";
        found.push(Problem::at("E15", "state_dir", message).help("put it beside the data directory"));
    }
    let socket = postgres.socket_dir.join(format!(".s.PGSQL.{}", postgres.advertise.port));
    if socket.as_os_str().len() > LONGEST_SOCKET_PATH {
        let message = format!("`postgres.socket_dir`: {} is longer than {LONGEST_SOCKET_PATH} bytes", socket.display());
        found.push(Problem::at("E15", "postgres.socket_dir", message).help("choose a shorter directory"));
    }
}
