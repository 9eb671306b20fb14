//! What the leader must know to rely on promises, on disk for its next life: its term, every record that may be in force in etcd, and
//! where its peers are. It is widened before a record is written whose fate may stay unknown, and forgotten before the lock is let go.
//! What the promises carry is worked out and told under the same lock, so that nothing is carried any more once the ground is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use consensus::records::api_base;
use consensus::{BootInstant, Snapshot};
use decision::durability::Policies;
use decision::names::{MemberName, Term};
use decision::promise::{Reliance, carried_for};
use decision::settings::Mode;
use decision::view::Initialize;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::ground::{Ground, Record};
use crate::state_dir::in_its_directory;

/// What the promises carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The term.
    pub term: Term,
    /// Until when they carry it, less the safety margin.
    pub until: BootInstant,
    /// Whose promises run.
    pub by: Vec<MemberName>,
    /// A peer knows a later term.
    pub deposed_by: Option<Term>,
    /// Peers have been asked, because the lease is not renewed.
    pub asking: bool,
}

impl Carried {
    /// As a decision sees it; `None`: nobody was asked.
    pub fn reliance(&self) -> Option<Reliance> {
        self.asking.then(|| Reliance {
            left: self.until.remaining(),
            promised_by: self.by.clone(),
            deposed_by: self.deposed_by,
        })
    }
}

/// One round of questions, as far as it has been answered.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// For which term.
    pub term: Term,
    /// Before the first question was sent.
    pub asked_at: BootInstant,
    /// How far the leader goes by itself where nobody else may lead.
    pub alone: Duration,
    /// A peer knows a later term.
    pub deposed_by: Option<Term>,
}

/// What is on disk.
#[derive(Serialize, Deserialize)]
struct Noted {
    #[serde(flatten)]
    ground: Option<Ground>,
    #[serde(default)]
    ended_over: i64,
}

/// The ground, and what has been written, or may have been, over the revision beside it.
#[derive(Default)]
struct Cell {
    ground: Option<Ground>,
    /// The ground is that of an earlier life, and nothing has been seen of etcd since.
    is_inherited: bool,
    /// The lock may have been let go by a write over the record of this revision: no picture of that record or an earlier one gives the
    /// ground back. 0: it was not.
    ended_over: i64,
    records: Vec<(i64, Record)>,
    lists: Vec<(i64, BTreeSet<MemberName>)>,
    /// The promises to this reign, and until when each counts.
    given: BTreeMap<MemberName, BootInstant>,
    round: Option<Round>,
}

/// The reign of this node, if it leads. What is written is always what is in memory then, and memory is never held up by the disk.
pub struct Reign {
    path: PathBuf,
    me: MemberName,
    cell: Mutex<Cell>,
    /// Whoever holds it writes; whether there is a file, as far as this life has written or found it.
    pen: Mutex<bool>,
    carried: watch::Sender<Carried>,
}

impl Reign {
    /// The reign of an earlier life; whether it still lasts, its peers tell.
    pub fn open(state_dir: &Path, me: MemberName) -> Self {
        let path = state_dir.join("reign.json");
        let noted = std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
        let is_on_disk = noted.is_some();
        let Noted { ground, ended_over } = noted.unwrap_or(Noted { ground: None, ended_over: 0 });
        let (carried, _) = watch::channel(Carried::default());
        let cell = Cell { is_inherited: ground.is_some(), ground, ended_over, ..Cell::default() };
        Self { path, me, cell: Mutex::new(cell), pen: Mutex::new(is_on_disk), carried }
    }

