//! One thing that goes wrong in one place, and how it is made good again.

use std::net::Ipv4Addr;
use std::time::Duration;

use agent::demo::processes::{freeze_server, of_server, signal, thaw_server};
use agent::demo::session::Session;
use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;

use crate::net::{Cut, Ports, Way};
use crate::stage::Stage;
use crate::system::{Spot, System};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The postmaster alone is killed; its backends go on for a moment.
    KillPostmaster,
    /// Every process of Postgres is killed.
    KillPostgres,
    /// The agent is killed, and started again at once.
    RestartAgent,
    /// The agent is killed, and stays dead until the end.
    KillAgent,
    /// The agent ends as `systemctl stop` ends it, and is started at the end.
    StopAgent,
    /// The agent and the fencer behind it are killed, and stay dead until the end: nobody ends Postgres.
    KillAgentAndFencer,
    /// The host loses power: nothing is heard of it any more, and nothing runs on it. Started again at the end.
    PowerOff,
    /// Nothing comes in or goes out, not even to the clients.
    Isolate,
    /// etcd cannot be reached from the host, in either direction.
    CutFromEtcd,
    /// No other database host can be reached from it, in either direction; etcd can.
    CutFromNodes,
    /// Small packets pass, large ones are swallowed, to and from everybody.
    SwallowLarge,
    /// Nothing comes in.
    CutIn,
    /// Nothing goes out.
    CutOut,
    /// The agent is stopped where it is: `SIGSTOP`.
    FreezeAgent,
    /// Every process of Postgres is stopped where it is.
    FreezePostgres,
    /// Everything on the host is stopped where it is, and nothing is heard of it.
    FreezeHost,
    /// The leading member of etcd is killed.
    KillEtcdLeader,
    /// All of etcd is killed.
    KillEtcd,
    /// The node's disk has not a byte left.
    FillDisk,
    /// Whoever writes to the node's disk waits, and cannot be killed.
    FreezeDisk,
    /// An operator's switchover to the replica, which is not waited for.
    SwitchOver,
    /// The last acknowledged row is deleted behind everybody's back: whoever judges must miss it.
    DeleteRow,
    /// A standby is promoted by hand, with nobody to wait for: whoever judges must see two primaries.
    PromoteByHand,
}

/// How to make it good again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// Start the agent of a node.
    StartAgent(usize),
    /// Switch the host of a node on.
    PowerOn(usize),
    /// Drop no packets any more.
    Heal(usize),
    /// Let the agent go on.
    ThawAgent(usize),
    /// Let Postgres go on.
    ThawPostgres(usize),
    /// Let the host go on.
    ThawHost(usize),
    /// Start whatever of etcd does not run.
    StartEtcd,
    /// Make room on the disk.
    EmptyDisk(usize),
    /// Let the disk go on.
    ThawDisk(usize),
}

impl Blow {
    /// Whether each node needs a volume of its own for it.
    pub fn needs_volumes(self) -> bool {
        matches!(self, Self::FillDisk | Self::FreezeDisk)
    }

    /// Strikes a node; `replica` is another one that streams.
    ///
    /// # Errors
    /// It cannot be done: a tool says why.
    pub async fn strike<S: System>(self, stage: &Stage<'_, S>, node: usize, replica: usize) -> Result<Option<Mend>> {
        let (system, spot) = (stage.system, &stage.system.spots()[node]);
        match self {
            Self::KillPostmaster => {
                signal(postmaster(spot)?, Signal::SIGKILL);
                Ok(None)
            }
            Self::KillPostgres => {
                of_server(&spot.data_dir).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
                Ok(None)
            }
            Self::RestartAgent => {
                system.kill_agent(node);
                system.agent(node).start().map(|()| None)
            }
            Self::KillAgent => {
                system.kill_agent(node);
                Ok(Some(Mend::StartAgent(node)))
            }
            Self::StopAgent => {
                system.agent(node).pid().into_iter().for_each(|pid| signal(pid, Signal::SIGTERM));
                Ok(Some(Mend::StartAgent(node)))
            }
            Self::KillAgentAndFencer => kill_agent_and_fencer(system, node).map(|()| Some(Mend::StartAgent(node))),
            Self::PowerOff => spot.host.power_off().map(|()| Some(Mend::PowerOn(node))),
            Self::Isolate
            | Self::SwallowLarge
            | Self::CutIn
            | Self::CutOut
            | Self::CutFromEtcd
            | Self::CutFromNodes => spot.host.cut(&self.packets(system, spot)).map(|()| Some(Mend::Heal(node))),
            Self::FreezeAgent => system.agent(node).freeze().map(|()| Some(Mend::ThawAgent(node))),
            Self::FreezePostgres => {
                freeze_server(&spot.data_dir);
                Ok(Some(Mend::ThawPostgres(node)))
            }
            Self::FreezeHost => spot.host.freeze().map(|()| Some(Mend::ThawHost(node))),
            Self::KillEtcdLeader => {
                let leader = system.leading_member().await.context("no member of etcd leads")?;
                system.kill_member(leader).map(|()| Some(Mend::StartEtcd))
            }
            Self::KillEtcd => {
                (0..system.members().len()).try_for_each(|member| system.kill_member(member))?;
                Ok(Some(Mend::StartEtcd))
            }
            Self::FillDisk => stage.volume(node)?.fill().map(|()| Some(Mend::EmptyDisk(node))),
            Self::FreezeDisk => stage.volume(node)?.freeze().map(|()| Some(Mend::ThawDisk(node))),
            Self::DeleteRow => {
                let last = stage.writers.ledger().last().context("no row was acknowledged")?;
                let session = Session::to(&spot.host.address().to_string(), spot.port, ms(2000)).await?;
                session.execute("DELETE FROM rows WHERE id = $1", &[&last.id]).await?;
                Ok(None)
            }
            Self::PromoteByHand => promote_by_hand(system, node).await,
            Self::SwitchOver => system.switch_over(node, replica).await.map(|()| None),
        }
    }
}

