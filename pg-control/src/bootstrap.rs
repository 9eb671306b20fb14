//! A new cluster: initdb, the rules for who may connect, the roles and the leadership table. The agent's role is no superuser; the superuser
//! is used for this step, and where something of ours must be put back (`equip`). Until the last line is done a marker says that the directory is half-made.

use std::ffi::OsString;
use std::time::Duration;

use decision::names::SystemId;
use postgres_protocol::password::scram_sha_256;
use tokio_util::sync::CancellationToken;

use crate::conf::Conf;
use crate::durable;
use crate::equip::belongings;
use crate::error::{Error, Result};
use crate::instance::{Instance, InstanceConfig, Secrets};
use crate::tool;

impl Instance {
    /// Creates a new database system and leaves it running as a primary that waits for nobody. What was half-made is moved aside.
    ///
    /// # Errors
    /// `WrongState` when there is a database already, `Host` where this host lacks something.
    pub async fn bootstrap(&self, cancel: &CancellationToken) -> Result<SystemId> {
        let secrets = self.secrets()?;
        if self.postmaster().is_some() {
            return Err(Error::WrongState("a server runs in the data directory".to_owned()));
        }
        let empty = crate::datadir::is_empty(self.data_dir())?;
        if !empty && self.half_made_by().is_none() {
            return Err(Error::WrongState(format!("{} is not empty", self.data_dir().display())));
        }
        self.kill_stray_tools();
        self.mark_half_made("bootstrap")?;
        if !empty {
            self.set_aside()?;
        }
        self.initdb(cancel).await?;
        self.write_access_rules()?;
        self.write_conf_into(self.data_dir(), &Conf::default())?;
        self.start().await?;
        let prepared = async {
            self.wait_for_superuser().await?;
            self.create_roles(&secrets).await?;
            self.wait_ready(Duration::from_secs(10)).await
        };
        if let Err(error) = prepared.await {
            self.kill_all().await?;
            return Err(error);
        }
        self.mark_whole()?;
        Ok(self.control_facts().await?.system_id)
    }

    async fn initdb(&self, cancel: &CancellationToken) -> Result<()> {
        let config = self.config();
        let mut arguments: Vec<OsString> =
            ["--data-checksums", "--auth-local=peer", "--auth-host=scram-sha-256"].map(OsString::from).into();
        arguments.extend([
            format!("--encoding={}", config.encoding).into(),
            format!("--locale={}", config.locale).into(),
            format!("--username={}", config.superuser).into(),
            "-D".into(),
            self.data_dir().into(),
        ]);
        arguments.extend(config.initdb_args.iter().map(OsString::from));
        let said = self.run("initdb", &arguments, cancel).await?;
        if !said.ok {
            return Err(tool::failed("initdb", &said));
        }
        let path = self.data_dir().join("postgresql.conf");
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
        durable::write(&path, with_usual_wal_sizes(&text).as_bytes(), 0o600)
    }

