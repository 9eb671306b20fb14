//! Everything that a decision may depend on, and nothing else. A `View` is a value: written to a file it is a bug report, read back
//! it is a test. Ages and remaining times are durations counted by the agent; clocks of two hosts never meet here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durability::Policies;
use crate::names::{Lsn, MemberName, SystemId, Term, Timeline};
pub use crate::postgres::{ControlState, Data, OnDisk, Postgres, Primary, Server, Standby, Streaming, Stuck, Upstream};
use crate::promise::{Promise, Reliance};
use crate::settings::{Mode, Settings, Tags};

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
    /// Since my server was told to stop.
    #[serde(default)]
    pub stopping: Option<Duration>,
    /// Since this node last asked for a switchover by itself.
    #[serde(default)]
    pub asked_switchover: Option<Duration>,
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

/// The cluster as etcd shows it at one revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The etcd revision of this picture.
    pub revision: i64,
    /// Whether the cluster has been given its identity.
    pub initialize: Initialize,
    /// Who holds the leader lock.
    pub leader: Option<MemberName>,
    /// The highest term ever given out here.
    pub term: Term,
    /// Members whose agents are alive (their keys vanish with their leases).
    pub members: BTreeMap<MemberName, Member>,
    /// The durability record; absent only before the first leader.
    pub sync: Option<SyncRecord>,
    /// The pledges of voters not to follow a term any more, with what they have.
    pub ballots: BTreeMap<MemberName, Ballot>,
    /// Members that have forgotten WAL they once acknowledged, and what they must regain before they count again.
    pub floors: BTreeMap<MemberName, Lsn>,
    /// An operator's request that waits for the agents.
    pub request: Option<Request>,
    /// Where each past timeline ended.
    pub history: Vec<HistoryEntry>,
    /// The highest number of a timeline that is in no history, as far as is known: that of a promotion which nobody ordered, or which did not
    /// last. No promotion takes it again.
    #[serde(default)]
    pub stray_timeline: Timeline,
    /// The leader's last published WAL position (for lag limits where nothing better is known).
    pub leader_lsn: Option<Lsn>,
    /// Who may lead where no proof is asked for, as the leader has listed them; `None`: no list, so nobody is barred by it.
    #[serde(default)]
    pub failsafe: Option<BTreeSet<MemberName>>,
    /// The etcd revision of that list; 0: there is none. A claim without proof names it.
    #[serde(default)]
    pub failsafe_revision: i64,
}

/// The state of the `initialize` key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initialize {
    /// No cluster yet: the first node may create one.
    #[default]
    Absent,
    /// Some node is running `initdb`.
    InProgress,
    /// The cluster has this identity.
    Done(SystemId),
}

/// What a live member says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Host name or address of its Postgres.
    pub host: String,
    /// Port of its Postgres.
    pub port: u16,
    /// Base URL of its health API, for instance `http://10.0.0.21:8008`.
    pub api_url: String,
    /// What its Postgres was when it last wrote.
    pub role: MemberRole,
    /// Its timeline, when known.
    pub timeline: Option<Timeline>,
    /// Its tags.
    pub tags: Tags,
    /// The etcd lease under which it would hold the leader lock, while it stands ready to take it (0: it does not).
    pub lock_lease: i64,
    /// False while its control file still shows the timeline before its promotion: a rewind from it would see nothing to do.
    pub rewind_source_ready: bool,
    /// Why its fence cannot be armed; then it must not become primary.
    #[serde(default)]
    pub no_fence: Option<String>,
    /// Its disk is about to fill: no place to hand the leadership to.
    #[serde(default)]
    pub disk_low: bool,
}

/// The Postgres role that a member publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    /// Accepts writes.
    Primary,
    /// Streams or could stream.
    Standby,
    /// Not running, or not yet known.
    #[default]
    Down,
}