    fn lock(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ground, while this node leads or may lead.
    pub fn ground(&self) -> Option<Ground> {
        self.lock().ground.clone()
    }

    /// What the promises carry, from now on.
    pub fn carried(&self) -> watch::Receiver<Carried> {
        self.carried.subscribe()
    }

    /// `peer` has promised to let me lead `term`; it counts until `until`.
    pub fn promised(&self, term: Term, peer: MemberName, until: BootInstant) {
        let mut cell = self.lock();
        if cell.term() == term {
            cell.given.insert(peer, until);
        }
    }

    /// Tells what is carried, as far as `round` has been answered.
    pub fn tell(&self, round: Round) {
        let mut cell = self.lock();
        if cell.term() == round.term
            && let Some(ground) = &cell.ground
        {
            self.carried.send_replace(cell.carried(ground, &round, &self.me));
            cell.round = Some(round);
        }
    }

    /// Nobody need be asked now. A promise holds for its time all the same: until the lock is bound to a new lease it is all there is.
    pub fn rest(&self) {
        let _cell = self.lock();
        self.carried.send_if_modified(|carried| std::mem::replace(&mut carried.asking, false));
    }

    /// A lease carries `term` again: no promise to it is relied upon any more, and whoever has given one may be told. Whether there are any.
    pub fn settle(&self, term: Term) -> bool {
        let mut cell = self.lock();
        let relied = cell.term() == term && cell.given.values().any(|until| !until.remaining().is_zero());
        if relied {
            (cell.given, cell.round) = (BTreeMap::new(), None);
            self.carried.send_replace(Carried::default());
        }
        relied
    }

    /// Takes in what etcd says now; says whether there is something to be written. `leads`: the lock is mine under a lease that lives.
    #[must_use]
    pub fn see(&self, snapshot: &Snapshot, leads: bool) -> bool {
        let mut cell = self.lock();
        let before = cell.ground.clone();
        cell.inherit(snapshot);
        match self.ground_in(&cell, snapshot, leads) {
            Seen::Same => return false,
            Seen::Over => self.clear(&mut cell),
            Seen::Ground(ground) => {
                if cell.ground.as_ref().is_some_and(|before| before.term != ground.term) {
                    self.clear(&mut cell);
                }
                // Each write is guarded by the revision that it was to replace: once that has passed, it is in the snapshot or never comes.
                cell.records.retain(|(over, _)| *over >= snapshot.sync_revision);
                cell.lists.retain(|(over, _)| *over >= snapshot.cluster.failsafe_revision);
                cell.ground = Some(ground);
            }
        }
        cell.ground != before
    }

    fn ground_in(&self, cell: &Cell, snapshot: &Snapshot, leads: bool) -> Seen {
        let cluster = &snapshot.cluster;
        if !leads {
            let passed = cell.ground.as_ref().is_some_and(|ground| cluster.term > ground.term);
            let other = cluster.leader.as_ref().is_some_and(|leader| *leader != self.me && cluster.term >= cell.term());
            return if passed || other { Seen::Over } else { Seen::Same };
        }
        let (Some(sync), Initialize::Done(system_id)) = (&cluster.sync, cluster.initialize) else { return Seen::Same };
        if sync.leader != self.me || sync.term != cluster.term || snapshot.sync_revision <= cell.ended_over {
            return Seen::Same;
        }
        if sync.released {
            // Whoever has promised is free again.
            return Seen::Over;
        }
        let mut records = vec![Record { mode: sync.mode, policies: sync.policies.clone() }];
        let pending = cell.records.iter().filter(|(over, _)| *over >= snapshot.sync_revision);
        records.extend(pending.map(|(_, record)| record.clone()));
        let mut lists = vec![cluster.failsafe.clone()];
        let pending = cell.lists.iter().filter(|(over, _)| *over >= cluster.failsafe_revision);
        lists.extend(pending.map(|(_, list)| Some(list.clone())));
        let mut peers = match &cell.ground {
            Some(before) if before.term == cluster.term => before.peers.clone(),
            Some(_) | None => {
                snapshot.failsafe_urls.iter().map(|(name, url)| (name.clone(), api_base(url).to_owned())).collect()
            }
        };
        peers.extend(cluster.members.iter().map(|(name, member)| (name.clone(), member.api_url.clone())));
        peers.remove(&self.me);
        Seen::Ground(Ground { system_id, term: cluster.term, records, lists, peers })
    }

    /// Before the record of my term is written anew: from now on both may be in force.
    ///
    /// # Errors
    /// The note cannot be written, or the promises that carry me now would not carry me then.
    pub fn may_record(&self, seen: &Snapshot, mode: Mode, policies: Policies) -> std::io::Result<()> {
        let record = Record { mode, policies };
        self.widen(
            |cell| cell.records.push((seen.sync_revision, record.clone())),
            |ground| ground.records.push(record.clone()),
        )
    }

    /// Before the list of those who may lead without proof is written anew.
    ///
    /// # Errors
    /// The note cannot be written, or the promises that carry me now would not carry me then.
    pub fn may_list(&self, seen: &Snapshot, listed: BTreeSet<MemberName>) -> std::io::Result<()> {
        let over = seen.cluster.failsafe_revision;
        self.widen(|cell| cell.lists.push((over, listed.clone())), |ground| ground.lists.push(Some(listed.clone())))
    }

    fn widen(&self, noting: impl FnOnce(&mut Cell), widening: impl FnOnce(&mut Ground)) -> std::io::Result<()> {
        let mut cell = self.lock();
        let kept = (cell.records.len(), cell.lists.len());
        // Without a ground, too: the next one must heed what was written before it.
        noting(&mut cell);
        let Some(mut wider) = cell.ground.clone() else { return Ok(()) };
        widening(&mut wider);
        let now = self.carried.borrow().clone();
        if let Some(round) = cell.round.filter(|_| now.term == wider.term && !now.until.remaining().is_zero()) {
            let then = Carried { asking: now.asking, ..cell.carried(&wider, &round, &self.me) };
            if now.asking && then.until < now.until {
                cell.records.truncate(kept.0);
                cell.lists.truncate(kept.1);
                return Err(std::io::Error::other("not while this leader lives by the promises of its peers"));
            }
            self.carried.send_if_modified(|carried| std::mem::replace(carried, then.clone()) != then);
        }
        cell.ground = Some(wider);
        drop(cell);
        self.write()
    }

    /// No promise carries this reign any more, from this instant on, nor again while the record of revision `over` stands, which whatever
    /// is sent to etcd next replaces. What the disk has of it is left to [`Reign::write`].
    pub fn forget(&self, over: i64) {
        let mut cell = self.lock();
        self.clear(&mut cell);
        cell.ended_over = over;
    }

    /// My record has been written anew: nothing that was sent before can come true, and promises may carry this reign again.
    pub fn renewed(&self) {
        let mut cell = self.lock();
        (cell.ended_over, cell.is_inherited) = (0, false);
        cell.records.clear();
    }

    /// Before the lock may be somebody else's without ballots, by a write over the record of revision `over`: no promise carries this reign
    /// any more, in this life or the next.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn end(&self, over: i64) -> std::io::Result<()> {
        self.forget(over);
        self.write()
    }

