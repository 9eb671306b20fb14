//! Everything the agent can be told to do. An action leaves nothing to choose: it says what, the agent knows how.
//! Each is safe to repeat, and each is carried out as one job while the loop goes on looking.

use serde::{Deserialize, Serialize};

use crate::durability::{Policies, Quorum};
use crate::names::{Lsn, MemberName, Term, Timeline};
use crate::settings::Mode;
use crate::view::Upstream;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Nothing; look again at the next event or heartbeat.
    Wait,
    /// Race for `initialize`; the winner runs initdb and becomes the first leader.
    Bootstrap,
    /// Fill an empty (or half-made, moved aside first) data directory from a running member.
    Clone {
        /// Whom from.
        from: Upstream,
        /// What this node must have regained before it counts again.
        floor: Lsn,
    },
    /// Bring the stopped, diverged data directory back to the leader's history.
    Rewind {
        /// Whom from.
        from: Upstream,
        /// What this node must have regained before it counts again.
        floor: Lsn,
    },
    /// Read the WAL of the stopped data directory to its end, to know whether it has diverged.
    FindEndOfWal,
    /// Start Postgres.
    Start(StartAs),
    /// Stop Postgres.
    Stop(StopMode),
    /// Point the running standby at a leader by reload.
    Follow(Upstream),
    /// Follow nobody under this term any more, finish replay, and say so in etcd with what this node has.
    Pledge {
        /// The term that is revoked.
        revoked: Term,
    },
    /// Take a pledge back (guarded), so that this node may follow its term again.
    Withdraw {
        /// The term that the pledge revoked.
        revoked: Term,
    },
    /// Take my floor off the table: what was forgotten has been regained.
    ClearFloor,
    /// Have a lease ready to hold the leader lock, and publish it, so that the lock can be handed over.
    StandReady,
    /// Give that lease back.
    StandDown,
    /// Break off the job under way.
    Cancel,
    /// Take the leader lock in one guarded transaction.
    Acquire(Claim),
    /// Bind the lock to my lease again under the term that I still lead: nobody holds it, and nobody has led since.
    Resume {
        /// My term.
        term: Term,
    },
    /// Let the running standby become primary under my term: wait names first, then the signal, then the marker.
    Promote {
        /// My term.
        term: Term,
        /// The number that the new timeline must have.
        timeline: Timeline,
        /// Whom commits wait for from the first one on.
        quorum: Quorum,
    },
    /// Commit the marker row of my term: its acknowledgement proves that writes are durable.
    Mark {
        /// My term.
        term: Term,
    },
    /// Write the durability record.
    RecordSync {
        /// The mode in force.
        mode: Mode,
        /// What a takeover must satisfy from now on.
        policies: Policies,
    },
    /// Let Postgres wait for this quorum.
    ApplySync(Quorum),
    /// Prove with a marker commit that Postgres waits for this quorum, then record it alone.
    ProveSync {
        /// The mode in force.
        mode: Mode,
        /// The quorum to prove.
        quorum: Quorum,
    },
    /// Hand the lock to a standby, without a gap.
    HandOver {
        /// Who is to lead.
        to: MemberName,
        /// The request that asked for it.
        request: i64,
    },
    /// Give the lock up, Postgres being dead, so that another may lead.
    Release,
    /// Tell the voters first hand that this primary is done for, kill what is left of it, and then give the lock up. The voters need not
    /// wait for the kill: their pledges stop it from acknowledging anything.
    Abdicate,
    /// Follow the other site no more and replay what is here, before this site leads by itself: nothing of the other's comes after that.
    LeaveRemote,
    /// Let this site follow another: stop my primary with a checkpoint, say in etcd how far it has come and that this site follows, and start
    /// it again as the standby of the other.
    DemoteSite {
        /// Whom to follow.
        to: Upstream,
    },
    /// Ask for a switchover by myself, as an operator would: this node is about to be unfit to lead.
    AskSwitchover {
        /// Who is to lead.
        to: MemberName,
        /// Why, for the record.
        why: String,
    },
    /// Take an order of an operator off etcd, then stop Postgres with a checkpoint and start it again.
    Restart {
        /// The order.
        order: i64,
        /// As what.
        then: StartAs,
    },
    /// Take an order of an operator off etcd, then stop Postgres and copy its data anew, whatever is here.
    Reinit {
        /// The order.
        order: i64,
        /// Whom from.
        from: Upstream,
        /// What this node must have regained before it counts again.
        floor: Lsn,
    },
    /// Take an order that cannot be obeyed off etcd, with its reason.
    RefuseOrder {
        /// The order.
        order: i64,
        /// Why, for the operator.
        why: String,
    },
    /// Take a request that cannot be fulfilled off the table, with its reason.
    RefuseRequest {
        /// The request.
        request: i64,
        /// Why, for the operator.
        why: String,
    },
}

