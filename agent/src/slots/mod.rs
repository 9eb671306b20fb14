//! The replication slots of this node: looked at when something changes that they hang on, and now and then; put in order beside the decisions,
//! never in the way of one. A reign has its marker first, and a standby that may be needed in this moment is left alone. Where etcd is out of
//! sight the leader itself tells how far its slots have got, and nothing is dropped.

mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use consensus::Snapshot;
use decision::names::{Lsn, MemberName};
use decision::slots::{DISK_FILLS, Ground, Kept, Kind, Made, Part, Rules, Slot, SlotName, Step, slot_at_leader};
use decision::view::{Lock, Server, Standby, Upstream, View};
use serde_json::Value;

use crate::chore::Chore;
use crate::hands::Hands;
use crate::peers::Peers;

pub use known::Known;

/// How often is looked where nothing has changed: positions have.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How soon it is looked again where something could not be done.
const FAILED_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How soon a change is taken up.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long the leader may take to tell of its slots.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// How long a checkpoint may take, so that WAL goes which no slot keeps any more.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(300);

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
    in_sight: bool,
    disk_low: bool,
}

/// What this node is, without anything borrowed.
#[derive(Clone, Debug)]
enum Role {
    Leads,
    /// It follows the leader whose API this is.
    MayLead {
        replayed: Lsn,
        leader_api: Option<String>,
    },
    NeverLeads,
}

/// Since when, by slot.
type Since = Mutex<BTreeMap<SlotName, Instant>>;

/// What is remembered from look to look.
#[derive(Default)]
struct Remembered {
    /// It is here and not wanted.
    unwanted: Since,
    /// It is here and nobody uses it.
    unused: Since,
    /// What each logical slot of the leader kept of the catalogue when that began to keep something for this node.
    kept_then: Mutex<(Option<MemberName>, BTreeMap<SlotName, u32>)>,
    /// The last look left nothing to do.
    in_order: AtomicBool,
}

/// The chore.
pub struct Slotkeeper {
    hands: Arc<Hands>,
    peers: Peers,
    chore: Chore,
    done: Option<Occasion>,
    remembered: Arc<Remembered>,
}

impl Slotkeeper {
    /// Nothing has been looked at yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        let chore = Chore::new("replication slots");
        Self { hands, peers: Peers::default(), chore, done: None, remembered: Arc::default() }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, view: &View, snapshot: Option<&Arc<Snapshot>>, postmaster: Option<i32>) {
        let (Some(snapshot), Some(postmaster), None) = (snapshot, postmaster, &view.job) else { return };
        let server = view.postgres.now().map(|postgres| &postgres.server);
        let Some(role) = server.and_then(|server| role(view, server)) else { return };
        if !self.hands.name_is_mine.load(Ordering::SeqCst) {
            return;
        }
        let cluster = &snapshot.cluster;
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
            in_sight: view.cluster.now().is_some(),
            disk_low: view.signs.disk.low,
        };
        let news = self.done.as_ref() != Some(&occasion);
        let every = match (news, self.remembered.in_order.load(Ordering::SeqCst)) {
            (true, _) => AGAIN_AFTER,
            (false, true) => LOOK_EVERY,
            (false, false) => FAILED_AGAIN_AFTER,
        };
        let look = Look {
            hands: Arc::clone(&self.hands),
            peers: self.peers.clone(),
            seen: Arc::clone(snapshot),
            role,
            remembered: Arc::clone(&self.remembered),
            paused: occasion.paused || !occasion.in_sight,
            in_sight: occasion.in_sight,
            disk_low: occasion.disk_low,
        };
        if self.chore.begin(every, look.go()) {
            self.done = Some(occasion);
        }
    }
}

/// What slots hang on here; `None`: this is no moment for them.
fn role(view: &View, server: &Server) -> Option<Role> {
    let cluster = view.cluster.last()?;
    match (server, view.lock) {
        // Nobody tells there how far slots have got, so they would only keep WAL: they are made again when this site leads.
        (Server::Standby(_), _) if cluster.follows() => Some(Role::NeverLeads),
        (Server::Primary(primary), Lock::Held { term, .. }) if primary.marked_term == term => Some(Role::Leads),
        (Server::Standby(standby), Lock::NotHeld) if is_at_rest(view, standby) => {
            if cluster.members.get(&view.me).is_none_or(|member| member.never_leads()) {
                return Some(Role::NeverLeads);
            }
            let leader = cluster.leader.as_ref().and_then(|leader| cluster.members.get(leader));
            Some(Role::MayLead { replayed: standby.replayed, leader_api: leader.map(|leader| leader.api_url.clone()) })
        }
        _ => None,
    }
}

