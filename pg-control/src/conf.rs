//! The one configuration file that the agent owns: `pgvigil.conf`, included at the end of `postgresql.conf`, everything else being the
//! operator's. It is rendered whole from a [`Conf`] and replaced atomically, so that a crash leaves the old one or the new one. Its
//! first line is that `Conf` as JSON: what is configured is read back from there, never guessed from settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::PoisonError;

use decision::names::{Term, application_name};
use decision::parameters::{Parameters, objection};
use decision::settings::Mode;
use decision::slots::SlotName;
use decision::view::Upstream;
use serde::{Deserialize, Serialize};

use crate::autoconf;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::{Instance, InstanceConfig};
use crate::native;
use crate::slots::quarter_of_disk_mb;
use crate::text;

/// The name of the file.
pub const FILE: &str = "pgvigil.conf";
const INCLUDE: &str = "include 'pgvigil.conf'";
const JSON_PREFIX: &str = "# pgvigil: ";

/// The part of the configuration that changes while the cluster runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conf {
    /// Whom a standby follows.
    pub recovery: Recovery,
    /// `synchronous_standby_names`.
    pub sync: String,
    /// The term under which `sync` was set. Its names carry it too, but an empty list has no names.
    #[serde(default)]
    pub term: Term,
    /// The least values that a standby must be started with, because its primary had them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<String, u64>,
    /// How WAL is fetched until the standby streams, where it was made from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<String>,
    /// The server was started with a version and a `wal_level` with which Postgres itself keeps logical slots alike everywhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub syncs_slots: bool,
    /// The slots by which members stream from here, where Postgres keeps logical ones alike.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub slots: BTreeSet<SlotName>,
}

/// Whom a standby follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// Nobody: pledged, about to be promoted, or a primary. Nothing may delay its promotion.
    #[default]
    Nobody,
    /// This server, under this term's name.
    Following(Upstream),
    /// Nobody, but a backup is being recovered: where that ends is told to the start itself. Postgres takes an empty target beside another for a
    /// second one.
    Backup,
}

/// What a standby of ours has for `synchronous_standby_names`: a name that nobody bears, since names of ours end with their term.
///
/// **Invariant: a promotion that pgvigil did not order acknowledges nothing.** On a standby the setting means nothing; whoever makes it a
/// primary behind the agent's back gets a server whose commits wait for ever, until the agent has ended it. A promotion of ours takes the
/// names of its reign before the signal.
pub const HELD_BACK: &str = "ANY 1 (\"pgvigil_has_not_promoted_this_server\")";

impl Conf {
    /// The configuration of a standby that has just been made: it follows `recovery`, and could acknowledge nothing.
    pub(crate) fn of_standby(recovery: Recovery) -> Self {
        Self { recovery, sync: HELD_BACK.to_owned(), ..Self::default() }
    }
}

impl Recovery {
    /// Whom, if anybody.
    pub fn upstream(&self) -> Option<&Upstream> {
        match self {
            Recovery::Nobody | Recovery::Backup => None,
            Recovery::Following(upstream) => Some(upstream),
        }
    }
}

