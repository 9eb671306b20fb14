//! Whether this host agrees with the configuration: `pgvigil validate` first reads the file, then asks the world. It
//! changes nothing; every line says what was found, and a bad one what to do.

use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use consensus::Snapshot;
use nix::unistd::{AccessFlags, Uid, User, access};

use super::neighbours;
use super::ports::{self, connect};
use super::{Config, ConfigErrors, Etcd, HostPort, Postgres, WatchdogMode, Webhook};

/// The programs of Postgres that the agent runs.
const PROGRAMS: [&str; 7] =
    ["postgres", "pg_ctl", "initdb", "pg_basebackup", "pg_rewind", "pg_waldump", "pg_controldata"];

/// How long etcd may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(4);

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wrong with the configuration itself; then nothing else was looked at.
    pub mistakes: Option<ConfigErrors>,
    /// What was found beyond it.
    pub lines: Vec<Line>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, in one sentence.
    pub text: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, with a drawback. The code is stable.
    Warn(&'static str),
    /// The agent would not work. The code is stable.
    Error(&'static str),
}

impl Report {
    /// Whether an agent would work with it.
    pub fn is_good(&self) -> bool {
        self.mistakes.is_none() && !self.lines.iter().any(|line| matches!(line.verdict, Verdict::Error(_)))
    }

    pub(super) fn ok(&mut self, text: impl Into<String>) {
        self.lines.push(Line { verdict: Verdict::Ok, text: text.into(), help: None });
    }

    pub(super) fn warn(&mut self, code: &'static str, text: impl Into<String>, help: impl Into<String>) {
        self.lines.push(Line { verdict: Verdict::Warn(code), text: text.into(), help: Some(help.into()) });
    }

    pub(super) fn error(&mut self, code: &'static str, text: impl Into<String>, help: impl Into<String>) {
        self.lines.push(Line { verdict: Verdict::Error(code), text: text.into(), help: Some(help.into()) });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mistakes) = &self.mistakes {
            writeln!(f, "{mistakes}")?;
        }
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict {
            Verdict::Ok => write!(f, "ok   {}", self.text)?,
            Verdict::Warn(code) => write!(f, "warn[{code}] {}", self.text)?,
            Verdict::Error(code) => write!(f, "error[{code}] {}", self.text)?,
        }
        self.help.iter().try_for_each(|help| write!(f, "\n     help: {help}"))
    }
}

/// Checks a file with the environment of this process; `offline` asks neither this host nor the network.
pub fn validate(path: &Path, offline: bool) -> Report {
    let mut report = Report::default();
    match super::load(path, std::env::vars()) {
        Ok(config) => inspect(&config, offline, &mut report),
        Err(mistakes) => report.mistakes = Some(mistakes),
    }
    report
}

/// Everything there is to say about a configuration that is good in itself.
fn inspect(config: &Config, offline: bool, report: &mut Report) {
    let (cluster, name) = (&config.cluster, &config.name);
    report.ok(format!("{}: node {name} of cluster {cluster}", config.path.display()));
    drawbacks(config, report);
    if offline {
        return;
    }
    let owner = owner(report);
    programs(&config.postgres, report);
    parameters(&config.postgres, report);
    fence(config, report);
    data_directory(&config.postgres, owner, report);
    place_for("state directory", "E22", &config.state_dir, owner, report);
    socket_directory(&config.postgres, report);
    ports::api(config, report);
    ports::postgres(config, report);
    let told = config.hooks.faults(owner).into_iter().chain(config.webhooks.iter().flat_map(Webhook::faults));
    for (code, text, help) in told {
        report.error(code, text, help);
    }
    if let Some(open) = config.etcd.open_key() {
        report.warn(
            "W08",
            format!("`etcd.tls.key`: {open}"),
            "whoever reads it is this node to etcd, and may take the leader lock",
        );
    }
    for (code, text, help) in config.control.closed_ways() {
        report.error(code, format!("`control`: {text}"), help);
    }
    if etcd(&config.etcd, report) {
        meeting_place(config, report);
    }
    neighbours::haproxy(config, report);
    neighbours::pgbouncer(config, report);
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "::1" || host.starts_with("127.")
}

