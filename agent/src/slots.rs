//! The replication slots of this node: looked at when something changes that they hang on, and now and then; put in order beside the decisions,
//! never in the way of one. A reign has its marker first, and a standby that may be needed in this moment is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use consensus::Snapshot;
use decision::names::{Lsn, MemberName};
use decision::slots::{Ground, Made, Part, Published, Rules, Slot, SlotName, Step};
use decision::view::{Lock, Primary, Server, Standby, View};

use crate::chore::Chore;
use crate::hands::Hands;

/// How often is looked where nothing has changed: positions have.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How soon it is looked again where something could not be done.
const FAILED_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How soon a change is taken up.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is known of the slots of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// All of them.
    pub here: Vec<Slot>,
    /// Those by which members can stream from here.
    pub usable: BTreeSet<SlotName>,
    /// Those that are to be here, and for whom.
    pub wanted: BTreeMap<SlotName, Made>,
    /// What could not be done about one, in words.
    pub failed: BTreeMap<SlotName, String>,
}

impl Known {
    /// What a leader tells of them, whose WAL ends at `flushed`: also of those whose members are away.
    pub fn to_publish(&self, me: &MemberName, flushed: Lsn) -> Option<Published> {
        let for_whom = |slot: &Slot| self.wanted.get(&slot.name).copied().or(slot.made);
        let kept = self.here.iter().filter(|slot| for_whom(slot).is_some());
        let mut positions: BTreeMap<SlotName, Lsn> =
            kept.clone().filter_map(|slot| Some((slot.name.clone(), slot.confirmed.or(slot.restart)?))).collect();
        let of_members = kept.filter(|slot| for_whom(slot) == Some(Made::Member));
        let for_members: BTreeSet<SlotName> = of_members.map(|slot| slot.name.clone()).collect();
        if positions.is_empty() && for_members.is_empty() {
            return None;
        }
        positions.insert(SlotName::of(me), flushed);
        Some(Published { positions, for_members })
    }
}

/// What a look hangs on: anything else than before is news.
#[derive(Clone, Debug, PartialEq)]
struct Occasion {
    leads: bool,
    postmaster: i32,
    config_revision: i64,
    members: BTreeSet<MemberName>,
    kept: BTreeSet<SlotName>,
    streaming: BTreeSet<MemberName>,
    paused: bool,
}

/// What this node is, without anything borrowed.
#[derive(Clone, Copy, Debug)]
enum Role {
    Leads,
    MayLead { replayed: Lsn },
    NeverLeads,
}

/// The chore.
pub struct Slotkeeper {
    hands: Arc<Hands>,
    chore: Chore,
    done: Option<Occasion>,
    /// Since when a slot has been here that is not wanted.
    unwanted: Arc<Mutex<BTreeMap<SlotName, Instant>>>,
    /// The last look left nothing to do.
    in_order: Arc<AtomicBool>,
}

impl Slotkeeper {
    /// Nothing has been looked at yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self {
            hands,
            chore: Chore::new("replication slots"),
            done: None,
            unwanted: Arc::default(),
            in_order: Arc::default(),
        }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, view: &View, snapshot: Option<&Arc<Snapshot>>, postmaster: Option<i32>) {
        let (Some(cluster), Some(snapshot), Some(postmaster), None) =
            (view.cluster.now(), snapshot, postmaster, &view.job)
        else {
            return;
        };
        let server = view.postgres.now().map(|postgres| &postgres.server);
        let role = match (server, view.lock) {
            (Some(Server::Primary(primary)), Lock::Held { term, .. }) if reigns(primary, term) => Role::Leads,
            (Some(Server::Standby(standby)), Lock::NotHeld) if is_at_rest(view, standby) => {
                let never = cluster.members.get(&view.me).is_none_or(|member| member.never_leads());
                if never { Role::NeverLeads } else { Role::MayLead { replayed: standby.replayed } }
            }
            _ => return,
        };
        if !self.hands.name_is_mine.load(Ordering::SeqCst) {
            return;
        }
        let streaming = match server {
            Some(Server::Primary(primary)) => primary.standbys.iter().map(|standby| standby.member.clone()).collect(),
            _ => BTreeSet::new(),
        };
        let occasion = Occasion {
            leads: matches!(role, Role::Leads),
            postmaster,
            config_revision: snapshot.config_revision,
            members: cluster.members.keys().cloned().collect(),
            kept: snapshot.slots.as_ref().map(|slots| slots.for_members.clone()).unwrap_or_default(),
            streaming,
            paused: view.settings.paused,
        };
        let news = self.done.as_ref() != Some(&occasion);
        let (hands, snapshot) = (Arc::clone(&self.hands), Arc::clone(snapshot));
        let (unwanted, paused) = (Arc::clone(&self.unwanted), view.settings.paused);
        let in_order = Arc::clone(&self.in_order);
        let every = match (news, in_order.load(Ordering::SeqCst)) {
            (true, _) => AGAIN_AFTER,
            (false, true) => LOOK_EVERY,
            (false, false) => FAILED_AGAIN_AFTER,
        };
        let work = async move {
            in_order.store(false, Ordering::SeqCst);
            in_order.store(hands.tend_slots(&snapshot, role, paused, &unwanted).await?, Ordering::SeqCst);
            Ok(())
        };
        if self.chore.begin(every, work) {
            self.done = Some(occasion);
        }
    }
}

