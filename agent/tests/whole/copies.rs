//! How a node gets its data: from a backup of pgBackRest, from a standby that offers itself, and from the leader where the others fail; while a
//! client writes.

use std::path::Path;

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::programs;
use anyhow::{Context, Result, ensure};

use crate::restored::FORGETS_THE_CLIENT;
use crate::stage::{SOON, Stage, on_empty_stage, on_stage, options};

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

    /// A cluster whose WAL goes to the archive.
    fn archiving(&self, options: ClusterOptions) -> ClusterOptions {
        let push = format!("pgbackrest --config={} --stanza=orders archive-push %p", self.path("pgbackrest.conf"));
        options
            .with("postgres.parameters.archive_mode", "\"on\"")
            .with("postgres.parameters.archive_command", &format!("{push:?}"))
    }

    /// A backup of the node, as the user that runs Postgres.
    async fn make(&self, cluster: &LocalCluster, name: &str) -> Result<()> {
        let node = cluster.node(name)?;
        self.configure(&node.data_dir(), &node.socket_dir(), node.postgres_port())?;
        for words in [&["stanza-create"][..], &["backup", "--type=full"]] {
            let mut command = cluster.command("pgbackrest");
            command.arg(format!("--config={}", self.path("pgbackrest.conf"))).arg("--stanza=orders").args(words);
            let said = tokio::task::spawn_blocking(move || command.output()).await??;
            ensure!(said.status.success(), "pgbackrest {words:?}: {}", String::from_utf8_lossy(&said.stdout));
        }
        Ok(())
    }
}

/// Whether this pgBackRest knows the PostgreSQL that is tested: Debian 12's, 2.45, knows none after 15.
fn knows_this_postgres() -> bool {
    let said = std::process::Command::new("pgbackrest").arg("version").output();
    let old = said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).trim() == "pgBackRest 2.45");
    let newer = programs::postgres(None).is_ok_and(|found| found.version > 15);
    if old && newer {
        eprintln!("SKIPPED: pgBackRest 2.45 knows no PostgreSQL after 15");
    }
    !(old && newer)
}

#[tokio::test(flavor = "multi_thread")]
async fn data_comes_from_a_backup_from_a_standby_that_offers_itself_or_from_the_leader() {
    if !knows_this_postgres() {
        return;
    }
    let backups = Backups::new().expect("a directory");
    let config = backups.path("pgbackrest.conf");
    let play = backups
        .archiving(ClusterOptions { etcd_members: 1, ..options() })
        .with("clone.methods", r#"["pgbackrest", "replica", "leader"]"#)
        .with("clone.stanza", "\"orders\"")
        .with("clone.config", &format!("{config:?}"))
        .with("tags.clonefrom", "true");
    on_stage(&play, async |stage| {
        // Nothing is configured yet: the first method fails, and the leader is all there is.
        let leader = stage.leader().await?;
        let [one, two] = stage.others(&leader).try_into().ok().context("there are two standbys")?;
        copied(stage, &one, "pg_basebackup from")?;

        backups.make(&stage.cluster, &leader).await?;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_made_from_a_backup_of_pgbackrest_ends_at_a_restore_point() {
    if !knows_this_postgres() {
        return;
    }
    let backups = Backups::new().expect("a directory");
    let one = || ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() };
    let source = LocalCluster::start(&backups.archiving(one())).await.expect("the source");
    let fill = async || {
        source.psql("n1", "CREATE TABLE kept AS SELECT 1 AS id").await?;
        backups.make(&source, "n1").await?;
        source.psql("n1", "INSERT INTO kept VALUES (2)").await?;
        source.psql("n1", "SELECT pg_create_restore_point('here')").await?;
        source.psql("n1", "INSERT INTO kept VALUES (3)").await?;
        source.psql("n1", "SELECT pg_switch_wal()").await
    };
    fill().await.expect("a backup and what came after it");
    let play = one()
        .with("bootstrap.from", "\"pgbackrest\"")
        .with("bootstrap.stanza", "\"orders\"")
        .with("bootstrap.config", &format!("{:?}", backups.path("pgbackrest.conf")))
        .with("bootstrap.target_name", "\"here\"")
        .with("bootstrap.post_command", FORGETS_THE_CLIENT);
    on_empty_stage(&play, async |stage: &mut Stage| {
        let config = stage.node("n1")?.config().to_owned();
        let text = std::fs::read_to_string(&config)?.replace("cluster = \"demo\"", "cluster = \"restored\"");
        std::fs::write(&config, text)?;
        stage.cluster.start_etcd().await?;
        stage.cluster.start_nodes()?;
        stage.cluster.wait_settled(SOON).await?;
        ensure!(
            stage.cluster.psql("n1", "SELECT max(id) FROM kept").await? == "2",
            "it did not end at the restore point"
        );
        let target = "SELECT current_setting('recovery_target_name') || current_setting('archive_command')";
        let left = stage.cluster.psql("n1", target).await?;
        ensure!(!left.contains("here") && !left.contains("archive-push"), "it is tied to its source: {left}");
        Ok(())
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
