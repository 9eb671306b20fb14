//! A whole cluster on this machine: etcd, agents with their Postgres, and HAProxy, on loopback, in one temporary directory. The demo shows
//! it and the tests of whole agents break it. Whatever it started ends with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::account::Account;
use super::etcd::{self, EtcdPlace};
use super::lookout::{self, Lookout, Sight};
use super::node::Node;
use super::ports::Ports;
use super::processes;
use super::programs::{self, PostgresPrograms};
use super::service::Service;
use super::session::{DATABASE, Session, USER};
use super::settings::{self, NodeFacts};
use super::workdir::Workdir;
use crate::show::{HaproxyOptions, ShowMember, haproxy};

const LOOPBACK: &str = "127.0.0.1";

/// What a cluster is to look like.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes, from 1 to 7; they are called n1, n2, ...
    pub nodes: u8,
    /// How many etcd members: 1 or 3.
    pub etcd_members: u8,
    /// The time to live of the leader's lease.
    pub ttl: Duration,
    /// More lines of `pgvigil.toml` for every node: a key (`durability.mode`) and its value as TOML writes it (`"async"`, in quotes).
    pub settings: Vec<(String, String)>,
    /// More arguments for every member of etcd.
    pub etcd_arguments: Vec<String>,
    /// Where PostgreSQL's programs are, if not where they usually are.
    pub bin_dir: Option<PathBuf>,
    /// With HAProxy before it.
    pub haproxy: bool,
    /// The first of its ports, if not any free ones.
    pub base_port: Option<u16>,
    /// The program `pgvigil`. A test says `env!("CARGO_BIN_EXE_pgvigil")`.
    pub pgvigil: PathBuf,
}

impl ClusterOptions {
    /// Three nodes, three etcd members, HAProxy, defaults everywhere.
    pub fn new(pgvigil: impl Into<PathBuf>) -> Self {
        Self {
            nodes: 3,
            etcd_members: 3,
            ttl: Duration::from_secs(5),
            settings: Vec::new(),
            etcd_arguments: Vec::new(),
            bin_dir: None,
            haproxy: true,
            base_port: None,
            pgvigil: pgvigil.into(),
        }
    }

    /// One more line of configuration for every node.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// The ports of HAProxy.
#[derive(Clone, Copy, Debug)]
pub struct ProxyPorts {
    /// Leads to the primary.
    pub read_write: u16,
    /// Leads to the standbys.
    pub read_only: u16,
    /// The statistics page.
    pub statistics: u16,
}

/// A cluster. Dropping it ends everything and removes its directory; after a panic the directory stays, for its logs.
pub struct LocalCluster {
    // Dropped in this order: nothing restarts what was just ended, and the directory goes last.
    nodes: Vec<Node>,
    proxy: Option<Service>,
    etcd: Vec<Service>,
    etcd_urls: Vec<String>,
    lookout: Lookout,
    proxy_ports: ProxyPorts,
    programs: PostgresPrograms,
    pgvigil: PathBuf,
    account: Account,
    _ports: Ports,
    workdir: Workdir,
}

impl LocalCluster {
    /// Prepares a cluster, starts it, and waits until every standby streams and clients can work.
    ///
    /// # Errors
    /// Something is missing on this machine, or the cluster does not form.
    pub async fn start(options: &ClusterOptions) -> Result<Self> {
        let cluster = Self::prepare(options)?;
        cluster.start_etcd().await?;
        cluster.start_nodes()?;
        cluster.start_proxy()?;
        cluster.wait_settled(Duration::from_secs(90)).await?;
        cluster.create_client().await?;
        Ok(cluster)
    }

