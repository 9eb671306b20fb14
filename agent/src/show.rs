//! What others need to know to find the primary: a complete `haproxy.cfg`, what stands before it or instead of it, and connection strings that name
//! every node.
//! Pure text out of a list of members; the numbers in it were measured, and stand beside their reasons.

mod address;
mod pgbouncer;

use std::fmt::Write;

use crate::config::RuntimeSocket;

pub use address::{Virtual, keepalived, vip_manager};
pub use pgbouncer::pgbouncer;

/// Alerts and recording rules for Prometheus, with the names of metrics that this version has.
pub const PROMETHEUS_RULES: &str = include_str!("../../packaging/prometheus/pgvigil.rules.yml");

/// The unit for systemd, as the package has it.
pub const SYSTEMD_UNIT: &str = include_str!("../../packaging/systemd/pgvigil@.service");

/// One node, as clients and health checks reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowMember {
    /// Its name.
    pub name: String,
    /// Where Postgres is.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where the health API is.
    pub api_host: String,
    /// Its port.
    pub api_port: u16,
}

/// Where HAProxy listens, and for how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaproxyOptions {
    /// The address for clients; `*` for all.
    pub bind: String,
    /// The port that leads to the primary.
    pub rw_port: u16,
    /// The port that leads to the standbys.
    pub ro_port: u16,
    /// The port of the statistics page, on loopback only.
    pub stats_port: u16,
    /// How many clients at once, each listener.
    pub maxconn: u32,
    /// Where agents tell HAProxies of a change; none: nowhere.
    pub runtime_sockets: Vec<RuntimeSocket>,
}

impl Default for HaproxyOptions {
    fn default() -> Self {
        Self {
            bind: "*".into(),
            rw_port: 5000,
            ro_port: 5001,
            stats_port: 7000,
            maxconn: 1000,
            runtime_sockets: Vec::new(),
        }
    }
}

/// The driver that a connection string is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// libpq and everything built on it.
    Libpq,
    /// The PostgreSQL JDBC driver.
    Jdbc,
}

/// A complete configuration of HAProxy 2.6 or newer.
pub fn haproxy(members: &[ShowMember], options: &HaproxyOptions) -> String {
    let mut text = String::from(HEAD);
    let HaproxyOptions { bind, rw_port, ro_port, stats_port, maxconn, runtime_sockets } = options;
    text = text.replace("    log stdout", &format!("{}    log stdout", told_at(runtime_sockets)));
    let whole = maxconn * 2 + 100;
    replace(&mut text, &[("MAXCONN_GLOBAL", whole.to_string()), ("MAXCONN", maxconn.to_string())]);
    text.push_str(READ_WRITE);
    servers(&mut text, members);
    text.push_str(READ_ONLY);
    servers(&mut text, members);
    text.push_str(STATISTICS);
    let bind = if bind.contains(':') { format!("[{bind}]") } else { bind.clone() };
    replace(
        &mut text,
        &[
            ("BIND_RW", format!("{bind}:{rw_port}")),
            ("BIND_RO", format!("{bind}:{ro_port}")),
            ("BIND_STATS", format!("127.0.0.1:{stats_port}")),
        ],
    );
    text
}

/// The lines by which a HAProxy takes commands. One of this host is certainly meant; which of the others has which address, nobody here knows.
fn told_at(sockets: &[RuntimeSocket]) -> String {
    let mut text = String::new();
    if sockets.is_empty() {
        return text;
    }
    text.push_str(
        "    # Agents say here at once what a check would find at its next turn, which has the last word. Whoever reaches it commands this HAProxy.\n",
    );
    for socket in sockets {
        let line = match socket {
            RuntimeSocket::Unix(path) => {
                format!("    stats socket {} mode 660 group postgres level admin\n", path.display())
            }
            RuntimeSocket::Tcp(address) => {
                format!(
                    "    # Only on the host of that address, and with no way to it but for the agents:\n    # stats socket ipv4@{address} level admin\n"
                )
            }
        };
        text.push_str(&line);
    }
    text
}