/// What the operator may set otherwise.
const DEFAULTS: [(&str, &str); 8] = [
    ("wal_level", "replica"),
    ("wal_keep_size", "512MB"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("wal_sender_timeout", "5s"),
    ("wal_receiver_status_interval", "1s"),
    // A client whose host vanished is noticed, and so is a server towards a standby that vanished.
    ("tcp_user_timeout", "10s"),
    // The default waits 5 s after a failed attempt. The end of a timeline counts as one: a standby that has gone over to the next leader waits
    // so long since its last attempt before it asks for the new timeline, and the first commit of the new reign waits for it.
    ("wal_retrieve_retry_interval", "50ms"),
];

/// How much WAL may be kept for slots. Unlimited, as Postgres has it, one that is forgotten fills the disk; so unless somebody says otherwise it
/// is a quarter of the file system.
const SLOT_LIMIT: &str = "max_slot_wal_keep_size";

/// Where a recovery may end.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];

/// Refuses parameters that the agent owns, and values that would void what an acknowledged commit is promised.
pub fn check_parameters(parameters: &BTreeMap<String, String>) -> Result<()> {
    // Whether commits may wait for nobody is the mode's to say, which is not known here.
    let objections = parameters.iter().find_map(|(name, value)| objection(name, value, Mode::Async));
    objections.map_or(Ok(()), |found| Err(Error::Setting(format!("{}; {}", found.what, found.mend))))
}

/// The whole content of the file.
pub fn render(config: &InstanceConfig, parameters: &Parameters, passfile: &Path, conf: &Conf) -> String {
    let json = serde_json::to_string(conf).unwrap_or_default();
    let mut text = format!(
        "{JSON_PREFIX}{json}\n# Written by pgvigil and replaced as a whole: change the node file, or pgvigil config set.\n"
    );
    let mut set = |key: &str, value: &str| {
        let _ = writeln!(text, "{key} = {}", quote(value));
    };
    for (key, value) in DEFAULTS {
        set(key, value);
    }
    for (key, value) in parameters {
        set(key, value);
    }
    for (key, value) in &conf.floors {
        set(key, &value.to_string());
    }
    set("listen_addresses", &config.listen_addresses);
    set("port", &config.port.to_string());
    set("unix_socket_directories", &config.socket_dir.to_string_lossy());
    set("cluster_name", &config.cluster);
    set("hot_standby", "on");
    set("wal_log_hints", "on");
    set("wal_receiver_timeout", "5s");
    // It names only a slot that its upstream says is there: a walreceiver that asks for another one is refused, however healthy both are.
    let slot = conf.recovery.upstream().and_then(|upstream| upstream.slot.as_ref());
    set("primary_slot_name", slot.map_or("", SlotName::as_str));
    // Left over from a point-in-time recovery these would stop or promote a standby.
    for key in TARGETS.iter().filter(|_| conf.recovery != Recovery::Backup) {
        set(key, "");
    }
    set("recovery_target_timeline", "latest");
    set("synchronous_standby_names", &conf.sync);
    let upstream = conf.recovery.upstream();
    let conninfo = upstream.map(|upstream| conninfo(config, passfile, upstream, conf.syncs_slots));
    set("primary_conninfo", &conninfo.unwrap_or_default());
    if conf.syncs_slots {
        for (key, value) in native::settings(config, parameters, conf) {
            set(key, &value);
        }
    }
    match &conf.recovery {
        Recovery::Following(_) => {
            if config.nostream {
                // It is asked for WAL as often as the interval says, each time by a program.
                set("wal_retrieve_retry_interval", "1s");
            }
            if let Some(fetch) = &conf.fetch {
                set("restore_command", fetch);
            }
        }
        Recovery::Nobody | Recovery::Backup => {
            // A promotion calls restore_command five times in series, and waits for readers that block replay (measured).
            set("restore_command", "");
            set("max_standby_streaming_delay", "0");
            set("max_standby_archive_delay", "0");
        }
    }
    text
}

/// How a standby reaches its upstream; empty where it streams from nobody. The password stays in the password file.
/// Postgres takes the state of logical slots from there by a connection to a database.
pub(crate) fn conninfo(config: &InstanceConfig, passfile: &Path, upstream: &Upstream, syncs_slots: bool) -> String {
    if config.nostream {
        return String::new();
    }
    let mut pairs = addresses(upstream);
    pairs.extend([
        ("user", config.replication_user.clone()),
        ("application_name", name_at(config, upstream)),
        ("passfile", passfile.to_string_lossy().into_owned()),
        ("sslmode", "prefer".to_owned()),
        ("connect_timeout", "2".to_owned()),
        ("keepalives", "1".to_owned()),
        ("keepalives_idle", "2".to_owned()),
        ("keepalives_interval", "1".to_owned()),
        ("keepalives_count", "3".to_owned()),
        ("tcp_user_timeout", "5000".to_owned()),
    ]);
    if syncs_slots && !upstream.is_another_site() {
        pairs.push(("dbname", config.database.clone()));
    }
    conninfo_of(&pairs)
}

/// Where an upstream is; of several servers of another site the one that accepts writes.
pub(crate) fn addresses(upstream: &Upstream) -> Vec<(&'static str, String)> {
    let (hosts, ports): (Vec<String>, Vec<String>) =
        upstream.addresses().into_iter().map(|(host, port)| (host, port.to_string())).unzip();
    let mut pairs = vec![("host", hosts.join(",")), ("port", ports.join(","))];
    if hosts.len() > 1 {
        pairs.push(("target_session_attrs", "read-write".to_owned()));
    }
    pairs
}

/// The name that a standby has at its upstream: with its term within the cluster; at another site with its cluster's name, for which no commit
/// there ever waits.
pub(crate) fn name_at(config: &InstanceConfig, upstream: &Upstream) -> String {
    if upstream.is_another_site() {
        format!("{}-{}", config.cluster, config.member)
    } else {
        application_name(&config.member, upstream.term)
    }
}

/// A `libpq` connection string.
pub(crate) fn conninfo_of(pairs: &[(&str, String)]) -> String {
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    pairs.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect::<Vec<_>>().join(" ")
}

/// In `postgresql.conf` a quote is doubled, and a backslash begins an escape.
pub(crate) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Reads the JSON line back; `None` when the text was not written by this agent.
pub fn parse(text: &str) -> Option<Conf> {
    serde_json::from_str(text.lines().next()?.strip_prefix(JSON_PREFIX)?).ok()
}

/// The name of the cluster whose agent has written the file in this directory; `None`: nobody's.
pub(crate) fn cluster_of(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(data_dir.join(FILE)).ok()?;
    let value = text.lines().rev().find_map(|line| line.strip_prefix("cluster_name = '")?.strip_suffix('\''))?;
    Some(value.replace("''", "'"))
}

/// Writes the file into a data directory, if it is not there as it should be; includes it; ends overrides. True when anything changed.
fn write_into(data_dir: &Path, wanted: &str) -> Result<bool> {
    let path = data_dir.join(FILE);
    let mut changed = false;
    if fs::read_to_string(&path).ok().as_deref() != Some(wanted) {
        durable::write(&path, wanted.as_bytes(), 0o600)?;
        changed = true;
    }
    changed |= include_from(&data_dir.join("postgresql.conf"))?;
    changed |= autoconf::strip(data_dir)?;
    Ok(changed)
}

/// The include must come last, or what follows it would win.
fn include_from(main: &Path) -> Result<bool> {
    let text = text::read(main)?;
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('#'));
    if last == Some(INCLUDE) {
        return Ok(false);
    }
    let kept: Vec<&str> = text.lines().filter(|line| line.trim() != INCLUDE).collect();
    text::write(main, &format!("{}\n{INCLUDE}\n", kept.join("\n").trim_end()), 0o600)?;
    Ok(true)
}

