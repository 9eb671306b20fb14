//! Logical slots that are to outlive their leader. Before Postgres 17 whoever may lead next has a copy, which it got when its server was started, and
//! which counts once the leader keeps all that it needs; from then on Postgres itself takes them over, if nothing is in its way.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ground, Kept, Kind, Made, Part, Slot, SlotName, Step, slot_of};
use crate::cluster::Member;
use crate::names::MemberName;

/// No chain of standbys is longer.
const LONGEST_WAY: usize = 8;

/// Whether all is here and at the leader that a copy needs. What the leader keeps for this node may have been gone in part when it began to: so the
/// copy is ready once that has come to where the leader's own slot was by then, and the copy is no further back. From then on it stays so, for as
/// long as the leader keeps anything for this node.
fn readiness(slot: &Slot, made: Made, kept: &Kept) -> Made {
    let (Some(for_node), Some(needed)) = (kept.for_node, slot.catalog_xmin) else { return Made::Copied };
    let certain = kept.by_slot.get(&slot.name).is_some_and(|then| not_before(for_node, *then));
    let ready = made == Made::Permanent || (certain && not_before(needed, for_node));
    if ready { Made::Permanent } else { Made::Copied }
}

/// Whether transaction `one` is `other` or began after it. Their numbers come round.
fn not_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() >= 0
}

/// The slot at the leader that keeps of the catalogue what `me` asks for: its own, or, where it streams from other standbys, that of the one among
/// them that streams from the leader. `None`: nothing that it asks for gets there.
pub fn slot_at_leader(
    members: &BTreeMap<MemberName, Member>,
    leader: Option<&MemberName>,
    me: &MemberName,
) -> Option<SlotName> {
    let named = |name: &&MemberName| members.get(*name)?.tags.replicatefrom.as_ref();
    let upstream = |name: &&MemberName| named(name).filter(|it| Some(*it) != leader && members.contains_key(*it));
    let way: Vec<&MemberName> = std::iter::successors(Some(me), upstream).take(LONGEST_WAY).collect();
    let speaks = |name: &&MemberName| members.get(*name).is_some_and(|member| !member.tags.nostream);
    way.iter().all(speaks).then(|| slot_of(members, way.last()?)).flatten()
}

impl Ground<'_> {
    /// A copy of a logical slot is of no use on a node for which the leader keeps nothing of the catalogue.
    pub(super) fn can_bear(&self, kind: &Kind) -> bool {
        let leads = matches!(self.part, Part::Leads);
        *kind == Kind::Physical || leads || slot_at_leader(self.members, None, self.me).is_some()
    }

    /// A logical slot that an operator wants. A leader makes it; whoever may lead next has it copied when its Postgres is started, for only then
    /// does Postgres read a slot that it has not made. Until the leader keeps for this node what the copy needs of the catalogue, and the copy
    /// has come to where it needs no more than that, it may be of no use: whoever comes to lead with such a one makes it anew, and says so.
    pub(super) fn tend_logical(&self, name: &SlotName, kind: &Kind, found: Option<&Slot>) -> Option<Step> {
        if let Some(slot) = found.filter(|_| self.native && !matches!(self.part, Part::Leads)) {
            return self.get_out_of_the_way(slot);
        }
        let Some(slot) = found else {
            return matches!(self.part, Part::Leads).then(|| Step::CreateLogical(name.clone(), kind.clone()));
        };
        if slot.made.is_none() && slot.synced && !self.is_ignored(slot) {
            // The leader before had made it.
            return Some(Step::Note(name.clone(), Made::Permanent));
        }
        let made = slot.made.filter(|_| !slot.active && !self.is_ignored(slot))?;
        let useless = match (slot.kind != *kind, slot.lost) {
            (true, _) => Some("it is to be another one"),
            (false, true) => Some("it has lost what it kept"),
            (false, false) => None,
        };
        match self.part {
            Part::NeverLeads => None,
            Part::Leads => {
                let not_ready = "this node came to lead before all was here that it needs: changes may be missing";
                let why = useless.or((made == Made::Copied).then_some(not_ready)).filter(|_| !self.paused)?;
                Some(Step::RenewLogical(name.clone(), kind.clone(), why))
            }
            Part::MayLead { .. } if useless.is_some() => {
                useless.filter(|_| !self.paused).map(|why| Step::Drop(name.clone(), why))
            }
            Part::MayLead { replayed, published, kept } => {
                let is = kept.map(|kept| readiness(slot, made, kept));
                let to = published.and_then(|published| published.positions.get(name)).map(|told| *told.min(&replayed));
                let behind = to.filter(|to| slot.confirmed < Some(*to));
                // A reader that never rests leaves the copy behind at every look.
                let news = is.filter(|is| *is != made).map(|is| Step::Note(name.clone(), is));
                news.or_else(|| behind.map(|to| Step::AdvanceLogical(name.clone(), kind.clone(), to)))
            }
        }
    }

    /// A slot that this node had as a leader keeps Postgres from taking over the one of that name which the leader has now: from there on it is
    /// of no use here. Whoever made it, Postgres cannot go on before it is gone.
    pub(super) fn get_out_of_the_way(&self, slot: &Slot) -> Option<Step> {
        let Part::MayLead { kept: Some(kept), .. } = self.part else { return None };
        let left = self.native && slot.failover && !slot.synced && !slot.active && kept.failover.contains(&slot.name);
        let why = "it is from a time when this node led, and the leader's is taken over in its place";
        (left && !self.paused && !self.is_ignored(slot)).then(|| Step::Drop(slot.name.clone(), why))
    }

    /// The logical slots that an operator wants and that this node does not have yet.
    pub fn not_copied(&self) -> BTreeSet<SlotName> {
        let cascades = self.members.get(self.me).is_some_and(|member| member.tags.replicatefrom.is_some());
        // Postgres takes over none from another standby, nor is there another way where it does.
        let may_lead = matches!(self.part, Part::MayLead { .. }) && !(self.native && cascades);
        let logical = self.rules.permanent.iter().filter(|(_, kind)| **kind != Kind::Physical && self.can_bear(kind));
        let logical = logical.filter(|_| may_lead);
        logical.map(|(name, _)| name.clone()).filter(|name| !self.here.iter().any(|slot| slot.name == *name)).collect()
    }
}
