//! A network with its hosts: each host is a network namespace behind a cable into one switch, and the run itself sits at the switch as
//! the client does. Cables are pulled, and packets dropped by rules on the host, in either direction, for some peers or all.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::host::Host;

/// The address of the clients, with the mask of the network.
pub const CLIENTS: &str = "10.77.0.254/32";
const SWITCH: &str = "switch0";
/// At which ports etcd is spoken to.
pub const ETCD_PORTS: [u16; 2] = [2379, 2380];

/// The network of a run.
#[derive(Debug)]
pub struct Net {
    hosts: Vec<Arc<Host>>,
}

/// Packets that are dropped on a host.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Of which direction.
    pub way: Way,
    /// From and to which hosts; everybody, the clients too, where there are none.
    pub peers: Vec<Ipv4Addr>,
    /// Of which ports.
    pub ports: Ports,
}

/// Directions, as the host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing comes in.
    In,
    /// Nothing goes out.
    Out,
    /// Neither.
    Both,
}

/// Ports on either side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// All of them.
    All,
    /// Those of etcd.
    Etcd,
    /// All but those of etcd.
    ButEtcd,
    /// All of them, but only packets that are too large for some link on the way, and nobody is told: a wrong MTU.
    Large,
}

impl Net {
    /// The switch, with the clients' address. Inside a world of its own there can be only one.
    ///
    /// # Errors
    /// The kernel has no bridges.
    pub fn new() -> Result<Self> {
        ip(&format!("link add {SWITCH} type bridge forward_delay 0"))?;
        ip(&format!("addr add {}/24 dev {SWITCH}", CLIENTS.trim_end_matches("/32")))?;
        ip(&format!("link set {SWITCH} up"))?;
        ip("link set lo up")?;
        Ok(Self { hosts: Vec::new() })
    }

    /// One more host. Its name is at most ten letters long.
    ///
    /// # Errors
    /// The kernel has no namespaces or cables for it.
    pub fn host(&mut self, name: &str) -> Result<Arc<Host>> {
        let netns = new_namespace()?;
        let number = u8::try_from(self.hosts.len() + 1).context("too many hosts")?;
        let (address, cable) = (Ipv4Addr::new(10, 77, 0, number), format!("to-{name}"));
        let there = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        ip(&format!("link add {cable} type veth peer name eth0 netns {there}"))?;
        ip(&format!("link set {cable} master {SWITCH} up"))?;
        let host = Arc::new(Host::new(name, address, cable, netns)?);
        for arguments in ["link set lo up", &format!("addr add {address}/24 dev eth0"), "link set eth0 up"] {
            host.run("ip", arguments, None)?;
        }
        self.hosts.push(Arc::clone(&host));
        Ok(host)
    }

    /// All of them.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // A host's end of its cable goes with it, as soon as nothing runs there any more.
        for link in self.hosts.iter().map(|host| host.cable()).chain([SWITCH]) {
            if let Err(error) = ip(&format!("link del {link}")) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Cut {
    /// Everything, to and from everybody.
    pub fn everything(way: Way) -> Self {
        Self { way, peers: Vec::new(), ports: Ports::All }
    }

    /// The rules as `iptables-restore` reads them.
    pub fn rules(&self) -> String {
        let peers: Vec<Option<Ipv4Addr>> =
            if self.peers.is_empty() { vec![None] } else { self.peers.iter().copied().map(Some).collect() };
        let mut rules = String::from("*filter\n");
        for (chain, way, other, device, peer_is) in
            [("INPUT", Way::In, Way::Both, "-i", "-s"), ("OUTPUT", Way::Out, Way::Both, "-o", "-d")]
        {
            if self.way != way && self.way != other {
                continue;
            }
            for peer in &peers {
                let whose = peer.map(|peer| format!(" {peer_is} {peer}")).unwrap_or_default();
                let about = format!("-A {chain} ! {device} lo{whose}");
                let etcd = format!("-p tcp -m multiport --ports {},{}", ETCD_PORTS[0], ETCD_PORTS[1]);
                rules += &match self.ports {
                    Ports::All => format!("{about} -j DROP\n"),
                    Ports::Etcd => format!("{about} {etcd} -j DROP\n"),
                    Ports::Large => format!("{about} -m length --length 1400:65535 -j DROP\n"),
                    Ports::ButEtcd => format!("{about} {etcd} -j ACCEPT\n{about} -j DROP\n"),
                };
            }
        }
        rules + "COMMIT\n"
    }
}

/// Runs `ip` where this process is.
pub(crate) fn ip(arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    let output = command.args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.context("cannot run `ip`: apt-get install iproute2")?;
    if !output.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A thread goes to a namespace of its own and comes back with the handle; the others stay where they are.
fn new_namespace() -> Result<File> {
    let made = std::thread::spawn(|| -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        File::open("/proc/thread-self/ns/net").context("opening a network namespace")
    });
    made.join().map_err(|_| anyhow!("the thread that makes a namespace has panicked"))?
}

/// Does something inside a namespace, on a thread of its own.
pub(crate) fn inside<T: Send>(netns: &File, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| setns(netns, CloneFlags::CLONE_NEWNET).map(|()| work()));
        let done = there.join().map_err(|_| std::io::Error::other("the thread on a host has panicked"))?;
        done.map_err(std::io::Error::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_drops_only_what_it_says() {
        let peer = Ipv4Addr::new(10, 77, 0, 2);
        let cut = Cut { way: Way::Out, peers: vec![peer], ports: Ports::Etcd };
        let drop = "-A OUTPUT ! -o lo -d 10.77.0.2 -p tcp -m multiport --ports 2379,2380 -j DROP";
        assert_eq!(cut.rules(), format!("*filter\n{drop}\nCOMMIT\n"));
        let both = Cut::everything(Way::Both).rules();
        assert_eq!(both, "*filter\n-A INPUT ! -i lo -j DROP\n-A OUTPUT ! -o lo -j DROP\nCOMMIT\n");
    }
}
