//! `[haproxy]` and `[pgbouncer]`: what leads clients, and is told of a change instead of finding out by itself. Off unless written.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::Problem;
use super::raw::{RawHaproxy, RawPgbouncer};
use super::rules;
use super::value::HostPort;

/// New clients wait while those are waited for that are in a transaction, and everybody is let go after 25 s at most.
const PAUSE_WITHIN_MAX: Duration = Duration::from_secs(10);

/// The HAProxies that are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Haproxy {
    /// Their runtime sockets; none: nobody is told.
    pub sockets: Vec<RuntimeSocket>,
    /// The backend that leads to the primary, in which a server is called as its member.
    pub primary_backend: String,
    /// The backend that leads to the standbys; `None`: there is none.
    pub standbys_backend: Option<String>,
}

/// Where a HAProxy takes commands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuntimeSocket {
    /// A unix socket: a HAProxy of this host, which no other agent reaches.
    Unix(PathBuf),
    /// An address.
    Tcp(HostPort),
}

impl RuntimeSocket {
    /// Whether only this host reaches it.
    pub fn is_of_this_host(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl fmt::Display for RuntimeSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// The finished section.
pub fn haproxy(raw: RawHaproxy, found: &mut Vec<Problem>) -> Haproxy {
    let sockets = raw.runtime_sockets.0.iter().filter_map(|text| socket(text, found)).collect();
    let backend = |key: &str, written: Option<String>, usual: &str, found: &mut Vec<Problem>| {
        let name = written.unwrap_or_else(|| usual.to_owned());
        // What HAProxy takes as a name; anything else would end one command and begin another.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)) {
            let message = format!("`{key}`: \"{name}\" is no name of a backend");
            found.push(
                Problem::at("E11", key, message).help("as it stands behind `backend` or `listen` in haproxy.cfg"),
            );
        }
        name
    };
    let primary_backend = backend("haproxy.primary_backend", raw.primary_backend, "primary", found);
    if primary_backend.is_empty() {
        let message = "`haproxy.primary_backend` is empty: there would be nothing to tell";
        found.push(
            Problem::at("E11", "haproxy.primary_backend", message).help("remove `haproxy.runtime_sockets` instead"),
        );
    }
    let standbys_backend = backend("haproxy.standbys_backend", raw.standbys_backend, "standbys", found);
    let standbys_backend = Some(standbys_backend).filter(|name| !name.is_empty());
    Haproxy { sockets, primary_backend, standbys_backend }
}

fn socket(text: &str, found: &mut Vec<Problem>) -> Option<RuntimeSocket> {
    if text.starts_with('/') {
        return Some(RuntimeSocket::Unix(PathBuf::from(text)));
    }
    let key = "haproxy.runtime_sockets";
    match HostPort::parse(text, None) {
        Ok(address) if !address.is_wildcard() => Some(RuntimeSocket::Tcp(address)),
        Ok(address) => {
            let problem = Problem::at("E12", key, format!("`{key}`: {address} stands for every address"));
            found.push(problem.help("name one address"));
            None
        }
        Err(why) => {
            let problem = Problem::at("E12", key, format!("`{key}`: \"{text}\": {why}"));
            found.push(problem.help("the whole path of a unix socket, or host:port"));
            None
        }
    }
}

const USUAL_PGBOUNCER_PORT: u16 = 6432;

/// The PgBouncers that hold their clients while a planned switchover lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pgbouncer {
    /// Where they listen; none: nobody is held.
    pub admin: Vec<HostPort>,
    /// One of its `admin_users`.
    pub user: String,
    /// The file with the password of that user.
    pub password_file: Option<PathBuf>,
    /// The databases, as clients name them, whose clients are held.
    pub databases: Vec<String>,
    /// How long a switchover waits for the transactions of those clients to end.
    pub pause_within: Duration,
}

/// The finished section.
pub fn pgbouncer(raw: RawPgbouncer, found: &mut Vec<Problem>) -> Pgbouncer {
    let key = "pgbouncer.admin";
    let mut admin = Vec::new();
    for text in &raw.admin.0 {
        match HostPort::parse(text, Some(USUAL_PGBOUNCER_PORT)) {
            Ok(address) if !address.is_wildcard() => admin.push(address),
            Ok(address) => {
                let message = format!("`{key}`: {address} stands for every address");
                found.push(Problem::at("E12", key, message).help("name one address"));
            }
            Err(why) => found.push(Problem::at("E12", key, format!("`{key}`: \"{text}\": {why}"))),
        }
    }
    if !raw.admin.0.is_empty() && raw.databases.0.is_empty() {
        let problem = Problem::at("E11", key, "`pgbouncer.admin` without `pgbouncer.databases` holds nobody");
        found.push(problem.help("write databases = [\"app\"], as in the section [databases] of pgbouncer.ini"));
    }
    if let Some(file) = &raw.password_file {
        rules::secret("pgbouncer.password_file", file, found);
    }
    let user = raw.user.unwrap_or_else(|| "pgbouncer".to_owned());
    let pause_within = raw.pause_within.map_or(Duration::from_secs(1), |lasting| lasting.0);
    if pause_within.is_zero() || pause_within > PAUSE_WITHIN_MAX {
        let message = format!("`pgbouncer.pause_within`: {pause_within:?} will not do");
        let problem = Problem::at("E10", "pgbouncer.pause_within", message);
        found.push(problem.help("more than nothing, and 10s at most: whoever comes meanwhile waits for as long"));
    }
    Pgbouncer { admin, user, password_file: raw.password_file, databases: raw.databases.0, pause_within }
}