/// A standby that streams, and of which nothing is wanted.
fn is_at_rest(view: &View, standby: &Standby) -> bool {
    let asked = view.cluster.last().is_none_or(|cluster| cluster.leader.is_none() || cluster.request.is_some());
    standby.streaming && !asked
}

/// One look, and what comes of it.
struct Look {
    hands: Arc<Hands>,
    peers: Peers,
    seen: Arc<Snapshot>,
    role: Role,
    remembered: Arc<Remembered>,
    paused: bool,
    in_sight: bool,
    disk_low: bool,
}

impl Look {
    async fn go(self) -> Result<()> {
        self.remembered.in_order.store(false, Ordering::SeqCst);
        let here = self.hands.instance.slots().await?;
        let native = self.hands.instance.syncs_slots();
        let to_be_asked = |slot: &Slot| slot.made.is_some() && !native || native && slot.failover && !slot.synced;
        let logical = here.iter().any(|slot| slot.kind != Kind::Physical && to_be_asked(slot));
        let told = match &self.role {
            Role::MayLead { leader_api: Some(api), .. } if !self.in_sight || logical => {
                ask(&self.peers, api).await.ok()
            }
            _ => None,
        };
        let kept = told.as_ref().map(|told| self.kept(told));
        let told = told.and_then(|told| serde_json::from_value(told["published"].clone()).ok());
        let published = told.or_else(|| self.seen.slots.clone().filter(|_| self.in_sight));
        let part = match self.role {
            Role::Leads => Part::Leads,
            Role::MayLead { replayed, .. } => {
                Part::MayLead { replayed, published: published.as_ref(), kept: kept.as_ref() }
            }
            Role::NeverLeads => Part::NeverLeads,
        };
        let (rules, nothing) = (self.rules(&here), BTreeMap::new());
        let ground = Ground {
            me: self.hands.me(),
            part,
            members: &self.seen.cluster.members,
            rules: &rules,
            paused: self.paused,
            disk_low: self.disk_low,
            native,
            here: &here,
            unwanted_for: &nothing,
        };
        let mut unwanted_for = count(&self.remembered.unwanted, &ground.unwanted());
        for member in self.seen.cluster.departures.keys() {
            // Nobody waits for it to come back.
            unwanted_for.entry(SlotName::of(member)).and_modify(|age| *age = Duration::MAX);
        }
        let ground = Ground { unwanted_for: &unwanted_for, ..ground };
        let steps = ground.steps();
        let failed = self.carry_out(&steps).await?;
        let moved_only = steps.iter().all(|step| matches!(step, Step::Advance(..) | Step::AdvanceLogical(..)));
        let here = if moved_only { here.clone() } else { self.hands.instance.slots().await? };
        let ground = Ground { here: &here, ..ground };
        let unused = here.iter().filter(|slot| !slot.active).map(|slot| slot.name.clone()).collect();
        let (usable, wanted, not_copied) = (ground.usable(), ground.wanted(), ground.not_copied());
        let free_bytes = self.hands.disk.disk().free_bytes;
        let unused_for = count(&self.remembered.unused, &unused);
        self.remembered.in_order.store(failed.is_empty(), Ordering::SeqCst);
        let before = self.hands.slots.load_full();
        let news = before.usable != usable;
        self.hands.instance.note_slots_for_members(&usable).await?;
        let known = Known { usable, wanted, failed, here, unused_for, free_bytes, not_copied, native };
        self.hands.slots.store(Arc::new(known));
        if news {
            // The member record says so next.
            self.hands.look_now.notify_one();
        }
        Ok(())
    }

