//! The etcd members of a cluster on this machine, each with its own directory. They sync to disk as real ones do.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::account::Account;
use super::service::Service;
use super::workdir::Workdir;

/// Where one member listens.
#[derive(Clone, Debug)]
pub struct EtcdPlace {
    /// On this address.
    pub address: String,
    /// For clients.
    pub client: u16,
    /// For the other members.
    pub peer: u16,
}

impl EtcdPlace {
    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address, self.client)
    }

    fn peer_url(&self) -> String {
        format!("http://{}:{}", self.address, self.peer)
    }
}

/// One service a member; nothing is started yet.
///
/// # Errors
/// The directories cannot be made.
pub fn members(program: &Path, places: &[EtcdPlace], workdir: &Workdir, account: Account) -> Result<Vec<Service>> {
    let named = |(index, place): (usize, &EtcdPlace)| format!("e{}={}", index + 1, place.peer_url());
    let all: Vec<String> = places.iter().enumerate().map(named).collect();
    let member = |(index, place): (usize, &EtcdPlace)| {
        let name = format!("e{}", index + 1);
        let data_dir = workdir.directory(&name)?;
        let flags: [(&str, &str); 9] = [
            ("--name", &name),
            ("--listen-client-urls", &place.url()),
            ("--advertise-client-urls", &place.url()),
            ("--listen-peer-urls", &place.peer_url()),
            ("--initial-advertise-peer-urls", &place.peer_url()),
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
    places.iter().enumerate().map(member).collect()
}
