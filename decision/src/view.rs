//! Everything that a decision may depend on, and nothing else. A `View` is a value: written to a file it is a bug report, read back
//! it is a test. Ages and remaining times are durations counted by the agent; clocks of two hosts never meet here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::cluster::{
    Ballot, Cluster, HistoryEntry, Initialize, Member, MemberRole, Request, RequestKind, SyncRecord, Unreadable,
};
use crate::names::{Lsn, MemberName, Term};
pub use crate::postgres::{ControlState, Data, OnDisk, Postgres, Primary, Server, Standby, Streaming, Stuck, Upstream};
use crate::promise::{Promise, Reliance};
use crate::settings::Settings;
use crate::site::RemoteSeen;

/// What one agent knows at one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Whose view this is.
    pub me: MemberName,
    /// The cluster as etcd shows it, at one revision.
    pub cluster: Seen<Cluster>,
    /// The Postgres of this host.
    pub postgres: Seen<Postgres>,
    /// My claim to the leader lock, by my own clock.
    pub lock: Lock,
    /// The long action under way, if there is one.
    pub job: Option<Job>,
    /// How long certain things have been so, counted by this agent.
    pub ages: Ages,
    /// What this node hears of the leader, where another leads.
    #[serde(default)]
    pub hearing: Hearing,
    /// How the fence of this node stands.
    #[serde(default)]
    pub fence: Fence,
    /// What this node knows of its own server first hand, beyond what the server says of itself.
    #[serde(default)]
    pub signs: Signs,
    /// The promise that this node has given to a leader that cannot reach etcd, while it runs.
    #[serde(default)]
    pub promise: Option<Promise>,
    /// The term against which this node has noted a pledge on its disk: it promises the leader of that term nothing.
    #[serde(default)]
    pub pledged: Option<Term>,
    /// What this node, as the leader, hears from its peers while it cannot renew its lease.
    #[serde(default)]
    pub reliance: Option<Reliance>,
    /// Rules of the house: timings, limits, durability, tags of this node.
    pub settings: Settings,
}

/// A fact, a fact that has grown old, or none yet. "Not seen" is never "not there".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Seen<T> {
    /// Seen just now.
    Now(T),
    /// Seen a while ago; since then the source has been silent.
    Before {
        /// The last sight.
        value: T,
        /// How old it is.
        age: Duration,
    },
    /// Never seen by this agent.
    Never {
        /// How long it has tried.
        tried_for: Duration,
    },
}

impl<T> Seen<T> {
    /// The value when it is fresh.
    pub fn now(&self) -> Option<&T> {
        match self {
            Seen::Now(value) => Some(value),
            Seen::Before { .. } | Seen::Never { .. } => None,
        }
    }

    /// The value, fresh or old.
    pub fn last(&self) -> Option<&T> {
        match self {
            Seen::Now(value) | Seen::Before { value, .. } => Some(value),
            Seen::Never { .. } => None,
        }
    }
}

/// My claim to the leader lock. The clock runs from before the last acknowledged renewal was *sent*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// The lock is not mine.
    NotHeld,
    /// The lock is mine under `term` for `left` more, unless it is renewed.
    Held {
        /// The term that came with it.
        term: Term,
        /// Time until Postgres must be dead (time to live, less the safety margin).
        left: Duration,
    },
}

/// How long certain things have been so. An age of something that is not so is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ages {
    /// Since I first saw that nobody holds the leader lock.
    pub vacancy: Option<Duration>,
    /// Since the lock came to me (this term).
    pub reign: Option<Duration>,
    /// For each voter that does not stream from me: since when. Counted by the leader.
    pub voters_missing: BTreeMap<MemberName, Duration>,
    /// For each standby that streams from me and has acknowledged less than I have on disk: for how long it has acknowledged nothing, from
    /// the first look that showed it so to the last. Whoever acknowledges anything, however slowly, begins anew.
    #[serde(default)]
    pub voters_resting: BTreeMap<MemberName, Duration>,
    /// Since my standby last received WAL or a keep-alive from its upstream, when it ought to stream.
    pub not_streaming: Option<Duration>,
    /// Since the operator's request that is on the table was first seen.
    pub request: Option<Duration>,
    /// Since the last long action failed; the next attempt waits a little.
    pub last_failure: Option<Duration>,
    /// The stable word of the action that failed then.
    #[serde(default)]
    pub failed_action: Option<String>,
    /// A hand-over has failed for which Postgres was stopped, and it has not run since.
    #[serde(default)]
    pub hand_over_undone: bool,
    /// Since my server was told to stop.
    #[serde(default)]
    pub stopping: Option<Duration>,
    /// Since my server is stopped.
    #[serde(default)]
    pub down: Option<Duration>,
    /// Since this node last asked for a switchover by itself.
    #[serde(default)]
    pub asked_switchover: Option<Duration>,
    /// Since the standby that this node is to stream from has been good for that.
    #[serde(default)]
    pub upstream_good: Option<Duration>,
    /// Since it has not.
    #[serde(default)]
    pub upstream_bad: Option<Duration>,
    /// Since the end of WAL of my primary last moved.
    #[serde(default)]
    pub wal_still: Option<Duration>,
}

