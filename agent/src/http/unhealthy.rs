//! Why an answer is 503: the one condition of a health path that fails, as a stable code and as a sentence with its numbers. These come out of
//! the same function that decides the answer, so that no explanation can differ from it.

use std::fmt;
use std::time::Duration;

use decision::reason::{bytes, span};

use crate::published::SyncKind;

/// The condition that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unhealthy {
    /// The agent has made no new picture for longer than the lease lives: what it knows is not said any more.
    Stale(Duration),
    /// Another, or nobody, holds the leader lock.
    NoLock(Option<String>),
    /// It held the lock, and its lease was not renewed in time.
    LeaseOver,
    /// Its Postgres is no primary that runs.
    NotPrimary(Server),
    /// This site follows another, where nobody accepts writes.
    SiteFollows,
    /// That writes work has yet to be proven by a commit of this term.
    Unproven,
    /// A primary that neither sees etcd nor has enough standbys for its commits.
    CutOff,
    /// Its Postgres does not listen on the address by which it is known.
    NotListening(String),
    /// Its Postgres is no standby that runs.
    NotStandby(Server),
    /// It is the standby that leads a site which follows another.
    LeadsSite,
    /// It does not lead a site that follows another.
    NotSiteLeader,
    /// The tag `noloadbalance`.
    NoLoadBalance,
    /// It is further behind than was asked for.
    Lag {
        /// How far.
        behind_bytes: u64,
        /// What was asked for.
        limit_bytes: u64,
        /// What counts is what was received, not what was replayed.
        received: bool,
    },
    /// It receives WAL otherwise than was asked for.
    ReplicationState {
        /// How.
        is: &'static str,
        /// As was asked for.
        wanted: String,
    },
    /// It does not stream.
    NotStreaming,
    /// A tag is another than was asked for.
    Tag {
        /// Which.
        tag: String,
        /// Its value; `None`: it has none.
        is: Option<String>,
        /// As was asked for.
        wanted: String,
    },
    /// Commits wait for it otherwise than was asked for.
    Kind {
        /// How they do.
        is: SyncKind,
        /// As was asked for.
        wanted: SyncKind,
    },
    /// Its Postgres does not run.
    NotRunning(Server),
    /// The agent itself hangs.
    Stuck(Duration),
    /// No such path.
    NoSuchPath,
}

/// What Postgres is instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Patroni's word for its state.
    pub state: &'static str,
    /// Patroni's word for its role.
    pub role: &'static str,
    /// Automatic actions are paused: nobody mends it.
    pub paused: bool,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            "running" => write!(f, "its Postgres runs as {}", self.role)?,
            state => write!(f, "its Postgres is {state}")?,
        }
        if self.paused && self.state != "running" {
            f.write_str(", and automatic actions are paused")?;
        }
        Ok(())
    }
}

fn kind(kind: SyncKind) -> &'static str {
    match kind {
        SyncKind::Sync => "every commit waits for it",
        SyncKind::Quorum => "commits wait for it or for others",
        SyncKind::Async => "no commit waits for it",
    }
}

impl Unhealthy {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Unhealthy::Stale(_) => "stale",
            Unhealthy::NoLock(_) => "no_lock",
            Unhealthy::LeaseOver => "lease_over",
            Unhealthy::NotPrimary(_) => "not_primary",
            Unhealthy::SiteFollows => "site_follows",
            Unhealthy::Unproven => "unproven",
            Unhealthy::CutOff => "cut_off",
            Unhealthy::NotListening(_) => "not_listening",
            Unhealthy::NotStandby(_) => "not_standby",
            Unhealthy::LeadsSite => "leads_site",
            Unhealthy::NotSiteLeader => "not_site_leader",
            Unhealthy::NoLoadBalance => "noloadbalance",
            Unhealthy::Lag { .. } => "lag",
            Unhealthy::ReplicationState { .. } => "replication_state",
            Unhealthy::NotStreaming => "not_streaming",
            Unhealthy::Tag { .. } => "tag",
            Unhealthy::Kind { .. } => "sync_kind",
            Unhealthy::NotRunning(_) => "not_running",
            Unhealthy::Stuck(_) => "stuck",
            Unhealthy::NoSuchPath => "no_such_path",
        }
    }
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unhealthy::Stale(age) => write!(
                f,
                "the agent has looked at nothing for {}, longer than a lease lives, so what it knew does not count",
                span(*age)
            ),
            Unhealthy::NoLock(Some(leader)) => write!(f, "{leader} holds the leader lock, not this node"),
            Unhealthy::NoLock(None) => f.write_str("nobody holds the leader lock"),
            Unhealthy::LeaseOver => {
                f.write_str("it holds the leader lock no longer: its lease was not renewed in time")
            }
            Unhealthy::NotPrimary(server) => write!(f, "it holds the leader lock, but {server}"),
            Unhealthy::SiteFollows => f.write_str("this site follows another, and accepts no writes"),
            Unhealthy::Unproven => {
                f.write_str("it has just become primary: no commit of its term has proven yet that writes work")
            }
            Unhealthy::CutOff => f.write_str(
                "it sees neither etcd nor as many standbys as its commits wait for, so writes cannot be acknowledged",
            ),
            Unhealthy::NotListening(address) => write!(
                f,
                "its Postgres does not listen on {address}, where clients look for it: another program had that port when it started"
            ),
            Unhealthy::NotStandby(server) => write!(f, "it is no standby that serves reads: {server}"),
            Unhealthy::LeadsSite => {
                f.write_str("it leads a site that follows another, and is asked for as /standby-leader")
            }
            Unhealthy::NotSiteLeader => f.write_str("it does not lead a site that follows another"),
            Unhealthy::NoLoadBalance => f.write_str("its tag noloadbalance keeps readers away"),
            Unhealthy::Lag { behind_bytes, limit_bytes, received } => {
                let what = if *received { "receive" } else { "replay" };
                write!(
                    f,
                    "it has {} of WAL left to {what}, and the limit is {}",
                    bytes(*behind_bytes),
                    bytes(*limit_bytes)
                )
            }
            Unhealthy::ReplicationState { is, wanted } => {
                write!(f, "its replication state is \"{is}\", and \"{wanted}\" is asked for")
            }
            Unhealthy::NotStreaming => f.write_str("it does not stream from anybody"),
            Unhealthy::Tag { tag, is: Some(is), wanted } => {
                write!(f, "its tag {tag} is {is}, and {wanted} is asked for")
            }
            Unhealthy::Tag { tag, is: None, wanted } => write!(f, "it has no tag {tag}, and {wanted} is asked for"),
            Unhealthy::Kind { is, wanted } => match wanted {
                SyncKind::Async => write!(f, "{}, and one that no commit waits for is asked for", kind(*is)),
                SyncKind::Quorum => write!(f, "{}, and a voter among several is asked for", kind(*is)),
                SyncKind::Sync => write!(f, "{}, and one that every commit waits for is asked for", kind(*is)),
            },
            Unhealthy::NotRunning(server) => write!(f, "{server}"),
            Unhealthy::Stuck(age) => write!(f, "the agent hangs: it has looked at nothing for {}", span(*age)),
            Unhealthy::NoSuchPath => f.write_str("there is no such health path"),
        }
    }
}
