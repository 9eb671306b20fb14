//! What `pgvigil show` prints for the neighbours, run by them: PgBouncer before HAProxy, whose clients keep their connection over a switchover, and the SQL
//! of the roles, which finds everything as it says.

use std::path::Path;
use std::time::Duration;

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::ports::Ports;
use agent::demo::session::{DATABASE, Session, USER};
use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use crate::stage::{SOON, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_pooler_keeps_its_connection_over_a_switchover() {
    let small = ClusterOptions { nodes: 2, etcd_members: 1, ..options() };
    let cluster = LocalCluster::start(&small).await.expect("a cluster");
    if let Err(error) = played(&cluster).await {
        panic!("{error:#}");
    }
}

async fn played(cluster: &LocalCluster) -> Result<()> {
    let leader = cluster.leader().await?;
    the_roles_are_as_they_are_shown(cluster, &leader).await?;
    let ports = Ports::choose(None, 1)?;
    let _pooler = pooler(cluster, &leader, ports.at(0)).await?;
    let client = connected(ports.at(0)).await?;
    client.batch_execute("CREATE TABLE pooled (i int)").await.context("a write through the pooler")?;
    let other = if leader == "n1" { "n2" } else { "n1" };
    let switched = cluster.pgvigil(&leader, &["switchover", "--to", other, "--yes"]).await?;
    ensure!(switched.status.success(), "switchover: {}", String::from_utf8_lossy(&switched.stderr));
    // The server that the client had is gone; the pooler says so once at most, and keeps the client.
    let mut tries = 0;
    while let Err(error) = client.batch_execute("INSERT INTO pooled VALUES (1)").await {
        ensure!(!client.is_closed(), "the client lost its connection: {error}");
        ensure!(tries < 20, "no write through the pooler after a switchover: {error}");
        tries += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let counted =
        cluster.psql(other, &format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'")).await?;
    ensure!(counted != "0", "the pooler is not at {other}");
    Ok(())
}

/// What is shown changes nothing where an agent has made the roles: it is what the agent does.
async fn the_roles_are_as_they_are_shown(cluster: &LocalCluster, leader: &str) -> Result<()> {
    let roles = "SELECT string_agg(r::text, ' ' ORDER BY rolname) FROM pg_authid AS r WHERE rolname LIKE 'pgvigil%'";
    let before = cluster.psql(leader, roles).await?;
    cluster
        .psql(leader, &shown(cluster, leader, &["show", "sql-roles"]).await?)
        .await
        .context("the SQL of the roles")?;
    let after = cluster.psql(leader, roles).await?;
    ensure!(before.contains("pgvigil_rewind") && before == after, "the roles were {before}, and are {after}");
    Ok(())
}

async fn shown(cluster: &LocalCluster, node: &str, arguments: &[&str]) -> Result<String> {
    let output = cluster.pgvigil(node, arguments).await?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// PgBouncer with what is printed for it, but for this machine's ports and places.
async fn pooler(cluster: &LocalCluster, node: &str, port: u16) -> Result<Child> {
    let directory = cluster.make_directory("pgbouncer")?;
    let text = shown(cluster, node, &["show", "pgbouncer", "--database", DATABASE]).await?;
    let proxies = cluster.proxy_ports();
    let place = |path: &Path| path.display().to_string();
    let mut here = text;
    for (usual, ours) in [
        ("port=5000", format!("port={}", proxies.read_write)),
        ("port=5001", format!("port={}", proxies.read_only)),
        ("listen_port = 6432", format!("listen_port = {port}")),
        ("auth_type = scram-sha-256", "auth_type = trust".to_owned()),
        ("/etc/pgbouncer/userlist.txt", place(&directory.join("users"))),
        ("/var/log/postgresql", place(&directory)),
        ("/var/run/postgresql", place(&directory)),
    ] {
        ensure!(here.contains(usual), "{usual} is not in: {here}");
        here = here.replace(usual, &ours);
    }
    std::fs::write(directory.join("users"), format!("\"{USER}\" \"\"\n"))?;
    std::fs::write(directory.join("pgbouncer.ini"), here)?;
    let mut command = cluster.command("pgbouncer");
    let path = std::env::var("PATH").unwrap_or_default();
    command.arg("--quiet").arg(directory.join("pgbouncer.ini")).env("PATH", format!("{path}:/usr/sbin"));
    Command::from(command).kill_on_drop(true).spawn().context("pgbouncer (scripts/setup.sh installs it)")
}

async fn connected(port: u16) -> Result<Session> {
    let end = tokio::time::Instant::now() + SOON;
    loop {
        match Session::open(port, Duration::from_secs(2)).await {
            Ok(session) => return Ok(session),
            Err(error) if tokio::time::Instant::now() > end => return Err(error.context("the pooler lets nobody in")),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