    fn write_access_rules(&self) -> Result<()> {
        let config = self.config();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let user = user.map(|user| user.name).ok_or_else(|| {
            Error::host(
                "the user that runs the agent has no name",
                "add it to /etc/passwd: peer authentication goes by names",
            )
        })?;
        for (file, text) in [("pg_ident.conf", ident(config, &user)), ("pg_hba.conf", hba(config))] {
            durable::write(&self.data_dir().join(file), text.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    async fn wait_for_superuser(&self) -> Result<()> {
        let begin = tokio::time::Instant::now();
        loop {
            match self.open_superuser().await {
                Ok(_) => return Ok(()),
                Err(error @ Error::Refused(_)) => return Err(error),
                Err(error) if begin.elapsed() > Duration::from_secs(30) => return Err(error),
                Err(_) if self.postmaster().is_none() => return self.wait_ready(Duration::from_secs(1)).await,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn create_roles(&self, secrets: &Secrets) -> Result<()> {
        let session = self.open_superuser().await?;
        let statements = roles(self.config(), secrets);
        let created = tokio::time::timeout(Duration::from_secs(10), session.client.batch_execute(&statements)).await;
        Ok(created.map_err(|_| Error::timeout("creating the roles", Duration::from_secs(10)))??)
    }

    /// Ends programs that an earlier agent left working on this data directory.
    pub(crate) fn kill_stray_tools(&self) {
        let names = ["initdb", "pg_basebackup", "pg_rewind", "pg_waldump"];
        let data_dir = self.data_dir().to_string_lossy().into_owned();
        let Ok(all) = procfs::process::all_processes() else { return };
        for process in all.filter_map(|process| process.ok()) {
            let named = process.stat().is_ok_and(|stat| names.contains(&stat.comm.as_str()));
            let here = named && process.cmdline().is_ok_and(|line| line.iter().any(|word| word.contains(&data_dir)));
            if here {
                tracing::warn!(pid = process.pid, "ending a program that an earlier agent left behind");
                crate::process::send(process.pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// initdb takes 64 and 5 segments for `max_wal_size` and `min_wal_size`, however small they are. Small segments are no reason for more
/// checkpoints, so what is less than usual is raised to that.
fn with_usual_wal_sizes(text: &str) -> String {
    let usual = |line: &str| {
        let (key, value) = line.split_once(" = ")?;
        let at_least_mb = match key {
            "max_wal_size" => 1024,
            "min_wal_size" => 80,
            _ => return None,
        };
        let less = value.trim().strip_suffix("MB")?.parse::<u32>().ok()? < at_least_mb;
        less.then(|| format!("{key} = {at_least_mb}MB"))
    };
    text.lines().map(|line| usual(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn ident(config: &InstanceConfig, user: &str) -> String {
    format!(
        "# The user that runs the agent may be its role, and the superuser.\npgvigil \"{user}\" {}\npgvigil \"{user}\" {}\n",
        config.superuser, config.control_user
    )
}

/// The agent's own way in comes first: no rule of an operator may lock it out.
fn hba(config: &InstanceConfig) -> String {
    let InstanceConfig { superuser, control_user, replication_user, rewind_user, database, .. } = config;
    let extra: String = config.hba.iter().map(|line| format!("{line}\n")).collect();
    format!(
        "# Created by pgvigil for a new cluster; yours from here on, but keep the first rule.\n\
         local all {superuser},{control_user} peer map=pgvigil\n\
         {extra}\
         local all all peer\n\
         host replication {replication_user} all scram-sha-256\n\
         host {database} {rewind_user} all scram-sha-256\n\
         host all all all scram-sha-256\n"
    )
}

/// Least privilege: the agent observes, writes checkpoints and its own table; the others do one thing each. Passwords go in as verifiers,
/// so that no log of statements ever shows one.
fn roles(config: &InstanceConfig, secrets: &Secrets) -> String {
    let InstanceConfig { control_user, replication_user, rewind_user, .. } = config;
    let replication = scram_sha_256(secrets.replication_password.as_bytes());
    let rewind = scram_sha_256(secrets.rewind_password.as_bytes());
    format!(
        "BEGIN;
         CREATE ROLE \"{control_user}\" LOGIN;
         CREATE ROLE \"{replication_user}\" LOGIN REPLICATION PASSWORD '{replication}';
         CREATE ROLE \"{rewind_user}\" LOGIN PASSWORD '{rewind}';
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO \"{rewind_user}\";
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO \"{rewind_user}\";
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO \"{rewind_user}\";
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO \"{rewind_user}\";
         {}
         COMMIT",
        belongings(config)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_segments_are_no_reason_for_more_checkpoints() {
        let written = "max_wal_size = 256MB\nmin_wal_size = 20MB\n#wal_keep_size = 0\n";
        assert_eq!(with_usual_wal_sizes(written), "max_wal_size = 1024MB\nmin_wal_size = 80MB\n#wal_keep_size = 0\n");
        let large = "max_wal_size = 4GB\nmin_wal_size = 320MB\n";
        assert_eq!(with_usual_wal_sizes(large), large);
    }

    #[test]
    fn no_password_is_in_the_statements() {
        let config = InstanceConfig::new("pg1".parse().expect("good"), "c", "/d".into(), "/s".into());
        let secrets = Secrets { replication_password: "hunter2".to_owned(), rewind_password: "hunter3".to_owned() };
        let statements = roles(&config, &secrets);
        assert!(!statements.contains("hunter"), "{statements}");
        assert!(statements.contains("SCRAM-SHA-256$"));
    }

    #[test]
    fn the_agents_own_rule_comes_before_an_operators() {
        let mut config = InstanceConfig::new("pg1".parse().expect("good"), "c", "/d".into(), "/s".into());
        config.hba = vec!["local all all reject".to_owned()];
        let text = hba(&config);
        assert!(text.find("map=pgvigil") < text.find("reject"), "{text}");
    }
}
