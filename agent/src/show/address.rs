//! An address that follows the primary, for clients that know only one: vip-manager or keepalived beside each agent. Both ask that agent, whose yes ends
//! with its lease, and not etcd: a leader that goes on without etcd keeps its address.

use std::net::IpAddr;

use super::ShowMember;

/// The address that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Virtual {
    /// The address itself.
    pub ip: IpAddr,
    /// How many bits of it name the network.
    pub prefix: u8,
    /// The interface that gets it.
    pub interface: String,
}

impl Virtual {
    /// Reads `10.0.0.100/24`.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn parse(text: &str, interface: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no address with the length of its network, such as 10.0.0.100/24");
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (ip, prefix): (IpAddr, u8) = (ip.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        if prefix > if ip.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(Self { ip, prefix, interface: interface.to_owned() })
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A complete configuration of vip-manager 2 or newer for the node that is `me`.
pub fn vip_manager(me: &ShowMember, address: &Virtual) -> String {
    let Virtual { ip, prefix, interface } = address;
    let (name, api) = (&me.name, format!("http://{}:{}", bracketed(&me.api_host), me.api_port));
    format!(
        "\
# Made by `pgvigil show vip-manager` for {name}: each node has a file of its own.
ip: {ip}
netmask: {prefix}
interface: {interface}

# The agent of this very node is asked, and says 200 only while it is the writable leader and its lease lasts. With `dcs-type: etcd` the address would
# be lost with etcd, although the leader goes on.
dcs-type: patroni
dcs-endpoints:
  - {api}
trigger-key: /primary
trigger-value: \"200\"

# How often, in milliseconds: the most that the address is behind the primary. An answer costs nothing, it comes from memory.
interval: 250
retry-num: 3
retry-after: 100
"
    )
}

/// A complete configuration of keepalived 2 for the node that is `me`, among the others.
pub fn keepalived(me: &ShowMember, others: &[ShowMember], cluster: &str, router: u8, address: &Virtual) -> String {
    let Virtual { ip, prefix, interface } = address;
    let (name, api) = (&me.name, format!("http://{}:{}/primary", bracketed(&me.api_host), me.api_port));
    let family = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.is_ipv4());
    let peer = |other: &ShowMember| match family(&other.host) {
        Some(four) if four == ip.is_ipv4() => format!("        {}\n", other.host),
        _ => format!(
            "        # {}: put its address here, of the same kind as {ip}; {} is none\n",
            other.name, other.host
        ),
    };
    let peers: String = others.iter().map(peer).collect();
    let own = match family(&me.host) {
        Some(four) if four == ip.is_ipv4() => format!("    unicast_src_ip {}\n", me.host),
        _ => String::new(),
    };
    format!(
        "\
# Made by `pgvigil show keepalived` for {name}: each node has a file of its own. Check it with `keepalived --config-test -f FILE`.
# Needs curl.

global_defs {{
    router_id {name}
    enable_script_security
    # In tenths of a second, and for both kinds of addresses.
    vrrp_version 3
    script_user nobody nogroup
}}

# The agent of this node says 200 only while it is the writable leader and its lease lasts. One no is enough: the address is taken away at once.
vrrp_script writable {{
    script \"/usr/bin/curl --silent --fail --max-time 1 --output /dev/null {api}\"
    interval 1
    timeout 2
    fall 1
    rise 1
    init_fail
}}

vrrp_instance {cluster} {{
    # Who has the address is decided by the agents alone: without its script's yes a node does not stand for it, and one node's agent says yes at a time.
    state BACKUP
    interface {interface}
    virtual_router_id {router}
    priority 100
    advert_int 0.2
{own}    unicast_peer {{
{peers}    }}
    track_script {{
        writable
    }}
    virtual_ipaddress {{
        {ip}/{prefix}
    }}
}}
"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn member(name: &str, host: &str) -> ShowMember {
        ShowMember { name: name.into(), host: host.into(), port: 5432, api_host: host.into(), api_port: 8008 }
    }

    #[test]
    fn an_address_has_the_length_of_its_network() {
        let read = |text| Virtual::parse(text, "eth0");
        let there = Virtual { ip: "10.0.0.100".parse().unwrap(), prefix: 24, interface: "eth0".to_owned() };
        assert_eq!(read("10.0.0.100/24"), Ok(there));
        assert!(read("fd00::100/64").is_ok());
        for wrong in ["10.0.0.100", "10.0.0.100/33", "10.0.0/24", "pg1/24", "fd00::1/129"] {
            assert!(read(wrong).is_err_and(|why| why.contains("such as 10.0.0.100/24")), "{wrong}");
        }
    }

    #[test]
    fn each_node_asks_its_own_agent() {
        let address = Virtual::parse("10.0.0.100/24", "eth0").unwrap();
        let text = vip_manager(&member("pg3", "fd00::23"), &address);
        assert!(text.contains("\n  - http://[fd00::23]:8008\n"), "{text}");
        assert!(text.contains("\nip: 10.0.0.100\nnetmask: 24\ninterface: eth0\n"), "{text}");
    }

    #[test]
    fn keepalived_itself_finds_no_fault() {
        let others = [member("pg2", "10.0.0.22"), member("pg3", "fd00::23"), member("pg4", "pg4.example")];
        let address = Virtual::parse("10.0.0.100/24", "vip0").unwrap();
        let text = keepalived(&member("pg1", "10.0.0.21"), &others, "orders", 51, &address);
        assert!(text.contains("\n        10.0.0.22\n") && text.contains("# pg4: put its address here"), "{text}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keepalived.conf");
        std::fs::write(&path, text).unwrap();
        // It looks for the interface, so there must be one.
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        if !nix::unistd::Uid::effective().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let script = "ip link add vip0 type veth peer name other || { echo no network; exit 0; }
            exec keepalived --config-test --use-file=\"$1\"";
        unshare.args(["sh", "-c", script, "sh"]).arg(&path).stdin(Stdio::null());
        unshare.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let output = unshare.output().unwrap();
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if told.contains("no network") || told.contains("unshare failed") {
            eprintln!("SKIPPED: this machine lets nobody have a network of his own");
            return;
        }
        assert!(output.status.success() && told.trim().is_empty(), "{}: {told}", output.status);
    }
}
