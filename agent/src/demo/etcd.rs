//! The etcd members of a cluster on this machine, each with its own directory. They sync to disk as real ones do.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::account::Account;
use super::service::Service;
use super::workdir::Workdir;

/// The ports of one member.
#[derive(Clone, Copy, Debug)]
pub struct EtcdPorts {
    /// For clients.
    pub client: u16,
    /// For the other members.
    pub peer: u16,
}

/// The URL for clients.
pub fn url(ports: EtcdPorts) -> String {
    format!("http://127.0.0.1:{}", ports.client)
}

/// One service a member; nothing is started yet.
///
/// # Errors
/// The directories cannot be made.
pub fn members(program: &Path, ports: &[EtcdPorts], workdir: &Workdir, account: Account) -> Result<Vec<Service>> {
    let peer = |ports: &EtcdPorts| format!("http://127.0.0.1:{}", ports.peer);
    let named = |(index, ports)| format!("e{}={}", index + 1, peer(ports));
    let all: Vec<String> = ports.iter().enumerate().map(named).collect();
    let member = |(index, ports): (usize, &EtcdPorts)| {
        let name = format!("e{}", index + 1);
        let data_dir = workdir.directory(&name)?;
        let flags: [(&str, &str); 9] = [
            ("--name", &name),
            ("--listen-client-urls", &url(*ports)),
            ("--advertise-client-urls", &url(*ports)),
            ("--listen-peer-urls", &peer(ports)),
            ("--initial-advertise-peer-urls", &peer(ports)),
            ("--initial-cluster", &all.join(",")),
            ("--initial-cluster-token", &workdir.path().to_string_lossy()),
            ("--logger", "zap"),
            ("--log-level", "warn"),
        ];
        let mut arguments: Vec<OsString> = flags.iter().flat_map(|(flag, value)| [flag.into(), value.into()]).collect();
        arguments.extend(["--data-dir".into(), data_dir.clone().into_os_string()]);
        let log = workdir.path().join(format!("{name}.log"));
        Ok(Service::new(account, &format!("etcd member {name}"), program, arguments, log))
    };
    ports.iter().enumerate().map(member).collect()
}
