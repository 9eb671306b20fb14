//! What a run needs to know about the system that it breaks: who its nodes are, and how each is started and told to switch. Everything
//! else (who is primary, who streams, what was acknowledged) is asked of Postgres itself, so that systems can be compared.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::demo::service::Service;
use anyhow::Result;

use crate::host::Host;

/// One database node.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub host: Arc<Host>,
    /// The data directory of its Postgres.
    pub data_dir: PathBuf,
    /// The directory of everything of the node, on its volume where it has one.
    pub home: PathBuf,
    /// The port of its Postgres.
    pub port: u16,
}

/// One member of whatever the system keeps its agreements in.
#[derive(Debug)]
pub struct Member {
    /// Where it runs.
    pub host: Arc<Host>,
    /// Its program.
    pub service: Service,
}

/// What every system is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its database nodes.
    pub spots: Vec<Spot>,
    /// The agent of each node, in the same order.
    pub agents: Vec<Service>,
    /// The members of etcd (or what takes its place), the leading one not known.
    pub members: Vec<Member>,
}

/// A transition as the system itself recorded it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Which.
    pub id: String,
    /// How long no write was acknowledged, in its own opinion.
    pub write_outage_ms: Option<f64>,
    /// Its phases in their order.
    pub phases: Vec<(String, f64)>,
    /// Nothing is to come any more.
    pub finished: bool,
}

/// A system that keeps Postgres writable.
pub trait System: Sync {
    /// Its name, for the table.
    fn name(&self) -> &str;

    /// What it is made of.
    fn parts(&self) -> &Parts;

    /// Its database nodes.
    fn spots(&self) -> &[Spot] {
        &self.parts().spots
    }

    /// The members of etcd (or what takes its place), the leading one not known.
    fn members(&self) -> &[Member] {
        &self.parts().members
    }

    /// The agent of a node: the program that starts, stops and promotes Postgres.
    fn agent(&self, node: usize) -> &Service {
        &self.parts().agents[node]
    }

    /// Kills the agent of a node, with all of its processes.
    fn kill_agent(&self, node: usize) {
        self.agent(node).kill();
    }

    /// Kills one of [`Self::members`], with all of its processes.
    ///
    /// # Errors
    /// A process cannot be killed.
    fn kill_member(&self, member: usize) -> Result<()> {
        self.members()[member].service.kill();
        Ok(())
    }

    /// Beyond this writes do not come back by themselves.
    fn patience(&self) -> Duration {
        Duration::from_secs(40)
    }

    /// Whether a primary that [`Self::members`] cannot be reached from goes on while its peers can: others are only measured.
    fn needs_no_agreement(&self) -> bool {
        false
    }

    /// Starts everything for the first time, and returns when all nodes are there.
    fn form(&self) -> impl Future<Output = Result<()>> + Send;

    /// Runs SQL as the superuser on a node and returns what it says.
    fn superuser(&self, node: usize, sql: &str) -> impl Future<Output = Result<String>> + Send;

    /// Whether the system itself says that all is well: Postgres has been asked already.
    fn content(&self) -> impl Future<Output = Result<()>> + Send;

    /// Which member of [`Self::members`] leads the others.
    fn leading_member(&self) -> impl Future<Output = Option<usize>> + Send;

    /// An operator's switchover; returns when it is done.
    fn switch_over(&self, from: usize, to: usize) -> impl Future<Output = Result<()>> + Send;

    /// The transitions that the system has recorded and finished, the oldest first; none where it records none.
    fn recorded(&self) -> impl Future<Output = Vec<Recorded>> + Send;
}