    /// What the leader keeps of the catalogue for this node, and since when is remembered: as soon as it keeps anything.
    fn kept(&self, told: &Value) -> Kept {
        let cluster = &self.seen.cluster;
        let for_node = slot_at_leader(&cluster.members, cluster.leader.as_ref(), self.hands.me());
        let for_node = for_node.and_then(|name| catalog_xmin(told, &name));
        let (by, then) = &mut *self.remembered.kept_then.lock().unwrap_or_else(PoisonError::into_inner);
        if *by != cluster.leader || for_node.is_none() {
            (*by, *then) = (cluster.leader.clone(), BTreeMap::new());
        }
        let permanent = self.seen.config.slots.permanent.keys().filter(|_| for_node.is_some());
        let new = permanent.filter_map(|name| Some((name.clone(), catalog_xmin(told, name)?)));
        for (name, xmin) in new {
            then.entry(name).or_insert(xmin);
        }
        let slots = told["slots"].as_array().into_iter().flatten().filter(|slot| slot["failover"] == true);
        let failover = slots.filter_map(|slot| slot["name"].as_str()?.parse().ok()).collect();
        Kept { for_node, by_slot: then.clone(), failover }
    }

    /// Settings that are not there at all have most likely been lost.
    fn rules(&self, here: &[Slot]) -> Rules {
        let mut rules = self.seen.config.slots.clone();
        rules.doubtful |= self.seen.config_revision == 0 && here.iter().any(|slot| slot.made == Some(Made::Permanent));
        rules
    }

    async fn carry_out(&self, steps: &[Step]) -> Result<BTreeMap<SlotName, String>> {
        if steps.is_empty() {
            return Ok(BTreeMap::new());
        }
        let failed = self.hands.instance.change_slots(steps).await?;
        let is_relief = |step: &Step| matches!(step, Step::Renew(_, _, why) | Step::Drop(_, why) if *why == DISK_FILLS);
        if steps.iter().any(is_relief) {
            // What the slot kept goes with the next checkpoint, which may be minutes away.
            self.hands.instance.checkpoint(CHECKPOINT_WITHIN).await?;
        }
        let tell = |(name, error): (SlotName, pg_control::Error)| {
            tracing::debug!(slot = %name, %error, "a replication slot is not as it should be yet");
            (name, error.to_string())
        };
        Ok(failed.into_iter().map(tell).collect())
    }
}

/// What the leader itself tells of its slots.
async fn ask(peers: &Peers, leader_api: &str) -> Result<Value> {
    let answer = peers.get(leader_api, "/slots", TOLD_WITHIN).await?;
    ensure!(!answer["published"].is_null(), "it tells nothing");
    Ok(answer)
}

/// What a slot of the leader keeps of the catalogue.
fn catalog_xmin(told: &Value, name: &SlotName) -> Option<u32> {
    let slot = told["slots"].as_array()?.iter().find(|slot| slot["name"] == name.as_str())?;
    u32::try_from(slot["catalog_xmin"].as_u64()?).ok()
}

/// For how long each has been so, counted by this life of the agent.
fn count(since: &Since, now: &BTreeSet<SlotName>) -> BTreeMap<SlotName, Duration> {
    let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
    since.retain(|name, _| now.contains(name));
    for name in now {
        since.entry(name.clone()).or_insert_with(Instant::now);
    }
    since.iter().map(|(name, since)| (name.clone(), since.elapsed())).collect()
}

impl Hands {
    /// Before a standby is started: the logical slots that an operator wants on whoever leads, as far as they can be had. Nothing of that keeps it
    /// from being started.
    pub async fn copy_logical_slots(&self, seen: &Snapshot, from: &Upstream) {
        let logical = seen.config.slots.permanent.iter().filter(|(_, kind)| **kind != Kind::Physical);
        let wanted: Vec<SlotName> = logical.map(|(name, _)| name.clone()).collect();
        let cluster = &seen.cluster;
        let leader = cluster.leader.as_ref();
        let is_heard = slot_at_leader(&cluster.members, leader, self.me()).is_some();
        if wanted.is_empty()
            || self.instance.will_sync_slots()
            || self.local.load().tags.never_leads()
            || from.is_another_site()
            || !is_heard
        {
            return;
        }
        // A standby that streams from another one has them from the leader all the same.
        let leader = leader.and_then(|leader| cluster.upstream(self.me(), leader, from.term));
        if let Err(error) = self.instance.copy_logical_slots(leader.as_ref().unwrap_or(from), &wanted).await {
            tracing::warn!(%error, "logical slots were not copied");
        }
    }

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
