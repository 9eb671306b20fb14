//! The ground on which a system is built: a network, a directory, and a volume for each node where disks are to be broken. It can be
//! cleared and built upon anew within one run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::demo::account::Account;
use agent::demo::etcd::{self, EtcdPlace};
use agent::demo::processes::end_for_good;
use agent::demo::programs;
use agent::demo::workdir::Workdir;
use anyhow::Result;

use crate::host::Host;
use crate::net::{ETCD_PORTS, Net};
use crate::system::Member;
use crate::volume::Volume;
use crate::world;

/// Where etcd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Layout {
    /// On hosts of its own.
    Apart,
    /// On the first three database hosts.
    Together,
}

impl Layout {
    /// The word for the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Together => "together",
        }
    }
}

/// The ground.
pub struct Site {
    // Dropped in this order, after everything that runs here has ended.
    volumes: Vec<(PathBuf, Volume)>,
    net: Net,
    _claim: world::Claim,
    account: Account,
    workdir: Workdir,
}

impl Site {
    /// Empty ground.
    ///
    /// # Errors
    /// The machine has not what it takes.
    pub fn new() -> Result<Self> {
        let account = Account::find()?;
        let workdir = Workdir::create(account, world::PREFIX)?;
        let claim = world::claim(workdir.path())?;
        Ok(Self { volumes: Vec::new(), net: Net::new()?, _claim: claim, account, workdir })
    }

    /// Who runs the programs.
    pub fn account(&self) -> Account {
        self.account
    }

    /// The directory of everything.
    pub fn workdir(&self) -> &Workdir {
        &self.workdir
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Hosts with names that count from 1.
    ///
    /// # Errors
    /// The kernel has no namespaces for them.
    pub fn hosts(&mut self, letter: &str, count: usize) -> Result<Vec<Arc<Host>>> {
        (1..=count).map(|number| self.net.host(&format!("{letter}{number}"))).collect()
    }

    /// The directory of a node, on a volume of its own if asked.
    ///
    /// # Errors
    /// The disk is full.
    pub fn home(&mut self, name: &str, own_volume: bool) -> Result<PathBuf> {
        let home = self.workdir.directory(name)?;
        if own_volume {
            self.volumes.push((home.clone(), Volume::mount(&home, self.account)?));
        }
        Ok(home)
    }

    /// The volume that is mounted there.
    pub fn volume(&self, home: &Path) -> Option<&Volume> {
        self.volumes.iter().find(|(at, _)| at == home).map(|(_, volume)| volume)
    }

    /// A member of etcd on each host, not started yet, and their URLs.
    ///
    /// # Errors
    /// etcd is not installed.
    pub fn etcd(&self, hosts: &[Arc<Host>]) -> Result<(Vec<Member>, Vec<String>)> {
        let program = programs::program("etcd", "etcd-server")?;
        let [client, peer] = ETCD_PORTS;
        let place = |host: &Arc<Host>| EtcdPlace { address: host.address().to_string(), client, peer };
        let places: Vec<EtcdPlace> = hosts.iter().map(place).collect();
        let services = etcd::members(&program, &places, &self.workdir, self.account)?;
        let on = |(service, host): (agent::demo::service::Service, &Arc<Host>)| Member {
            host: Arc::clone(host),
            service: service.on(Arc::clone(host) as _),
        };
        Ok((services.into_iter().zip(hosts).map(on).collect(), places.iter().map(EtcdPlace::url).collect()))
    }

    /// The directory stays, for its logs. What lies on volumes is copied beside them.
    pub fn keep(&self) {
        self.workdir.keep();
        world::keep(self.workdir.path());
        for (home, volume) in &self.volumes {
            let _ = volume.thaw();
            let logs = home.join("data.pgvigil/postgres.log");
            let _ = std::fs::copy(logs, home.with_extension("postgres.log"));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
            eprintln!("the logs stay in {}", self.workdir.path().display());
        }
        for (_, volume) in &self.volumes {
            // Whoever waits for a frozen disk cannot be killed.
            let _ = volume.thaw();
        }
        if let Err(error) = end_for_good(|| self.net.hosts().iter().flat_map(|host| host.processes()).collect()) {
            eprintln!("{error:#}");
        }
    }
}
