//! What an operator says or gets wrong: a pause, a node of another cluster, a name given twice. A pause is kept, and a mistake is told
//! and harms nobody.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::node::Node;
use agent::demo::processes;
use anyhow::{Context, Result, ensure};

use crate::adopt::{run, text};
use crate::doomed::LooseAgent;
use crate::etcdctl;
use crate::stage::{SOON, Stage, on_stage, options};

/// A failover would be over long before.
const WATCHED_FOR: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_kept_and_its_end_mends_everything() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        stage.pgvigil(&leader, &["pause", "--for", "10m", "--reason", "test"]).await?;
        stage.writes_go_on().await?;
        let leader = switched_over_in_a_pause(stage, &leader).await?;
        let term = etcdctl::get(&stage.cluster, "term").await?;
        restarted_by_hand(stage, &leader).await?;
        stage.node(&leader)?.kill_postgres()?;
        tokio::time::sleep(WATCHED_FOR).await;
        ensure!(etcdctl::get(&stage.cluster, "term").await? == term, "UNSAFE: somebody took the lead in a pause");
        ensure!(!stage.survey().await.iter().any(|sight| sight.writable), "somebody writes in a pause");
        ensure!(stage.node(&leader)?.postmaster_pid().is_none(), "Postgres was started in a pause");
        stage.pgvigil(&leader, &["resume"]).await?;
        stage.writes_go_on().await?;
        a_pause_has_its_limits(stage, &leader).await
    })
    .await;
}

/// Faster than anybody looks, it is a restart all the same, and over when writes work again.
async fn restarted_by_hand(stage: &Stage, leader: &str) -> Result<()> {
    let node = stage.node(leader)?;
    let (data_dir, log) = (text(&node.data_dir()), text(&node.home().join("by-hand.log")));
    let options = format!("-p {} -k {} -c listen_addresses=127.0.0.1", node.postgres_port(), text(&node.socket_dir()));
    let began = Instant::now();
    run(stage, "pg_ctl", &["stop", "-w", "-m", "fast", "-D", &data_dir]).await?;
    run(stage, "pg_ctl", &["start", "-w", "-D", &data_dir, "-o", &options, "-l", &log]).await?;
    stage.writes_go_on().await?;
    let restarts = async || {
        let records = stage.transitions(leader).await?;
        let outages = records.iter().filter(|record| record["kind"] == "restart" && record["to"] == leader);
        anyhow::Ok(outages.filter_map(|record| record["write_outage_ms"].as_f64()).collect::<Vec<_>>())
    };
    let recorded = async || Ok(!restarts().await?.is_empty());
    stage.eventually("a restart by hand is not on record", recorded).await?;
    let (told, most) = (restarts().await?, began.elapsed().as_secs_f64() * 1000.0);
    ensure!(told.iter().all(|outage| *outage <= most), "an outage of {told:?} ms within {most} ms");
    Ok(())
}

/// None for ever, none replaced unseen, and none left in the settings.
async fn a_pause_has_its_limits(stage: &Stage, node: &str) -> Result<()> {
    let for_ever = stage.cluster.pgvigil(node, &["pause", "--for", "1000d"]).await?;
    let said = String::from_utf8_lossy(&for_ever.stderr).into_owned();
    ensure!(for_ever.status.code() == Some(2) && said.contains("at most 7 days"), "{}: {said}", for_ever.status);
    stage.pgvigil(node, &["pause", "--for", "10m", "--reason", "kernel upgrade"]).await?;
    let second = stage.cluster.pgvigil(node, &["pause", "--for", "1s"]).await?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(said.contains("replaces the pause of ") && said.contains("(kernel upgrade)"), "{said}");
    let gone = async || Ok(!etcdctl::get(&stage.cluster, "config").await?.contains("\"pause\""));
    stage.eventually("a pause that has ended is left in the settings", gone).await
}

