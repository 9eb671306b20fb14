//! An address that follows the primary, for clients that know only one: vip-manager or keepalived beside each agent. keepalived asks that agent, whose yes
//! ends with its lease, and takes silence for a no. vip-manager before 5.0.0 takes an agent's silence for its last answer, so that the address of a dead agent
//! would stay where it is, beside that of the new leader: it looks at the key in etcd, which ends with the lease whoever is dead.

use std::net::IpAddr;

use super::ShowMember;
use crate::config::{Etcd, Tls};

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

/// A complete configuration of vip-manager 3 or newer for the node that is `me`, which reaches etcd as its own file says.
pub fn vip_manager(me: &ShowMember, etcd: &Etcd, cluster: &str, address: &Virtual) -> String {
    let Virtual { ip, prefix, interface } = address;
    let (name, api) = (&me.name, format!("http://{}:{}", bracketed(&me.api_host), me.api_port));
    let endpoints: String = etcd.endpoints.iter().map(|url| format!("  - {url}\n")).collect();
    let key = consensus::Keys::new(&etcd.namespace, cluster).leader();
    let login = [
        etcd.tls.as_ref().map(certificates).unwrap_or_default(),
        etcd.username.as_deref().map(user).unwrap_or_default(),
    ]
    .concat();
    format!(
        "\
# Made by `pgvigil show vip-manager` for {name}: each node has a file of its own. For vip-manager 3 and newer.
ip: {ip}
netmask: {prefix}
interface: {interface}

# The key of the leader, which ends with its lease or with whoever takes over, also where the agent is dead. What it costs when all of etcd is lost, while
# the leader goes on: vip-manager 3 and 4 leave the address where it is, and cannot move it before etcd is back; a host that alone does not reach etcd keeps
# it as well, beside the next leader. vip-manager 5 takes it away within seconds, so that nobody writes by it before etcd is back.
dcs-type: etcd
dcs-endpoints:
{endpoints}trigger-key: \"{key}\"
trigger-value: \"{name}\"
{login}
retry-num: 3
retry-after: 100

# vip-manager 5.0.0 and newer does better with these lines in place of those from `dcs-type` on: it asks the agent of this very node, which goes on without
# etcd and says 200 only while it is the writable leader. Older ones must not: they keep the address of an agent that is dead, and two hosts have it.
# dcs-type: patroni
# dcs-endpoints:
#   - {api}
# trigger-key: /primary
# trigger-value: \"200\"
# interval: 250
"
    )
}

fn certificates(tls: &Tls) -> String {
    let ca = format!("etcd-ca-file: \"{}\"\n", tls.ca.display());
    let own = tls.identity.as_ref().map(|own| {
        let (cert, key) = (own.cert.display(), own.key.display());
        format!("etcd-cert-file: \"{cert}\"\netcd-key-file: \"{key}\"\n")
    });
    ca + &own.unwrap_or_default()
}

fn user(name: &str) -> String {
    format!(
        "\
# Its password comes by VIP_ETCD_PASSWORD in the environment of the service. Any user will do that may read that key.
etcd-user: \"{name}\"
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

# The agent of this node says 200 only while it is the writable leader and its lease lasts. One no is enough: the address is taken away at once. An agent
# that does not answer is a no as well, for curl fails then: nobody has the address until another leads, which takes about ttl where only the agent is dead.
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
    use crate::config::TlsIdentity;

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

    fn etcd() -> Etcd {
        let endpoints = vec!["https://10.0.0.11:2379".to_owned(), "https://10.0.0.12:2379".to_owned()];
        let (username, password_file) = (Some("orders".to_owned()), Some("/etc/pgvigil/etcd.password".into()));
        let identity = Some(TlsIdentity { cert: "/etc/pgvigil/pg3.crt".into(), key: "/etc/pgvigil/pg3.key".into() });
        let tls = Some(Tls { ca: "/etc/pgvigil/ca.crt".into(), identity });
        Etcd { endpoints, tls, username, password_file, namespace: "service".to_owned() }
    }

    #[test]
    fn vip_manager_reads_the_key_of_the_leader_as_the_agent_reaches_etcd() {
        let address = Virtual::parse("10.0.0.100/24", "eth0").unwrap();
        let text = vip_manager(&member("pg3", "fd00::23"), &etcd(), "orders", &address);
        let told: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let wanted = [
            "ip: 10.0.0.100",
            "netmask: 24",
            "interface: eth0",
            "dcs-type: etcd",
            "dcs-endpoints:",
            "  - https://10.0.0.11:2379",
            "  - https://10.0.0.12:2379",
            "trigger-key: \"/service/orders/leader\"",
            "trigger-value: \"pg3\"",
            "etcd-ca-file: \"/etc/pgvigil/ca.crt\"",
            "etcd-cert-file: \"/etc/pgvigil/pg3.crt\"",
            "etcd-key-file: \"/etc/pgvigil/pg3.key\"",
            "etcd-user: \"orders\"",
            "retry-num: 3",
            "retry-after: 100",
        ];
        assert_eq!(told, wanted);
        assert!(text.contains("VIP_ETCD_PASSWORD") && text.contains("\n#   - http://[fd00::23]:8008\n"), "{text}");
        let plain = Etcd { tls: None, username: None, password_file: None, ..etcd() };
        let text = vip_manager(&member("pg3", "10.0.0.23"), &plain, "orders", &address);
        assert!(!text.contains("etcd-") && !text.contains("PASSWORD"), "{text}");
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
