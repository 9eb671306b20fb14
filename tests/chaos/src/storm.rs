//! One storm: a cluster of three, a writer through HAProxy, blow after blow, and at the end every acknowledged row on every node.

use std::path::Path;
use std::time::Duration;

use agent::demo::audit::audit;
use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::node::Node;
use agent::demo::writer::Writer;
use anyhow::{Context, Result, ensure};

use crate::course::{Blow, Fault, course};

/// How long the cluster may take to be whole again after a blow. Generous: this asserts safety, not speed.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);

/// What a storm left.
#[derive(Debug)]
pub struct Outcome {
    /// Rows that were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged rows that are missing on some node.
    pub lost: usize,
    /// The longest silence between two acknowledgements.
    pub longest_silence: Duration,
}

/// Lets the storm `seed` pass with `blows` blows over a new cluster of the program `pgvigil`.
///
/// # Errors
/// The cluster did not form, or did not become whole again; the message names the seed and the blow.
pub async fn storm(pgvigil: &Path, seed: u64, blows: usize) -> Result<Outcome> {
    let options = ClusterOptions::new(pgvigil);
    let cluster = LocalCluster::start(&options).await?;
    cluster.wait_settled(WHOLE_WITHIN).await?;
    cluster.create_client().await?;
    let writer = Writer::start(cluster.proxy_ports().read_write);
    for (number, blow) in course(seed).take(blows).enumerate() {
        println!("seed {seed}, blow {number}: {blow}, {} rows acknowledged", writer.count());
        let struck = strike(&cluster, blow).await;
        struck.with_context(|| format!("seed {seed}, blow {number}: {blow}"))?;
        let whole = cluster.wait_settled(WHOLE_WITHIN).await;
        whole.with_context(|| format!("seed {seed}: not whole again after blow {number}: {blow}"))?;
    }
    let before = writer.count();
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(writer.count() > before, "seed {seed}: writes do not work after the storm");
    let logbook = writer.stop();
    let audit = audit(&cluster, &logbook).await?;
    if audit.lost_rows > 0 {
        cluster.keep_directory();
        println!("seed {seed}: {} rows lost, logs in {}", audit.lost_rows, cluster.directory().display());
    }
    Ok(Outcome {
        acknowledged: logbook.acknowledged.len(),
        lost: audit.lost_rows,
        longest_silence: logbook.silence(|_, _| true).unwrap_or_default(),
    })
}

async fn strike(cluster: &LocalCluster, blow: Blow) -> Result<()> {
    let leader = cluster.leader().await?;
    let standbys: Vec<&Node> = cluster.nodes().iter().filter(|node| node.name() != leader).collect();
    let standby = standbys[blow.victim % standbys.len()];
    let leader = cluster.node(&leader)?;
    let etcd = &cluster.etcd()[blow.victim % cluster.etcd().len()];
    match blow.fault {
        Fault::KillLeaderNode => kill_node(leader, blow.lasting).await,
        Fault::KillStandbyNode => kill_node(standby, blow.lasting).await,
        Fault::KillLeaderPostgres => leader.kill_postgres(),
        Fault::KillStandbyPostgres => standby.kill_postgres(),
        Fault::KillLeaderAgent => {
            leader.agent().kill();
            leader.agent().start()
        }
        Fault::FreezeLeaderNode => {
            leader.agent().freeze()?;
            leader.freeze_postgres();
            tokio::time::sleep(blow.lasting).await;
            leader.thaw_postgres();
            leader.agent().thaw()
        }
        Fault::FreezeEtcdMember => {
            etcd.freeze()?;
            tokio::time::sleep(blow.lasting).await;
            etcd.thaw()
        }
        Fault::KillEtcdMember => {
            etcd.kill();
            tokio::time::sleep(blow.lasting).await;
            etcd.start()
        }
        Fault::Switchover => {
            let answer = cluster.pgvigil(leader.name(), &["switchover", "--to", standby.name(), "-y"]).await?;
            ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
            Ok(())
        }
    }
}

async fn kill_node(node: &Node, lasting: Duration) -> Result<()> {
    node.agent().kill();
    node.kill_everything()?;
    tokio::time::sleep(lasting).await;
    node.agent().start()
}
