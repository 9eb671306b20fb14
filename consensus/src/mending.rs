//! What a leader writes anew because nobody can read what somebody has put in its place. Each write is guarded by the revision of the nonsense, and by
//! the lock, which nobody can take over meanwhile: every claim compares the text of the term.

use decision::names::{MemberName, Term};
use decision::view::SyncRecord;

use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::{Secrets, sync};
use crate::store::Store;

/// At which revisions there is nonsense in the place of what a leader's reign rests on; 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nonsense {
    /// `term`.
    pub term: i64,
    /// `sync`.
    pub sync: i64,
}

impl Nonsense {
    /// There is none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Store {
    /// Writes the term and the record of my reign anew, if I hold the lock, and neither has changed since they were read.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn put_right(
        &self,
        me: &MemberName,
        record: &SyncRecord,
        sync_revision: i64,
        nonsense: Nonsense,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let term = match nonsense.term {
            0 => self.term_guard(record.term),
            revision => Guard::unchanged(keys.term(), revision),
        };
        let guards = [Guard::is(keys.leader(), me.as_str()), term, Guard::unchanged(keys.sync(), sync_revision)];
        let writes =
            [Write::put(keys.term(), record.term.to_string()), Write::put(keys.sync(), sync::to_stored(record))];
        self.commit(&guards, &writes).await
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
