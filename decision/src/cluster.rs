//! The cluster as etcd shows it: its identity, who leads, who is there, and what must hold for whoever leads next. Everything in it is a
//! fact that some agent has written down; what a node knows first hand is in `view`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::departure::Departure;
use crate::durability::Policies;
use crate::names::{Lsn, MemberName, SystemId, Term, Timeline};
use crate::order::Order;
use crate::parameters::Capacities;
use crate::postgres::Upstream;
use crate::settings::{Mode, Tags};
use crate::site::Site;
use crate::slots::{SlotName, slot_of};

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
    /// What operators ask of single nodes.
    #[serde(default)]
    pub orders: BTreeMap<MemberName, Order>,
    /// Members that an operator has taken out of the cluster.
    #[serde(default)]
    pub departures: BTreeMap<MemberName, Departure>,
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
    /// Among equal candidates those of this zone come first.
    #[serde(default)]
    pub prefer_zone: Option<String>,
    /// What the settings say of another site that this one is to follow.
    #[serde(default)]
    pub site: Site,
    /// Where there is something that nobody can read.
    #[serde(default)]
    pub unreadable: Unreadable,
}

/// In the place of which keys of a reign somebody has put what nobody can read. What stands for them in the picture is what forbids most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// `leader`; it stands there as if nobody led.
    pub leader: bool,
    /// `term`; that of the record stands there, or the one that was known before.
    pub term: bool,
    /// `sync`; there stands a record of a leader that nobody is, which proves nothing.
    pub sync: bool,
}

impl Unreadable {
    /// Their names; empty: everything can be read.
    pub fn keys(self) -> Vec<String> {
        let keys = [(self.leader, "leader"), (self.term, "term"), (self.sync, "sync")];
        keys.into_iter().filter(|(so, _)| *so).map(|(_, key)| key.to_owned()).collect()
    }
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
    /// The address by which it is known and at which its Postgres does not listen: nobody would reach it as the leader.
    #[serde(default)]
    pub not_listening: Option<String>,
    /// What its server runs with of what a standby must not have less of than its primary; empty: it has not said.
    #[serde(default)]
    pub capacities: Capacities,
    /// The slots of its server by which members can stream from it.
    #[serde(default)]
    pub slots: BTreeSet<SlotName>,
    /// The part of the world in which it may be lost together with others.
    #[serde(default)]
    pub zone: Option<String>,
    /// From whom it streams at this moment.
    #[serde(default)]
    pub streams_from: Option<MemberName>,
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
    /// This site follows another one (see [`crate::site`]): its leader accepts no writes and has promised nobody anything, so that an election
    /// asks for no proof, and nobody here is a primary before a claim has written a record without this.
    #[serde(default)]
    pub follows: bool,
}

impl SyncRecord {
    /// Of a reign that goes on: nothing is being handed over or taken back, and no other site is followed.
    pub fn of_reign(leader: MemberName, term: Term, mode: Mode, policies: Policies, timeline: Timeline) -> Self {
        Self {
            leader,
            term,
            mode,
            policies,
            timeline,
            released: false,
            reclaimed: false,
            handover_lsn: None,
            heir: None,
            follows: false,
        }
    }
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
    /// It has not replayed all of that yet: a promotion would have to wait for it.
    #[serde(default)]
    pub late: bool,
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

impl Member {
    /// Whether it is barred from leading: by its tags, or for want of a fence.
    pub fn never_leads(&self) -> bool {
        self.tags.never_leads() || self.no_fence.is_some()
    }
}

impl Cluster {
    /// How `me` reaches a member's Postgres under a term's name. A slot is named only where that member says that it is there: nobody ever
    /// waits for one.
    pub fn upstream(&self, me: &MemberName, member: &MemberName, term: Term) -> Option<Upstream> {
        let found = self.members.get(member)?;
        // Where another site is followed nobody tells how far slots have got, so none are kept.
        let slot = slot_of(&self.members, me).filter(|slot| found.slots.contains(slot) && !self.follows());
        Some(Upstream { member: member.clone(), host: found.host.clone(), port: found.port, term, slot })
    }

    /// Whether an operator has taken this member out of the cluster: nobody waits for it, lists it, or keeps anything for it.
    pub fn has_departed(&self, member: &MemberName) -> bool {
        self.departures.contains_key(member)
    }

    /// Who is about to be handed the lock by the present leader.
    pub fn heir(&self) -> Option<&MemberName> {
        let of_the_leader = |sync: &&SyncRecord| self.leader.as_ref() == Some(&sync.leader) && sync.term == self.term;
        self.sync.as_ref().filter(of_the_leader)?.heir.as_ref()
    }

    /// Whether this site follows another one, by its record: what the settings want may not have come about yet.
    pub fn follows(&self) -> bool {
        self.sync.as_ref().is_some_and(|sync| sync.follows)
    }

    /// The ballots that revoke the present term.
    pub fn current_ballots(&self) -> BTreeMap<&MemberName, &Ballot> {
        self.ballots.iter().filter(|(_, ballot)| ballot.revoked == self.term).collect()
    }

    /// The members that are alive and may lead.
    pub fn eligible(&self) -> BTreeSet<MemberName> {
        self.members.iter().filter(|(_, member)| !member.never_leads()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether both are known to be in one zone, or it is not known that they are not.
    pub(crate) fn may_share_a_zone(&self, one: &MemberName, other: &MemberName) -> bool {
        let zone = |name: &MemberName| self.members.get(name).and_then(|member| member.zone.as_ref());
        zone(one).zip(zone(other)).is_none_or(|(one, other)| one == other)
    }

    /// Whether it is in the zone whose members come first.
    pub fn is_preferred(&self, name: &MemberName) -> bool {
        let zone = self.members.get(name).and_then(|member| member.zone.as_ref());
        zone.is_some() && zone == self.prefer_zone.as_ref()
    }

    /// Whether `member` is the last leader, and nobody has led since.
    pub fn last_led_by(&self, member: &MemberName) -> bool {
        self.sync.as_ref().is_some_and(|sync| sync.leader == *member && sync.term == self.term)
    }
}
