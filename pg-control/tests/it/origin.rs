//! New clusters that are not made by initdb alone: from a backup, to a point in time, with steps of an operator's; and what is left of an attempt
//! that fails.

use std::path::Path;
use std::time::Duration;

use decision::names::Timeline;
use decision::view::Data;
use pg_control::{Backup, Error, Instance, Origin};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::world::{Failure, Node, PATIENCE, empty_with, primary_with};

/// A base backup with an archive of WAL beside it: table `kept` has one row in the backup, a second before the restore point `here`, and a third
/// after it.
struct Source {
    _node: Node,
    _place: tempfile::TempDir,
    backup: std::path::PathBuf,
    archive: std::path::PathBuf,
}

async fn source() -> Result<Source, Failure> {
    let place = tempfile::Builder::new().prefix("pgvigil-").tempdir()?;
    let (backup, archive) = (place.path().join("backup"), place.path().join("archive"));
    std::fs::create_dir(&archive)?;
    let command = format!("cp %p {}/%f", archive.display());
    let archiving = [("archive_mode", "on"), ("archive_command", &command)];
    let node = primary_with("pg1", |config| {
        config.parameters.extend(archiving.map(|(key, value)| (key.to_owned(), value.to_owned())));
    })
    .await?;
    node.run("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await?;
    base_backup(&node, &backup).await?;
    node.run("INSERT INTO kept VALUES (2)").await?;
    node.run("SELECT pg_create_restore_point('here')").await?;
    node.run("INSERT INTO kept VALUES (3)").await?;
    let last = node.ask("SELECT pg_walfile_name(pg_switch_wal())").await?;
    let archived = format!("SELECT (last_archived_wal >= '{last}')::int FROM pg_stat_archiver");
    crate::world::eventually("archived", async || Ok(node.ask(&archived).await? == "1")).await?;
    Ok(Source { _node: node, _place: place, backup, archive })
}

async fn base_backup(node: &Node, to: &Path) -> Outcome {
    let config = node.instance.config();
    let hba = config.data_dir.join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba)?;
    std::fs::write(&hba, format!("local replication postgres peer map=pgvigil\n{rules}"))?;
    node.run("SELECT pg_reload_conf()").await?;
    let socket_dir = config.socket_dir.to_string_lossy().into_owned();
    let mut command = tokio::process::Command::new(config.bin_dir.join("pg_basebackup"));
    command.args(["-h", &socket_dir, "-p", &config.port.to_string(), "-U", "postgres", "-X", "stream", "-D"]).arg(to);
    let output = command.output().await?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

fn restored_from(source: &Source) -> Origin {
    let words = ["/bin/cp", "-a", &format!("{}/.", source.backup.display()), "{data_dir}"];
    let backup = Backup {
        command: words.map(str::to_owned).into(),
        restore_command: Some(format!("cp {}/%f \"%p\"", source.archive.display())),
        ..Backup::default()
    };
    Origin { backup: Some(backup), within: PATIENCE * 2, ..Origin::default() }
}

fn new_cluster() -> Result<Node, Failure> {
    empty_with("pg1", |config| config.cluster = "restored".to_owned())
}

async fn make(instance: &Instance, origin: &Origin) -> pg_control::Result<pg_control::Born> {
    instance.bootstrap(origin, &CancellationToken::new()).await
}

pub async fn a_new_cluster_is_restored_to_the_end_of_an_archive_and_to_a_restore_point() -> Outcome {
    let source = source().await?;
    for (target, rows) in [(None, "1 2 3"), (Some("here"), "1 2")] {
        let mut origin = restored_from(&source);
        let backup = origin.backup.as_mut().ok_or("it has one")?;
        backup.target = target.map(|name| ("recovery_target_name".to_owned(), name.to_owned()));
        let node = new_cluster()?;
        let born = make(&node.instance, &origin).await?;
        assert_eq!(born.timeline, Timeline(2));
        assert_eq!(node.ask("SELECT string_agg(id::text, ' ' ORDER BY id) FROM kept").await?, rows);
        assert_eq!(node.ask("SELECT count(*) FROM pgvigil.leadership").await?, "0", "terms begin anew");
        assert_eq!(node.ask("current_setting('cluster_name')").await?, "restored");
        assert_eq!(node.ask("current_setting('recovery_target_name')").await?, "");
        assert_eq!(node.ask("current_setting('restore_command')").await?, "");
        assert_eq!(node.ask("current_setting('archive_mode')").await?, "off", "the archive of the source stays clean");
        node.run("INSERT INTO kept VALUES (4)").await?;
    }
    Ok(())
}

pub async fn a_backup_of_a_cluster_of_the_same_name_is_refused() -> Outcome {
    let source = source().await?;
    let node = empty_with("pg1", |_| {})?;
    let refused = make(&node.instance, &restored_from(&source)).await;
    assert!(matches!(&refused, Err(Error::Setting(why)) if why.contains("testing")), "{refused:?}");
    assert!(node.instance.postmaster().is_none());
    Ok(())
}

pub async fn what_an_operator_wants_in_a_new_cluster_is_there_before_anybody_else() -> Outcome {
    let node = new_cluster()?;
    let (sql, told) = (node.dir.path().join("post.sql"), node.dir.path().join("told"));
    std::fs::write(
        &sql,
        "CREATE ROLE app LOGIN;\nCREATE DATABASE shop OWNER app;\n\\connect shop\nCREATE TABLE made (id int);\n",
    )?;
    let script =
        format!("psql -d \"$1\" -Atc \"SELECT inet_client_addr() IS NULL, current_user\" > {}", told.display());
    let words = ["/bin/sh", "-c", &script, "sh"];
    let origin = Origin { post_sql: Some(sql), post_command: words.map(str::to_owned).into(), ..Origin::default() };
    make(&node.instance, &origin).await?;
    assert_eq!(node.ask("SELECT count(*) FROM pg_roles WHERE rolname = 'app'").await?, "1");
    assert_eq!(node.ask("SELECT count(*) FROM pg_database WHERE datname = 'shop'").await?, "1");
    assert_eq!(std::fs::read_to_string(told)?.trim(), "t|postgres");
    Ok(())
}

pub async fn a_bootstrap_that_fails_says_why_and_only_its_newest_attempt_is_kept() -> Outcome {
    let node = new_cluster()?;
    let data_dir = &node.instance.config().data_dir;
    let sql = node.dir.path().join("bad.sql");
    std::fs::write(&sql, "CREATE TABLE fine (id int); SELECT nonsense;")?;
    let bad_sql = Origin { post_sql: Some(sql), ..Origin::default() };
    let command = |script: &str| {
        let words = ["/bin/sh", "-c", script];
        let backup = Backup { command: words.map(str::to_owned).into(), ..Backup::default() };
        Origin { backup: Some(backup), within: Duration::from_secs(2), ..Origin::default() }
    };
    let theirs = data_dir.with_file_name("data.failed");
    std::fs::create_dir(&theirs)?;
    std::fs::write(theirs.join("kept"), "by the operator")?;
    let attempts = [
        (bad_sql, "nonsense"),
        (command("echo the repository is empty >&2; exit 1"), "the repository is empty"),
        (command("true"), "has left no database"),
        (command("sleep 60"), "creating the cluster"),
    ];
    for (origin, why) in attempts {
        let failed = make(&node.instance, &origin).await.err().ok_or("it was made")?.to_string();
        assert!(failed.contains(why), "{failed}");
        assert!(node.instance.postmaster().is_none(), "a server is left");
        let seen = node.instance.observe().await?.postgres.data;
        assert!(matches!(&seen, Data::HalfMade { by } if by == "bootstrap"), "{seen:?}");
    }
    make(&node.instance, &Origin::default()).await?;
    let beside = std::fs::read_dir(data_dir.parent().ok_or("no parent")?)?;
    let names: Vec<String> = beside.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("data.failed-")).count(), 1, "{names:?}");
    assert!(theirs.join("kept").exists(), "what is called so but is not ours is somebody's");
    Ok(())
}