fn replace(text: &mut String, words: &[(&str, String)]) {
    for (word, value) in words {
        *text = text.replace(word, value);
    }
}

fn servers(text: &mut String, members: &[ShowMember]) {
    for member in members {
        let ShowMember { name, host, port, api_host, api_port } = member;
        let host = bracketed(host);
        let elsewhere = if *api_host == member.host { String::new() } else { format!(" addr {}", bracketed(api_host)) };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    server {name} {host}:{port} check port {api_port}{elsewhere}");
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

const HEAD: &str = "\
# Made by `pgvigil show haproxy`. Check it with `haproxy -c -f FILE`.

global
    maxconn MAXCONN_GLOBAL
    # One line when a server goes up or down.
    log stdout format raw local0 notice
    # Started as root, HAProxy should become somebody else: uncomment.
    # user haproxy
    # group haproxy

defaults
    mode tcp
    log global
    maxconn MAXCONN
    # A session lasts as long as its client wants; dead peers are found by TCP keep-alive, not by silence.
    timeout client 24h
    timeout server 24h
    timeout client-fin 10s
    timeout server-fin 10s
    option clitcpka
    option srvtcpka
    # A server that does not accept within a second is gone: try another one, at once.
    timeout connect 1s
    retries 2
    option redispatch 1
";

const READ_WRITE: &str = "
# Writes: the one node whose agent says that it is the writable leader.
listen primary
    bind BIND_RW
    option httpchk
    # The agent holds its answer back for up to 250 ms while it is what HAProxy believes already (send-state tells it), and gives it the
    # moment it changes: a new primary is found within some 20 ms, with fewer checks than any polling that is half as fast.
    http-check send-state
    http-check send meth OPTIONS uri /primary?wait=250ms
    http-check expect status 200
    # rise: one good answer is enough, for only the leader gives it. fall, fastinter: an old primary that says no twice is left 20 ms
    # later; one lost answer alone ends no session. inter is also how long a check may take to connect.
    # timeout check: a frozen host, which accepts and never answers, is left within 2 x 400 ms + 0.4 s.
    # shutdown-sessions: whoever still talks to the old primary is cut off there, and comes back to the new one.
    # No `observe layer4 ... on-error mark-down`: it finds nothing sooner, as a refused client is sent on anyway, and one
    # lost connection packet would cut off every session of a healthy primary.
    # Cost with three nodes: 10 checks a second here and 4 below, 5 for each agent, answered from memory.
    # timeout connect, retries: a client whose server refuses is sent to it again every 150 ms (HAProxy waits that long between two tries
    # on the same server) until the server is left; from then on it is refused at once until there is a new primary.
    timeout connect 150ms
    retries 10
    timeout check 400ms
    default-server inter 100ms fastinter 20ms downinter 20ms fall 2 rise 1 on-marked-down shutdown-sessions
";

const READ_ONLY: &str = "
# Reads: every standby that may be read from, the least busy first.
listen standbys
    bind BIND_RO
    balance leastconn
    option httpchk
    http-check send-state
    http-check send meth OPTIONS uri /replica?wait=400ms
    http-check expect status 200
    # Nobody's report is cut off because its standby lagged for a moment: new sessions go elsewhere, old ones stay.
    timeout check 600ms
    default-server inter 500ms fastinter 200ms downinter 250ms fall 2 rise 2
";

const STATISTICS: &str = "
# What HAProxy thinks of each server.
listen stats
    bind BIND_STATS
    mode http
    timeout client 10s
    timeout server 10s
    stats enable
    stats uri /
    stats refresh 2s
";

/// A connection string that names every node, for clients without HAProxy: the driver itself looks for the primary.
///
/// The connect timeout is part of it, because both drivers wait long or for ever for a lost host otherwise.
pub fn uri(members: &[ShowMember], database: &str, driver: Driver) -> String {
    let hosts: Vec<_> = members.iter().map(|member| format!("{}:{}", bracketed(&member.host), member.port)).collect();
    let (hosts, database) = (hosts.join(","), percent_encoded(database));
    match driver {
        Driver::Libpq => format!("postgresql://{hosts}/{database}?target_session_attrs=read-write&connect_timeout=2"),
        // pgjdbc remembers for 10 s which host was the primary, unless told otherwise.
        Driver::Jdbc => {
            format!(
                "jdbc:postgresql://{hosts}/{database}?targetServerType=primary&connectTimeout=2&hostRecheckSeconds=1"
            )
        }
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    fn members() -> Vec<ShowMember> {
        let member = |name: &str, host: &str, api_host: &str| ShowMember {
            name: name.into(),
            host: host.into(),
            port: 5432,
            api_host: api_host.into(),
            api_port: 8008,
        };
        vec![
            member("pg1", "10.0.0.21", "10.0.0.21"),
            member("pg2", "10.0.0.22", "192.168.0.22"),
            member("pg3", "fd00::23", "fd00::23"),
        ]
    }

    #[test]
    fn every_member_is_a_server_of_both_listeners() {
        let text = haproxy(&members(), &HaproxyOptions::default());
        for line in [
            "    server pg1 10.0.0.21:5432 check port 8008\n",
            "    server pg2 10.0.0.22:5432 check port 8008 addr 192.168.0.22\n",
            "    server pg3 [fd00::23]:5432 check port 8008\n",
        ] {
            assert_eq!(text.matches(line).count(), 2, "{line}{text}");
        }
        for line in
            ["bind *:5000\n", "bind *:5001\n", "bind 127.0.0.1:7000\n", "    maxconn 1000\n", "    maxconn 2100\n"]
        {
            assert_eq!(text.matches(line).count(), 1, "{line}{text}");
        }
    }

    #[test]
    fn only_writers_are_cut_off() {
        let text = haproxy(&members(), &HaproxyOptions::default());
        let settings: Vec<_> = text.lines().filter(|line| line.trim().starts_with("default-server")).collect();
        assert_eq!(settings.len(), 2);
        assert!(settings[0].ends_with("on-marked-down shutdown-sessions"));
        assert!(!settings[1].contains("shutdown-sessions"));
    }

    #[test]
    fn where_agents_tell_it_of_a_change_is_in_it_only_where_they_do() {
        assert!(!haproxy(&members(), &HaproxyOptions::default()).contains("stats socket"));
        let tcp = crate::config::HostPort { host: "10.0.0.31".into(), port: 9999 };
        let runtime_sockets = vec![RuntimeSocket::Unix("/run/haproxy/admin.sock".into()), RuntimeSocket::Tcp(tcp)];
        let text = haproxy(&members(), &HaproxyOptions { runtime_sockets, ..HaproxyOptions::default() });
        for line in [
            "\n    stats socket /run/haproxy/admin.sock mode 660 group postgres level admin\n",
            "\n    # stats socket ipv4@10.0.0.31:9999 level admin\n",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line}{text}");
        }
    }

    #[test]
    fn haproxy_itself_finds_no_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("haproxy.cfg");
        for members in [members(), Vec::new()] {
            let options = HaproxyOptions { bind: "::1".into(), ..HaproxyOptions::default() };
            std::fs::write(&path, haproxy(&members, &options)).unwrap();
            let path_with_sbin = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
            let mut check = Command::new("haproxy");
            let output = check.env("PATH", path_with_sbin).args(["-c", "-f"]).arg(&path).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !told.contains("WARNING"), "{told}");
        }
    }

    #[test]
    fn connection_strings_name_every_node_and_never_wait_for_ever() {
        assert_eq!(
            uri(&members()[1..], "my db", Driver::Libpq),
            "postgresql://10.0.0.22:5432,[fd00::23]:5432/my%20db?target_session_attrs=read-write&connect_timeout=2"
        );
        assert_eq!(
            uri(&members()[..1], "app", Driver::Jdbc),
            "jdbc:postgresql://10.0.0.21:5432/app?targetServerType=primary&connectTimeout=2&hostRecheckSeconds=1"
        );
    }
}
