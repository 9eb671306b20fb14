//! Nodes to test with: each a data directory of its own, copied from one template, on ports and sockets of its own. Whatever runs in it is
//! killed and its files are removed when it is dropped.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use decision::durability::Quorum;
use decision::names::{Lsn, MemberName, Term};
use decision::view::{Primary, Server, Standby, Upstream};
use pg_control::shared_memory::SharedMemory;
use pg_control::{Instance, InstanceConfig, Origin, Secrets, process};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The error of tests.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Generous: the machine is shared.
pub const PATIENCE: Duration = Duration::from_secs(15);

static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();

/// One node.
pub struct Node {
    pub instance: Instance,
    pub dir: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let data_dir = &self.instance.config().data_dir;
        let left = SharedMemory::of(&process::family(data_dir));
        let _ = process::kill_all(data_dir);
        left.remove();
    }
}

/// A member name.
pub fn name(text: &str) -> MemberName {
    MemberName::new(text).expect("a good name")
}

/// `ANY k (voters)`.
pub fn any(k: u32, voters: &[&str]) -> Quorum {
    Quorum::of(k, voters.iter().map(|voter| name(voter)).collect())
}

/// The passwords of all test clusters, with what breaks naive quoting.
pub fn secrets() -> Secrets {
    Secrets { replication_password: "repl:'icate\\".to_owned(), rewind_password: "re wi'nd".to_owned() }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A configuration in a directory.
pub fn config(member: &str, dir: &Path) -> InstanceConfig {
    let mut config = InstanceConfig::new(name(member), "testing", dir.join("data"), dir.join("state"));
    config.socket_dir = dir.to_path_buf();
    if let Some(bin_dir) = std::env::var_os("PGVIGIL_TEST_BIN_DIR") {
        config.bin_dir = bin_dir.into();
    }
    config.listen_addresses = "127.0.0.1".to_owned();
    config.port = free_port();
    for (key, value) in [("shared_buffers", "16MB"), ("max_connections", "30")] {
        config.parameters.insert(key.to_owned(), value.to_owned());
    }
    config
}

/// A node without data.
pub fn empty(member: &str) -> Result<Node, Failure> {
    empty_with(member, |_| {})
}

/// A node without data, its configuration changed.
pub fn empty_with(member: &str, change: impl FnOnce(&mut InstanceConfig)) -> Result<Node, Failure> {
    let dir = tempfile::Builder::new().prefix("pgvigil-").tempdir()?;
    let mut config = config(member, dir.path());
    change(&mut config);
    let instance = Instance::new(config)?;
    instance.set_secrets(secrets())?;
    Ok(Node { instance, dir })
}

/// A running primary under term 1 that waits for nobody.
pub async fn primary(member: &str) -> Result<Node, Failure> {
    primary_with(member, |_| {}).await
}

/// The same, with its data and notes in this directory.
pub async fn primary_on(place: &Path) -> Result<Node, Failure> {
    let (data_dir, state_dir) = (place.join("data"), place.join("state"));
    primary_with("pg1", |config| (config.data_dir, config.state_dir) = (data_dir, state_dir)).await
}

/// The same, its configuration changed.
pub async fn primary_with(member: &str, change: impl FnOnce(&mut InstanceConfig)) -> Result<Node, Failure> {
    if TEMPLATE.get().is_none() {
        let node = empty("template")?;
        node.instance.bootstrap(&Origin::default(), &CancellationToken::new()).await?;
        node.instance.stop_fast(PATIENCE).await?;
        let kept = node.dir.path().with_extension("template");
        copy(&node.instance.config().data_dir, &kept)?;
        let _ = TEMPLATE.set(kept);
    }
    let node = empty_with(member, change)?;
    copy(TEMPLATE.get().ok_or("no template")?, &node.instance.config().data_dir)?;
    node.instance.start_as_primary(&Quorum::none(), Term(1), || true).await?;
    node.instance.wait_ready(PATIENCE).await?;
    node.instance.mark(Term(1), &name(member), PATIENCE).await?;
    Ok(node)
}

/// Deletes the template.
pub fn remove_template() {
    if let Some(template) = TEMPLATE.get() {
        let _ = std::fs::remove_dir_all(template);
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if done.success() { Ok(()) } else { Err("cp failed".into()) }
}

/// A standby that streams from `leader` under `term`.
pub async fn standby_of(leader: &Node, member: &str, term: u64) -> Result<Node, Failure> {
    let node = empty(member)?;
    let upstream = leader.as_upstream(term);
    node.instance.clone_from(&upstream, &CancellationToken::new()).await?;
    node.instance.start_as_standby(Some(&upstream)).await?;
    node.instance.wait_ready(PATIENCE).await?;
    node.streams().await?;
    Ok(node)
}

impl Node {
    /// How others reach it.
    pub fn as_upstream(&self, term: u64) -> Upstream {
        let config = self.instance.config();
        Upstream {
            member: config.member.clone(),
            host: "127.0.0.1".to_owned(),
            port: config.port,
            term: Term(term),
            slot: None,
        }
    }

    /// A connection as the superuser.
    pub async fn sql(&self) -> Result<tokio_postgres::Client, Failure> {
        let config = self.instance.config();
        let mut options = tokio_postgres::Config::new();
        options.host_path(&config.socket_dir).port(config.port).user("postgres").dbname("postgres");
        let (client, connection) = options.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// One text answer.
    pub async fn ask(&self, sql: &str) -> Result<String, Failure> {
        let row = self.sql().await?.query_one(&format!("SELECT ({sql})::text"), &[]).await?;
        Ok(row.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    }

    /// Statements.
    pub async fn run(&self, sql: &str) -> Result<(), Failure> {
        Ok(self.sql().await?.batch_execute(sql).await?)
    }

    /// The server as observed.
    pub async fn server(&self) -> Result<Server, Failure> {
        Ok(self.instance.observe().await?.postgres.server)
    }

    /// It must be a primary.
    pub async fn as_primary(&self) -> Result<Primary, Failure> {
        match self.server().await? {
            Server::Primary(primary) => Ok(primary),
            other => Err(format!("not a primary: {other:?}").into()),
        }
    }

    /// It must be a standby.
    pub async fn as_standby(&self) -> Result<Standby, Failure> {
        match self.server().await? {
            Server::Standby(standby) => Ok(standby),
            other => Err(format!("not a standby: {other:?}").into()),
        }
    }

    /// Waits until it streams.
    pub async fn streams(&self) -> Result<(), Failure> {
        eventually("streaming", async || Ok(self.as_standby().await.is_ok_and(|standby| standby.streaming))).await
    }

    /// Waits until it has replayed up to a position.
    pub async fn has_replayed(&self, lsn: Lsn) -> Result<(), Failure> {
        eventually("replayed", async || Ok(self.as_standby().await?.replayed >= lsn)).await
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> i32 {
        self.instance.postmaster().expect("a running postmaster").pid
    }

    /// Signals the postmaster.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<(), Failure> {
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal)?)
    }
}

/// Asks again every 2 ms until it is so.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let begin = std::time::Instant::now();
    while !check().await? {
        if begin.elapsed() > PATIENCE {
            return Err(format!("never: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
