//! What `pgvigil show` prints for the neighbours, run by them: PgBouncer before HAProxy, whose clients keep their connection over a switchover, and the SQL
//! of the roles, which finds everything as it says.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::ports::Ports;
use agent::demo::session::{DATABASE, Session, USER};
use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_postgres::SimpleQueryMessage;

use crate::doomed::die_at_each;
use crate::stage::{SOON, Stage, on_stage, options};

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

/// Clients of the pooler that write without a break.
const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_held_see_a_pause_and_no_error_over_switchovers_and_the_death_of_an_agent_in_the_midst() {
    let ports = Ports::choose(None, 1).expect("a free port");
    let options = options()
        .with("pgbouncer.admin", &format!("[\"127.0.0.1:{}\"]", ports.at(0)))
        .with("pgbouncer.databases", &format!("[\"{DATABASE}\"]"));
    on_stage(&options, async |stage| held(stage, ports.at(0)).await).await;
}

async fn held(stage: &mut Stage, port: u16) -> Result<()> {
    let leader = stage.leader().await?;
    let pooler = pooler(&stage.cluster, &leader, port).await?;
    connected(port).await?.batch_execute("CREATE TABLE held (client int, i int)").await?;
    let config = stage.node(&leader)?.config().display().to_string();
    let validated = stage.cluster.pgvigil(&leader, &["validate", &config]).await?;
    let said = String::from_utf8_lossy(&validated.stdout).into_owned();
    ensure!(said.contains("can be told to hold clients of demo"), "{said}");

    let clients = Clients::begin(port);
    let there = stage.standby().await?;
    stage.pgvigil(&there, &["switchover", "--to", &there, "-y"]).await?;
    let_go(stage, port, &there).await.context("after a switchover")?;
    let mut rows = clients.end(stage).await.context("over a switchover")?;

    // Its agent dies when clients are held and nothing has been stopped; the next one leads on, or hands over after all.
    let candidate = stage.standby().await?;
    let begun = Mutex::new(None);
    let asked = async || {
        stage.whole().await?;
        *begun.lock().expect("nobody has panicked") = Some(Clients::begin(port));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let arguments = ["switchover", "--to", &candidate, "--expect-leader", &there, "-y", "--wait", "100ms"];
        stage.cluster.pgvigil(&candidate, &arguments).await.map(|_| ())
    };
    die_at_each(stage, std::slice::from_ref(&there), &["hand_over:held"], asked).await?;
    let_go(stage, port, &candidate).await.context("after the death of an agent")?;
    stage.whole().await?;
    let clients = begun.lock().expect("nobody has panicked").take().context("nobody wrote")?;
    rows += clients.end(stage).await.context("over the death of an agent")?;
    rows += etcd_is_silent_while_clients_are_held(stage, port).await.context("over a silence of etcd")?;

    let session = stage.cluster.connect(&stage.leader().await?).await?;
    let counted: i64 = session.query_one("SELECT count(*) FROM held", &[]).await?.get(0);
    ensure!(usize::try_from(counted)? == rows, "UNSAFE: {rows} rows are acknowledged, {counted} are there");
    who_does_not_end_and_who_is_not_there_hold_up_nothing(stage, pooler, port).await
}

/// etcd says nothing from the moment at which clients are held until long after the old primary would have handed over: whoever leads then,
/// and whether that was by etcd's late answer, clients are let go. How many rows they got acknowledged.
async fn etcd_is_silent_while_clients_are_held(stage: &Stage, port: u16) -> Result<usize> {
    let (leader, candidate) = (stage.leader().await?, stage.standby().await?);
    let clients = Clients::begin(port);
    // As long as it stays in its transaction the hand-over waits for it, if for a moment only.
    let lingering = connected(port).await?;
    lingering.batch_execute("BEGIN; INSERT INTO held VALUES (-2, -2)").await?;
    let arguments = ["switchover", "--to", &candidate, "-y", "--wait", "100ms"];
    stage.cluster.pgvigil(&leader, &arguments).await?;
    let is_held = async || {
        let records = stage.transitions(&candidate).await?;
        let said = records.last().and_then(|record| record["clients"].as_str());
        Ok(said.is_some_and(|clients| clients.starts_with("held")))
    };
    stage.eventually("clients are not held", is_held).await?;
    stage.cluster.etcd().iter().try_for_each(|member| member.freeze())?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stage.cluster.etcd().iter().try_for_each(|member| member.thaw())?;
    drop(lingering);
    stage.whole().await?;
    let_go(stage, port, &candidate).await?;
    clients.end(stage).await
}