/// The durability record in etcd: who may hold the only copies of an acknowledged commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncRecord {
    /// The leader that it speaks about. It always holds every acknowledged commit of its term.
    pub leader: MemberName,
    /// That leader's term.
    pub term: Term,
    /// The mode in force when it was written (never `auto`): in `async` mode a takeover goes without proof.
    pub mode: Mode,
    /// What a takeover must satisfy: every one of these.
    pub policies: Policies,
    /// The timeline that this leader writes. Each promotion gets a number that no promotion had before, even one that did not
    /// survive: so the higher timeline is the later reign, and within one timeline the higher position has everything.
    pub timeline: Timeline,
    /// The leader let go of the lock on purpose, so that another may lead.
    pub released: bool,
    /// The leader has taken its own lock back after the others had their chance.
    pub reclaimed: bool,
    /// For a hand-over: the position that the new leader must have replayed before it promotes.
    pub handover_lsn: Option<Lsn>,
    /// Who is about to be handed the lock: the others stream from it already, under the name of the next term, so that nobody has to go
    /// over while clients wait. It has led nothing yet, and what its standbys acknowledge releases nothing at the leader.
    #[serde(default)]
    pub heir: Option<MemberName>,
}

/// One member's pledge not to follow a term, and what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The term that it no longer follows.
    pub revoked: Term,
    /// The term that the newest leadership marker in its WAL carries.
    pub wal_term: Term,
    /// The end of what it has received.
    pub received: Lsn,
    /// Its timeline.
    pub timeline: Timeline,
    /// The etcd revision of the record; a claim names it, so that a withdrawn ballot is never counted.
    pub revision: i64,
}

/// What an operator has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What kind.
    pub kind: RequestKind,
    /// The leader that the operator saw; another leader makes the request void.
    pub from: Option<MemberName>,
    /// Who is to lead; `None` lets the best candidate.
    pub to: Option<MemberName>,
    /// The operator accepts that acknowledged writes may be lost.
    pub accept_data_loss: bool,
    /// The etcd revision of the request: its identity.
    pub revision: i64,
}

/// The kinds of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestKind {
    /// Planned, from a healthy leader.
    Switchover,
    /// Where nobody leads.
    Failover,
}

/// Where a timeline ended and who began the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// The position at which the next one forked off.
    pub ended_at: Lsn,
    /// Who was promoted there.
    pub new_leader: Option<MemberName>,
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
    pub(crate) fn makes_a_primary(&self) -> bool {
        ["start_primary", "promote"].contains(&self.action.as_str())
    }
}

impl Member {
    /// Whether it is barred from leading: by its tags, or for want of a fence.
    pub fn never_leads(&self) -> bool {
        self.tags.never_leads() || self.no_fence.is_some()
    }
}

impl Cluster {
    /// How to reach a member's Postgres under a term's name.
    pub fn upstream(&self, member: &MemberName, term: Term) -> Option<Upstream> {
        let found = self.members.get(member)?;
        Some(Upstream { member: member.clone(), host: found.host.clone(), port: found.port, term })
    }

    /// Who is about to be handed the lock by the present leader.
    pub fn heir(&self) -> Option<&MemberName> {
        let of_the_leader = |sync: &&SyncRecord| self.leader.as_ref() == Some(&sync.leader) && sync.term == self.term;
        self.sync.as_ref().filter(of_the_leader)?.heir.as_ref()
    }

    /// The ballots that revoke the present term.
    pub fn current_ballots(&self) -> BTreeMap<&MemberName, &Ballot> {
        self.ballots.iter().filter(|(_, ballot)| ballot.revoked == self.term).collect()
    }

    /// The members that are alive and may lead.
    pub fn eligible(&self) -> BTreeSet<MemberName> {
        self.members.iter().filter(|(_, member)| !member.never_leads()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether `member` is the last leader, and nobody has led since.
    pub fn last_led_by(&self, member: &MemberName) -> bool {
        self.sync.as_ref().is_some_and(|sync| sync.leader == *member && sync.term == self.term)
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
