//! One host: what runs in its network namespace is what runs on it. It can lose power, be frozen as a whole, and have its packets
//! dropped; a killed host says no goodbye, for its cable is pulled first.

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::linux::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use agent::demo::processes::{end, signal};
use agent::demo::service::Ground;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::net::{Cut, inside, ip};

/// A host.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    /// Its cable's end at the switch.
    cable: String,
    netns: File,
    inode: u64,
}

impl Host {
    pub(crate) fn new(name: &str, address: Ipv4Addr, cable: String, netns: File) -> Result<Self> {
        let inode = netns.metadata().context("looking at a network namespace")?.st_ino();
        Ok(Self { name: name.to_owned(), address, cable, netns, inode })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its cable's end at the switch.
    pub(crate) fn cable(&self) -> &str {
        &self.cable
    }

    /// Runs a short program on it, as whoever runs this.
    ///
    /// # Errors
    /// What the program says.
    pub fn run(&self, program: &str, arguments: &str, input: Option<&str>) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments.split(' ').filter(|argument| !argument.is_empty()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command).with_context(|| format!("cannot run `{program}`"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.unwrap_or_default().as_bytes()).with_context(|| format!("telling `{program}`"))?;
        }
        let output = child.wait_with_output().with_context(|| format!("running `{program}`"))?;
        if !output.status.success() {
            bail!("{program} {arguments} on {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// The processes that run on it.
    pub fn processes(&self) -> Vec<i32> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|there| there.st_ino() == self.inode)
        })
        .collect()
    }

    /// Pulls its cable.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn unplug(&self) -> Result<()> {
        ip(&format!("link set {} down", self.cable))
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn plug(&self) -> Result<()> {
        ip(&format!("link set {} up", self.cable))
    }

    /// Power is lost: nothing is heard of it any more, and nothing runs on it.
    ///
    /// # Errors
    /// A process cannot be killed (its disk is frozen).
    pub fn power_off(&self) -> Result<()> {
        self.unplug()?;
        self.kill_everything()
    }

    /// Kills whatever runs on it.
    ///
    /// # Errors
    /// A process cannot be killed.
    pub fn kill_everything(&self) -> Result<()> {
        end(|| self.processes()).with_context(|| format!("on {}", self.name))
    }

    /// Stops every process where it is, and lets nothing be heard of it: neither do the kernels of frozen machines answer.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn freeze(&self) -> Result<()> {
        self.unplug()?;
        let mut before = Vec::new();
        loop {
            let mut now = self.processes();
            now.sort_unstable();
            if now == before {
                return Ok(());
            }
            now.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
            before = now;
        }
    }

    /// Lets them go on, at a network that works again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn thaw(&self) -> Result<()> {
        self.plug()?;
        self.processes().into_iter().for_each(|pid| signal(pid, Signal::SIGCONT));
        Ok(())
    }

    /// Drops these packets, besides those that are dropped already.
    ///
    /// # Errors
    /// What `iptables-restore` says.
    pub fn cut(&self, cut: &Cut) -> Result<()> {
        self.run("iptables-restore", "--noflush", Some(&cut.rules()))
    }

    /// Drops none any more.
    ///
    /// # Errors
    /// What `iptables` says.
    pub fn heal(&self) -> Result<()> {
        self.run("iptables", "-F", None)
    }
}

impl Ground for Host {
    fn spawn(&self, mut command: Command) -> io::Result<Child> {
        // A child begins where the thread is that makes it.
        inside(&self.netns, move || command.spawn())?
    }
}