impl Blow {
    /// Which packets a blow drops that drops some.
    fn packets(self, system: &impl System, spot: &Spot) -> Cut {
        let me = spot.host.address();
        let (way, ports) = match self {
            Self::CutIn => (Way::In, Ports::All),
            Self::CutOut => (Way::Out, Ports::All),
            Self::CutFromEtcd => (Way::Both, Ports::Etcd),
            Self::CutFromNodes => (Way::Both, Ports::ButEtcd),
            Self::SwallowLarge => (Way::Both, Ports::Large),
            _ => (Way::Both, Ports::All),
        };
        let peers: Vec<Ipv4Addr> = match ports {
            // Nobody is an exception.
            Ports::All | Ports::Large => return Cut { way, peers: Vec::new(), ports },
            Ports::Etcd => system.members().iter().map(|member| member.host.address()).collect(),
            Ports::ButEtcd => system.spots().iter().map(|other| other.host.address()).collect(),
        };
        Cut { way, peers: peers.into_iter().filter(|peer| *peer != me).collect(), ports }
    }
}

impl Mend {
    /// Makes it good again. What has come good by itself needs nothing.
    ///
    /// # Errors
    /// It cannot be done: a tool says why.
    pub async fn apply<S: System>(self, stage: &Stage<'_, S>) -> Result<()> {
        let system = stage.system;
        let host = |node: usize| &system.spots()[node].host;
        let start = |node: usize| match system.agent(node).pid() {
            Some(_) => Ok(()),
            None => system.agent(node).start(),
        };
        match self {
            Self::StartAgent(node) => start(node),
            Self::PowerOn(node) => {
                host(node).plug()?;
                let here = |member: &&crate::system::Member| member.host.address() == host(node).address();
                for member in system.members().iter().filter(here) {
                    if member.service.pid().is_none() {
                        member.service.start()?;
                    }
                }
                start(node)
            }
            Self::Heal(node) => host(node).heal(),
            // Whoever was killed meanwhile and started anew is not frozen.
            Self::ThawAgent(node) => {
                let _ = system.agent(node).thaw();
                Ok(())
            }
            Self::ThawPostgres(node) => {
                thaw_server(&system.spots()[node].data_dir);
                Ok(())
            }
            Self::ThawHost(node) => host(node).thaw(),
            Self::StartEtcd => {
                let mut dead = system.members().iter().filter(|member| member.service.pid().is_none());
                dead.try_for_each(|member| member.service.start())
            }
            Self::EmptyDisk(node) => stage.volume(node)?.empty(),
            Self::ThawDisk(node) => stage.volume(node)?.thaw(),
        }
    }
}

/// A promotion behind everybody's back, which acknowledges what nobody else has.
async fn promote_by_hand<S: System>(system: &S, node: usize) -> Result<Option<Mend>> {
    // Its agent would put an end to it within a second, before a writer has been there.
    system.agent(node).freeze()?;
    // And alone it acknowledges nothing: a standby of pgvigil waits for names that nobody has.
    for sql in ["ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()", "SELECT pg_promote()"] {
        system.superuser(node, sql).await?;
    }
    Ok(Some(Mend::ThawAgent(node)))
}

/// The fencer first, or it would be replaced.
fn kill_agent_and_fencer(system: &impl System, node: usize) -> Result<()> {
    let spot = &system.spots()[node];
    let fencers: Vec<i32> = spot.host.processes().into_iter().filter(|pid| is_fencer(*pid)).collect();
    anyhow::ensure!(!fencers.is_empty(), "no fencer runs on {}", spot.name);
    system.agent(node).freeze()?;
    fencers.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    system.kill_agent(node);
    Ok(())
}

fn is_fencer(pid: i32) -> bool {
    // The kernel keeps the first 15 bytes of a name.
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "pgvigil-fencer")
}

fn postmaster(spot: &Spot) -> Result<i32> {
    let file = spot.data_dir.join("postmaster.pid");
    let text = std::fs::read_to_string(&file).with_context(|| format!("Postgres does not run on {}", spot.name))?;
    text.lines().next().and_then(|pid| pid.parse().ok()).ok_or_else(|| anyhow!("{} is empty", file.display()))
}

/// A duration in milliseconds, for tables.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