/// How Postgres is to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartAs {
    /// As the primary of my term, on its old timeline.
    Primary {
        /// My term.
        term: Term,
        /// Whom commits wait for.
        quorum: Quorum,
        /// Write my durability record anew first: nothing that I have sent to etcd and that may still be on its way, a release above all,
        /// can come true after that. Not while etcd is silent: then promises carry the start, and those end before any release is sent.
        record_anew: bool,
    },
    /// As a standby that follows somebody, or nobody yet.
    Standby(Option<Upstream>),
}

/// How Postgres is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// End sessions, write a checkpoint.
    Fast,
    /// Kill every process at once.
    Kill,
}

/// The transaction that takes the leader lock: what it claims, and what must still be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The new term.
    pub term: Term,
    /// The term that must still be the highest.
    pub after: Term,
    /// The durability record of the new leader until its marker is acknowledged: every old quorum and its own.
    pub policies: Policies,
    /// The mode in force.
    pub mode: Mode,
    /// The timeline that the new leader is to write.
    pub timeline: Timeline,
    /// The ballots it counted; each must still be there unchanged.
    pub ballots: Vec<(MemberName, i64)>,
    /// Where no proof is asked for: the revision of the list of those who may lead then, which must be unchanged.
    #[serde(default)]
    pub failsafe_revision: Option<i64>,
    /// The leader that is deposed, its lease still running; `None`: nobody may hold the lock.
    pub depose: Option<MemberName>,
    /// The record of a site that follows another: nobody is promoted on the strength of this claim.
    #[serde(default)]
    pub follows: bool,
    /// The kind of taking, for the transition record.
    pub kind: ClaimKind,
    /// The operator's request that this answers, if any.
    pub request: Option<i64>,
    /// What is missing of the last position that the leader had published, in bytes: 0 is proven, `None` is unknown, and any other may have been more.
    pub lost_bytes_bound: Option<u64>,
}

/// Why a lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// The last leader takes its own lock again; nobody has led since.
    Reclaim,
    /// Another member takes over after the lock was gone.
    Failover,
    /// The voters depose a leader that they do not hear any more, without waiting for its lease.
    Takeover,
    /// An operator asked for it where nothing was proven.
    Forced,
    /// The leader of a site that followed another lets it lead by itself, as an operator asked.
    Site,
}

impl Action {
    /// The stable word of the action: metric label, log field.
    pub fn code(&self) -> &'static str {
        match self {
            Action::Wait => "wait",
            Action::Bootstrap => "bootstrap",
            Action::Clone { .. } => "clone",
            Action::Rewind { .. } => "rewind",
            Action::FindEndOfWal => "find_end_of_wal",
            Action::Start(StartAs::Primary { .. }) => "start_primary",
            Action::Start(StartAs::Standby(_)) => "start_standby",
            Action::Stop(StopMode::Fast) => "stop",
            Action::Stop(StopMode::Kill) => "kill",
            Action::Follow(_) => "follow",
            Action::Pledge { .. } => "pledge",
            Action::Withdraw { .. } => "withdraw",
            Action::StandReady => "stand_ready",
            Action::ClearFloor => "clear_floor",
            Action::StandDown => "stand_down",
            Action::Cancel => "cancel",
            Action::Acquire(_) => "acquire",
            Action::Resume { .. } => "resume",
            Action::Promote { .. } => "promote",
            Action::Mark { .. } => "mark",
            Action::RecordSync { .. } => "record_sync",
            Action::ApplySync(_) => "apply_sync",
            Action::ProveSync { .. } => "prove_sync",
            Action::HandOver { .. } => "hand_over",
            Action::Release => "release",
            Action::Abdicate => "abdicate",
            Action::LeaveRemote => "leave_remote",
            Action::DemoteSite { .. } => "demote_site",
            Action::AskSwitchover { .. } => "ask_switchover",
            Action::Restart { then: StartAs::Primary { .. }, .. } => "restart_primary",
            Action::Restart { then: StartAs::Standby(_), .. } => "restart_standby",
            Action::Reinit { .. } => "reinit",
            Action::RefuseOrder { .. } => "refuse_order",
            Action::RefuseRequest { .. } => "refuse_request",
        }
    }
}
