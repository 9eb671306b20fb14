//! What somebody has put in the place of the keys on which a reign rests, and nobody can read, is put right: by what stood there before, which etcd
//! remembers. It is as if nobody had written the nonsense. What a leader alone knows, its passwords, it writes anew.
//!
//! **Invariant: what is put back is the newest that can be understood, and nobody has led since.** Every claim writes `leader`, `term` and `sync` as
//! values that can be understood, in one transaction, and compares the text of the term and the lock and the revision of the record: so no
//! claim can have gone through over the nonsense, and one that came before it is what etcd remembers. The transaction that puts right names
//! the revision of all three keys as they were read, so nothing comes in between either. A lock is bound to the lease that it was bound to, and
//! where that has ended, to none: it would have vanished with it.

use decision::names::{MemberName, Term};
use decision::view::{SyncRecord, Unreadable};
use etcd_client::{GetOptions, KeyValue};

use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::{Secrets, sync};
use crate::snapshot::Snapshot;
use crate::store::{ANSWER_BYTES_MAX, Store, text_of};

/// How many values that nobody can read are looked behind, one after the other.
const STEPS_MAX: usize = 32;

/// At which revisions there is nonsense in the place of what a leader's reign rests on; 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nonsense {
    /// `leader`.
    pub leader: i64,
    /// `term`.
    pub term: i64,
    /// `sync`.
    pub sync: i64,
}

/// Who held the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// This member, under this lease.
    Member(MemberName, i64),
}

/// What is to stand in the place of the nonsense; `None`: there is none, or nobody knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mend {
    /// `leader`.
    pub leader: Option<Holder>,
    /// `term`.
    pub term: Option<Term>,
    /// `sync`.
    pub sync: Option<SyncRecord>,
    /// More than one value that nobody can read has been written over `sync`: a newer version may have led by them.
    pub sync_is_behind: bool,
}

/// What stood in a place before.
pub(crate) enum Before<T> {
    /// This, and how many values that nobody can read have been written since.
    Was(T, usize),
    /// There was no such key.
    Nothing,
    /// etcd does not remember that far back.
    Unknown,
}

impl Nonsense {
    /// There is none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// The keys alone.
    pub(crate) fn keys(self) -> Unreadable {
        Unreadable { leader: self.leader != 0, term: self.term != 0, sync: self.sync != 0 }
    }

    pub(crate) fn note(&mut self, key: &str, revision: i64) {
        match key {
            "leader" => self.leader = revision,
            "term" => self.term = revision,
            "sync" => self.sync = revision,
            _ => {}
        }
    }
}

impl Mend {
    /// There is nothing to be put back.
    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.term.is_none() && self.sync.is_none()
    }
}

impl Store {
    /// What stood in the place of the nonsense in `seen`, as etcd remembers it.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn before_nonsense(&self, seen: &Snapshot) -> Result<Mend, Error> {
        let (keys, nonsense) = (self.keys(), seen.nonsense);
        let holder = |kv: &KeyValue| match MemberName::new(text_of(kv)) {
            Ok(name) if kv.lease() != 0 => Some(Holder::Member(name, kv.lease())),
            Ok(_) | Err(_) => None,
        };
        let leader = match self.before(&keys.leader(), nonsense.leader, holder).await? {
            Before::Was(holder, _) => Some(holder),
            Before::Nothing => Some(Holder::Nobody),
            Before::Unknown => None,
        };
        // Neither is ever deleted by an agent: where they were missing already, that is for others to mend.
        let was = |before| if let Before::Was(value, _) = before { Some(value) } else { None };
        let term = self.before(&keys.term(), nonsense.term, |kv| Term::from_text(&text_of(kv))).await?;
        let record = |kv: &KeyValue| sync::from_stored(&text_of(kv)).ok();
        let (sync, since) = match self.before(&keys.sync(), nonsense.sync, record).await? {
            Before::Was(record, since) => (Some(record), since),
            Before::Nothing | Before::Unknown => (None, 0),
        };
        Ok(Mend { leader, term: was(term), sync, sync_is_behind: since > 1 })
    }

    /// The newest value of `key` that was written before `revision` (0: nobody asks) and can be understood.
    pub(crate) async fn before<T>(
        &self,
        key: &str,
        mut revision: i64,
        understood: impl Fn(&KeyValue) -> Option<T>,
    ) -> Result<Before<T>, Error> {
        let endpoints = self.endpoints().for_large_answers();
        for since in 1..=STEPS_MAX {
            if revision <= 1 {
                break;
            }
            let at = GetOptions::new().with_revision(revision - 1);
            let read = endpoints.call(|client| {
                let at = at.clone();
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                    kv.get(key, Some(at)).await
                }
            });
            let found = match read.await {
                Ok(answer) => answer,
                Err(Error::Rejected(why)) if why.contains("compacted") => break,
                Err(error) => return Err(error),
            };
            let Some(kv) = found.kvs().first() else { return Ok(Before::Nothing) };
            if let Some(value) = understood(kv) {
                return Ok(Before::Was(value, since));
            }
            revision = kv.mod_revision();
        }
        Ok(Before::Unknown)
    }

    /// Puts right what is in `mend`, if nobody has written to any of the three keys since `seen`.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn put_right(&self, seen: &Snapshot, mend: &Mend) -> Result<Outcome, Error> {
        match self.put_back(seen, mend).await {
            // It has ended meanwhile, and its lock with it.
            Err(Error::LeaseGone(_)) => {
                self.put_back(seen, &Mend { leader: Some(Holder::Nobody), ..mend.clone() }).await
            }
            outcome => outcome,
        }
    }

    async fn put_back(&self, seen: &Snapshot, mend: &Mend) -> Result<Outcome, Error> {
        let keys = self.keys();
        let term = match seen.nonsense.term {
            0 => self.term_guard(seen.cluster.term),
            revision => Guard::unchanged(keys.term(), revision),
        };
        let lock = Guard::unchanged(keys.leader(), seen.leader_revision);
        let guards = [lock, term, Guard::unchanged(keys.sync(), seen.sync_revision)];
        let mut writes: Vec<Write> = Vec::new();
        writes.extend(mend.leader.as_ref().map(|holder| match holder {
            Holder::Nobody => Write::delete(keys.leader()),
            Holder::Member(name, lease) => Write::put_leased(keys.leader(), name.as_str(), *lease),
        }));
        writes.extend(mend.term.map(|term| Write::put(keys.term(), term.to_string())));
        writes.extend(mend.sync.as_ref().map(|record| Write::put(keys.sync(), sync::to_stored(record))));
        self.commit(&guards, &writes).await
    }

    /// The passwords between members that stood there before those of `revision`, which nobody can read; `None`: etcd does not remember any.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn secrets_before(&self, revision: i64) -> Result<Option<Secrets>, Error> {
        let read = |kv: &KeyValue| Secrets::from_json(&text_of(kv)).ok();
        let before = self.before(&self.keys().replication_secrets(), revision, read).await?;
        Ok(if let Before::Was(secrets, _) = before { Some(secrets) } else { None })
    }

    /// Writes the passwords between members anew over what nobody can read, if I still lead.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn put_secrets_right(
        &self,
        me: &MemberName,
        term: Term,
        secrets: &Secrets,
        nonsense: i64,
    ) -> Result<Outcome, Error> {
        let key = self.keys().replication_secrets();
        let mut guards = self.leadership_guard(term, me).to_vec();
        guards.push(Guard::unchanged(&key, nonsense));
        self.commit(&guards, &[Write::put(key, secrets.to_json())]).await
    }
}