    /// Writes down what is in memory.
    ///
    /// # Errors
    /// It cannot be written, or not removed. A note that is out of date might let the next life rely on too few.
    pub fn write(&self) -> std::io::Result<()> {
        self.write_with(&mut self.pen())
    }

    fn pen(&self) -> MutexGuard<'_, bool> {
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_with(&self, is_on_disk: &mut bool) -> std::io::Result<()> {
        let noted = {
            let cell = self.lock();
            Noted { ground: cell.ground.clone(), ended_over: cell.ended_over }
        };
        match noted {
            Noted { ground: None, ended_over: 0 } => {
                remove(&self.path)?;
                *is_on_disk = false;
            }
            noted => {
                super::durably(&self.path, &serde_json::to_vec(&noted)?)?;
                *is_on_disk = true;
            }
        }
        Ok(())
    }

    /// Writes down again what somebody has deleted. Says whether it was missing.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self) -> std::io::Result<bool> {
        // What is in memory, and about to be written for the first time, is not missing.
        let mut is_on_disk = self.pen();
        if !*is_on_disk || self.path.exists() {
            return Ok(false);
        }
        self.write_with(&mut is_on_disk)?;
        Ok(*is_on_disk)
    }

    /// As [`Reign::write`]; a reign that cannot be written down is not carried by promises.
    pub fn write_or_forget(&self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the notes about this reign cannot be written: it cannot be carried by promises");
            let mut cell = self.lock();
            self.clear(&mut cell);
            drop(cell);
            let _ = self.write();
        }
    }

    fn clear(&self, cell: &mut Cell) {
        *cell = Cell { ended_over: cell.ended_over, ..Cell::default() };
        self.carried.send_replace(Carried::default());
    }
}

/// What a look at etcd says about the ground.
enum Seen {
    Same,
    Over,
    Ground(Ground),
}

impl Cell {
    fn term(&self) -> Term {
        self.ground.as_ref().map_or(Term(0), |ground| ground.term)
    }

    /// What an earlier life may have written, and etcd does not show, may still be on its way there: over what etcd shows first.
    fn inherit(&mut self, snapshot: &Snapshot) {
        if !std::mem::take(&mut self.is_inherited) {
            return;
        }
        let Some(ground) = &self.ground else { return };
        let shown =
            snapshot.cluster.sync.as_ref().map(|sync| Record { mode: sync.mode, policies: sync.policies.clone() });
        let records = ground.records.iter().filter(|record| Some(*record) != shown.as_ref());
        self.records.extend(records.map(|record| (snapshot.sync_revision, record.clone())));
        let over = snapshot.cluster.failsafe_revision;
        let lists = ground.lists.iter().flatten().filter(|list| Some(*list) != snapshot.cluster.failsafe.as_ref());
        self.lists.extend(lists.map(|list| (over, list.clone())));
    }

    fn carried(&self, ground: &Ground, round: &Round, me: &MemberName) -> Carried {
        let running = self.given.iter().map(|(name, until)| (name.clone(), until.since(round.asked_at)));
        let running: BTreeMap<MemberName, Duration> = running.filter(|(_, left)| !left.is_zero()).collect();
        let carries = carried_for(&ground.bases(), me, &running).unwrap_or(round.alone);
        let until = if round.deposed_by.is_some() { BootInstant::default() } else { round.asked_at + carries };
        Carried {
            term: ground.term,
            until,
            by: running.into_keys().collect(),
            deposed_by: round.deposed_by,
            asking: true,
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    in_its_directory(path, || match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => super::flush_directory(path),
    })
}
