//! A cluster that is made from the backup of another: its rows are there, its members follow, and it fails over like any other. And one whose
//! creation fails: it says why, and goes on once that is mended.

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use anyhow::{Context, Result, ensure};

use crate::stage::{SOON, Stage, on_empty_stage, on_stage, options};

/// Lets the superuser of the node copy it over its socket.
const LETS_COPY: &str = "[\"local replication postgres peer map=pgvigil\"]";

/// The client of the source is not that of the new cluster.
pub const FORGETS_THE_CLIENT: &str =
    r#"["/bin/sh", "-c", "psql -d \"$1\" -c 'DROP DATABASE demo' -c 'DROP ROLE demo'", "sh"]"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_made_from_the_backup_of_another_has_its_rows_and_fails_over() {
    let source = source().await.expect("the source");
    let node = source.node("n1").expect("its node");
    let copy = format!(
        "{} -h {} -p {} -U postgres -c fast -X stream -D {{data_dir}} && rm {{data_dir}}/pgvigil.conf",
        source.postgres_programs().bin_dir.join("pg_basebackup").display(),
        node.socket_dir().display(),
        node.postgres_port(),
    );
    let command = format!("[\"/bin/sh\", \"-c\", {copy:?}]");
    let restored = options()
        .with("bootstrap.from", "\"command\"")
        .with("bootstrap.command", &command)
        .with("bootstrap.post_command", FORGETS_THE_CLIENT);
    on_stage(&restored, async |stage| {
        let leader = stage.leader().await?;
        ensure!(stage.cluster.psql(&leader, "SELECT count(*) FROM kept").await? == "1000", "UNSAFE: rows are missing");
        ensure!(stage.ask(&leader, "/patroni").await?["timeline"] == 2, "the record has another timeline");
        stage.node(&leader)?.kill_everything()?;
        let new = stage.leader_other_than(&leader).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("{new} leads"));
        stage.start(&leader)?;
        stage.whole().await
    })
    .await;
    drop(source);
}

async fn source() -> Result<LocalCluster> {
    let one = ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() }.with("postgres.hba", LETS_COPY);
    let source = LocalCluster::start(&one).await.context("the source")?;
    source.psql("n1", "CREATE TABLE kept AS SELECT * FROM generate_series(1, 1000) AS id").await?;
    Ok(source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_cannot_be_made_says_why_and_is_made_once_that_is_mended() {
    let sql = tempfile_of_sql();
    let one = ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() };
    let path = format!("{:?}", sql.display().to_string());
    on_empty_stage(&one.with("bootstrap.post_sql", &path), async |stage: &mut Stage| {
        stage.cluster.start_etcd().await?;
        stage.cluster.start_nodes()?;
        let log = stage.node("n1")?.agent().log().to_owned();
        let told = async || Ok(std::fs::read_to_string(&log)?.contains("nonsense"));
        stage.eventually("the agent does not say what has failed", told).await?;
        std::fs::write(&sql, "CREATE TABLE made (id int)")?;
        stage.cluster.wait_settled(SOON).await?;
        ensure!(stage.cluster.psql("n1", "SELECT count(*) FROM made").await? == "0", "it was not run");
        Ok(())
    })
    .await;
    let _ = std::fs::remove_file(sql);
}

fn tempfile_of_sql() -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("pgvigil-post-{}.sql", std::process::id()));
    std::fs::write(&file, "SELECT nonsense").expect("a temporary file");
    file
}