/// An operator who names the candidate gets a switchover in a pause, too: the others follow, and the old leader comes back.
async fn switched_over_in_a_pause(stage: &Stage, leader: &str) -> Result<String> {
    let unnamed = stage.pgvigil(leader, &["switchover", "-y"]).await.err().context("somebody was chosen in a pause")?;
    ensure!(format!("{unnamed:#}").contains("name the candidate"), "{unnamed:#}");
    let heir = stage.others(leader)[0].clone();
    stage.pgvigil(leader, &["switchover", "--to", &heir, "-y", "--reason", "test"]).await?;
    ensure!(stage.leader().await? == heir, "{heir} does not lead");
    stage.whole().await?;
    stage.writes_go_on().await?;
    Ok(heir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_stays_out_and_keeps_its_postgres() {
    on_stage(&options(), async |stage| {
        let one = ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() };
        let other = LocalCluster::start(&one).await.context("the other cluster")?;
        let node = other.node("n1")?;
        // Without an agent of its own its fencer would end it, unless it is paused.
        other.pgvigil("n1", &["pause", "--for", "10m", "--reason", "test"]).await?;
        node.agent().stop(Duration::from_secs(10)).await?;
        let postmaster = node.postmaster_pid();
        let etcd = stage.cluster.etcd_urls().iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(", ");
        let changes = [("name", "\"n9\"".to_owned()), ("etcd.endpoints", format!("[{etcd}]"))];
        let stray = stray(other.directory(), node, &changes)?;
        let _agent = LooseAgent::start(&other, &stray, node.agent().log(), None)?;
        let refused = async || Ok(other.lookout().ask("n1", "/why").await?["reason"]["code"] == "foreign_system");
        stage.eventually("the node does not say that it is of another cluster", refused).await?;
        let why = other.lookout().ask("n1", "/why").await?;
        ensure!(why["sentence"].as_str().is_some_and(|told| told.contains("stays out")), "{why}");

        the_leader_can_still_be_replaced(stage).await?;
        ensure!(node.postmaster_pid() == postmaster && postmaster.is_some(), "its Postgres was touched");
        other.psql("n1", "CREATE TABLE still_mine ()").await?;
        let foreign = "SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE 'n9%'";
        let foreign = stage.cluster.psql(&stage.leader().await?, foreign).await?;
        ensure!(foreign == "0", "the node of another cluster streams");
        Ok(())
    })
    .await;
}

async fn the_leader_can_still_be_replaced(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    stage.node(&leader)?.kill_everything()?;
    stage.leader_other_than(&leader).await?;
    stage.writes_go_on().await?;
    stage.start(&leader)?;
    stage.whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_agent_of_a_name_ends_with_a_message_and_has_done_nothing() {
    on_stage(&options(), async |stage| {
        let standby = stage.standby().await?;
        let node = stage.node(&standby)?;
        let home = stage.cluster.directory().join("double");
        std::fs::create_dir(&home)?;
        given_to_owner_of(node, &home)?;
        let data = home.join("data");
        // A copied host has the notes of the one that it is a copy of.
        let state_dir = home.join("data.pgvigil");
        std::fs::create_dir(&state_dir)?;
        std::fs::copy(node.home().join("data.pgvigil/agent.json"), state_dir.join("agent.json"))?;
        given_to_owner_of(node, &state_dir.join("agent.json"))?;
        given_to_owner_of(node, &state_dir)?;
        let changes = [
            ("postgres.data_dir", format!("{data:?}")),
            ("postgres.advertise", free_address()?),
            ("api.listen", free_address()?),
        ];
        let config = stray(&home, node, &changes)?;
        let log = home.join("log");
        let mut double = LooseAgent::start(&stage.cluster, &config, &log, None)?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = double.ended()? {
                break status;
            }
            ensure!(begin.elapsed() < SOON, "two agents of one name live side by side");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let told = std::fs::read_to_string(&log)?;
        ensure!(!status.success() && told.contains(&format!("registered as \"{standby}\"")), "{status}: {told}");
        ensure!(!data.exists(), "the double has made itself a Postgres under the name of another: {told}");
        ensure!(processes::of_server(&data).is_empty(), "the double runs a Postgres");
        Ok(())
    })
    .await;
}

fn given_to_owner_of(node: &Node, path: &Path) -> Result<()> {
    let owner = std::fs::metadata(node.home())?;
    Ok(chown(path, Some(owner.uid()), Some(owner.gid()))?)
}

fn free_address() -> Result<String> {
    Ok(format!("\"{}\"", TcpListener::bind("127.0.0.1:0")?.local_addr()?))
}

/// A copy of a node's configuration, in another directory and with other values, as TOML writes them.
fn stray(directory: &Path, node: &Node, changes: &[(&str, String)]) -> Result<PathBuf> {
    let text = std::fs::read_to_string(node.config())?;
    let changed = |line: &str| {
        let key = line.split(" = ").next().unwrap_or_default();
        let change = changes.iter().find(|(changed, _)| *changed == key);
        change.map_or_else(|| format!("{line}\n"), |(key, value)| format!("{key} = {value}\n"))
    };
    let path = directory.join("stray.toml");
    std::fs::write(&path, text.lines().map(changed).collect::<String>())?;
    given_to_owner_of(node, &path)?;
    Ok(path)
}