    /// Finds programs and ports, and writes every configuration. Nothing is started yet.
    ///
    /// # Errors
    /// Something is missing on this machine; the message names the mend.
    pub fn prepare(options: &ClusterOptions) -> Result<Self> {
        let programs = programs::postgres(options.bin_dir.as_deref())?;
        let etcd_program = programs::program("etcd", "etcd-server")?;
        let haproxy_program = options.haproxy.then(|| programs::program("haproxy", "haproxy")).transpose()?;
        let account = Account::find()?;
        let (nodes, members) = (u16::from(options.nodes), u16::from(options.etcd_members));
        let ports = Ports::choose(options.base_port, 3 + 2 * nodes + 2 * members)?;
        let workdir = Workdir::create(account, "pgvigil-demo-")?;

        let etcd_places: Vec<EtcdPlace> = (0..members)
            .map(|index| 3 + 2 * nodes + 2 * index)
            .map(|at| EtcdPlace { address: LOOPBACK.to_owned(), client: ports.at(at), peer: ports.at(at + 1) })
            .collect();
        let etcd_urls: Vec<String> = etcd_places.iter().map(EtcdPlace::url).collect();
        let etcd = etcd::members(&etcd_program, &etcd_places, &workdir, account)?;
        let etcd = etcd.into_iter().map(|member| member.with_arguments(&options.etcd_arguments)).collect();

        let pgvigil = workdir.copy_pgvigil(&options.pgvigil)?;
        let mut prepared = Vec::new();
        for index in 0..nodes {
            let (name, at) = (format!("n{}", index + 1), 3 + 2 * index);
            let home = workdir.directory(&name)?;
            workdir.directory(&format!("{name}/s"))?;
            let (postgres_port, api_port) = (ports.at(at), ports.at(at + 1));
            let facts = NodeFacts {
                name: &name,
                home: &home,
                address: LOOPBACK,
                clients: "127.0.0.1/32",
                postgres_port,
                api_port,
                etcd: &etcd_urls,
                programs: &programs,
                ttl: options.ttl,
            };
            let text = settings::toml(&facts, &options.settings);
            let config = workdir.file(&format!("{name}/pgvigil.toml"), &text, 0o600)?;
            crate::config::load(&config, std::iter::empty())?;
            let arguments = vec!["agent".into(), "--config".into(), config.clone().into_os_string()];
            let log = workdir.path().join(format!("{name}.log"));
            let agent = Service::new(account, &format!("the agent of {name}"), &pgvigil, arguments, log);
            prepared.push(Node { name, home, config, postgres_port, api_port, agent });
        }
        let proxy_ports = ProxyPorts { read_write: ports.at(0), read_only: ports.at(1), statistics: ports.at(2) };
        let proxy =
            haproxy_program.map(|program| proxy(&program, proxy_ports, &prepared, &workdir, account)).transpose()?;
        let lookout = Lookout::new(prepared.iter().map(|node| (node.name.clone(), node.api_url())).collect());
        Ok(Self {
            nodes: prepared,
            proxy,
            etcd,
            etcd_urls,
            lookout,
            proxy_ports,
            programs,
            pgvigil,
            account,
            _ports: ports,
            workdir,
        })
    }

