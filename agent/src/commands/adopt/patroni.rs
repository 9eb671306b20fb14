//! The configuration of a Patroni node as a node file of ours: what has a counterpart is carried over, and what has none is named. Passwords stay
//! where they are, for members of pgvigil have roles of their own among each other.

use std::collections::BTreeMap;
use std::path::Path;

use config::{File, FileFormat};
use decision::parameters::is_owned;
use serde_json::Value;

/// A node file, and what a person should know about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Keys with values as TOML writes them.
    lines: BTreeMap<String, String>,
    /// What has no counterpart, or may be meant otherwise.
    pub notes: Vec<String>,
}

/// Patroni's key, and ours, where a text is taken as it is.
const TEXTS: [(&str, &str); 11] = [
    ("/scope", "cluster"),
    ("/name", "name"),
    ("/etcd3/cacert", "etcd.tls.ca"),
    ("/etcd3/cert", "etcd.tls.cert"),
    ("/etcd3/key", "etcd.tls.key"),
    ("/etcd3/username", "etcd.username"),
    ("/postgresql/connect_address", "postgres.advertise"),
    ("/postgresql/data_dir", "postgres.data_dir"),
    ("/postgresql/bin_dir", "postgres.bin_dir"),
    ("/restapi/listen", "api.listen"),
    ("/restapi/connect_address", "api.advertise"),
];

/// What is heeded otherwise than by being copied, or means nothing to us.
const KNOWN: [&str; 12] = [
    "bootstrap",
    "etcd3",
    "log",
    "name",
    "namespace",
    "postgresql",
    "restapi",
    "scope",
    "tags",
    "watchdog",
    "ctl",
    "raft",
];

/// Reads Patroni's file.
///
/// # Errors
/// It is no YAML, or lacks what every node has.
pub fn import(text: &str) -> Result<Imported, String> {
    let read = config::Config::builder().add_source(File::from_str(text, FileFormat::Yaml)).build();
    let yaml: Value =
        read.and_then(config::Config::try_deserialize).map_err(|error| format!("it is no YAML: {error}"))?;
    let mut to = Imported::default();
    for (theirs, ours) in TEXTS {
        if let Some(text) = yaml.pointer(theirs).and_then(Value::as_str) {
            to.set(ours, quoted(text));
        }
    }
    for needed in ["cluster", "name", "postgres.advertise", "postgres.data_dir"] {
        if !to.lines.contains_key(needed) {
            return Err(format!("it does not say what is to be `{needed}`: is it the file of a Patroni node?"));
        }
    }
    to.etcd(&yaml)?;
    to.postgres(&yaml);
    to.tags(&yaml);
    to.rest(&yaml);
    Ok(to)
}

impl Imported {
    /// The node file.
    pub fn toml(&self) -> String {
        let lines = self.lines.iter().map(|(key, value)| format!("{key} = {value}\n"));
        format!("# Made by pgvigil adopt from a Patroni configuration.\n{}", lines.collect::<String>())
    }

    fn set(&mut self, key: &str, value: String) {
        self.lines.insert(key.to_owned(), value);
    }

    fn etcd(&mut self, yaml: &Value) -> Result<(), String> {
        let etcd =
            yaml.get("etcd3").ok_or("it uses no `etcd3`: pgvigil keeps its cluster in etcd by the API of version 3")?;
        let protocol = etcd["protocol"].as_str().unwrap_or("http");
        let hosts: Vec<String> = match (&etcd["hosts"], &etcd["host"]) {
            (Value::Array(hosts), _) => hosts.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            (Value::String(hosts), _) => hosts.split(',').map(|host| host.trim().to_owned()).collect(),
            (_, Value::String(host)) => vec![host.clone()],
            _ => return Err("`etcd3` names no hosts: write `etcd.endpoints` by hand".to_owned()),
        };
        let url =
            |host: &String| if host.contains("://") { quoted(host) } else { quoted(&format!("{protocol}://{host}")) };
        self.set("etcd.endpoints", format!("[{}]", hosts.iter().map(url).collect::<Vec<_>>().join(", ")));
        let namespace = yaml["namespace"].as_str().unwrap_or("service");
        self.set("etcd.namespace", quoted(namespace.trim_matches('/')));
        if etcd["password"].is_string() {
            self.notes
                .push("etcd3.password: put it into a file (mode 0600) and name that in etcd.password_file".to_owned());
        }
        Ok(())
    }

