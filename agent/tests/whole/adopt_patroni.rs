//! A cluster that the real Patroni made and keeps, two nodes under writes, is paused, left by Patroni and taken over. No postmaster is replaced and
//! no row is lost; its settings, its names and its history stay, and then it switches over like any other.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use agent::demo::cluster::ClusterOptions;
use agent::demo::node::Node;
use agent::demo::session::{DATABASE, USER};
use agent::demo::writer::TABLE;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::adopt::{all_are_there, said, text};
use crate::direct::DirectWriter;
use crate::etcdctl;
use crate::programs;
use crate::stage::{Stage, on_empty_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_cluster_of_patroni_is_taken_over_under_writes_and_switches_over_afterwards() {
    let Some(place) = programs::place() else { return };
    let two = ClusterOptions { nodes: 2, etcd_members: 1, haproxy: false, ..options() };
    on_empty_stage(&two, async |stage| {
        stage.cluster.start_etcd().await?;
        let mut patroni = Patroni::start(stage, &place).await?;
        let writer = DirectWriter::start(stage.node("n1")?.postgres_port());
        stage.eventually("nobody writes", async || Ok(writer.count() > 10)).await?;
        let pids = || Ok::<_, anyhow::Error>([stage.node("n1")?.postmaster_pid(), stage.node("n2")?.postmaster_pid()]);
        let (before, id) = (pids()?, etcdctl::get(&stage.cluster, "initialize").await?);

        let file = |name: &str| Ok::<_, anyhow::Error>(text(&file_of(stage.node(name)?)));
        let early = stage.pgvigil("n1", &["adopt", "--from-patroni", &file("n1")?, "-y"]).await;
        let early = early.err().context("it was taken from a Patroni that keeps it")?;
        ensure!(format!("{early:#}").contains("patronictl pause"), "{early:#}");
        patroni.pause(stage).await?;
        patroni.end()?;
        let lease_over = async || Ok(etcdctl::get(&stage.cluster, "leader").await?.is_empty());
        stage.eventually("Patroni's lease does not end", lease_over).await?;
        for name in ["n1", "n2"] {
            said(stage, name, &["adopt", "--from-patroni", &file(name)?, "-y"], "done").await?;
            stage.start(name)?;
        }
        stage.pgvigil("n1", &["resume"]).await?;
        stage.eventually("n1 does not lead", async || Ok(stage.cluster.leader().await? == "n1")).await?;
        stage.whole().await?;
        ensure!(pids()? == before && before.iter().all(Option::is_some), "a postmaster was replaced: {before:?}");
        ensure!(etcdctl::get(&stage.cluster, "initialize").await? == id, "it is another cluster now");
        let work_mem = async || Ok(stage.cluster.psql("n2", "SHOW work_mem").await? == "5MB");
        stage.eventually("the settings are forgotten", work_mem).await?;

        let rows = writer.count();
        stage.eventually("writes do not go on", async || Ok(writer.count() > rows + 10)).await?;
        stage.say("taken over");
        let acknowledged = writer.stop();
        stage.pgvigil("n2", &["switchover", "--to", "n2", "-y", "--reason", "test"]).await?;
        stage.whole().await?;
        all_are_there(stage, "n2", &acknowledged).await
    })
    .await;
}

/// Patroni on both nodes, as it is installed from PyPI.
struct Patroni {
    programs: PathBuf,
    running: Vec<Child>,
}

impl Patroni {
    /// Starts it, n1 first, and waits until n2 streams and clients have what they write to.
    async fn start(stage: &Stage, place: &Path) -> Result<Self> {
        let mut patroni = Self { programs: place.join("venv/bin"), running: Vec::new() };
        for name in ["n1", "n2"] {
            let node = stage.node(name)?;
            std::fs::write(file_of(node), described(stage, node)?)?;
            let log = std::fs::File::create(node.home().join("patroni.log"))?;
            let mut command = stage.cluster.command(&text(&patroni.programs.join("patroni")));
            command.arg(file_of(node)).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child = command.spawn().context("starting Patroni")?;
            patroni.running.push(child);
            let leads = async || Ok(etcdctl::get(&stage.cluster, "leader").await? == "n1");
            stage.eventually("n1 does not lead by Patroni", leads).await?;
        }
        let streams = "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'n2'";
        let streams = async || Ok(stage.cluster.psql("n1", streams).await.is_ok_and(|said| said == "t"));
        stage.eventually("n2 does not stream by Patroni", streams).await?;
        stage.cluster.psql("n1", &format!("CREATE ROLE {USER} LOGIN")).await?;
        stage.cluster.psql("n1", &format!("CREATE DATABASE {DATABASE} OWNER {USER}")).await?;
        stage.cluster.connect("n1").await?.batch_execute(TABLE).await?;
        Ok(patroni)
    }

    async fn pause(&self, stage: &Stage) -> Result<()> {
        let mut command = stage.cluster.command(&text(&self.programs.join("patronictl")));
        command.arg("-c").arg(file_of(stage.node("n1")?)).args(["pause", "--wait"]);
        let output = tokio::process::Command::from(command).output().await?;
        ensure!(output.status.success(), "patronictl pause: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// As `systemctl stop` does it. In a pause Postgres goes on.
    fn end(&mut self) -> Result<()> {
        for mut child in self.running.drain(..) {
            kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn file_of(node: &Node) -> PathBuf {
    node.home().join("patroni.yml")
}

/// As its documentation has it, on the ports that the node file of pgvigil names.
fn described(stage: &Stage, node: &Node) -> Result<String> {
    let (name, port) = (node.name(), node.postgres_port());
    let api = node.api_url();
    let api = api.trim_start_matches("http://");
    let hosts: Vec<&str> = stage.cluster.etcd_urls().iter().map(|url| url.trim_start_matches("http://")).collect();
    let bin_dir = text(&stage.cluster.postgres_programs().bin_dir);
    let (data_dir, socket_dir) = (text(&node.data_dir()), text(&node.socket_dir()));
    let passwords = text(&node.home().join("patroni.pgpass"));
    Ok(format!(
        "scope: demo
namespace: /service/
name: {name}
etcd3:
  hosts: [{hosts}]
restapi: {{listen: '{api}', connect_address: '{api}'}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 5
    postgresql: {{use_pg_rewind: true, parameters: {{work_mem: 5MB, wal_log_hints: 'on'}}}}
  initdb: [data-checksums, {{encoding: UTF8}}]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {data_dir}
  bin_dir: {bin_dir}
  pgpass: {passwords}
  authentication:
    superuser: {{username: postgres, password: of-the-superuser}}
    replication: {{username: replicator, password: of-the-replication}}
  parameters: {{unix_socket_directories: {socket_dir}}}
  pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
",
        hosts = hosts.join(", "),
    ))
}
