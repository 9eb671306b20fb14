//! Replication slots: which a node holds, and what is to be done about those that it has. A slot keeps WAL for one standby, so that it can go on
//! where it was however long it was away; kept for nobody, it fills a disk. So each has a name that says for whom it is, every node that may lead
//! holds the same ones beforehand, and only a slot that an agent has made is ever dropped by one.

mod logical;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::Member;
use crate::names::{Lsn, MemberName};

pub use logical::slot_at_leader;
pub use name::{BadSlotName, SlotName};

/// How long a slot that nobody wants any more is left where no time is set for it: what wants it may only be out of sight.
pub const GRACE: Duration = Duration::from_secs(60);

/// A slot that keeps less is not dropped to make room: little would be won.
const WORTH_DROPPING_BYTES: u64 = 64 << 20;
/// Why one is dropped on a disk that fills.
pub const DISK_FILLS: &str = "the disk is about to fill, and nobody uses it";
/// What an unused slot may keep without a word, and for how long.
const FORGOTTEN: (u64, Duration) = (1 << 30, Duration::from_secs(3600));

/// What a slot keeps WAL for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum Kind {
    /// A standby, or a program that takes WAL as it is.
    Physical,
    /// A program that takes changes of rows.
    Logical {
        /// The database whose changes they are.
        database: String,
        /// What turns WAL into changes, for instance `pgoutput`.
        plugin: String,
    },
}

/// For whom an agent has made a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Made {
    /// A member.
    Member,
    /// An operator, who wants it on whoever leads.
    Permanent,
    /// The same; a logical one that was copied from the leader, and of which it is not certain yet that all is here that it needs.
    Copied,
}

/// A slot as Postgres shows it. Temporary ones, which end with their session, are not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: SlotName,
    /// What it keeps WAL for.
    pub kind: Kind,
    /// Somebody uses it.
    pub active: bool,
    /// The oldest WAL that it keeps; `None`: it keeps none.
    pub restart: Option<Lsn>,
    /// Up to where the changes are known to have been taken, for a logical one.
    pub confirmed: Option<Lsn>,
    /// It keeps old versions of rows as well.
    pub has_xmin: bool,
    /// The oldest transaction whose rows of the catalogue it keeps.
    pub catalog_xmin: Option<u32>,
    /// What it kept WAL for cannot go on by it any more.
    pub lost: bool,
    /// Postgres itself takes it over to standbys.
    pub failover: bool,
    /// Postgres itself has taken it over from a primary, this one or an earlier one of this server's.
    pub synced: bool,
    /// How much WAL it keeps, in bytes.
    pub retained_bytes: u64,
    /// For whom this agent, or an earlier life of it, has made it; `None`: it was somebody else.
    pub made: Option<Made>,
}

/// What the cluster's settings say of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Members stream by slots.
    pub for_members: bool,
    /// How long the slot of a member is kept that is not registered any more.
    pub absent_for: Duration,
    /// What an operator wants on whoever leads.
    pub permanent: BTreeMap<SlotName, Kind>,
    /// What is left alone, whatever it is.
    pub ignored: Vec<Pattern>,
    /// Not all that is set could be understood: nothing is dropped then.
    pub doubtful: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            for_members: true,
            absent_for: Duration::from_secs(30 * 60),
            permanent: BTreeMap::new(),
            ignored: Vec::new(),
            doubtful: false,
        }
    }
}

/// Which slots are left alone: those that are like this in everything that it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pattern {
    /// The name.
    pub name: Option<String>,
    /// `physical` or `logical`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The database of a logical one.
    pub database: Option<String>,
    /// The plugin of a logical one.
    pub plugin: Option<String>,
}

impl Pattern {
    fn fits(&self, slot: &Slot) -> bool {
        let (kind, database, plugin) = match &slot.kind {
            Kind::Physical => ("physical", None, None),
            Kind::Logical { database, plugin } => ("logical", Some(database.as_str()), Some(plugin.as_str())),
        };
        let like = |wanted: &Option<String>, is: Option<&str>| wanted.is_none() || wanted.as_deref() == is;
        like(&self.name, Some(slot.name.as_str()))
            && like(&self.kind, Some(kind))
            && like(&self.database, database)
            && like(&self.plugin, plugin)
    }
}

/// What the leader tells of its slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Up to where what each keeps WAL for has got. The leader's own name stands for the leader.
    pub positions: BTreeMap<SlotName, Lsn>,
    /// Those that are kept for members, registered or not.
    pub for_members: BTreeSet<SlotName>,
}

/// What a leader keeps of the catalogue for a node that has copies of its logical slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// By the slot of that node: since the node has asked for it, and nothing that was gone before; `None`: nothing.
    pub for_node: Option<u32>,
    /// By each of its own logical slots, at a moment when it kept something for that node already.
    pub by_slot: BTreeMap<SlotName, u32>,
    /// Which of the leader's slots Postgres itself takes over to standbys.
    pub failover: BTreeSet<SlotName>,
}

