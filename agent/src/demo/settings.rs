//! The configuration file of one node, a line a key, so that a test can replace any line without knowing the others.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::programs::PostgresPrograms;
use super::session::{DATABASE, USER};

/// What the file of a node is made from.
pub struct NodeFacts<'a> {
    /// The name of the node.
    pub name: &'a str,
    /// Its directory.
    pub home: &'a Path,
    /// Where Postgres and the health API listen.
    pub address: &'a str,
    /// Where clients come from: an address with its mask, as `pg_hba.conf` writes it.
    pub clients: &'a str,
    /// The port of Postgres.
    pub postgres_port: u16,
    /// The port of the health API.
    pub api_port: u16,
    /// The members of etcd.
    pub etcd: &'a [String],
    /// The programs of PostgreSQL.
    pub programs: &'a PostgresPrograms,
    /// The time to live of the lease.
    pub ttl: Duration,
}

/// The text of the file. `more` replaces keys (`durability.mode`) with TOML values (`"async"`), or adds them.
pub fn toml(facts: &NodeFacts<'_>, more: &[(String, String)]) -> String {
    let quoted = |text: &str| format!("{text:?}");
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let home = facts.home;
    // The writer is an ordinary user of a database of its own; whoever is where clients come from may be it while the cluster lives.
    let way_in = format!("host {DATABASE} {USER} {} trust", facts.clients);
    let endpoints: Vec<String> = facts.etcd.iter().map(|url| quoted(url)).collect();
    let mut lines: BTreeMap<&str, String> = BTreeMap::from([
        ("cluster", quoted("demo")),
        ("name", quoted(facts.name)),
        ("etcd.endpoints", format!("[{}]", endpoints.join(", "))),
        ("timing.ttl", quoted(&humantime::format_duration(facts.ttl).to_string())),
        ("postgres.version", facts.programs.version.to_string()),
        ("postgres.bin_dir", path(&facts.programs.bin_dir)),
        ("postgres.data_dir", path(&home.join("data"))),
        ("postgres.socket_dir", path(&home.join("s"))),
        ("postgres.advertise", quoted(&format!("{}:{}", facts.address, facts.postgres_port))),
        ("postgres.listen", quoted(facts.address)),
        ("postgres.hba", format!("[{}]", quoted(&way_in))),
        ("postgres.parameters.shared_buffers", quoted("32MB")),
        ("api.listen", quoted(&format!("{}:{}", facts.address, facts.api_port))),
        ("log.format", quoted("human")),
    ]);
    lines.extend(more.iter().map(|(key, value)| (key.as_str(), value.clone())));
    lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_one_that_an_agent_takes() {
        let home = tempfile::tempdir().unwrap();
        let programs = PostgresPrograms { bin_dir: "/usr/lib/postgresql/15/bin".into(), version: 15 };
        let facts = NodeFacts {
            name: "n1",
            home: home.path(),
            address: "127.0.0.1",
            clients: "127.0.0.1/32",
            postgres_port: 10_001,
            api_port: 10_002,
            etcd: &["http://127.0.0.1:10003".to_owned()],
            programs: &programs,
            ttl: Duration::from_secs(5),
        };
        let more = [("durability.mode", "\"strict\""), ("timing.ttl", "\"9s\"")].map(|(k, v)| (k.into(), v.into()));
        let file = home.path().join("pgvigil.toml");
        std::fs::write(&file, toml(&facts, &more)).unwrap();
        let config = crate::config::load(&file, std::iter::empty()).unwrap();
        assert_eq!(config.timing.ttl, Duration::from_secs(9));
        assert_eq!(config.durability.mode, decision::settings::Mode::Strict);
        assert_eq!(config.postgres.hba, ["host demo demo 127.0.0.1/32 trust"]);
    }
}