impl Instance {
    /// What is configured on disk; `None` when the data directory has no file of ours.
    pub fn read_conf(&self) -> Option<Conf> {
        parse(&fs::read_to_string(self.data_dir().join(FILE)).ok()?)
    }

    /// Writes it into a data directory, this one or one that becomes it.
    pub(crate) fn write_conf_into(&self, data_dir: &Path, conf: &Conf) -> Result<bool> {
        let mut parameters = self.parameters();
        if !parameters.contains_key(SLOT_LIMIT)
            && let Some(megabytes) = quarter_of_disk_mb(data_dir)
        {
            parameters.insert(SLOT_LIMIT.to_owned(), format!("{megabytes}MB"));
        }
        let config = InstanceConfig { cascades_from: self.memory().cascades_from.clone(), ..self.config().clone() };
        write_into(data_dir, &render(&config, &parameters, &self.passfile(), conf))
    }

    /// Changes the configuration on disk, durably. The server does not know yet: reload it. True when anything changed.
    ///
    /// # Errors
    /// `Host` when the files cannot be written.
    pub async fn update_conf(&self, change: impl FnOnce(&mut Conf) + Send + 'static) -> Result<bool> {
        let me = self.clone();
        let work = move || {
            let _lock = me.0.conf_lock.lock().unwrap_or_else(PoisonError::into_inner);
            let mut conf = me.read_conf().unwrap_or_default();
            change(&mut conf);
            me.write_conf_into(me.data_dir(), &conf)
        };
        // Flushing a file may hang with its disk; that must not take a worker of the agent with it.
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(Error::WrongState(format!("writing the configuration was cut off: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decision::durability::Quorum;
    use decision::names::MemberName;

    fn config() -> InstanceConfig {
        InstanceConfig::new(MemberName::new("pg1").expect("good"), "it's", "/d".into(), "/s".into())
    }

    fn upstream() -> Upstream {
        let member = MemberName::new("pg2").expect("good");
        Upstream { member, host: "db'2".to_owned(), port: 5433, term: Term(7), slot: SlotName::new("pg_1").ok() }
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        let conf = Conf {
            recovery: Recovery::Following(upstream()),
            sync: "ANY 1 (\"pg2_t7\")".to_owned(),
            ..Conf::default()
        };
        let text = render(&config(), &Parameters::new(), Path::new("/s/pgpass"), &conf);
        assert_eq!(parse(&text), Some(conf));
        assert!(text.contains("cluster_name = 'it''s'"), "{text}");
        assert!(text.contains("primary_slot_name = 'pg_1'"), "{text}");
        assert!(text.contains("application_name=''pg1_t7''"), "{text}");
        assert!(text.contains(r"host=''db\\''2''"), "{text}");
        assert!(!text.contains("restore_command"), "{text}");
    }

    #[test]
    fn another_site_is_followed_at_whichever_of_its_servers_takes_writes_and_under_no_voters_name() {
        let one = decision::site::Remote::parse("east", 5433).expect("good").upstream();
        let text = conninfo(&config(), Path::new("/s/pgpass"), &one, true);
        assert!(text.starts_with("host='east' port='5433' user="), "{text}");
        let two = decision::site::Remote::parse("east1:1,[::1]:2", 5433).expect("good").upstream();
        let text = conninfo(&config(), Path::new("/s/pgpass"), &two, true);
        assert!(text.starts_with("host='east1,::1' port='1,2' target_session_attrs='read-write'"), "{text}");
        assert!(decision::names::parse_application_name(&name_at(&config(), &two)).is_none());
        let conf = Conf { recovery: Recovery::Following(two), ..Conf::default() };
        assert_eq!(parse(&render(&config(), &Parameters::new(), Path::new("/s/pgpass"), &conf)), Some(conf));
    }

    #[test]
    fn a_candidate_has_nothing_that_delays_its_promotion() {
        let parameters = Parameters::from([("restore_command".to_owned(), "fetch %f %p".to_owned())]);
        let text = render(&config(), &parameters, Path::new("/s/pgpass"), &Conf::default());
        let last =
            |key: &str| text.lines().rev().find_map(|line| line.strip_prefix(&format!("{key} = "))).map(str::to_owned);
        assert_eq!(last("restore_command").as_deref(), Some("''"));
        assert_eq!(last("max_standby_streaming_delay").as_deref(), Some("'0'"));
        assert_eq!(last("primary_conninfo").as_deref(), Some("''"));
        assert_eq!(last("primary_slot_name").as_deref(), Some("''"));
    }

    #[test]
    fn what_holds_a_standby_back_is_nobodys_name_in_any_term() {
        assert_eq!(Quorum::parse_standby_names(HELD_BACK, Term(7)), None);
        let text = render(&config(), &Parameters::new(), Path::new("/s/pgpass"), &Conf::of_standby(Recovery::Nobody));
        assert!(text.contains(&format!("synchronous_standby_names = '{HELD_BACK}'")), "{text}");
    }

    #[test]
    fn what_would_break_a_promise_is_refused() {
        for (key, value) in [
            ("synchronous_standby_names", "*"),
            ("Port", "1"),
            ("synchronous_commit", "remote_write"),
            ("fsync", "off"),
            ("wal_level", "minimal"),
            ("max_wal_senders", "3"),
            ("work_mem", "1\nport = 2"),
            ("a b", "1"),
        ] {
            let refused = check_parameters(&BTreeMap::from([(key.to_owned(), value.to_owned())]));
            assert!(matches!(&refused, Err(Error::Setting(why)) if why.contains(key)), "{key}: {refused:?}");
        }
        let fine = [("wal_level", "logical"), ("work_mem", "8MB"), ("auto_explain.log_min_duration", "1s")];
        let fine = fine.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert!(check_parameters(&BTreeMap::from(fine)).is_ok());
    }
}
