//! A database that ran before there was a cluster gets its place in etcd. It is written down as that of a leader whose lock has lapsed and after
//! whom nobody has led; everything else follows from that by the ordinary rules.

use decision::names::{SystemId, Term};
use decision::view::SyncRecord;

use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::sync;
use crate::store::Store;

/// What is written down.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The identity of the database.
    pub system_id: SystemId,
    /// The cluster has that identity already, under another system that kept it.
    pub is_known: bool,
    /// The highest term that was ever given out here (0: none).
    pub after: Term,
    /// The record of the node that is adopted, under its term.
    pub sync: SyncRecord,
    /// The revision of what was there in its place; 0: nothing.
    pub sync_revision: i64,
}

impl Store {
    /// Writes it, if nobody leads and nobody else has made a cluster of this name.
    ///
    /// # Errors
    /// etcd does not answer, or what became of it is not known.
    pub async fn adopt(&self, adoption: &Adoption) -> Result<Outcome, Error> {
        let keys = self.keys();
        let system_id = adoption.system_id.to_string();
        let identity = match adoption.is_known {
            true => Guard::is(keys.initialize(), &system_id),
            false => Guard::absent(keys.initialize()),
        };
        let guards = [
            identity,
            Guard::absent(keys.leader()),
            self.term_guard(adoption.after),
            Guard::unchanged(keys.sync(), adoption.sync_revision),
        ];
        let writes = [
            Write::put(keys.initialize(), system_id),
            Write::put(keys.term(), adoption.sync.term.to_string()),
            Write::put(keys.sync(), sync::to_stored(&adoption.sync)),
        ];
        self.commit(&guards, &writes).await
    }
}
