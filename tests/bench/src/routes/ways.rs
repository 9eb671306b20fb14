//! The ways to the primary, as `pgvigil show` configures them: the cluster's own HAProxy with its checks, a second one that is told as well, PgBouncer
//! before that, and a connection string.

use std::path::Path;
use std::process::Stdio;

use agent::config::{HostPort, RuntimeSocket};
use agent::demo::cluster::LocalCluster;
use agent::demo::ports::Ports;
use agent::demo::session::{DATABASE, USER};
use agent::show::{Driver, HaproxyOptions, ShowMember, haproxy, pgbouncer, uri};
use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use super::client::Writing;

const LOOPBACK: &str = "127.0.0.1";

/// What runs before a cluster, beside its own HAProxy.
pub struct Ways {
    checks: u16,
    told: u16,
    pooler: u16,
    uri: String,
    psql: std::path::PathBuf,
    _running: [Child; 2],
}

impl Ways {
    /// Starts what is not there yet. The ports: HAProxy's runtime socket, PgBouncer, then HAProxy's three.
    ///
    /// # Errors
    /// A program is missing.
    pub async fn start(cluster: &LocalCluster, ports: &Ports) -> Result<Self> {
        let members: Vec<ShowMember> = cluster.nodes().iter().map(member).collect();
        let options = HaproxyOptions {
            bind: LOOPBACK.to_owned(),
            rw_port: ports.at(2),
            ro_port: ports.at(3),
            stats_port: ports.at(4),
            maxconn: 100,
            runtime_sockets: vec![RuntimeSocket::Tcp(HostPort { host: LOOPBACK.to_owned(), port: ports.at(0) })],
        };
        // It is printed as a comment, for it is one of perhaps several HAProxies elsewhere.
        let text = haproxy(&members, &options).replace("# stats socket", "stats socket");
        let home = cluster.make_directory("ways")?;
        std::fs::write(home.join("haproxy.cfg"), text)?;
        let mut proxy = Command::from(cluster.command("haproxy"));
        proxy.arg("-db").arg("-f").arg(home.join("haproxy.cfg"));
        let mut pooler = Command::from(cluster.command("pgbouncer"));
        pooler.arg("--quiet").arg(written(&home, ports)?);
        let running = [started(proxy, &home.join("haproxy.log"))?, started(pooler, &home.join("pgbouncer.out"))?];
        let uri = format!("{}&user={USER}", uri(&members, DATABASE, Driver::Libpq));
        let psql = cluster.postgres_programs().bin_dir.join("psql");
        ensure!(psql.exists(), "there is no {}", psql.display());
        let checks = cluster.proxy_ports().read_write;
        Ok(Self { checks, told: ports.at(2), pooler: ports.at(1), uri, psql, _running: running })
    }

    /// A client begins to write by each way, in the order of the report.
    pub fn write(&self) -> Vec<Writing> {
        let mut psql = Command::new(&self.psql);
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.uri]);
        vec![
            Writing::through("checks", self.checks),
            Writing::through("told", self.told),
            Writing::through("pooler", self.pooler),
            Writing::by_libpq("libpq", psql, self.uri.clone()),
        ]
    }
}

fn member(node: &agent::demo::node::Node) -> ShowMember {
    let api = node.api_url();
    let api_port = api.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
    let host = || LOOPBACK.to_owned();
    ShowMember { name: node.name().to_owned(), host: host(), port: node.postgres_port(), api_host: host(), api_port }
}

/// The file that is shown for PgBouncer, but for this machine's ports and places.
fn written(home: &Path, ports: &Ports) -> Result<std::path::PathBuf> {
    let place = |path: &Path| path.display().to_string();
    let mut text = pgbouncer(DATABASE);
    for (usual, ours) in [
        ("port=5000", format!("port={}", ports.at(2))),
        ("port=5001", format!("port={}", ports.at(3))),
        ("listen_port = 6432", format!("listen_port = {}", ports.at(1))),
        ("auth_type = scram-sha-256", "auth_type = trust".to_owned()),
        ("/etc/pgbouncer/userlist.txt", place(&home.join("users"))),
        ("/var/log/postgresql", place(home)),
        ("/var/run/postgresql", place(home)),
    ] {
        ensure!(text.contains(usual), "{usual} is not in: {text}");
        text = text.replace(usual, &ours);
    }
    std::fs::write(home.join("users"), format!("\"{USER}\" \"\"\n\"pgbouncer\" \"\"\n"))?;
    let file = home.join("pgbouncer.ini");
    std::fs::write(&file, text)?;
    Ok(file)
}

fn started(mut command: Command, log: &Path) -> Result<Child> {
    let log = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let program = format!("{:?}", command.as_std().get_program());
    command.spawn().with_context(|| format!("running {program} (scripts/setup.sh installs it)"))
}