fn reigns(primary: &Primary, term: decision::names::Term) -> bool {
    primary.marked_term == term
}

/// A standby that streams from somebody, of whom nothing is wanted.
fn is_at_rest(view: &View, standby: &Standby) -> bool {
    let asked = view.cluster.now().is_none_or(|cluster| cluster.leader.is_none() || cluster.request.is_some());
    standby.streaming && !asked
}

impl Hands {
    /// Looks, and does what is to be done. Says whether all of it could be.
    async fn tend_slots(
        &self,
        seen: &Snapshot,
        role: Role,
        paused: bool,
        unwanted: &Mutex<BTreeMap<SlotName, Instant>>,
    ) -> Result<bool> {
        let here = self.instance.slots().await?;
        let part = match role {
            Role::Leads => Part::Leads,
            Role::MayLead { replayed } => Part::MayLead { replayed, published: seen.slots.as_ref() },
            Role::NeverLeads => Part::NeverLeads,
        };
        let mut rules: Rules = seen.config.slots.clone();
        // Settings that are not there at all have most likely been lost.
        let lost = seen.config_revision == 0 && here.iter().any(|slot| slot.made == Some(Made::Permanent));
        rules.doubtful |= lost;
        let nothing = BTreeMap::new();
        let (me, members) = (self.me(), &seen.cluster.members);
        let ground = Ground { me, part, members, rules: &rules, paused, here: &here, unwanted_for: &nothing };
        let unwanted_for = count(unwanted, &ground.unwanted());
        let ground = Ground { unwanted_for: &unwanted_for, ..ground };
        let steps = ground.steps();
        let mut failed = BTreeMap::new();
        for (name, error) in if steps.is_empty() { Vec::new() } else { self.instance.change_slots(&steps).await? } {
            tracing::debug!(slot = %name, %error, "a replication slot is not as it should be yet");
            failed.insert(name, error.to_string());
        }
        let here =
            if steps.iter().any(changes_more_than_a_position) { self.instance.slots().await? } else { here.clone() };
        let ground = Ground { here: &here, ..ground };
        let (usable, wanted) = (ground.usable(), ground.wanted());
        let all_done = failed.is_empty();
        let known = Known { usable, wanted, failed, here };
        if self.slots.load().usable != known.usable {
            // The member record says so next.
            self.slots.store(Arc::new(known));
            self.look_now.notify_one();
        } else {
            self.slots.store(Arc::new(known));
        }
        Ok(all_done)
    }
}

impl Hands {
    /// The slots as they are now, where they have been looked after in this life.
    pub async fn refreshed_slots(&self) -> Option<Arc<Known>> {
        let known = self.slots.load_full();
        if known.here.is_empty() {
            return None;
        }
        let here = self.instance.slots().await.ok()?;
        let fresh = Arc::new(Known { here, ..Known::clone(&known) });
        self.slots.store(Arc::clone(&fresh));
        Some(fresh)
    }
}

fn changes_more_than_a_position(step: &Step) -> bool {
    !matches!(step, Step::Advance(..))
}

/// For how long each has been unwanted, counted by this life of the agent.
fn count(since: &Mutex<BTreeMap<SlotName, Instant>>, unwanted: &BTreeSet<SlotName>) -> BTreeMap<SlotName, Duration> {
    let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
    since.retain(|name, _| unwanted.contains(name));
    for name in unwanted {
        since.entry(name.clone()).or_insert_with(Instant::now);
    }
    since.iter().map(|(name, since)| (name.clone(), since.elapsed())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use decision::slots::Kind;

    use super::*;

    #[test]
    fn a_leader_tells_of_the_slots_of_members_who_are_away_and_of_nobody_elses() {
        let name = |text: &str| SlotName::new(text).unwrap();
        let slot = |text: &str, made| Slot {
            name: name(text),
            kind: Kind::Physical,
            active: false,
            restart: Some(Lsn(7)),
            confirmed: None,
            has_xmin: false,
            lost: false,
            retained_bytes: 0,
            made,
        };
        let here = vec![
            slot("away", Some(Made::Member)),
            slot("backup", None),
            slot("dr", Some(Made::Permanent)),
            Slot { restart: None, ..slot("n2", None) },
        ];
        let wanted = [(name("n2"), Made::Member), (name("dr"), Made::Permanent)].into();
        let known = Known { here, wanted, ..Known::default() };
        let told = known.to_publish(&MemberName::new("N-1").unwrap(), Lsn(9)).unwrap();
        assert_eq!(told.for_members, [name("away"), name("n2")].into());
        assert_eq!(told.positions, [(name("away"), Lsn(7)), (name("dr"), Lsn(7)), (name("n_1"), Lsn(9))].into());
        assert_eq!(Known::default().to_publish(&MemberName::new("n1").unwrap(), Lsn(9)), None);
    }
}
