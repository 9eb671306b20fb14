//! Two sites, each a cluster with an etcd of its own: one follows the other, keeps a leader through the loss of nodes, is made to lead, and the
//! other follows it, there and back, while a client writes wherever it is let. Nothing that it was told is there may be missing.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent::demo::account::Account;
use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::lookout::{Sight, told};
use agent::demo::node::Node;
use agent::demo::session::Session;
use agent::demo::workdir::Workdir;
use agent::demo::writer::TABLE;
use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinHandle;

use crate::http;
use crate::stage::{SOON, options};

const POLL: Duration = Duration::from_millis(50);
/// In a data directory that is neither copied anew nor rewound it stays.
const KEEPSAKE: &str = "kept-by-the-test";

/// Both sites are one database, so they have the same passwords.
struct Passwords {
    files: [PathBuf; 2],
    _home: Workdir,
}

fn passwords() -> Result<Passwords> {
    let home = Workdir::create(Account::find()?, "pgvigil-demo-")?;
    let files = [home.file("replication", "one\n", 0o600)?, home.file("rewind", "two\n", 0o600)?];
    Ok(Passwords { files, _home: home })
}

fn site(name: &str, nodes: u8, passwords: &Passwords) -> ClusterOptions {
    let quoted = |path: &PathBuf| format!("{:?}", path.display().to_string());
    ClusterOptions { nodes, etcd_members: 1, haproxy: false, ..options() }
        .with("cluster", &format!("{name:?}"))
        .with("postgres.replication_password_file", &quoted(&passwords.files[0]))
        .with("postgres.rewind_password_file", &quoted(&passwords.files[1]))
}

fn hosts(cluster: &LocalCluster) -> String {
    let all: Vec<String> = cluster.nodes().iter().map(|node| format!("127.0.0.1:{}", node.postgres_port())).collect();
    all.join(",")
}

/// A site that leads, and another that has copied and follows it.
async fn two_sites(nodes: [u8; 2], passwords: &Passwords) -> Result<(LocalCluster, LocalCluster)> {
    let east = LocalCluster::start(&site("east", nodes[0], passwords)).await.context("the first site")?;
    east.connect(&east.leader().await?).await?.batch_execute(TABLE).await?;
    let follower = site("west", nodes[1], passwords)
        .with("bootstrap.from", "\"site\"")
        .with("bootstrap.site", &format!("{:?}", hosts(&east)));
    let west = LocalCluster::prepare(&follower)?;
    west.start_etcd().await?;
    west.start_nodes()?;
    follows(&west).await?;
    Ok((east, west))
}

/// Waits until one node streams as the standby leader, and all others from it; says who it is.
async fn follows(cluster: &LocalCluster) -> Result<String> {
    let leads = |sight: &Sight| sight.role == "standby_leader" && sight.state == "streaming";
    let whole = |sights: &[Sight]| {
        let leaders = sights.iter().filter(|sight| leads(sight)).count();
        leaders == 1 && sights.iter().all(|sight| leads(sight) || sight.streams())
    };
    let sights = cluster.wait_for("the site does not follow", SOON, whole).await?;
    Ok(sights.into_iter().find(leads).context("there was one just now")?.name)
}

/// A setting of the leader's server that its agent tells of while it leads a primary.
async fn undoes_a_promise(cluster: &LocalCluster) -> Result<String> {
    let leader = cluster.leader().await?;
    cluster.psql(&leader, "ALTER SYSTEM SET fsync = off").await?;
    cluster.psql(&leader, "SELECT pg_reload_conf()").await?;
    let told = async || Ok(overruled(cluster, &leader).await? > 0.0);
    eventually("nobody tells that fsync is off", told).await?;
    Ok(leader)
}

/// The standby leader of a site that follows tells nothing of what it told as a primary.
async fn promises_nothing(cluster: &LocalCluster, leader: &str) -> Result<()> {
    let none = async || Ok(overruled(cluster, leader).await? < 1.0);
    eventually("a site that follows tells of what its primary was set to", none).await?;
    cluster.psql(leader, "ALTER SYSTEM RESET fsync").await?;
    cluster.psql(leader, "SELECT pg_reload_conf()").await?;
    Ok(())
}

async fn overruled(cluster: &LocalCluster, name: &str) -> Result<f64> {
    let page = http::ask(cluster.node(name)?, "GET", "/metrics").await?.body;
    let line = page.lines().find(|line| line.starts_with("pgvigil_durability_overruled{"));
    Ok(line.and_then(|line| line.rsplit(' ').next()).context("no such series")?.parse()?)
}

async fn status(node: &Node, path: &str) -> Result<u16> {
    Ok(http::ask(node, "GET", path).await?.status)
}

async fn answers(node: &Node, expected: &[(&str, u16)]) -> Result<()> {
    for (path, code) in expected {
        let answer = status(node, path).await?;
        ensure!(answer == *code, "{path} of {}: {answer}, not {code}", node.name());
    }
    Ok(())
}

