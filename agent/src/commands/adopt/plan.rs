//! What taking a running server over would change, what forbids it, and what a person ought to know before. Worked out from what is seen alone,
//! so that a dry run says exactly what the deed would do.

use std::path::PathBuf;

use consensus::Snapshot;
use decision::names::{MemberName, Term};
use decision::parameters::{Parameters, cluster_objection, is_owned};
use decision::settings::Mode;
use decision::view::Initialize;
use pg_control::Stranger;

use crate::config::Config;

/// What the agent sets unless somebody says otherwise; who has said something before is heeded.
const SET_BY_US: [&str; 9] = [
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "tcp_user_timeout",
    "wal_keep_size",
    "wal_level",
    "wal_receiver_status_interval",
    "wal_retrieve_retry_interval",
    "wal_sender_timeout",
];

/// Everything that is to be said before anything is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What forbids it, each with its mend.
    pub refusals: Vec<String>,
    /// What it changes.
    pub changes: Vec<String>,
    /// What else ought to be known.
    pub warnings: Vec<String>,
    /// Parameters that become settings of the whole cluster, because they would be others otherwise.
    pub carried: Parameters,
    /// The term that the node gets; of a primary alone.
    pub term: Term,
    /// The cluster in etcd is Patroni's, and is meant to become ours.
    pub from_patroni: bool,
}

impl Plan {
    /// Works it out. `own_files`: the settings that name the server's files, and where these have to be.
    pub fn of(
        config: &Config,
        found: &Stranger,
        seen: &Snapshot,
        own_files: &[(&str, PathBuf)],
        from_patroni: bool,
    ) -> Self {
        let term = seen.cluster.term.max(found.newest_term).next();
        let mut plan = Plan { term, from_patroni, ..Plan::default() };
        plan.compare_with_file(config, found, own_files);
        plan.judge_server(found);
        plan.changes.push(
            "pg_hba.conf and pg_ident.conf: the rules of the agent and of the members come first, yours stay behind them (copies: *.before-pgvigil)"
                .to_owned(),
        );
        match found.standby {
            true => plan.of_a_standby(found, seen),
            false => plan.of_a_primary(config, found, seen),
        }
        plan
    }

    fn refuse(&mut self, what: String, mend: impl AsRef<str>) {
        self.refusals.push(format!("{what}; {}", mend.as_ref()));
    }

    fn compare_with_file(&mut self, config: &Config, found: &Stranger, own_files: &[(&str, PathBuf)]) {
        let postgres = &config.postgres;
        if found.major_version().is_some_and(|version| version != postgres.version) {
            let what = format!("the server is version {}", found.setting("server_version"));
            self.refuse(what, format!("`postgres.version` says {}: correct it", postgres.version));
        }
        if found.setting("port") != postgres.advertise.port.to_string() {
            let what = format!("the server listens on port {}", found.setting("port"));
            self.refuse(what, format!("`postgres.advertise` says {}: correct it", postgres.advertise.port));
        }
        let sockets = found.setting("unix_socket_directories");
        if !sockets.split(',').any(|dir| dir.trim() == postgres.socket_dir.to_string_lossy()) {
            let what = format!("the server's socket is in {sockets}");
            self.refuse(what, "set `postgres.socket_dir` to that directory");
        }
        let away = |(setting, home): &&(&str, PathBuf)| {
            std::fs::canonicalize(found.setting(setting)).ok() != std::fs::canonicalize(home).ok()
        };
        let away: Vec<&str> = own_files.iter().filter(away).map(|(setting, _)| found.setting(setting)).collect();
        if !away.is_empty() {
            self.changes.push(format!(
                "{} are copied into the data directory, where they count from the next start on; until then the server reads those that it knows",
                away.join(", ")
            ));
        }
    }

    fn judge_server(&mut self, found: &Stranger) {
        for (name, bad, mend) in [
            ("wal_level", "minimal", "nothing could be replicated: set wal_level = replica and restart it once"),
            ("max_wal_senders", "0", "nobody could stream: remove the setting and restart it once"),
            ("fsync", "off", "a crash would destroy the data: set fsync = on and reload"),
            ("full_page_writes", "off", "no former leader could be rewound: set full_page_writes = on and reload"),
        ] {
            if found.setting(name) == bad {
                self.refuse(format!("{name} is {bad}"), mend);
            }
        }
    }

    /// A standby needs a way in alone: its agent points it at the leader, by a reload.
    fn of_a_standby(&mut self, found: &Stranger, seen: &Snapshot) {
        match seen.cluster.initialize {
            Initialize::Done(id) if id != found.system_id => {
                let what = format!("the cluster in etcd is database system {id}, this server is {}", found.system_id);
                self.refuse(what, "it belongs to another primary: give it another `cluster`");
            }
            Initialize::Done(_) if seen.cluster.term > Term(0) => {}
            Initialize::Done(_) | Initialize::InProgress | Initialize::Absent => {
                let what = "this server is a standby, and its primary has not been adopted".to_owned();
                self.refuse(what, "pgvigil adopt on the primary first");
            }
        }
        self.changes.push(
            "postgresql.conf gets `include 'pgvigil.conf'` at its end, and it follows the leader, once its agent runs"
                .to_owned(),
        );
        self.strikes_out(found);
    }