    fn postgres(&mut self, yaml: &Value) {
        let postgres = &yaml["postgresql"];
        if let Some((hosts, _)) = postgres["listen"].as_str().and_then(|listen| listen.rsplit_once(':')) {
            self.set("postgres.listen", quoted(hosts));
        }
        let data_dir = postgres["data_dir"].as_str().unwrap_or_default();
        match std::fs::read_to_string(Path::new(data_dir).join("PG_VERSION")) {
            Ok(version) => self.set("postgres.version", version.trim().to_owned()),
            Err(error) => self.notes.push(format!("postgres.version: {data_dir}/PG_VERSION cannot be read ({error})")),
        }
        let parameters = postgres["parameters"].as_object().into_iter().flatten();
        for (name, value) in parameters {
            let value = text_of(value);
            match name.to_lowercase().as_str() {
                "unix_socket_directories" => {
                    let first = value.split(',').next().unwrap_or_default().trim();
                    self.set("postgres.socket_dir", quoted(first));
                }
                name if is_owned(name) => {}
                name => self.set(&format!("postgres.parameters.\"{name}\""), quoted(&value)),
            }
        }
        if let Some(rules) = postgres["pg_hba"].as_array().filter(|rules| !rules.is_empty()) {
            let rules: Vec<String> = rules.iter().filter_map(Value::as_str).map(quoted).collect();
            self.set("postgres.hba", format!("[{}]", rules.join(", ")));
        }
        let superuser = postgres.pointer("/authentication/superuser/username").and_then(Value::as_str);
        if superuser.is_some_and(|name| name != "postgres") {
            self.notes.push(
                "postgresql.authentication.superuser: pgvigil needs a superuser named postgres, over the socket"
                    .to_owned(),
            );
        }
        for theirs in
            ["callbacks", "create_replica_methods", "custom_conf", "pg_ctl_timeout", "pre_promote", "before_stop"]
        {
            if !postgres[theirs].is_null() {
                self.notes.push(format!("postgresql.{theirs} has no counterpart that is carried over"));
            }
        }
    }

    fn tags(&mut self, yaml: &Value) {
        const OURS: [&str; 7] =
            ["clonefrom", "failover_priority", "nofailover", "noloadbalance", "nostream", "nosync", "replicatefrom"];
        for (name, value) in yaml["tags"].as_object().into_iter().flatten() {
            match value {
                _ if !OURS.contains(&name.as_str()) => self.notes.push(format!("tags.{name} is not known here")),
                Value::Bool(on) => self.set(&format!("tags.{name}"), on.to_string()),
                Value::Number(number) => self.set(&format!("tags.{name}"), number.to_string()),
                value => self.set(&format!("tags.{name}"), quoted(&text_of(value))),
            }
        }
    }

    fn rest(&mut self, yaml: &Value) {
        if yaml.pointer("/watchdog/mode").and_then(Value::as_str) == Some("required") {
            self.set("watchdog.mode", quoted("required"));
        }
        for name in yaml.as_object().into_iter().flat_map(|keys| keys.keys()) {
            if !KNOWN.contains(&name.as_str()) {
                self.notes.push(format!("{name} has no counterpart"));
            }
        }
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_patroni_becomes_one_of_ours() {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("PG_VERSION"), "15\n").expect("writable");
        let yaml = format!(
            "scope: orders\nnamespace: /db/\nname: pg1\nrestapi:\n  listen: 10.0.0.1:8008\n  connect_address: 10.0.0.1:8008\n\
             etcd3:\n  hosts: 10.0.0.7:2379,10.0.0.8:2379\n\
             postgresql:\n  listen: 0.0.0.0:5432\n  connect_address: 10.0.0.1:5432\n  data_dir: {}\n  bin_dir: /usr/lib/postgresql/15/bin\n\
             \x20 parameters:\n    unix_socket_directories: /run/pg, /tmp\n    work_mem: 8MB\n    port: 1\n  callbacks:\n    on_start: /x\n\
             \x20 pg_hba:\n  - host all all 10.0.0.0/8 scram-sha-256\n\
             tags:\n  nosync: true\n  colour: red\nconsul: {{}}\n",
            home.path().display()
        );
        let imported = import(&yaml).expect("good");
        let file = home.path().join("pgvigil.toml");
        std::fs::write(&file, imported.toml()).expect("writable");
        let config = crate::config::load(&file, std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((config.cluster.as_str(), config.name.as_str()), ("orders", "pg1"));
        assert_eq!(config.etcd.endpoints, ["http://10.0.0.7:2379", "http://10.0.0.8:2379"]);
        assert_eq!((config.etcd.namespace.as_str(), config.postgres.version), ("db", 15));
        assert_eq!(config.postgres.socket_dir, Path::new("/run/pg"));
        assert_eq!(config.postgres.listen, "0.0.0.0");
        assert_eq!(config.postgres.parameters, BTreeMap::from([("work_mem".to_owned(), "8MB".to_owned())]));
        assert_eq!(config.postgres.hba, ["host all all 10.0.0.0/8 scram-sha-256"]);
        assert!(config.tags.nosync);
        let notes = imported.notes.join("\n");
        for told in ["tags.colour", "postgresql.callbacks", "consul"] {
            assert!(notes.contains(told), "{told}: {notes}");
        }
    }

    #[test]
    fn what_is_no_node_of_patroni_is_told() {
        for (text, why) in [("- a", "YAML"), ("scope: x\n", "what is to be `name`"), (": :\n\t", "YAML")] {
            let told = import(text).expect_err("it is none");
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
