//! Guarded writes: one etcd transaction that happens only while every guard holds. When its answer is lost, the keys are read back
//! and compared; a write that cannot be accounted for is reported as unknown, because guessing either way can make two leaders.

use std::collections::BTreeMap;

use decision::names::{MemberName, Term};
use etcd_client::{Client, Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};

use crate::endpoints::Failure;
use crate::error::Error;
use crate::keys::Keys;
use crate::store::{ANSWER_BYTES_MAX, Store, text_of};

/// What must be so at the moment of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key has this value.
    KeyIs {
        /// The full key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The key is not there.
    KeyAbsent {
        /// The full key.
        key: String,
    },
    /// The key is there, whatever its value.
    KeyExists {
        /// The full key.
        key: String,
    },
    /// The key was last written at this revision; 0: it is not there.
    ModRevision {
        /// The full key.
        key: String,
        /// The etcd revision.
        revision: i64,
    },
    /// No key in the folder was written after this revision. What was deleted since is not noticed.
    NoneNewer {
        /// The full name of the folder, with its final slash.
        key: String,
        /// The etcd revision.
        revision: i64,
    },
    /// The key is there and bound to this lease.
    LeaseOnKey {
        /// The full key.
        key: String,
        /// The lease.
        lease: i64,
    },
}

/// One change within a guarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The full key.
        key: String,
        /// The value.
        value: String,
        /// The lease that the key is bound to; `None`: it stays until it is deleted.
        lease: Option<i64>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// The full key.
        key: String,
    },
}

/// What became of a guarded write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in effect.
    Applied {
        /// The etcd revision that it made.
        revision: i64,
    },
    /// A guard did not hold, and nothing was written.
    Refused,
}

impl Outcome {
    /// Whether it is in effect.
    pub fn applied(self) -> bool {
        matches!(self, Outcome::Applied { .. })
    }
}

impl Guard {
    /// The key has this value.
    pub fn is(key: impl Into<String>, value: impl Into<String>) -> Self {
        Guard::KeyIs { key: key.into(), value: value.into() }
    }

    /// The key is not there.
    pub fn absent(key: impl Into<String>) -> Self {
        Guard::KeyAbsent { key: key.into() }
    }

    /// The key was last written at this revision; 0: it is not there.
    pub fn unchanged(key: impl Into<String>, revision: i64) -> Self {
        Guard::ModRevision { key: key.into(), revision }
    }

    /// No key in the folder was written after this revision.
    pub fn none_newer(folder: impl Into<String>, revision: i64) -> Self {
        Guard::NoneNewer { key: folder.into(), revision }
    }

    fn key(&self) -> &str {
        match self {
            Guard::KeyIs { key, .. }
            | Guard::KeyAbsent { key }
            | Guard::KeyExists { key }
            | Guard::ModRevision { key, .. }
            | Guard::NoneNewer { key, .. }
            | Guard::LeaseOnKey { key, .. } => key,
        }
    }

    fn compare(&self) -> Compare {
        let key = self.key();
        match self {
            Guard::KeyIs { value, .. } => Compare::value(key, CompareOp::Equal, value.as_str()),
            Guard::KeyAbsent { .. } => Compare::create_revision(key, CompareOp::Equal, 0),
            Guard::KeyExists { .. } => Compare::create_revision(key, CompareOp::Greater, 0),
            Guard::ModRevision { revision, .. } => Compare::mod_revision(key, CompareOp::Equal, *revision),
            Guard::NoneNewer { revision, .. } => {
                Compare::mod_revision(key, CompareOp::Less, *revision + 1).with_range(Keys::end_of(key))
            }
            Guard::LeaseOnKey { lease, .. } => Compare::lease(key, CompareOp::Equal, *lease),
        }
    }

    fn holds(&self, found: Option<&KeyValue>) -> bool {
        match self {
            Guard::KeyIs { value, .. } => found.is_some_and(|kv| kv.value() == value.as_bytes()),
            Guard::KeyAbsent { .. } => found.is_none(),
            Guard::KeyExists { .. } => found.is_some(),
            Guard::ModRevision { revision, .. } => found.map_or(0, KeyValue::mod_revision) == *revision,
            // Single keys are read back, so this is never found to have failed: what cannot be told stays unknown.
            Guard::NoneNewer { .. } => true,
            Guard::LeaseOnKey { lease, .. } => found.map_or(0, KeyValue::lease) == *lease,
        }
    }
}

impl Write {
    /// Sets a key that stays.
    pub fn put(key: impl Into<String>, value: impl Into<String>) -> Self {
        Write::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// Sets a key that vanishes with a lease.
    pub fn put_leased(key: impl Into<String>, value: impl Into<String>, lease: i64) -> Self {
        Write::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    /// Removes a key.
    pub fn delete(key: impl Into<String>) -> Self {
        Write::Delete { key: key.into() }
    }

    fn key(&self) -> &str {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }

    fn operation(&self) -> TxnOp {
        match self {
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                TxnOp::put(key.as_str(), value.as_str(), options)
            }
            Write::Delete { key } => TxnOp::delete(key.as_str(), None),
        }
    }

    fn in_effect(&self, found: Option<&KeyValue>) -> bool {
        match self {
            Write::Put { value, lease, .. } => {
                found.is_some_and(|kv| kv.value() == value.as_bytes() && kv.lease() == lease.unwrap_or_default())
            }
            Write::Delete { .. } => found.is_none(),
        }
    }
}

impl Store {
    /// The guards of every write made in the name of leadership: `term` is still mine, and `leader` is still me.
    pub fn leadership_guard(&self, term: Term, me: &MemberName) -> [Guard; 2] {
        [Guard::is(self.keys().term(), term.to_string()), Guard::is(self.keys().leader(), me.as_str())]
    }