    fn of_a_primary(&mut self, config: &Config, found: &Stranger, seen: &Snapshot) {
        self.judge_cluster(config, found, seen);
        self.changes.push(
            "the database: roles pgvigil, pgvigil_replication and pgvigil_rewind, and the schema pgvigil with one table".to_owned(),
        );
        self.changes.push("postgresql.conf gets `include 'pgvigil.conf'` at its end".to_owned());
        self.strikes_out(found);
        let waited_for = found.setting("synchronous_standby_names");
        if !waited_for.is_empty() {
            self.warnings.push(format!(
                "synchronous_standby_names is '{waited_for}' and becomes the agent's: until members have joined commits wait for nobody, and whoever waits now is released (see durability.mode)"
            ));
        }
        self.carry(config, found);
        self.changes.push(format!("etcd: this node led term {} of cluster {} last", self.term, config.cluster));
        self.warn_of_restarts(config, found);
        if !found.slots.is_empty() {
            self.warnings.push(format!(
                "the slots {} stay; those of standbys that follow by pgvigil later keep WAL for nobody: drop them then",
                found.slots.join(", ")
            ));
        }
    }

    fn judge_cluster(&mut self, config: &Config, found: &Stranger, seen: &Snapshot) {
        let name = &config.cluster;
        let elsewhere = "take another `cluster` or `etcd.namespace`";
        match (seen.cluster.initialize, &seen.cluster.leader) {
            (Initialize::Done(id), _) if id != found.system_id => {
                let what =
                    format!("etcd has a cluster {name}, of database system {id}; this server is {}", found.system_id);
                self.refuse(what, elsewhere);
            }
            (Initialize::Done(_), _) if seen.cluster.term > Term(0) => {
                self.refuse(format!("pgvigil keeps this database already, as cluster {name}"), "start its agent");
            }
            (Initialize::Done(_), _) if !self.from_patroni => self.refuse(
                format!("another system keeps cluster {name} in etcd"),
                format!("if that is Patroni: pgvigil adopt --from-patroni FILE; else stop it, and {elsewhere}"),
            ),
            (Initialize::Done(_), leader) => self.judge_patroni(leader.as_ref(), seen),
            (Initialize::InProgress, _) => {
                self.refuse(format!("another node is creating cluster {name}"), elsewhere);
            }
            (Initialize::Absent, Some(leader)) => self.refuse(format!("{leader} leads cluster {name}"), elsewhere),
            (Initialize::Absent, None) => {}
        }
        if config.tags.never_leads() {
            self.refuse("the tags of this node bar it from leading, and it is the primary".to_owned(), "remove them");
        }
    }

    /// Patroni must be out of the way on every node before anybody else keeps its cluster, and has to have left Postgres running.
    fn judge_patroni(&mut self, leader: Option<&MemberName>, seen: &Snapshot) {
        const MEND: &str = "patronictl pause --wait, then stop Patroni on every node (Postgres goes on), and wait until its lease is over (ttl, 30 s)";
        if let Some(leader) = leader {
            self.refuse(format!("Patroni's {leader} leads"), MEND);
        } else if seen.config.pause.is_none() && !seen.cluster.members.is_empty() {
            self.refuse("Patroni is not paused and runs on some node".to_owned(), MEND);
        }
        self.changes.push(
            "what Patroni has in etcd stays as it is: `initialize`, `config`, `history`; its `sync` is replaced"
                .to_owned(),
        );
        if seen.config.raw["synchronous_mode"].as_bool() == Some(true) && seen.config.durability.is_none() {
            self.warnings.push(
                "synchronous_mode is Patroni's word; ours is durability.mode, and `auto` waits for a standby from three members on (pgvigil config set durability.mode=quorum)".to_owned(),
            );
        }
    }

    fn strikes_out(&mut self, found: &Stranger) {
        let by_alter_system = |file: &str| file.ends_with("postgresql.auto.conf");
        let struck = found.settings.iter().filter(|(name, given)| is_owned(name) && by_alter_system(&given.file));
        let struck: Vec<&str> = struck.map(|(name, _)| name.as_str()).collect();
        if !struck.is_empty() {
            self.changes.push(format!("postgresql.auto.conf loses {}, which the agent sets", struck.join(", ")));
        }
    }

    /// What was said on the command line of the server would be gone with its next start; what our own defaults would change stays.
    fn carry(&mut self, config: &Config, found: &Stranger) {
        for (name, given) in &found.settings {
            let by_command = given.source == "command line" && !is_owned(name);
            let ours = SET_BY_US.contains(&name.as_str()) && given.source == "configuration file";
            let told = config.postgres.parameters.keys().any(|told| told.eq_ignore_ascii_case(name));
            if told || !(by_command || ours) {
                continue;
            }
            match cluster_objection(name, &given.value, Mode::Async) {
                None => drop(self.carried.insert(name.clone(), given.value.clone())),
                Some(why) => {
                    self.warnings.push(format!("{name} = {} is not kept: {}; {}", given.value, why.what, why.mend))
                }
            }
        }
        if !self.carried.is_empty() {
            let carried: Vec<String> = self.carried.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            self.changes.push(format!("the settings of the cluster keep {}", carried.join(", ")));
        }
    }

    fn warn_of_restarts(&mut self, config: &Config, found: &Stranger) {
        let listens = found.setting("listen_addresses");
        if listens != config.postgres.listen {
            self.warnings.push(format!(
                "it listens on '{listens}' until it is restarted, then on '{}': members that cannot reach it before wait for that",
                config.postgres.listen
            ));
        }
        if !found.data_checksums && found.setting("wal_log_hints") != "on" {
            self.warnings.push(
                "without data checksums, and before a restart turns wal_log_hints on, a former leader is copied anew instead of rewound"
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