/// What stops this node's Postgres when its agent cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Why it cannot be armed; then this node must not become primary.
    pub trouble: Option<String>,
    /// It is armed, and kills Postgres after so long unless its deadline is moved.
    pub covers: Option<Duration>,
}

/// What this node hears of the leader: two witnesses, for either may die alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearing {
    /// Of its agent.
    pub agent: Sound,
    /// Of its Postgres.
    pub postgres: Sound,
}

/// What is heard of one witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sound {
    /// It has not been asked, or not answered yet.
    #[default]
    Unknown,
    /// It answers.
    Fine,
    /// It has not answered for a while.
    Silent {
        /// Since the first question that went unanswered.
        since: Duration,
    },
    /// Its door is closed: the connection was refused.
    Gone,
    /// The leader's own agent says that it is dead: first hand, so nothing is waited for.
    ReportedDead,
}

/// What an agent knows of its server first hand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signs {
    /// The disks under the data directory and its WAL.
    pub disk: Disk,
    /// The primary here as it last answered in this reign: how much there is to recover, and how far the standbys were.
    pub last_primary: Option<Primary>,
    /// The leader has no WAL any more from this position on, and this standby ends there.
    pub upstream_lacks: Option<Lsn>,
    /// Somebody has paused replay here.
    pub replay_paused: bool,
    /// What the other site has said lately of itself, where this one follows it or is to.
    #[serde(default)]
    pub remote: Option<RemoteSeen>,
    /// What it is that hangs, where the primary here does.
    #[serde(default)]
    pub stuck: Stuck,
}

/// What is known of the disks under the data directory and its WAL, the worse of the two where they are two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// A write is under way and has not ended for so long, the agent's own lateness left out.
    pub frozen_for: Option<Duration>,
    /// Writes fail.
    pub fault: Option<DiskFault>,
    /// What is free for Postgres.
    pub free_bytes: Option<u64>,
    /// Below what is to be kept free, or soon there at the present rate; over again only with room to spare.
    pub low: bool,
    /// Nothing can be written any more that needs new space.
    pub full: bool,
}

/// How writes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFault {
    /// The file system is mounted read-only, or has made itself so.
    ReadOnly,
    /// The device reports errors.
    InputOutput,
}

/// A long action under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The stable word of the action (`clone`, `promote`, ...).
    pub action: String,
    /// How long it has run.
    pub age: Duration,
    /// The member that it copies from, if it does.
    pub from: Option<MemberName>,
}

impl Lock {
    /// Whether it still covers a primary here, whatever its term.
    pub(crate) fn covers_a_primary(self) -> bool {
        matches!(self, Lock::Held { left, .. } if !left.is_zero())
    }

    /// Whether it makes me the leader of `term` now. A lease with no time left makes nobody the leader.
    pub(crate) fn leads(self, of: Term) -> bool {
        matches!(self, Lock::Held { term, left } if term == of && !left.is_zero())
    }
}

impl Job {
    /// Whether it stops Postgres.
    pub(crate) fn is_a_stop(&self) -> bool {
        ["stop", "kill", "abdicate", "release"].contains(&self.action.as_str())
    }

    /// Whether a primary comes of it.
    pub fn makes_a_primary(&self) -> bool {
        ["start_primary", "restart_primary", "promote"].contains(&self.action.as_str())
    }
}

impl View {
    /// How long what hangs of my primary is waited for, where its voters can take over.
    pub(crate) fn hang_after(&self) -> Duration {
        self.settings.timing.hang_after * self.signs.stuck.patience()
    }

    /// How long to wait before a failed long action is tried again; `None`: now.
    ///
    /// A hand-over that failed is none of them: nothing here is broken, and clients wait.
    pub(crate) fn retry_in(&self) -> Option<Duration> {
        let age = self.ages.last_failure.filter(|_| !self.hand_over_failed())?;
        let after = self.settings.timing.retry_after;
        (age < after).then(|| after - age)
    }

    /// Whether the last thing that failed here was a hand-over.
    pub(crate) fn hand_over_failed(&self) -> bool {
        self.ages.failed_action.as_deref() == Some("hand_over")
    }

    /// Whether this node is barred from leading, by its own tags or for want of a fence.
    pub(crate) fn is_barred_from_leading(&self, cluster: &Cluster) -> bool {
        self.fence.trouble.is_some() || cluster.members.get(&self.me).is_some_and(Member::never_leads)
    }
}
