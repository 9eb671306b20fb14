//! A file that is read again while the agent runs: what of it counts at once, and what waits for another agent. What the agent's deadlines, its
//! connections and its place in the cluster hang on stays as it was when it started.

use super::Config;

/// What became of a file that was read again.
#[derive(Clone, Debug, PartialEq)]
pub struct Reread {
    /// What counts from now on: the agent's own configuration with what could change.
    pub config: Config,
    /// The keys that count now and are others than before.
    pub taken_up: Vec<&'static str>,
    /// The keys that are others than when the agent started, and wait for the next one.
    pub wait: Vec<&'static str>,
}

/// The keys of a table at which two configurations differ.
macro_rules! differing {
    ($one:expr, $other:expr; $($key:literal $($field:ident).+,)*) => {
        [$(($key, $one.$($field).+ != $other.$($field).+)),*]
            .into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect::<Vec<&'static str>>()
    };
}

impl Config {
    /// Reads `fresh` as the file of an agent that was started with this configuration and goes by `now`.
    pub fn reread(&self, now: &Config, fresh: Config) -> Reread {
        let config = self.with_what_may_change(&fresh);
        let taken_up = differing!(now, config;
            "zone" zone,
            "tags" tags,
            "clone" clone,
            "bootstrap" bootstrap,
            "bootstrap (site)" bootstrap_site,
            "postgres.parameters" postgres.parameters,
            "postgres.hba" postgres.hba,
            "log.filter" log.filter,
        );
        let wait = differing!(config, fresh;
            "cluster" cluster,
            "name" name,
            "state_dir" state_dir,
            "etcd" etcd,
            "timing" timing,
            "durability" durability,
            "durability.max_lag_on_failover" max_lag_on_failover_bytes,
            "failover.wait_for_lease" wait_for_lease,
            "watchdog" watchdog,
            "write_probe.every" write_probe_every,
            "disk.min_free" disk_min_free_bytes,
            "tags.nostream" tags.nostream,
            "postgres.version" postgres.version,
            "postgres.bin_dir" postgres.bin_dir,
            "postgres.data_dir" postgres.data_dir,
            "postgres.socket_dir" postgres.socket_dir,
            "postgres.advertise" postgres.advertise,
            "postgres.listen" postgres.listen,
            "postgres.replication_password_file" postgres.replication_password_file,
            "postgres.rewind_password_file" postgres.rewind_password_file,
            "postgres.initdb" postgres.initdb,
            "api" api,
            "control" control,
            "haproxy" haproxy,
            "pgbouncer" pgbouncer,
            "log.format" log.format,
            "hooks" hooks,
            "webhooks" webhooks,
        );
        Reread { config, taken_up, wait }
    }

    fn with_what_may_change(&self, fresh: &Config) -> Config {
        let mut config = self.clone();
        config.zone.clone_from(&fresh.zone);
        // Whether it streams is built into the configuration of its server.
        config.tags = decision::settings::Tags { nostream: self.tags.nostream, ..fresh.tags.clone() };
        config.clone.clone_from(&fresh.clone);
        config.bootstrap.clone_from(&fresh.bootstrap);
        config.bootstrap_site.clone_from(&fresh.bootstrap_site);
        config.postgres.parameters.clone_from(&fresh.postgres.parameters);
        config.postgres.hba.clone_from(&fresh.postgres.hba);
        config.log.filter.clone_from(&fresh.log.filter);
        config
    }
}

impl Reread {
    /// What is to be told.
    pub fn sentences(&self) -> Vec<String> {
        let taken = (!self.taken_up.is_empty()).then(|| format!("in force now: {}", self.taken_up.join(", ")));
        let wait = format!("restart the agent (Postgres goes on) for {}", self.wait.join(", "));
        let told: Vec<String> = taken.into_iter().chain((!self.wait.is_empty()).then_some(wait)).collect();
        if told.is_empty() { vec!["nothing differs".to_owned()] } else { told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("pgvigil.toml");
        let text = format!(
            "cluster = \"orders\"\nname = \"pg1\"\netcd.endpoints = [\"http://127.0.0.1:2379\"]\npostgres.version = 15\n\
             postgres.advertise = \"10.0.0.1:5432\"\n{more}"
        );
        std::fs::write(&file, text).expect("writable");
        let config = crate::config::load(&file, std::iter::empty()).expect("a good file");
        Config { path: "/etc/pgvigil.toml".into(), ..config }
    }

    #[test]
    fn what_may_change_counts_at_once_and_the_rest_waits_for_another_agent() {
        let before = config("");
        let fresh =
            config("tags.nosync = true\nzone = \"a\"\npostgres.parameters.work_mem = \"8MB\"\ntiming.ttl = \"9s\"\n");
        let reread = before.reread(&before, fresh.clone());
        assert_eq!(reread.taken_up, ["zone", "tags", "postgres.parameters"]);
        assert_eq!(reread.wait, ["timing"]);
        assert!(reread.config.tags.nosync && reread.config.timing == before.timing);
        assert_eq!(
            reread.sentences(),
            ["in force now: zone, tags, postgres.parameters", "restart the agent (Postgres goes on) for timing"]
        );
        // Read once more, nothing is new, and what waits still waits.
        let again = before.reread(&reread.config, fresh);
        assert_eq!((again.taken_up, again.wait), (Vec::new(), vec!["timing"]));
        assert_eq!(before.reread(&before, before.clone()).sentences(), ["nothing differs"]);
    }

    #[test]
    fn a_standby_begins_and_ends_to_stream_with_another_agent() {
        let before = config("");
        let fresh = config("tags.nostream = true\npostgres.parameters.restore_command = \"cp /a/%f %p\"\n");
        let reread = before.reread(&before, fresh);
        assert_eq!(reread.wait, ["tags.nostream"]);
        assert!(!reread.config.tags.nostream);
    }
}