    /// The guard that `term` is still the highest term given out; 0: none ever was.
    pub fn term_guard(&self, term: Term) -> Guard {
        match term {
            Term(0) => Guard::absent(self.keys().term()),
            term => Guard::is(self.keys().term(), term.to_string()),
        }
    }

    /// Carries out all writes in one transaction if every guard holds, none otherwise.
    ///
    /// A transaction that certainly was not sent goes to the next endpoint. One whose answer was lost is never sent again: the keys are
    /// read back. Where every write is in effect it is `Applied` (also if it was so before, unless a guard names the revision of the very key
    /// that is put); where a guard does not hold any more and
    /// none of the puts is in effect, `Refused`; else [`Error::Unknown`]: it may even be applied later, so look before acting.
    pub async fn commit(&self, guards: &[Guard], writes: &[Write]) -> Result<Outcome, Error> {
        let endpoints = self.endpoints();
        let request = |mut client: Client| async move {
            let compares: Vec<Compare> = guards.iter().map(Guard::compare).collect();
            let operations: Vec<TxnOp> = writes.iter().map(Write::operation).collect();
            client.txn(Txn::new().when(compares).and_then(operations)).await
        };
        let mut failures = Vec::new();
        for _ in 0..=endpoints.count() {
            let endpoint = endpoints.current();
            match endpoints.attempt(endpoint, &request).await {
                Ok(answer) if answer.succeeded() => {
                    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                    return Ok(Outcome::Applied { revision });
                }
                Ok(_) => return Ok(Outcome::Refused),
                Err(Failure::NotSent(why)) => failures.push(format!("{}: {why}", endpoints.url(endpoint))),
                Err(Failure::Unclear(why)) => {
                    let why = format!("{}: {why}", endpoints.url(endpoint));
                    tracing::warn!(why, "answer to a write lost, reading back");
                    return self.read_back(guards, writes, &why).await;
                }
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        Err(Error::Unreachable(failures.join("; ")))
    }

    /// Finds out what became of a transaction whose answer was lost.
    ///
    /// **Invariant: what is said to be refused never comes true.** A guard that has failed for good says so: revisions and terms only grow, and a lock
    /// moves under a new term. Nonsense in the place of the term or the lock does not: what stood there before is put back, and the guard holds again.
    pub async fn read_back(&self, guards: &[Guard], writes: &[Write], why: &str) -> Result<Outcome, Error> {
        let keys: Vec<&str> = guards.iter().map(Guard::key).chain(writes.iter().map(Write::key)).collect();
        let found = self.read_keys(&keys).await.map_err(|error| Error::Unknown(format!("{why}; then {error}")))?;
        let at = |key: &str| found.get(key);
        // A put of what was there already is told by its revision alone: as long as the one that it was to replace stands, it has not come.
        let stands = |key: &str| {
            let replaces =
                |guard: &&Guard| matches!(guard, Guard::ModRevision { key: replaced, .. } if replaced == key);
            guards.iter().filter(replaces).any(|guard| guard.holds(at(key)))
        };
        let is_put = |write: &Write| matches!(write, Write::Put { .. });
        let has_come = |write: &Write| write.in_effect(at(write.key())) && !(is_put(write) && stands(write.key()));
        if writes.iter().all(has_come) {
            let revision = writes.iter().filter_map(|write| at(write.key())).map(KeyValue::mod_revision).max();
            return Ok(Outcome::Applied { revision: revision.unwrap_or_default() });
        }
        let some_put_in_effect = writes.iter().any(|write| is_put(write) && has_come(write));
        let failed_for_good =
            |guard: &Guard| !guard.holds(at(guard.key())) && !self.may_be_put_back(guard, at(guard.key()));
        if !some_put_in_effect && guards.iter().any(failed_for_good) {
            return Ok(Outcome::Refused);
        }
        Err(Error::Unknown(why.to_owned()))
    }

    /// Whether a guard has failed for what nobody can read, in a place where agents put back what stood there before.
    fn may_be_put_back(&self, guard: &Guard, found: Option<&KeyValue>) -> bool {
        let (Guard::KeyIs { key, .. }, Some(found)) = (guard, found) else { return false };
        let text = text_of(found);
        let term = *key == self.keys().term() && Term::from_text(&text).is_none();
        let lock = *key == self.keys().leader() && (found.lease() == 0 || MemberName::new(text).is_err());
        term || lock
    }

    /// Reads single keys at one revision, linearizable.
    pub(crate) async fn read_keys(&self, keys: &[&str]) -> Result<BTreeMap<String, KeyValue>, Error> {
        let answer = self
            .endpoints()
            .call(|client| async move {
                let mut client = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                let gets: Vec<TxnOp> = keys.iter().map(|key| TxnOp::get(*key, None)).collect();
                client.txn(Txn::new().and_then(gets)).await
            })
            .await?;
        let mut found = BTreeMap::new();
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(mut get) = response {
                found.extend(get.take_kvs().into_iter().map(|kv| (String::from_utf8_lossy(kv.key()).into_owned(), kv)));
            }
        }
        Ok(found)
    }
}
