//! How a node gets its data: from a backup of pgBackRest, from a standby that offers itself, and from the leader where the others fail; while a
//! client writes.

use std::path::Path;

use agent::demo::cluster::ClusterOptions;
use anyhow::{Context, Result, ensure};

use crate::stage::{Stage, on_stage, options};

/// The home of the backups of one play, and pgBackRest's words about it.
struct Backups(tempfile::TempDir);

impl Backups {
    fn new() -> Result<Self> {
        let home = tempfile::tempdir()?;
        // Postgres writes here, and never runs as root.
        std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(Self(home))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// One stanza of one node.
    fn configure(&self, data_dir: &Path, socket_dir: &Path, port: u16) -> Result<()> {
        let text = format!(
            "[global]\nrepo1-path={}\nlog-path={}\nlock-path={}\nspool-path={}\nstart-fast=y\nlog-level-file=off\n\
             [orders]\npg1-path={}\npg1-socket-path={}\npg1-port={port}\npg1-user=postgres\n",
            self.path("repo"),
            self.path("log"),
            self.path("lock"),
            self.path("spool"),
            data_dir.display(),
            socket_dir.display(),
        );
        Ok(std::fs::write(self.path("pgbackrest.conf"), text)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_comes_from_a_backup_from_a_standby_that_offers_itself_or_from_the_leader() {
    let backups = Backups::new().expect("a directory");
    let config = backups.path("pgbackrest.conf");
    let archive = format!("pgbackrest --config={config} --stanza=orders archive-push %p");
    let play = ClusterOptions { nodes: 3, etcd_members: 1, ..options() }
        .with("clone.methods", r#"["pgbackrest", "replica", "leader"]"#)
        .with("clone.stanza", "\"orders\"")
        .with("clone.config", &format!("{config:?}"))
        .with("tags.clonefrom", "true")
        .with("postgres.parameters.archive_mode", "\"on\"")
        .with("postgres.parameters.archive_command", &format!("{archive:?}"));
    on_stage(&play, async |stage| {
        // Nothing is configured yet: the first method fails, and the leader is all there is.
        let leader = stage.leader().await?;
        let [one, two] = stage.others(&leader).try_into().ok().context("there are two standbys")?;
        copied(stage, &one, "pg_basebackup from")?;

        let node = stage.node(&leader)?;
        backups.configure(&node.data_dir(), &node.socket_dir(), node.postgres_port())?;
        for command in [&["stanza-create"][..], &["backup", "--type=full"]] {
            pgbackrest(stage, &config, command).await?;
        }
        stage.pgvigil(&leader, &["reinit", &one, "-y"]).await?;
        stage.whole().await?;
        copied(stage, &one, "pgbackrest")?;
        let fetches = "SELECT current_setting('restore_command')";
        let over = async || Ok(stage.cluster.psql(&one, fetches).await?.is_empty());
        stage.eventually("it goes on fetching WAL from the archive", over).await?;
        stage.writes_go_on().await?;

        std::fs::remove_file(&config)?;
        stage.pgvigil(&leader, &["reinit", &two, "-y"]).await?;
        stage.whole().await?;
        copied(stage, &two, &format!("pg_basebackup from {one}"))
    })
    .await;
}

/// By which method a node was copied last, as its log says.
fn copied(stage: &Stage, name: &str, method: &str) -> Result<()> {
    let log = std::fs::read_to_string(stage.node(name)?.agent().log())?;
    let last = log.lines().rfind(|line| line.contains("the copy is made")).context("nothing was copied")?;
    ensure!(last.contains(method), "{name} was not copied by {method}: {last}");
    Ok(())
}

/// As the user that runs Postgres.
async fn pgbackrest(stage: &Stage, config: &str, words: &[&str]) -> Result<()> {
    let mut command = stage.cluster.command("pgbackrest");
    command.arg(format!("--config={config}")).arg("--stanza=orders").args(words);
    let said = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(said.status.success(), "pgbackrest {words:?}: {}", String::from_utf8_lossy(&said.stdout));
    Ok(())
}
