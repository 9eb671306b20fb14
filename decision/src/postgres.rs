//! The local Postgres as a decision sees it: what is on its disk, which process runs, and what that says about itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durability::Quorum;
use crate::names::{Lsn, MemberName, SystemId, Term, Timeline};
use crate::slots::SlotName;

/// The Postgres of this host: what is on its disk, and what runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Postgres {
    /// The data directory.
    pub data: Data,
    /// The server processes.
    pub server: Server,
}

/// What is in the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// Missing or empty: a clone or an initdb may fill it.
    Empty,
    /// An initdb, a clone or a rewind was cut off: this must never be started, only replaced.
    HalfMade {
        /// Which work was cut off (`bootstrap`, `clone`, `rewind`).
        by: String,
    },
    /// Something is there that cannot be read as a database.
    Unreadable {
        /// What is wrong, for a person.
        why: String,
    },
    /// A database.
    Present(OnDisk),
}

/// What `pg_controldata` and the files beside it say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDisk {
    /// The identity of the database.
    pub system_id: SystemId,
    /// How it was left.
    pub state: ControlState,
    /// The highest timeline of the WAL in the directory: that of its last record, not of its last checkpoint.
    pub timeline: Timeline,
    /// The latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where crash recovery would begin.
    pub redo: Lsn,
    /// `standby.signal` is there: it would start as a standby.
    pub standby_signal: bool,
    /// `backup_label` is there: a copy that has never been started. What its control file and its WAL say is not where it ends.
    #[serde(default)]
    pub from_backup: bool,
    /// Which timeline that one left, and where, by the history file beside it. `None`: it left none, or the file is not here.
    #[serde(default)]
    pub forked: Option<(Timeline, Lsn)>,
    /// The end of the valid WAL, found by reading it; known only while stopped, and only once it has been looked for.
    pub end_of_wal: Option<Lsn>,
}

/// The state in `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlState {
    /// A primary that was shut down cleanly.
    ShutDown,
    /// A standby that was shut down cleanly.
    ShutDownInRecovery,
    /// A primary that runs, or crashed.
    InProduction,
    /// A standby that runs, or crashed.
    InArchiveRecovery,
    /// Crash recovery, running or cut off.
    InCrashRecovery,
    /// A shutdown, running or cut off.
    ShuttingDown,
    /// Being started for the first time.
    StartingUp,
}

/// The server processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Server {
    /// No process.
    Stopped,
    /// Started, does not accept connections yet.
    Starting {
        /// For how long.
        since: Duration,
    },
    /// Accepts writes, or would.
    Primary(Primary),
    /// In recovery.
    Standby(Standby),
    /// Told to stop, still there.
    Stopping,
    /// The process is there and does not answer.
    Hung {
        /// For how long.
        since: Duration,
    },
}

/// A running primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Primary {
    /// Its timeline.
    pub timeline: Timeline,
    /// The end of its flushed WAL.
    pub flushed: Lsn,
    /// The term of its newest leadership marker (0: none). A marker of my term is the proof that writes work.
    pub marked_term: Term,
    /// The timeline in its control file: lower than `timeline` until the first checkpoint after a promotion.
    pub control_timeline: Timeline,
    /// The acknowledgements that commits wait for, and the term in the names. `None`: set to something that is not ours.
    pub waits_for: Option<(Quorum, Term)>,
    /// The standbys that stream from it.
    pub standbys: Vec<Streaming>,
}

/// One standby in `pg_stat_replication`, by a name of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streaming {
    /// Who.
    pub member: MemberName,
    /// Under which term's name.
    pub term: Term,
    /// In state `streaming` (not catching up).
    pub caught_up: bool,
    /// How far it has flushed.
    pub flushed: Lsn,
    /// How far it has replayed.
    pub replayed: Lsn,
}

/// A running standby.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standby {
    /// The timeline of the last WAL that it has received.
    pub timeline: Timeline,
    /// The end of what it has received; never behind `replayed`.
    pub received: Lsn,
    /// The end of what it has replayed.
    pub replayed: Lsn,
    /// Replay has positively reached the end of everything received.
    pub replay_done: bool,
    /// The term of the newest leadership marker it has replayed.
    pub wal_term: Term,
    /// Whom it is configured to follow; `None`: nobody.
    pub follows: Option<Upstream>,
    /// A walreceiver process exists.
    pub receiver_running: bool,
    /// The walreceiver streams.
    pub streaming: bool,
}

/// Whom a standby follows, and under which term's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Upstream {
    /// Who.
    pub member: MemberName,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The term in the application name.
    pub term: Term,
    /// The slot by which it streams; `None`: by none, and the upstream keeps WAL for it as for anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotName>,
}

impl Upstream {
    /// Whether it is the same server under the same name, by whatever slot.
    pub fn is_same_place(&self, other: &Upstream) -> bool {
        let place = |one: &Upstream| (one.member.clone(), one.host.clone(), one.port, one.term);
        place(self) == place(other)
    }
}

/// What of a server that hangs does not go on: one process that is frozen may hold up much or little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stuck {
    /// Nothing: neither a kept connection nor the postmaster answers.
    #[default]
    Server,
    /// The postmaster answers, but neither a kept connection nor a new login does.
    Logins,
    /// It answers questions, but no write ends: processes wait for a lock that nobody gives back.
    Writes,
    /// The postmaster: who is in already goes on, and nobody else gets in.
    Door,
}

impl Stuck {
    /// How many times as long as silence it is given: the less is stuck, the dearer is a mistake.
    pub fn patience(self) -> u32 {
        match self {
            Stuck::Server => 1,
            Stuck::Logins | Stuck::Writes => 4,
            Stuck::Door => 10,
        }
    }

    /// What is so, as the middle of a sentence that goes on with "for 2 s".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Stuck::Server => "is there but has not answered",
            Stuck::Logins => "has answered no question and let nobody in, though its postmaster lives,",
            Stuck::Writes => "answers, but one of its processes holds a lock that every write needs: none has ended",
            Stuck::Door => "answers those who are in already, but its postmaster does not: nobody has got in",
        }
    }
}

impl Standby {
    /// From whom it streams at this moment.
    pub fn streams_from(&self) -> Option<&MemberName> {
        self.follows.as_ref().filter(|_| self.streaming).map(|upstream| &upstream.member)
    }
}

impl Postgres {
    /// Whether it accepts writes, or will as far as its directory tells: a server that starts, or hangs, without `standby.signal`.
    pub(crate) fn is_or_becomes_primary(&self) -> bool {
        let starts_as_primary = matches!(&self.data, Data::Present(disk) if !disk.standby_signal);
        match self.server {
            Server::Primary(_) => true,
            Server::Starting { .. } | Server::Hung { .. } => starts_as_primary,
            Server::Standby(_) | Server::Stopped | Server::Stopping => false,
        }
    }
}

impl Server {
    /// The standby, if it is a running one.
    pub fn as_standby(&self) -> Option<&Standby> {
        match self {
            Server::Standby(standby) => Some(standby),
            Server::Stopped | Server::Starting { .. } | Server::Primary(_) | Server::Stopping | Server::Hung { .. } => {
                None
            }
        }
    }
}
