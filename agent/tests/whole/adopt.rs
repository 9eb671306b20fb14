//! A PostgreSQL that was there before pgvigil: a primary with a standby, made and started by hand, comes to be kept while a client writes. No
//! postmaster is replaced and no row is lost; a further node joins, and then the cluster fails over like any other.

use std::path::Path;

use agent::demo::cluster::ClusterOptions;
use agent::demo::node::Node;
use agent::demo::session::{DATABASE, USER};
use agent::demo::writer::{Acknowledged, TABLE};
use anyhow::{Context, Result, bail, ensure};

use crate::direct::DirectWriter;
use crate::etcdctl;
use crate::stage::{Stage, on_empty_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_primary_and_its_standby_are_taken_over_under_writes_and_fail_over_afterwards() {
    let three = ClusterOptions { nodes: 3, etcd_members: 1, haproxy: false, ..options() };
    on_empty_stage(&three, async |stage| {
        stage.cluster.start_etcd().await?;
        by_hand(stage).await?;
        let pids = || Ok::<_, anyhow::Error>([stage.node("n1")?.postmaster_pid(), stage.node("n2")?.postmaster_pid()]);
        let before = pids()?;
        let writer = DirectWriter::start(stage.node("n1")?.postgres_port());
        stage.eventually("nobody writes", async || Ok(writer.count() > 10)).await?;

        refused(stage, "n2", "on the primary first").await?;
        nothing_is_done_in_a_dry_run(stage).await?;
        said(stage, "n1", &["adopt", "-y"], "done").await?;
        refused(stage, "n1", "start its agent").await?;
        let brought_home = std::fs::read_to_string(stage.node("n1")?.data_dir().join("postgresql.conf"))?;
        ensure!(brought_home.contains("\nlog_min_duration_statement = 7min\n"), "{brought_home}");
        let read = stage.cluster.psql("n1", "SHOW wal_receiver_timeout").await?;
        ensure!(read == "5s", "the running server has not read the agent's file");
        stage.start("n1")?;
        stage
            .eventually("the adopted primary does not lead", async || Ok(stage.cluster.leader().await? == "n1"))
            .await?;
        said(stage, "n2", &["adopt", "-y"], "done").await?;
        stage.start("n2")?;
        stage.start("n3")?;
        stage.whole().await?;
        ensure!(pids()? == before && before.iter().all(Option::is_some), "a postmaster was replaced: {before:?}");
        let rows = writer.count();
        stage.eventually("writes do not go on", async || Ok(writer.count() > rows + 10)).await?;
        stage.say("adopted, with everybody behind it");

        let acknowledged = writer.stop();
        let work_mem = "the words on the server's command line are forgotten";
        stage.eventually(work_mem, async || Ok(stage.cluster.psql("n3", "SHOW work_mem").await? == "5MB")).await?;
        stage.whole().await?;
        stage.node("n1")?.kill_everything()?;
        let new = stage.leader_other_than("n1").await?;
        all_are_there(stage, &new, &acknowledged).await?;
        stage.start("n1")?;
        stage.whole().await
    })
    .await;
}

/// A primary on n1 and a standby on n2, with nothing of ours about them.
async fn by_hand(stage: &Stage) -> Result<()> {
    let (first, second) = (stage.node("n1")?, stage.node("n2")?);
    run(stage, "initdb", &["-U", "postgres", "-A", "trust", "-k", "-D", &text(&first.data_dir())]).await?;
    as_debian_has_it(stage, first).await?;
    let started = |node: &Node| {
        let (port, socket_dir) = (node.postgres_port(), text(&node.socket_dir()));
        let options = format!("-p {port} -k {socket_dir} -c listen_addresses=127.0.0.1 -c work_mem=5MB");
        (text(&node.data_dir()), options, text(&node.home().join("by-hand.log")))
    };
    let (_, options, log) = started(first);
    let etc = text(&first.home().join("etc"));
    run(stage, "pg_ctl", &["start", "-w", "-D", &etc, "-o", &options, "-l", &log]).await?;
    stage.cluster.psql("n1", &format!("CREATE ROLE {USER} LOGIN")).await?;
    stage.cluster.psql("n1", &format!("CREATE DATABASE {DATABASE} OWNER {USER}")).await?;
    stage.cluster.connect("n1").await?.batch_execute(TABLE).await?;
    let (port, data_dir) = (first.postgres_port().to_string(), text(&second.data_dir()));
    let copy = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-R", "-C", "-S", "old", "-D", &data_dir];
    run(stage, "pg_basebackup", &copy).await?;
    let copied = "cp $0/pg_hba.conf $0/pg_ident.conf $1/ && touch $1/postgresql.conf";
    shell(stage, copied, &[&etc, &data_dir]).await?;
    let (data_dir, options, log) = started(second);
    run(stage, "pg_ctl", &["start", "-w", "-D", &data_dir, "-o", &options, "-l", &log]).await
}

/// The configuration in a directory of its own, with a further one that it includes.
async fn as_debian_has_it(stage: &Stage, node: &Node) -> Result<()> {
    let moved = "mkdir -p $0/etc/conf.d && cd $0/data && mv postgresql.conf pg_hba.conf pg_ident.conf $0/etc/ && cd $0/etc \
                 && printf \"data_directory = '$0/data'\\nhba_file = '$0/etc/pg_hba.conf'\\nident_file = '$0/etc/pg_ident.conf'\\n\" >> postgresql.conf \
                 && echo \"include_dir = 'conf.d'\" >> postgresql.conf && echo 'log_min_duration_statement = 7min' > conf.d/mine.conf";
    shell(stage, moved, &[&text(node.home())]).await
}

async fn shell(stage: &Stage, script: &str, words: &[&str]) -> Result<()> {
    let mut command = stage.cluster.command("sh");
    command.args(["-ec", script]).args(words);
    let status = tokio::process::Command::from(command).status().await?;
    if status.success() { Ok(()) } else { bail!("{script}: {status}") }
}

async fn nothing_is_done_in_a_dry_run(stage: &Stage) -> Result<()> {
    let rules = stage.node("n1")?.home().join("etc/pg_hba.conf");
    let before = std::fs::read_to_string(&rules)?;
    said(stage, "n1", &["adopt", "--dry-run"], "the settings of the cluster keep work_mem = 5MB").await?;
    ensure!(std::fs::read_to_string(&rules)? == before, "the rules were changed");
    ensure!(etcdctl::get(&stage.cluster, "initialize").await?.is_empty(), "etcd was changed");
    Ok(())
}

/// What the program says when it succeeds has these words in it.
pub async fn said(stage: &Stage, name: &str, words: &[&str], what: &str) -> Result<()> {
    let said = stage.pgvigil(name, words).await?;
    ensure!(said.contains(what), "{words:?} on {name} says: {said}");
    Ok(())
}

async fn refused(stage: &Stage, name: &str, why: &str) -> Result<()> {
    let refused = stage.pgvigil(name, &["adopt", "-y"]).await.err().context("it was adopted")?;
    ensure!(format!("{refused:#}").contains(why), "{refused:#}");
    Ok(())
}

/// No row that was acknowledged is missing on this node.
pub async fn all_are_there(stage: &Stage, name: &str, acknowledged: &[Acknowledged]) -> Result<()> {
    let session = stage.cluster.connect(name).await?;
    for row in acknowledged {
        let there = session.query_one("SELECT count(*) FROM rows WHERE id = $1", &[&row.id]).await?;
        ensure!(there.get::<_, i64>(0) == 1, "UNSAFE: row {} of {} is lost", row.id, acknowledged.len());
    }
    Ok(())
}

/// Runs a program of PostgreSQL as its user.
pub async fn run(stage: &Stage, program: &str, words: &[&str]) -> Result<()> {
    let path = text(&stage.cluster.postgres_programs().bin_dir.join(program));
    let mut command = stage.cluster.command(&path);
    // A server that is started would keep pipes open.
    command.args(words).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let status = tokio::process::Command::from(command).status().await?;
    if status.success() { Ok(()) } else { bail!("{program} {words:?}: {status}") }
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