/// A client that stays in its transaction, and a PgBouncer that is gone.
async fn who_does_not_end_and_who_is_not_there_hold_up_nothing(stage: &Stage, pooler: Child, port: u16) -> Result<()> {
    let lingering = connected(port).await?;
    lingering.batch_execute("BEGIN; INSERT INTO held VALUES (-1, -1)").await?;
    goes_on(stage, "had ended within").await?;
    ensure!(
        lingering.batch_execute("COMMIT").await.is_err(),
        "UNSAFE: what was open on the old primary was acknowledged"
    );
    let_go(stage, port, &stage.leader().await?).await.context("after a client that stayed")?;
    drop(pooler);
    stage.whole().await?;
    goes_on(stage, "is it running there").await
}

/// A switchover is done, and its record says what became of the clients.
async fn goes_on(stage: &Stage, told: &str) -> Result<()> {
    let to = stage.standby().await?;
    stage.pgvigil(&to, &["switchover", "--to", &to, "-y"]).await?;
    let says_so = async || {
        let record = stage.transitions(&to).await?.pop().context("it has a record")?;
        ensure!(record["to"] == to.as_str() && record["notes"].to_string().contains(told), "{record}");
        Ok(true)
    };
    stage.eventually("the record does not say what became of the clients", says_so).await
}

/// Some who write.
struct Clients {
    going_on: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<(usize, Duration)>>>,
}

impl Clients {
    fn begin(port: u16) -> Self {
        let going_on = Arc::new(AtomicBool::new(true));
        let write = |client| tokio::spawn(write_until(port, client, Arc::clone(&going_on)));
        let writers = (0..CLIENTS).map(write).collect();
        Self { going_on, writers }
    }

    /// How many rows they got acknowledged, if none of them has seen an error.
    async fn end(self, stage: &Stage) -> Result<usize> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.going_on.store(false, Ordering::SeqCst);
        let (mut rows, mut longest) = (0, Duration::ZERO);
        for writer in self.writers {
            let (written, pause) = writer.await??;
            rows += written;
            longest = longest.max(pause);
        }
        stage.say(&format!("{rows} rows without an error, the longest pause {} ms", longest.as_millis()));
        // Whoever is let go by the new primary waits for less than whoever waits until nobody is held for longer.
        ensure!(longest < Duration::from_secs(15), "clients were held for {longest:?}");
        Ok(rows)
    }
}

/// Nobody is held any more, and the record says so.
async fn let_go(stage: &Stage, port: u16, node: &str) -> Result<()> {
    let none_is_held = async || {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(port)
            .user("pgbouncer")
            .dbname("pgbouncer")
            .connect(tokio_postgres::NoTls)
            .await?;
        tokio::spawn(connection);
        let rows = client.simple_query("SHOW DATABASES").await?;
        let held =
            |row: &SimpleQueryMessage| matches!(row, SimpleQueryMessage::Row(row) if row.get("paused") == Some("1"));
        let records = stage.transitions(node).await?;
        let told = records.iter().any(|record| record["clients"] == "let_go");
        let open =
            records.iter().any(|record| record["clients"].as_str().is_some_and(|clients| clients.starts_with("held")));
        Ok(told && !open && !rows.iter().any(held))
    };
    stage.eventually("clients are still held", none_is_held).await
}

/// Writes transactions of three statements; how many were acknowledged, and the longest that one took. Any error ends it.
async fn write_until(port: u16, client: usize, going_on: Arc<AtomicBool>) -> Result<(usize, Duration)> {
    let session = connected(port).await?;
    let (mut rows, mut longest) = (0, Duration::ZERO);
    while going_on.load(Ordering::SeqCst) {
        let began = Instant::now();
        let insert = format!("INSERT INTO held VALUES ({client}, {rows})");
        for statement in ["BEGIN", &insert, "COMMIT"] {
            session
                .batch_execute(statement)
                .await
                .with_context(|| format!("client {client}, {statement}, row {rows}"))?;
        }
        rows += 1;
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((rows, longest))
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
    std::fs::write(directory.join("users"), format!("\"{USER}\" \"\"\n\"pgbouncer\" \"\"\n"))?;
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
