//! Holds and what waits for them. One transaction takes a hold only while nothing planned waits or is under way, and one asks for something planned
//! only under the hold that was seen (or none), so neither slips past the other. No claim of an agent is guarded by any of this.

use etcd_client::Client;

use crate::condition::{Condition, Lead};
use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::{FailoverRecord, HoldRecord};
use crate::snapshot::Snapshot;
use crate::store::{Store, text_of};

impl Store {
    /// Takes a hold in place of what `seen` has there, under a lease where there is one, while it leads who must. The caller has found nothing planned in `seen`, nor in
    /// the transition records, which it has read later. `Refused`: something has changed since `seen`; look again.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn take_hold(
        &self,
        record: &HoldRecord,
        lease: Option<i64>,
        seen: &Snapshot,
        lead: &Lead,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let newest = seen.cluster.revision;
        let mut guards = lead.guards(keys);
        guards.extend([
            Guard::unchanged(keys.hold(), seen.hold_revision),
            Guard::unchanged(keys.failover(), seen.failover_revision),
            Guard::unchanged(keys.config(), seen.config_revision),
            Guard::none_newer(keys.orders(), newest),
            // An order that was given and taken up since then has left its key, and has its record.
            Guard::none_newer(keys.transitions(), newest),
        ]);
        let write = match lease {
            Some(lease) => Write::put_leased(keys.hold(), record.to_json(), lease),
            None => Write::put(keys.hold(), record.to_json()),
        };
        self.commit(&guards, &[write]).await
    }

    /// Gives a hold up, if it is still the one of this revision, while it leads who must.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn release_hold(&self, revision: i64, lead: &Lead) -> Result<Outcome, Error> {
        let key = self.keys().hold();
        let mut guards = lead.guards(self.keys());
        guards.push(Guard::unchanged(&key, revision));
        self.commit(&guards, &[Write::delete(key)]).await
    }

    /// The id of the hold that is there now; empty where nobody can read it; `None`: there is none.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn hold_id(&self) -> Result<Option<String>, Error> {
        let key = self.keys().hold();
        let found = self.read_keys(&[&key]).await?;
        Ok(found.get(&key).map(|kv| HoldRecord::from_json(&text_of(kv)).map(|record| record.id).unwrap_or_default()))
    }

    /// Whether this lease lives.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn lease_lives(&self, lease: i64) -> Result<bool, Error> {
        let asked = |mut client: Client| async move { client.lease_time_to_live(lease, None).await };
        Ok(self.endpoints().call(asked).await?.ttl() > 0)
    }

    /// As [`Store::request_failover`], only on this condition.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn request_while(&self, record: &FailoverRecord, condition: &Condition) -> Result<Outcome, Error> {
        self.request_where(record, &condition.guards(self.keys())).await
    }
}