    /// Starts etcd and waits until every member answers.
    ///
    /// # Errors
    /// A member ends, or is not healthy within 30 s.
    pub async fn start_etcd(&self) -> Result<()> {
        self.etcd.iter().try_for_each(Service::start)?;
        let peers = crate::peers::Peers::default();
        let begin = Instant::now();
        for (member, url) in self.etcd.iter().zip(&self.etcd_urls) {
            loop {
                let answer = peers.get(url, "/health", Duration::from_secs(2)).await;
                if answer.is_ok_and(|body| body["health"] == "true" || body["health"] == true) {
                    break;
                }
                member.must_run()?;
                if begin.elapsed() > Duration::from_secs(30) {
                    bail!("{} is not healthy within 30 s, see {}", member.name(), member.log().display());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Starts every agent, and does not wait for anything.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn start_nodes(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.agent.start())
    }

    /// Starts HAProxy, if the cluster has one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_proxy(&self) -> Result<()> {
        self.proxy.iter().try_for_each(Service::start)
    }

    /// Waits until one node accepts writes and all others stream from it.
    ///
    /// # Errors
    /// Not within the given time, or an agent ended by itself; the message tells what every agent says.
    pub async fn wait_settled(&self, within: Duration) -> Result<()> {
        let settled = |sights: &[Sight]| {
            let leaders = sights.iter().filter(|sight| sight.writable).count();
            leaders == 1 && sights.iter().all(|sight| sight.writable || sight.streams())
        };
        self.wait_for("not every standby streams", within, settled).await.map(|_| ())
    }

    /// Waits until what the agents say is as wanted, and returns it.
    ///
    /// # Errors
    /// As [`Self::wait_settled`]; `complaint` begins the message.
    pub async fn wait_for(
        &self,
        complaint: &str,
        within: Duration,
        wanted: impl Fn(&[Sight]) -> bool,
    ) -> Result<Vec<Sight>> {
        let begin = Instant::now();
        loop {
            let sights = self.lookout.survey().await;
            if wanted(&sights) {
                return Ok(sights);
            }
            self.nodes.iter().try_for_each(|node| node.agent.must_run())?;
            if begin.elapsed() > within {
                bail!("{complaint} after {within:?}{}", lookout::told(&sights));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes the user and the database that [`Self::connect`] and the demo's writer use.
    ///
    /// # Errors
    /// Nobody leads, or the statements fail.
    pub async fn create_client(&self) -> Result<()> {
        let leader = self.leader().await?;
        self.psql(&leader, &format!("CREATE ROLE {USER} LOGIN; GRANT pg_monitor, pg_signal_backend TO {USER}")).await?;
        self.psql(&leader, &format!("CREATE DATABASE {DATABASE} OWNER {USER}")).await.map(|_| ())
    }

    /// Whom the agents know as the leader that accepts writes.
    ///
    /// # Errors
    /// Nobody is.
    pub async fn leader(&self) -> Result<String> {
        let leader = self.lookout.survey().await.into_iter().find(|sight| sight.writable);
        leader.map(|sight| sight.name).ok_or_else(|| anyhow!("nobody accepts writes"))
    }

    /// What the agents say.
    pub fn lookout(&self) -> &Lookout {
        &self.lookout
    }

    /// A node by its name: n1, n2, ...
    ///
    /// # Errors
    /// There is none of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| anyhow!("there is no node {name}"))
    }

    /// The Postgres of a node listens on another port from now on, as its configuration says.
    ///
    /// # Errors
    /// There is no such node.
    pub fn moved(&mut self, name: &str, port: u16) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.ok_or_else(|| anyhow!("there is no node {name}"))?.postgres_port = port;
        Ok(())
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The etcd members, to be killed, frozen, thawed and started.
    pub fn etcd(&self) -> &[Service] {
        &self.etcd
    }

    /// Where etcd is.
    pub fn etcd_urls(&self) -> &[String] {
        &self.etcd_urls
    }

    /// HAProxy, if the cluster has one.
    pub fn proxy(&self) -> Option<&Service> {
        self.proxy.as_ref()
    }

    /// Where HAProxy listens.
    pub fn proxy_ports(&self) -> ProxyPorts {
        self.proxy_ports
    }

    /// The directory of everything.
    pub fn directory(&self) -> &Path {
        self.workdir.path()
    }

    /// Makes a directory for all of them to write to.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_directory(&self, name: &str) -> Result<PathBuf> {
        self.workdir.directory(name)
    }

    /// Where PostgreSQL's programs were found.
    pub fn postgres_programs(&self) -> &PostgresPrograms {
        &self.programs
    }

    /// A client's connection to the Postgres of one node.
    ///
    /// # Errors
    /// It is not there.
    pub async fn connect(&self, name: &str) -> Result<Session> {
        Session::open(self.node(name)?.postgres_port, Duration::from_secs(2)).await
    }

    /// A program as the user that runs Postgres.
    pub fn command(&self, program: &str) -> Command {
        self.account.command(program)
    }

    /// The same, on a node: what asks for a configuration finds that of this node.
    ///
    /// # Errors
    /// There is no such node.
    pub fn command_on(&self, name: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = self.account.command(program);
        command.env("PGVIGIL_CONFIG", &self.node(name)?.config);
        Ok(command)
    }

    /// Runs SQL as the superuser, over the unix socket of one node, and returns what `psql -At` prints.
    ///
    /// # Errors
    /// What psql says.
    pub async fn psql(&self, name: &str, sql: &str) -> Result<String> {
        let node = self.node(name)?;
        let mut command = self.account.command(self.programs.bin_dir.join("psql"));
        command.args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-p"]);
        command.arg(node.postgres_port.to_string()).arg("-h").arg(node.socket_dir()).arg("-c").arg(sql);
        let output =
            tokio::process::Command::from(command).kill_on_drop(true).output().await.context("running psql")?;
        if !output.status.success() {
            bail!("psql on {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs `pgvigil` with the configuration of one node.
    ///
    /// # Errors
    /// It cannot be run at all.
    pub async fn pgvigil(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command_on(name, &self.pgvigil)?;
        command.args(arguments).stdin(std::process::Stdio::null());
        tokio::process::Command::from(command).kill_on_drop(true).output().await.context("running pgvigil")
    }

    /// The directory stays when the cluster ends.
    pub fn keep_directory(&self) {
        self.workdir.keep();
    }

    /// Lets everything live on without this process.
    pub fn leave_running(self) {
        self.workdir.keep();
        self.nodes.iter().map(Node::agent).chain(&self.proxy).chain(&self.etcd).for_each(Service::leave_running);
        // The drop would end what is left.
        std::mem::forget(self);
    }
}

fn proxy(program: &Path, ports: ProxyPorts, nodes: &[Node], workdir: &Workdir, account: Account) -> Result<Service> {
    let host = || LOOPBACK.to_owned();
    let member = |node: &Node| ShowMember {
        name: node.name.clone(),
        host: host(),
        port: node.postgres_port,
        api_host: host(),
        api_port: node.api_port,
    };
    let options = HaproxyOptions {
        bind: host(),
        rw_port: ports.read_write,
        ro_port: ports.read_only,
        stats_port: ports.statistics,
        maxconn: 100,
        runtime_sockets: Vec::new(),
    };
    let text = haproxy(&nodes.iter().map(member).collect::<Vec<_>>(), &options);
    let file = workdir.file("haproxy.cfg", &text, 0o644)?;
    let arguments = vec!["-db".into(), "-f".into(), file.into_os_string()];
    Ok(Service::new(account, "HAProxy", program, arguments, workdir.path().join("haproxy.log")))
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.workdir.keep();
            eprintln!("the logs of the cluster stay in {}", self.workdir.path().display());
        }
        self.nodes.iter().map(Node::agent).chain(&self.proxy).chain(&self.etcd).for_each(Service::kill);
        if let Err(error) = processes::end_for_good(|| processes::of_directory(self.workdir.path())) {
            eprintln!("{error:#}");
        }
    }
}