/// What is allowed and has its price.
fn drawbacks(config: &Config, report: &mut Report) {
    let count = config.etcd.endpoints.len();
    if count.is_multiple_of(2) || count == 1 {
        let text = format!("etcd with {count} {}", if count == 1 { "endpoint" } else { "endpoints" });
        report.warn("W01", text, "three (or five) members survive the loss of one (or two); two survive none");
    }
    let open = |url: &&String| {
        url.strip_prefix("http://")
            .and_then(|rest| HostPort::parse(rest, None).ok())
            .is_some_and(|a| !is_loopback(&a.host))
    };
    if let Some(url) = config.etcd.endpoints.iter().find(open) {
        let text = format!("{url} is spoken to in plain text: whoever reaches it can take the leader lock");
        report.warn("W02", text, "https:// and `etcd.tls`");
    }
    let away = config.etcd.endpoints.iter().all(|url| !url.contains("://127.") && !url.contains("://localhost"));
    if is_loopback(&config.postgres.advertise.host) && away {
        let text = format!("`postgres.advertise` is {}: no other host reaches it", config.postgres.advertise);
        report.warn("W03", text, "write the address by which the other nodes reach this one");
    }
}

/// Whose files these must be: the one who runs this, or the user postgres where that is root.
fn owner(report: &mut Report) -> Uid {
    let me = Uid::effective();
    if !me.is_root() {
        return me;
    }
    report.warn(
        "W04",
        "this check runs as root, Postgres refuses to: permissions are judged for the user postgres",
        "runuser -u postgres -- pgvigil validate FILE",
    );
    User::from_name("postgres").ok().flatten().map_or(me, |user| user.uid)
}

fn programs(postgres: &Postgres, report: &mut Report) {
    let directory = postgres.bin_dir.display();
    let package = format!("apt-get install postgresql-{}, or set `postgres.bin_dir`", postgres.version);
    let runs = |program: &&str| access(&postgres.bin_dir.join(program), AccessFlags::X_OK).is_ok();
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|program| !runs(program)).collect();
    if !missing.is_empty() {
        report.error("E20", format!("{directory} lacks {}", missing.join(", ")), package);
        return;
    }
    let said = Command::new(postgres.bin_dir.join("postgres")).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
    let version = said.split_whitespace().nth(2).unwrap_or("unknown");
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    if major == postgres.version.to_string() {
        report.ok(format!("postgres {version} in {directory}, with all its programs"));
    } else {
        let text = format!("{directory} is postgres {version}, the file says {}", postgres.version);
        report.error("E20", text, package);
    }
}

/// Whether Postgres takes what it is to run with.
fn parameters(postgres: &Postgres, report: &mut Report) {
    // A program that is missing has been told already.
    let Ok(wrong) = pg_control::objections(&postgres.bin_dir, &postgres.parameters) else { return };
    if wrong.is_empty() && !postgres.parameters.is_empty() {
        report.ok("Postgres takes its parameters");
    }
    for (name, why) in wrong {
        report.error("E14", format!("`postgres.parameters.{name}`: {why}"), "Postgres would not start with it");
    }
}

/// What stops Postgres when the agent cannot.
fn fence(config: &Config, report: &mut Report) {
    match crate::fence::find_program() {
        Ok(program) => report.ok(format!("{} stands guard", program.display())),
        Err(error) => report.error("E26", format!("{error}"), "the two programs are installed together"),
    }
    let (mode, device) = (config.watchdog.mode, config.watchdog.device.display());
    if mode == WatchdogMode::Off || access(&config.watchdog.device, AccessFlags::W_OK).is_ok() {
        return;
    }
    let text = format!("watchdog {device} is missing or cannot be written by this user");
    let help = "modprobe softdog, and a udev rule: KERNEL==\"watchdog\", OWNER=\"postgres\"";
    match mode {
        WatchdogMode::Required => report.error("E26", text, help),
        _ => report.warn("W06", text, help),
    }
}

fn data_directory(postgres: &Postgres, owner: Uid, report: &mut Report) {
    let directory = &postgres.data_dir;
    let Ok(found) = std::fs::metadata(directory) else {
        place_for("data directory", "E21", directory, owner, report);
        return;
    };
    let name = directory.display();
    if found.uid() != owner.as_raw() {
        let text = format!("data directory {name} belongs to user {}, not {owner}", found.uid());
        report.error("E21", text, format!("chown -R postgres {name}"));
        return;
    }
    let mode = found.permissions().mode() & 0o777;
    if !matches!(mode, 0o700 | 0o750) {
        report.error("E21", format!("data directory {name} has mode {mode:04o}"), format!("chmod 0700 {name}"));
        return;
    }
    match std::fs::read_to_string(directory.join("PG_VERSION")) {
        Ok(text) if text.trim() == postgres.version.to_string() => {
            report.ok(format!("data directory {name} holds a cluster of version {}", text.trim()));
        }
        Ok(text) => {
            let text =
                format!("data directory {name} holds version {}, the file says {}", text.trim(), postgres.version);
            report.error("E21", text, "another `postgres.version` or `postgres.data_dir`");
        }
        Err(_) => report.ok(format!("data directory {name} is there, without a cluster")),
    }
}

