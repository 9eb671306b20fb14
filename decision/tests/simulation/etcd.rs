//! A modelled etcd: one linearizable store with leases that are swept now and then, guarded transactions, and what befalls such a store
//! (silence, an election that gives every lease its full time again, a restore from an old backup).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use decision::departure::Departure;
use decision::names::{Lsn, MemberName, SystemId, Term, Timeline};
use decision::settings::Durability;
use decision::view::{Ballot, Cluster, HistoryEntry, Initialize, Member, Request, SyncRecord};

use crate::time::Micros;
use crate::world::At;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Initialize,
    Leader,
    Term,
    Sync,
    Status,
    History,
    Request,
    Config,
    Failsafe,
    StrayTimeline,
    Member(At),
    Ballot(At),
    Floor(At),
    /// That a node has been taken out of the cluster.
    Departure(At),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Initialize(Option<SystemId>),
    Leader(At),
    Term(Term),
    Sync(Rc<SyncRecord>),
    Position(Lsn),
    History(Rc<Vec<HistoryEntry>>),
    Request(Request),
    Config(Config),
    Member(Rc<Member>),
    Ballot(Ballot),
    List(Rc<BTreeSet<MemberName>>),
    Timeline(Timeline),
    /// The term in which nothing counted on it any more.
    Left(Option<Term>),
}

/// The cluster-wide settings that operators change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    pub durability: Durability,
    pub paused: bool,
}

/// What must be so at the moment of a write.
#[derive(Clone, Debug)]
pub enum Guard {
    Is(Key, Value),
    Absent(Key),
    Exists(Key),
    Unchanged(Key, i64),
    OnLease(Key, i64),
}

#[derive(Clone, Debug)]
pub enum Write {
    Put(Key, Value, Option<i64>),
    Delete(Key),
}

#[derive(Clone, Debug)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub writes: Vec<Write>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied(i64),
    Refused,
    /// A write under a lease that is gone.
    LeaseGone,
    /// Read back, and it cannot be accounted for.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub value: Value,
    pub revision: i64,
    pub lease: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Micros,
    ends: Micros,
}

/// The revision, the keys and the leases of then.
type Backup = (i64, BTreeMap<Key, Stored>, BTreeMap<i64, Lease>);

/// A picture of the store at one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub cluster: Cluster,
    pub config: Config,
    pub leader_lease: i64,
    pub sync_revision: i64,
    pub history_revision: i64,
}

#[derive(Clone, Debug, Default)]
pub struct Etcd {
    pub revision: i64,
    pub store: BTreeMap<Key, Stored>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    /// Nobody gets an answer before this instant.
    pub silent_until: Micros,
    backups: Vec<Backup>,
    picture: Option<(i64, Rc<Snapshot>)>,
}

impl Etcd {
    pub fn get(&self, key: Key) -> Option<&Value> {
        self.store.get(&key).map(|stored| &stored.value)
    }

    pub fn leader(&self) -> Option<At> {
        match self.get(Key::Leader) {
            Some(Value::Leader(at)) => Some(*at),
            _ => None,
        }
    }

    pub fn term(&self) -> Term {
        match self.get(Key::Term) {
            Some(Value::Term(term)) => *term,
            _ => Term(0),
        }
    }

    pub fn sync(&self) -> Option<&SyncRecord> {
        match self.get(Key::Sync) {
            Some(Value::Sync(sync)) => Some(sync),
            _ => None,
        }
    }

    pub fn leader_lease(&self) -> Option<i64> {
        self.store.get(&Key::Leader)?.lease
    }

    pub fn lives(&self, lease: i64) -> bool {
        self.leases.contains_key(&lease)
    }