/// Runs `pgvigil` on a node and returns what it answers.
async fn pgvigil(cluster: &LocalCluster, name: &str, arguments: &[&str]) -> Result<String> {
    let output = cluster.pgvigil(name, arguments).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let says = told(&cluster.lookout().survey().await);
        let (answer, chatter) = (text(&output.stdout), text(&output.stderr));
        bail!("{arguments:?} on {name}: {}\n{answer}\n{chatter}{says}", output.status);
    }
    Ok(text(&output.stdout))
}

async fn eventually(complaint: &str, so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let answer = so().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        ensure!(begin.elapsed() < SOON, "{complaint} within {SOON:?}: {answer:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// A client that writes at whichever of these ports lets it, and remembers what was acknowledged.
struct AnyWriter {
    rows: Arc<Mutex<Vec<i64>>>,
    work: JoinHandle<()>,
}

impl AnyWriter {
    fn start(sites: [&LocalCluster; 2]) -> Self {
        let ports: Vec<u16> = sites.iter().flat_map(|site| site.nodes()).map(Node::postgres_port).collect();
        let rows: Arc<Mutex<Vec<i64>>> = Arc::default();
        let written = Arc::clone(&rows);
        let work = tokio::spawn(async move {
            let mut id = 0;
            for port in ports.into_iter().cycle() {
                let Ok(session) = Session::open(port, Duration::from_millis(300)).await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                loop {
                    id += 1;
                    let insert = format!("INSERT INTO rows (id) VALUES ({id})");
                    let answer = tokio::time::timeout(Duration::from_secs(5), session.batch_execute(&insert)).await;
                    if !matches!(answer, Ok(Ok(()))) {
                        break;
                    }
                    written.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
        });
        Self { rows, work }
    }

    fn rows(&self) -> Vec<i64> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn goes_on(&self) -> Result<()> {
        let before = self.rows().len();
        eventually("no write is acknowledged", async || Ok(self.rows().len() >= before + 10)).await
    }
}

impl Drop for AnyWriter {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// Waits until a node has all of these rows.
async fn has_all(cluster: &LocalCluster, name: &str, rows: &[i64]) -> Result<()> {
    eventually(&format!("{name} misses acknowledged rows"), async || {
        let session = cluster.connect(name).await?;
        let found: HashSet<i64> =
            session.query("SELECT id FROM rows", &[]).await?.iter().map(|row| row.get(0)).collect();
        Ok(rows.iter().all(|row| found.contains(row)))
    })
    .await
}

fn leave_keepsakes(cluster: &LocalCluster) -> Result<()> {
    cluster.nodes().iter().try_for_each(|node| Ok(std::fs::write(node.data_dir().join(KEEPSAKE), "")?))
}

fn all_kept(cluster: &LocalCluster) -> Result<()> {
    let gone = cluster.nodes().iter().find(|node| !node.data_dir().join(KEEPSAKE).exists());
    ensure!(gone.is_none(), "{gone:?} was copied or rewound");
    Ok(())
}

/// Lets `from` follow and `to` lead, as two operators do it.
async fn switch(from: &LocalCluster, to: &LocalCluster) -> Result<()> {
    let token = pgvigil(from, "n1", &["site", "demote", "--host", &hosts(to), "-y"]).await?;
    let leader = from.nodes().first().context("a node")?;
    ensure!(status(leader, "/primary").await? == 503, "the site that follows takes writes");
    pgvigil(to, "n1", &["site", "promote", "--token", &token, "-y"]).await?;
    eprintln!("switched at {token}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switch_of_sites_there_and_back_loses_nothing_and_copies_nothing() {
    let passwords = passwords().expect("a place for passwords");
    let (east, west) = two_sites([2, 2], &passwords).await.expect("two sites");
    let writer = AnyWriter::start([&east, &west]);
    let play = async {
        writer.goes_on().await?;
        leave_keepsakes(&east)?;
        leave_keepsakes(&west)?;
        // The site that leads changes its leader: the other follows to the new one, and to its timeline.
        let old = east.leader().await?;
        pgvigil(&east, &old, &["switchover", "-y"]).await?;
        follows(&west).await?;
        writer.goes_on().await?;
        let leader = undoes_a_promise(&east).await?;
        switch(&east, &west).await?;
        writer.goes_on().await?;
        follows(&east).await?;
        promises_nothing(&east, &leader).await?;
        west.wait_settled(SOON).await?;
        let there = writer.rows();
        eprintln!("there: {} rows", there.len());
        switch(&west, &east).await?;
        writer.goes_on().await?;
        follows(&west).await?;
        east.wait_settled(SOON).await?;
        let rows = writer.rows();
        for cluster in [&east, &west] {
            for node in cluster.nodes() {
                has_all(cluster, node.name(), &rows).await?;
            }
        }
        all_kept(&east)?;
        all_kept(&west)?;
        // Settings that are taken back decide nothing about sites.
        let refused = east.pgvigil("n1", &["config", "set", "standby_cluster.host=x", "-y"]).await?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
        let again = east.pgvigil("n1", &["site", "promote", "-y"]).await?;
        ensure!(again.status.code() == Some(3), "{again:?}");
        eprintln!("back: {} rows", rows.len());
        anyhow::Ok(())
    };
    end(play.await, &east, &west).await;
}

async fn end(play: Result<()>, east: &LocalCluster, west: &LocalCluster) {
    if let Err(error) = play {
        let (east, west) = (told(&east.lookout().survey().await), told(&west.lookout().survey().await));
        panic!("{error:#}\neast:{east}\nwest:{west}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_follows_keeps_a_leader_and_leads_when_the_other_is_lost() {
    let passwords = passwords().expect("a place for passwords");
    let (east, west) = two_sites([1, 2], &passwords).await.expect("two sites");
    let writer = AnyWriter::start([&east, &west]);
    let play = async {
        let first = keeps_a_leader(&west, &writer).await?;
        // The other site is lost: an operator lets this one lead with what it has.
        let safe = writer.rows();
        has_all(&west, &first, &safe).await?;
        let n1 = east.node("n1")?;
        n1.kill_everything()?;
        eprintln!("the first site is lost");
        let asked = west.pgvigil("n1", &["site", "promote", "--token", "1:1:0/1", "-y"]).await?;
        ensure!(asked.status.code() == Some(3), "a token of another database: {asked:?}");
        // No commit of the lost site waited for this one: what was acknowledged in its last moments may be lost with it.
        let on_their_way = writer.rows().len();
        pgvigil(&west, "n1", &["site", "promote", "-y"]).await?;
        writer.goes_on().await?;
        west.wait_settled(SOON).await?;
        let rows = [&safe, &writer.rows()[on_their_way..]].concat();
        for node in west.nodes() {
            has_all(&west, node.name(), &rows).await?;
        }
        drop(writer);
        comes_back(&east, &west).await?;
        has_all(&east, "n1", &rows).await
    };
    end(play.await, &east, &west).await;
}

/// The leader of a site that follows is lost, and then gives its lead to another: the site goes on following.
async fn keeps_a_leader(west: &LocalCluster, writer: &AnyWriter) -> Result<String> {
    writer.goes_on().await?;
    let first = follows(west).await?;
    let second = west.nodes().iter().map(Node::name).find(|name| *name != first).context("two nodes")?.to_owned();
    let (leads, reads) = (west.node(&first)?, west.node(&second)?);
    answers(leads, &[("/standby-leader", 200), ("/standby_leader", 200), ("/leader", 200)]).await?;
    answers(leads, &[("/primary", 503), ("/", 503), ("/read-write", 503), ("/replica", 503), ("/read-only", 200)])
        .await?;
    answers(reads, &[("/standby-leader", 503), ("/leader", 503), ("/primary", 503), ("/replica", 200)]).await?;
    let said = pgvigil(west, &first, &["status", "--exit-code"]).await?;
    ensure!(said.contains("follows another"), "{said}");
    let cannot = west.connect(&first).await?.batch_execute("CREATE TABLE never (id int)").await;
    ensure!(cannot.is_err(), "a site that follows took a write");
    leads.kill_everything()?;
    eprintln!("{first}, the standby leader, is lost");
    let leads_now = |sights: &[Sight]| {
        sights.iter().any(|sight| sight.name == second && sight.role == "standby_leader" && sight.state == "streaming")
    };
    // The agent of a lost node does not run, which is as it should be.
    eventually("nobody takes over", async || Ok(leads_now(&west.lookout().survey().await))).await?;
    has_all(west, &second, &writer.rows()).await?;
    leads.agent().start()?;
    ensure!(follows(west).await? == second, "the lead has gone back by itself");
    eprintln!("{second} has taken over, and {first} follows it");
    pgvigil(west, &first, &["switchover", "--to", &first, "-y"]).await?;
    eventually("the lock does not go over", async || Ok(follows(west).await? == first)).await?;
    writer.goes_on().await?;
    has_all(west, &second, &writer.rows()).await?;
    Ok(first)
}

/// The lost site comes back, goes on as if nothing had happened, and is told to follow: what it alone has is rewound, and nothing copied.
async fn comes_back(east: &LocalCluster, west: &LocalCluster) -> Result<()> {
    let n1 = east.node("n1")?;
    n1.agent().start()?;
    east.wait_settled(SOON).await?;
    east.psql("n1", "CREATE TABLE only_here (id int)").await?;
    let hosts = hosts(west);
    pgvigil(east, "n1", &["site", "demote", "--host", &hosts, "-y"]).await?;
    follows(east).await?;
    ensure!(status(n1, "/primary").await? == 503, "two sites take writes");
    let gone = "SELECT count(*) FROM pg_class WHERE relname = 'only_here'";
    eventually("what the other site does not have stays", async || Ok(east.psql("n1", gone).await? == "0")).await?;
    let log = std::fs::read_to_string(n1.agent().log())?;
    ensure!(log.contains("rewound") && !log.contains("pg_basebackup"), "it was not rewound");
    Ok(())
}