/// What this node is in the cluster, as far as slots hang on it.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// It leads.
    Leads,
    /// It follows, and may come to lead.
    MayLead {
        /// How far it has replayed.
        replayed: Lsn,
        /// What the leader tells of its slots; `None`: nothing.
        published: Option<&'a Published>,
        /// What the leader keeps of the catalogue for this node; `None`: not known.
        kept: Option<&'a Kept>,
    },
    /// It follows, and never leads.
    NeverLeads,
}

/// What the steps are worked out from.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// This node.
    pub me: &'a MemberName,
    /// What it is.
    pub part: Part<'a>,
    /// Who is registered.
    pub members: &'a BTreeMap<MemberName, Member>,
    /// What the cluster's settings say.
    pub rules: &'a Rules,
    /// An operator has paused automatic actions.
    pub paused: bool,
    /// The disk of this node is about to fill.
    pub disk_low: bool,
    /// Postgres itself keeps logical slots alike on this node.
    pub native: bool,
    /// The slots of this node.
    pub here: &'a [Slot],
    /// For how long a slot has been here that is not wanted.
    pub unwanted_for: &'a BTreeMap<SlotName, Duration>,
}

/// What is to be done about one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is made, and keeps WAL from now on.
    Create(SlotName, Made),
    /// It is of no use as it is: dropped, and made anew.
    Renew(SlotName, Made, &'static str),
    /// It keeps no WAL before this any more.
    Advance(SlotName, Lsn),
    /// It is dropped.
    Drop(SlotName, &'static str),
    /// A logical one is made.
    CreateLogical(SlotName, Kind),
    /// A logical one is of no use as it is: dropped, and made anew.
    RenewLogical(SlotName, Kind, &'static str),
    /// A logical one is taken to have been read up to here.
    AdvanceLogical(SlotName, Kind, Lsn),
    /// What is known of it has changed, and nothing else.
    Note(SlotName, Made),
}

impl Step {
    /// The slot that it is about.
    pub fn slot(&self) -> &SlotName {
        match self {
            Step::Create(name, _)
            | Step::Renew(name, ..)
            | Step::Advance(name, _)
            | Step::Drop(name, _)
            | Step::CreateLogical(name, _)
            | Step::RenewLogical(name, ..)
            | Step::AdvanceLogical(name, ..)
            | Step::Note(name, _) => name,
        }
    }
}

impl Slot {
    /// Whether it keeps more WAL than goes without saying: more than half of what is free on the disk, or much for nobody for long.
    pub fn holds_too_much(&self, free_bytes: Option<u64>, unused_for: Option<Duration>) -> bool {
        let (bytes, long) = FORGOTTEN;
        let forgotten = unused_for.is_some_and(|unused| unused >= long) && self.retained_bytes >= bytes;
        forgotten
            || free_bytes
                .is_some_and(|free| self.retained_bytes > WORTH_DROPPING_BYTES && self.retained_bytes > free / 2)
    }
}

/// The slot by which `member` is to stream; `None`: it shares the name with another member, and neither has one.
pub fn slot_of(members: &BTreeMap<MemberName, Member>, member: &MemberName) -> Option<SlotName> {
    let name = SlotName::of(member);
    let shared = members.keys().any(|other| other != member && SlotName::of(other) == name);
    (!shared).then_some(name)
}

impl Ground<'_> {
    /// The slots that this node is to have, and for whom. **Invariant: whoever may come to lead has the slots that the leader has**, except
    /// its own, and the leader's in its place.
    pub fn wanted(&self) -> BTreeMap<SlotName, Made> {
        let (may_lead, published) = match self.part {
            Part::NeverLeads => (false, None),
            Part::Leads => (true, None),
            Part::MayLead { published, .. } => (true, published),
        };
        // Whoever streams from a certain member needs a slot there, whatever that is, and nowhere else.
        let may_stream_from_here = |(_, member): &(&MemberName, &Member)| match &member.tags.replicatefrom {
            Some(named) => named == self.me,
            None => may_lead && !member.tags.nostream,
        };
        let mut wanted: BTreeMap<SlotName, Made> = BTreeMap::new();
        if self.rules.for_members {
            let registered = self.members.iter().filter(may_stream_from_here);
            let registered = registered.filter_map(|(member, _)| slot_of(self.members, member));
            let absent = published.iter().flat_map(|published| &published.for_members).cloned();
            wanted.extend(registered.chain(absent).map(|name| (name, Made::Member)));
            wanted.remove(&SlotName::of(self.me));
        }
        let permanent = self.rules.permanent.iter().filter(|(_, kind)| may_lead && self.can_bear(kind));
        wanted.extend(permanent.map(|(name, _)| (name.clone(), Made::Permanent)));
        wanted
    }

    /// The slots here that an agent has made and that are not wanted: how long that has been so is for the agent to count.
    pub fn unwanted(&self) -> BTreeSet<SlotName> {
        let wanted = self.wanted();
        let made = self.here.iter().filter(|slot| slot.made.is_some());
        made.map(|slot| slot.name.clone()).filter(|name| !wanted.contains_key(name)).collect()
    }

    /// The slots by which members can stream from this node at this moment, those who are away among them: they will be back.
    pub fn usable(&self) -> BTreeSet<SlotName> {
        let wanted = self.wanted();
        let usable = |slot: &&Slot| {
            let serves = slot.kind == Kind::Physical && !slot.lost && slot.restart.is_some();
            let for_a_member = self.rules.for_members && slot.made == Some(Made::Member);
            serves && (wanted.contains_key(&slot.name) || for_a_member)
        };
        self.here.iter().filter(usable).map(|slot| slot.name.clone()).collect()
    }

    /// What is to be done. In a pause nothing is dropped.
    pub fn steps(&self) -> Vec<Step> {
        let wanted = self.wanted();
        let found = |name: &SlotName| self.here.iter().find(|slot| slot.name == *name);
        let tended = wanted.iter().filter_map(|(name, made)| match (self.rules.permanent.get(name), found(name)) {
            (Some(kind @ Kind::Logical { .. }), found) => self.tend_logical(name, kind, found),
            (_, None) => Some(Step::Create(name.clone(), *made)),
            (_, Some(slot)) => self.tend(slot, *made),
        });
        let others = self.here.iter().filter(|slot| !wanted.contains_key(&slot.name));
        let others = others.filter_map(|slot| self.get_out_of_the_way(slot).or_else(|| self.let_go(slot)));
        let steps = tended.chain(others);
        let Some(largest) = self.can_be_spared() else { return steps.collect() };
        let relief = match wanted.get(&largest.name) {
            Some(made) => Step::Renew(largest.name.clone(), *made, DISK_FILLS),
            None => Step::Drop(largest.name.clone(), DISK_FILLS),
        };
        steps.filter(|step| step.slot() != &largest.name).chain([relief]).collect()
    }

    /// On a disk that is about to fill: the slot of a member that keeps the most and that nobody uses. That member has to be copied anew then,
    /// but the others go on. What an operator wants to be permanent is not touched.
    fn can_be_spared(&self) -> Option<&Slot> {
        let spare = |slot: &&Slot| {
            let idle =
                !slot.active && slot.made == Some(Made::Member) && !self.rules.permanent.contains_key(&slot.name);
            idle && slot.retained_bytes >= WORTH_DROPPING_BYTES && !self.is_ignored(slot)
        };
        let may = self.disk_low && !self.paused;
        self.here.iter().filter(|_| may).filter(spare).max_by_key(|slot| slot.retained_bytes)
    }

    /// What anybody uses is left alone, and so is what somebody else has made, but for its position on a standby.
    fn tend(&self, slot: &Slot, wanted_for: Made) -> Option<Step> {
        if slot.active || slot.kind != Kind::Physical || self.is_ignored(slot) {
            return None;
        }
        let follows = !matches!(self.part, Part::Leads);
        let useless = match (slot.lost, slot.restart, slot.has_xmin && follows) {
            (true, _, _) => Some("the WAL that it kept is gone"),
            (false, None, _) => Some("it keeps no WAL"),
            // Left from the time when this node led: it would keep the leader from clearing away dead rows.
            (false, Some(_), true) => Some("it keeps row versions for nobody"),
            (false, Some(_), false) => None,
        };
        if let Some(why) = useless {
            let may = slot.made.is_some() && !self.paused;
            return may.then(|| Step::Renew(slot.name.clone(), wanted_for, why));
        }
        let Part::MayLead { replayed, published, .. } = self.part else { return None };
        let to = published?.positions.get(&slot.name)?.min(&replayed);
        (slot.restart < Some(*to)).then(|| Step::Advance(slot.name.clone(), *to))
    }

    fn let_go(&self, slot: &Slot) -> Option<Step> {
        let made = slot.made.filter(|_| !self.paused && !self.rules.doubtful)?;
        let is_the_leaders = slot.synced && !matches!(self.part, Part::Leads);
        if slot.active || is_the_leaders || self.is_ignored(slot) {
            return None;
        }
        // A leader that tells nothing of its slots may keep them all the same.
        let told = !matches!(self.part, Part::MayLead { published: None, .. });
        let kept_for = match (self.part, made) {
            (Part::Leads, Made::Member) if self.rules.for_members => self.rules.absent_for,
            _ => GRACE,
        };
        let unwanted_for = *self.unwanted_for.get(&slot.name)?;
        let over = slot.lost || unwanted_for >= kept_for;
        (over && told).then(|| Step::Drop(slot.name.clone(), "nobody wants it any more"))
    }

    fn is_ignored(&self, slot: &Slot) -> bool {
        self.rules.ignored.iter().any(|pattern| pattern.fits(slot))
    }
}