    pub fn grant(&mut self, now: Micros, ttl: Micros) -> i64 {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, Lease { ttl, ends: now + ttl });
        self.next_lease
    }

    /// Gives a lease its full time again; false: there is none such, or it has run out and is only waiting for the sweep.
    pub fn renew(&mut self, now: Micros, lease: i64) -> bool {
        let found = self.leases.get_mut(&lease).filter(|lease| lease.ends > now);
        found.map(|lease| lease.ends = now + lease.ttl).is_some()
    }

    pub fn revoke(&mut self, lease: i64) {
        if self.leases.remove(&lease).is_some() {
            let before = self.store.len();
            self.store.retain(|_, stored| stored.lease != Some(lease));
            self.revision += i64::from(self.store.len() != before);
        }
    }

    /// Revokes what has run out; says whether that changed anything.
    pub fn sweep(&mut self, now: Micros) -> bool {
        let before = self.revision;
        let over: Vec<i64> = self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|lease| self.revoke(lease));
        self.revision != before
    }

    /// A new leader of etcd cannot know when leases were last renewed, and gives each its full time.
    pub fn elected(&mut self, now: Micros) {
        self.leases.values_mut().for_each(|lease| lease.ends = now + lease.ttl);
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Is(key, value) => self.get(*key) == Some(value),
            Guard::Absent(key) => !self.store.contains_key(key),
            Guard::Exists(key) => self.store.contains_key(key),
            Guard::Unchanged(key, revision) => self.store.get(key).map_or(0, |stored| stored.revision) == *revision,
            Guard::OnLease(key, lease) => {
                self.store.get(key).and_then(|stored| stored.lease).unwrap_or_default() == *lease
            }
        }
    }

    pub fn commit(&mut self, txn: &Txn) -> Outcome {
        if !txn.guards.iter().all(|guard| self.holds(guard)) {
            return Outcome::Refused;
        }
        let gone = |write: &Write| matches!(write, Write::Put(_, _, Some(lease)) if !self.lives(*lease));
        if txn.writes.iter().any(gone) {
            return Outcome::LeaseGone;
        }
        self.revision += 1;
        for write in &txn.writes {
            match write {
                Write::Put(key, value, lease) => {
                    let stored = Stored { value: value.clone(), revision: self.revision, lease: *lease };
                    self.store.insert(*key, stored);
                }
                Write::Delete(key) => drop(self.store.remove(key)),
            }
        }
        Outcome::Applied(self.revision)
    }

    /// What became of a transaction whose answer was lost, as far as its keys tell. A key that it would have changed and that has not been
    /// written since tells that it was not applied, whatever its value; `by_value`: unless only the value is looked at.
    pub fn recall(&self, txn: &Txn, by_value: bool) -> Outcome {
        let untouched = |key: &Key| {
            txn.guards.iter().any(|guard| matches!(guard, Guard::Unchanged(of, _) if of == key) && self.holds(guard))
        };
        let in_effect = |write: &Write| match write {
            Write::Put(key, ..) if !by_value && untouched(key) => false,
            Write::Put(key, value, lease) => {
                self.store.get(key).is_some_and(|stored| stored.value == *value && stored.lease == *lease)
            }
            Write::Delete(key) => !self.store.contains_key(key),
        };
        let revision_of = |write: &Write| match write {
            Write::Put(key, ..) | Write::Delete(key) => self.store.get(key).map(|stored| stored.revision),
        };
        if txn.writes.iter().all(in_effect) {
            return Outcome::Applied(txn.writes.iter().filter_map(revision_of).max().unwrap_or_default());
        }
        let some_put = txn.writes.iter().any(|write| matches!(write, Write::Put(..)) && in_effect(write));
        if !some_put && txn.guards.iter().any(|guard| !self.holds(guard)) {
            return Outcome::Refused;
        }
        Outcome::Unknown
    }

    pub fn back_up(&mut self) {
        self.backups.push((self.revision, self.store.clone(), self.leases.clone()));
    }

    /// Goes back to the oldest backup: revisions included, as etcd does it.
    pub fn restore(&mut self, now: Micros) {
        if let Some((revision, store, leases)) = self.backups.first().cloned() {
            (self.revision, self.store, self.leases) = (revision, store, leases);
            self.picture = None;
            self.elected(now);
        }
    }

    /// The picture at this revision. Made once a revision, and shared.
    pub fn picture(&mut self, names: &[MemberName], usual: Config) -> Rc<Snapshot> {
        if let Some((_, picture)) = self.picture.as_ref().filter(|(revision, _)| *revision == self.revision) {
            return Rc::clone(picture);
        }
        let picture = Rc::new(self.draw(names, usual));
        self.picture = Some((self.revision, Rc::clone(&picture)));
        picture
    }

    fn draw(&self, names: &[MemberName], usual: Config) -> Snapshot {
        let mut cluster = Cluster { revision: self.revision, ..Cluster::default() };
        let mut config = usual;
        for (key, stored) in &self.store {
            match (key, &stored.value) {
                (_, Value::Initialize(None)) => cluster.initialize = Initialize::InProgress,
                (_, Value::Initialize(Some(id))) => cluster.initialize = Initialize::Done(*id),
                (_, Value::Leader(at)) => cluster.leader = Some(names[*at].clone()),
                (_, Value::Term(term)) => cluster.term = *term,
                (_, Value::Sync(sync)) => cluster.sync = Some((**sync).clone()),
                (_, Value::Position(lsn)) if *key == Key::Status => cluster.leader_lsn = Some(*lsn),
                (Key::Floor(at), Value::Position(lsn)) => {
                    cluster.floors.insert(names[*at].clone(), *lsn);
                }
                (_, Value::History(rows)) => cluster.history.clone_from(rows),
                (_, Value::Timeline(timeline)) => cluster.stray_timeline = *timeline,
                (_, Value::Request(request)) => {
                    cluster.request = Some(Request { revision: stored.revision, ..request.clone() });
                }
                (_, Value::Config(stored)) => config = *stored,
                (_, Value::List(listed)) => {
                    (cluster.failsafe, cluster.failsafe_revision) = (Some((**listed).clone()), stored.revision);
                }
                (Key::Member(at), Value::Member(member)) => {
                    cluster.members.insert(names[*at].clone(), (**member).clone());
                }
                (Key::Departure(at), Value::Left(done)) => {
                    let departure = Departure { done: *done, revision: stored.revision };
                    cluster.departures.insert(names[*at].clone(), departure);
                }
                (Key::Ballot(at), Value::Ballot(ballot)) => {
                    let ballot = Ballot { revision: stored.revision, ..ballot.clone() };
                    cluster.ballots.insert(names[*at].clone(), ballot);
                }
                (key, value) => unreachable!("{value:?} under {key:?}"),
            }
        }
        let revision_of = |key: Key| self.store.get(&key).map_or(0, |stored| stored.revision);
        Snapshot {
            cluster,
            config,
            leader_lease: self.leader_lease().unwrap_or_default(),
            sync_revision: revision_of(Key::Sync),
            history_revision: revision_of(Key::History),
        }
    }
}
