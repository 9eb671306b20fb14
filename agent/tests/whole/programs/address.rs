//! vip-manager, beside each node, with an address that follows the leader: once by the key in etcd, as `pgvigil show vip-manager` has it, once by the
//! health API, as people have it for Patroni. It runs in a network of its own, where it may do as it likes, with an interface for each node; what it asks for passes through sockets in the file system.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;
use tokio::net::{TcpStream, UnixListener};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::stage::Stage;

/// Follows `/service/demo/leader`.
const BY_KEY: &str = "10.66.0.1";
/// Follows the health API.
const BY_API: &str = "10.66.0.2";
/// Longer than the addresses take to move, and than they are looked at.
const A_WHILE: Duration = Duration::from_secs(1);
/// The interfaces, and who watches which.
const NETWORK: &str = "\
set -e
ip link set lo up
for name in $NODES; do
    ip link add \"$name\" type veth peer name \"peer-$name\"
    ip link set \"$name\" up
    ip link set \"peer-$name\" up
done
haproxy -db -f \"$DIRECTORY/passage.cfg\" &
sleep 0.5
";
/// Tells again and again who has which address.
const LOOK: &str = "\
while sleep 0.2; do
    ip -4 -brief address >\"$DIRECTORY/addresses.new\" && mv \"$DIRECTORY/addresses.new\" \"$DIRECTORY/addresses\"
done
";

pub struct Addresses {
    directory: PathBuf,
    _network: Child,
    _passages: JoinSet<()>,
}

impl Addresses {
    /// `None`: this machine lets nobody have a network of his own.
    pub async fn start(program: &Path, stage: &Stage) -> Result<Option<Self>> {
        let directory = stage.cluster.make_directory("vip")?;
        let unshare = unshare();
        let mut tried = Command::new("unshare");
        let tried = tried.args(&unshare).args(["ip", "link", "add", "one", "type", "veth", "peer", "name", "other"]);
        if !tried.stderr(Stdio::null()).status().await.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: vip-manager needs a network of its own, and nobody but root may have one here");
            return Ok(None);
        }
        let passages = passages(stage, &directory)?;
        let names: Vec<&str> = stage.cluster.nodes().iter().map(|node| node.name()).collect();
        let script = [NETWORK, &watchers(program, stage, &directory).await?, LOOK].concat();
        let log = std::fs::File::create(directory.join("log"))?;
        let mut network = Command::new("unshare");
        network.args(&unshare).args(["sh", "-c", &script]).env("NODES", names.join(" ")).env("DIRECTORY", &directory);
        network.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        network.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let network = network.spawn().context("running unshare")?;
        Ok(Some(Self { directory, _network: network, _passages: passages }))
    }

    /// Both addresses are on the interface of this node, and on no other.
    pub async fn are_with(&self, stage: &Stage, leader: &str) -> Result<()> {
        self.follow(stage, &[BY_KEY, BY_API], leader).await
    }

    /// So is the one of the configuration that pgvigil prints, and it stays there.
    pub async fn as_shown_is_with(&self, stage: &Stage, leader: &str) -> Result<()> {
        self.follow(stage, &[BY_KEY], leader).await?;
        tokio::time::sleep(A_WHILE).await;
        self.holds(BY_KEY, leader)
    }

    async fn follow(&self, stage: &Stage, addresses: &[&str], leader: &str) -> Result<()> {
        let there = async || addresses.iter().try_for_each(|one| self.holds(one, leader)).map(|()| true);
        stage.eventually(&format!("the addresses are not with {leader} alone"), there).await
    }

    fn holds(&self, address: &str, leader: &str) -> Result<()> {
        let addresses = std::fs::read_to_string(self.directory.join("addresses"))?;
        let holds = |line: &&str| line.split_whitespace().any(|word| word == format!("{address}/24"));
        let holders = addresses.lines().filter(holds).filter_map(|line| line.split(['@', ' ']).next());
        let holders: Vec<&str> = holders.collect();
        ensure!(holders == [leader], "{address} is with {holders:?}");
        Ok(())
    }
}

/// A network and processes that end together, by a user who is root in there.
fn unshare() -> Vec<&'static str> {
    let mut arguments = vec!["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Uid::effective().is_root() {
        arguments.extend(["--user", "--map-root-user"]);
    }
    arguments
}

/// Two for each node, as an operator would start them on it: one is told what to do on its command line, one by the file that pgvigil prints.
async fn watchers(program: &Path, stage: &Stage, directory: &Path) -> Result<String> {
    let mut watchers = String::new();
    for node in stage.cluster.nodes() {
        let name = node.name();
        let common = format!("--interface={name} --ip={BY_API} --netmask=24 --interval=200");
        let by_api = format!("--dcs-type=patroni --dcs-endpoints={} --trigger-key=/leader", node.api_url());
        watchers += &format!("{} {common} {by_api} --trigger-value=200 &\n", program.display());
        let ip = format!("{BY_KEY}/24");
        let shown = stage.cluster.pgvigil(name, &["show", "vip-manager", "--ip", &ip, "--interface", name]).await?;
        ensure!(shown.status.success(), "show vip-manager: {}", String::from_utf8_lossy(&shown.stderr));
        let file = directory.join(format!("{name}.yml"));
        std::fs::write(&file, shown.stdout)?;
        watchers += &format!("{} --config={} &\n", program.display(), file.display());
    }
    Ok(watchers)
}

/// From loopback in there to loopback out here, by the same ports: HAProxy leads to a socket, and this process on from that.
fn passages(stage: &Stage, directory: &Path) -> Result<JoinSet<()>> {
    let urls = stage.cluster.etcd_urls().iter().cloned();
    let urls = urls.chain(stage.cluster.nodes().iter().map(|node| node.api_url()));
    let mut config = "defaults\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n mode tcp\n".to_owned();
    let mut passages = JoinSet::new();
    for url in urls {
        let address = url.trim_start_matches("http://").to_owned();
        let port = address.rsplit(':').next().context("a port")?;
        let socket = directory.join(port);
        config += &format!("listen to_{port}\n bind {address}\n server there unix@{}\n", socket.display());
        let listener = UnixListener::bind(&socket).context("a socket")?;
        passages.spawn(pass_on(listener, address));
    }
    std::fs::write(directory.join("passage.cfg"), config)?;
    Ok(passages)
}

async fn pass_on(listener: UnixListener, address: String) {
    while let Ok((mut inside, _)) = listener.accept().await {
        let address = address.clone();
        tokio::spawn(async move {
            if let Ok(mut outside) = TcpStream::connect(&address).await {
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            }
        });
    }
}
