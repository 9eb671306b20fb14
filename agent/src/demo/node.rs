//! One node of a cluster on this machine: an agent, its Postgres, and everything that can be done to them.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use nix::sys::signal::Signal;

use super::processes;
use super::service::Service;

/// A node.
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) config: PathBuf,
    pub(super) postgres_port: u16,
    pub(super) api_port: u16,
    pub(super) agent: Service,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configuration file of its agent.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The directory of everything that is this node's.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The data directory of its Postgres.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The directory of its unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.home.join("s")
    }

    /// The loopback port of Postgres.
    pub fn postgres_port(&self) -> u16 {
        self.postgres_port
    }

    /// The health API.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// The log of Postgres.
    pub fn postgres_log(&self) -> PathBuf {
        self.home.join("data.pgvigil/postgres.log")
    }

    /// Its agent: start, stop, kill, freeze, thaw, log.
    pub fn agent(&self) -> &Service {
        &self.agent
    }

    /// The process id of its postmaster, while that runs.
    pub fn postmaster_pid(&self) -> Option<i32> {
        pg_control::process::find(&self.data_dir()).map(|postmaster| postmaster.pid)
    }

    /// `SIGKILL` for the postmaster alone.
    ///
    /// # Errors
    /// None runs.
    pub fn kill_postgres(&self) -> Result<()> {
        let pid = self.postmaster_pid().ok_or_else(|| anyhow!("Postgres does not run on {}", self.name))?;
        processes::signal(pid, Signal::SIGKILL);
        Ok(())
    }

    /// `SIGKILL` for every program of this node, as if its host had lost power.
    ///
    /// # Errors
    /// Some process cannot be killed.
    pub fn kill_everything(&self) -> Result<()> {
        self.agent.kill();
        processes::end(|| processes::of_directory(&self.home))
    }

    /// `SIGSTOP` for every process of Postgres.
    pub fn freeze_postgres(&self) {
        processes::freeze_server(&self.data_dir());
    }

    /// `SIGCONT` for them.
    pub fn thaw_postgres(&self) {
        processes::thaw_server(&self.data_dir());
    }
}