/// Whether a directory is there, or can be made.
fn place_for(what: &str, code: &'static str, directory: &Path, owner: Uid, report: &mut Report) {
    let nearest = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let (name, above) = (directory.display(), nearest.display());
    let as_owner = Uid::effective() == owner;
    let usable = match std::fs::metadata(nearest) {
        Ok(found) if !found.is_dir() => {
            report.error(code, format!("{what} {name}: {above} is no directory"), "choose another place");
            return;
        }
        Ok(_) if as_owner => access(nearest, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
        // Judged for somebody else: the owner's bits, or everybody's.
        Ok(found) => (found.uid() == owner.as_raw() && found.mode() & 0o300 == 0o300) || found.mode() & 0o003 == 0o003,
        Err(_) => false,
    };
    if !usable {
        report.error(
            code,
            format!("{what} {name}: no permission to write in {above}"),
            format!("chown postgres {above}"),
        );
    } else if nearest == directory {
        report.ok(format!("{what} {name} can be written"));
    } else {
        report.ok(format!("{what} {name} can be made"));
    }
}

fn socket_directory(postgres: &Postgres, report: &mut Report) {
    let name = postgres.socket_dir.display();
    if !postgres.socket_dir.is_dir() {
        report.error(
            "E23",
            format!("socket directory {name} is missing"),
            format!("install -d -o postgres -m 2775 {name}"),
        );
    } else if access(&postgres.socket_dir, AccessFlags::W_OK).is_err() {
        report.error(
            "E23",
            format!("no permission to write in socket directory {name}"),
            format!("chown postgres {name}"),
        );
    }
}

/// Whether enough of etcd's members can be reached; said.
fn etcd(etcd: &Etcd, report: &mut Report) -> bool {
    let mut slowest = Duration::ZERO;
    let mut silent = Vec::new();
    for url in &etcd.endpoints {
        let asked = Instant::now();
        let address = url.split_once("://").map_or(url.as_str(), |(_, address)| address);
        match HostPort::parse(address, None).and_then(|address| connect(&address.host, address.port)) {
            Ok(_) => slowest = slowest.max(asked.elapsed()),
            Err(why) => silent.push(format!("{url} ({why})")),
        }
    }
    let (all, there) = (etcd.endpoints.len(), etcd.endpoints.len() - silent.len());
    let took = slowest.as_secs_f64() * 1000.0;
    let help = "is etcd running there, and no firewall between?";
    if silent.is_empty() {
        report.ok(format!("etcd {there}/{all} reachable, within {took:.1} ms"));
    } else if there > all / 2 {
        report.warn("W05", format!("etcd {there}/{all} reachable; not: {}", silent.join(", ")), help);
    } else {
        report.error("E25", format!("etcd {there}/{all} reachable; not: {}", silent.join(", ")), help);
    }
    there > all / 2
}

/// Whether etcd lets this node in, and the name of the node is nobody else's.
fn meeting_place(config: &Config, report: &mut Report) {
    let seen = match read(config) {
        Ok(seen) => seen,
        Err(Unread::Silent(why)) => {
            let help = "is it frozen, or without a quorum? etcdctl endpoint status";
            return report.error("E25", format!("etcd takes connections and does not answer: {why}"), help);
        }
        Err(Unread::TurnedAway(why)) => {
            let help = "the certificate in `etcd.tls`, the user and its password: what does etcd's log say of them?";
            return report.error("E25", format!("etcd answers, and cannot be read: {why}"), help);
        }
    };
    let (cluster, name, advertise) = (&config.cluster, &config.name, &config.postgres.advertise);
    match seen.cluster.members.get(name) {
        Some(other)
            if (&other.host, other.port) != (&advertise.host, advertise.port)
                && !ports::answers_as_this_node(config) =>
        {
            let text = format!(
                "a living member of cluster {cluster} is called {name} already, at {}:{}: no agent starts under its name",
                other.host, other.port
            );
            report.error("E28", text, "another `name` for this node, or another `cluster`");
        }
        Some(_) => report.ok(format!("etcd can be read; {name} is registered in cluster {cluster}")),
        None => report.ok(format!("etcd can be read; nobody is called {name} in cluster {cluster}")),
    }
}

/// Why etcd could not be read, though it can be reached.
enum Unread {
    /// It says nothing.
    Silent(String),
    /// It does not take what this node has to show, or that cannot be had.
    TurnedAway(String),
}

impl Unread {
    /// A handshake that fails is no silence: that is told by the transport.
    fn because(error: consensus::Error) -> Self {
        match error {
            consensus::Error::Unreachable(why) if !why.contains("transport error") => Self::Silent(why),
            error => Self::TurnedAway(error.to_string()),
        }
    }
}

/// Looks at the cluster once.
fn read(config: &Config) -> Result<Snapshot, Unread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Unread::TurnedAway(error.to_string()))?;
    let read = runtime.block_on(async {
        let store = crate::run::store(config).map_err(|error| Unread::TurnedAway(format!("{error:#}")))?;
        let read = tokio::time::timeout(READ_WITHIN, store.read()).await;
        read.map_err(|_| Unread::Silent(format!("no answer within {READ_WITHIN:?}")))?.map_err(Unread::because)
    });
    // A name that the resolver is still looking for must not hold up the end.
    runtime.shutdown_background();
    read
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::MINIMUM;
    use super::*;

    #[test]
    fn validating_offline_asks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgvigil.toml");
        std::fs::write(&path, MINIMUM).unwrap();
        let report = validate(&path, true);
        assert!(report.is_good(), "{report}");
        let text = report.to_string();
        assert!(text.contains("ok   ") && text.contains("node pg1 of cluster orders"), "{text}");
        assert!(text.contains("warn[W02] http://10.0.0.11:2379 is spoken to in plain text"), "{text}");

        std::fs::write(&path, "").unwrap();
        let report = validate(&path, true);
        assert!(!report.is_good());
        assert!(report.to_string().contains("`cluster` is missing"), "{report}");
    }

    #[test]
    fn an_etcd_that_is_frozen_is_told_from_one_that_turns_this_node_away() {
        let directory = tempfile::tempdir().unwrap();
        // The kernel takes connections for it, and nobody answers.
        let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let path = directory.path().join("pgvigil.toml");
        let address = frozen.local_addr().unwrap().to_string();
        let named = r#""10.0.0.11:2379", "http://10.0.0.12", "http://10.0.0.13:2379/""#;
        std::fs::write(&path, MINIMUM.replace(named, &format!("{address:?}"))).unwrap();
        let config = super::super::load(&path, std::iter::empty()).unwrap();
        let mut report = Report::default();
        meeting_place(&config, &mut report);
        let told = report.to_string();
        assert!(told.contains("error[E25] etcd takes connections and does not answer"), "{told}");
        assert!(told.contains("etcdctl endpoint status") && !told.contains("password"), "{told}");
        let handshake = consensus::Error::Unreachable("https://a:2379: transport error: bad certificate".into());
        assert!(matches!(Unread::because(handshake), Unread::TurnedAway(_)));
    }

    #[test]
    fn validating_asks_the_world() {
        let directory = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let also = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let path = directory.path().join("pgvigil.toml");
        let home = directory.path().display();
        let text = format!(
            "cluster = 'orders'\nname = 'pg1'\netcd.endpoints = ['{taken}', '127.0.0.1:1']\napi.listen = '{taken}'\n\
             [postgres]\nversion = 15\nadvertise = '{also}'\nlisten = '127.0.0.1'\nbin_dir = '{home}'\nsocket_dir = '{home}/none'\ndata_dir = '/proc/none/data'\n",
            taken = taken.local_addr().unwrap(),
            also = also.local_addr().unwrap()
        );
        std::fs::write(&path, text).unwrap();
        let report = validate(&path, false).to_string();
        for expected in [
            "warn[W01] etcd with 2 endpoints",
            "lacks postgres, pg_ctl, initdb",
            "error[E21] data directory /proc/none/data: no permission to write in /proc",
            "error[E23] socket directory",
            "error[E24]",
            "error[E27]",
            "error[E25] etcd 1/2 reachable; not: http://127.0.0.1:1",
        ] {
            assert!(report.contains(expected), "{expected}\n{report}");
        }
    }
}
