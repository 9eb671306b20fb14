//! Transition records in etcd: written by the leader, completed by others (a rejoin is measured where it happens), bounded in number.

use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget};

use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::{Problem, Secrets, Transition};
use crate::store::{Store, text_of};

/// How often an amendment is tried when others write to the same record at the same time.
const AMEND_TRIES: usize = 5;
/// etcd allows 128 operations in one transaction.
const DELETES_AT_ONCE: usize = 100;
/// The newest records stay whatever they tell, one in so many of those that are kept.
const KEPT_NEWEST_PART: usize = 5;

impl Store {
    /// All transition records, the oldest first, and those that cannot be understood.
    pub async fn transitions(&self) -> Result<(Vec<Transition>, Vec<Problem>), Error> {
        let mut records = Vec::new();
        let mut problems = Vec::new();
        for kv in self.stored_transitions(GetOptions::new()).await? {
            match Transition::from_json(&text_of(&kv)) {
                Ok(record) => records.push(record),
                Err(why) => problems.push(left_out(&kv, &why)),
            }
        }
        Ok((records, problems))
    }

    /// One transition record.
    pub async fn transition(&self, id: &str) -> Result<Option<Transition>, Error> {
        Ok(self.transition_with_revision(id).await?.0)
    }

    /// Stores a new record under its id; `Refused`: there is one already, which [`Store::amend_transition`] changes.
    pub async fn create_transition(&self, record: &Transition) -> Result<Outcome, Error> {
        let key = self.keys().transition(&record.id);
        self.commit(&[Guard::absent(&key)], &[Write::put(&key, record.to_json())]).await
    }

    /// Stores a record, in the place of one of the same id that was begun. One that has ended is left as it is: this was done before, without an answer,
    /// and others may have completed it since.
    pub async fn finish_transition(&self, record: &Transition) -> Result<Outcome, Error> {
        let finish = |begun: &mut Transition| {
            if begun.outcome == "in_progress" {
                begun.clone_from(record);
            }
        };
        match self.create_transition(record).await? {
            Outcome::Refused => self.amend_transition(&record.id, finish).await,
            applied => Ok(applied),
        }
    }

    /// Changes a record in place, whoever else writes to it. `Refused`: there is none, or others kept changing it.
    pub async fn amend_transition(&self, id: &str, mut change: impl FnMut(&mut Transition)) -> Result<Outcome, Error> {
        for _ in 0..AMEND_TRIES {
            let (Some(mut record), revision) = self.transition_with_revision(id).await? else {
                return Ok(Outcome::Refused);
            };
            change(&mut record);
            let key = self.keys().transition(id);
            let outcome =
                self.commit(&[Guard::unchanged(&key, revision)], &[Write::put(key, record.to_json())]).await?;
            if outcome.applied() {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Refused)
    }

    /// Deletes records beyond `keep`; returns how many it deleted. Those that cost no write go first, the oldest first, but for the newest fifth; and none
    /// goes that is under way.
    pub async fn prune_transitions(&self, keep: usize) -> Result<usize, Error> {
        let stored = self.stored_transitions(GetOptions::new()).await?;
        let older = &stored[..stored.len().saturating_sub(keep / KEPT_NEWEST_PART)];
        let mut surplus: Vec<(bool, &KeyValue)> = older
            .iter()
            .filter_map(|kv| match Transition::from_json(&text_of(kv)) {
                Ok(record) if record.outcome == "in_progress" => None,
                Ok(record) => Some((record.tells_of_an_outage(), kv)),
                Err(_) => Some((false, kv)),
            })
            .collect();
        surplus.sort_by_key(|(cost_writes, _)| *cost_writes);
        surplus.truncate(stored.len().saturating_sub(keep));
        for some in surplus.chunks(DELETES_AT_ONCE) {
            let key = |(_, kv): &(bool, &KeyValue)| String::from_utf8_lossy(kv.key()).into_owned();
            let deletes: Vec<Write> = some.iter().map(|one| Write::delete(key(one))).collect();
            self.commit(&[], &deletes).await?;
        }
        Ok(surplus.len())
    }

    /// What lies beside the picture and cannot be understood: the passwords between members, and earlier settings.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn problems_beside(&self) -> Result<Vec<Problem>, Error> {
        let mut problems = self.config_history().await?.1;
        let key = self.keys().replication_secrets();
        if let Some(kv) = self.read_keys(&[&key]).await?.get(&key)
            && Secrets::from_json(&text_of(kv)).is_err()
        {
            // What is wrong with them is not told in more words: these might quote them.
            let revision = kv.mod_revision();
            let why = format!(
                "these are no passwords; the leader writes them anew, unless an operator has given it both by file, and where none lives no \
                 node can join: put back {{\"replication_password\":\"...\",\"rewind_password\":\"...\"}} (etcdctl get {key} --rev={} shows \
                 what stood there), or etcdctl del {key} where every node has the files",
                revision - 1
            );
            problems.push(Problem { key, why, revision });
        }
        Ok(problems)
    }

    async fn transition_with_revision(&self, id: &str) -> Result<(Option<Transition>, i64), Error> {
        let key = self.keys().transition(id);
        let found = self.read_keys(&[&key]).await?;
        let Some(kv) = found.get(&key) else { return Ok((None, 0)) };
        let record = Transition::from_json(&text_of(kv)).map_err(|why| Error::Corrupt { key, why })?;
        Ok((Some(record), kv.mod_revision()))
    }

    async fn stored_transitions(&self, options: GetOptions) -> Result<Vec<KeyValue>, Error> {
        let options = options.with_sort(SortTarget::Create, SortOrder::Ascend);
        self.read_folder(&self.keys().transitions(), options).await
    }
}

/// A row of a list that nobody can read. The list goes on without it.
pub(crate) fn left_out(kv: &KeyValue, why: &str) -> Problem {
    let key = String::from_utf8_lossy(kv.key()).into_owned();
    let why = format!("{why}; it is left out of the list (etcdctl del {key})");
    Problem { key, why, revision: kv.mod_revision() }
}
