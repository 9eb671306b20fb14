//! The one door to etcd: [`Store::read`] gives the whole cluster at one revision, and every write is a guarded transaction (see
//! [`crate::guards`] for how they work, [`crate::claims`] for the ones an agent makes).

use std::sync::Arc;

use decision::view::SyncRecord;
use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse};

use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::keys::Keys;
use crate::records::{Secrets, sync};
use crate::snapshot::Snapshot;

/// Somebody may have put megabytes under our keys; etcd takes a megabyte and a half for each.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 << 20;

/// One cluster in etcd. A clone shares the connections.
#[derive(Clone)]
pub struct Store {
    endpoints: Endpoints,
    keys: Arc<Keys>,
}

/// Changes whenever anything under the prefix changes: a put raises the newest revision, and what only deletes lowers the count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) newest: i64,
    pub(crate) count: i64,
}

/// Changes whenever anything changes in one of the folders that no decision depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkFingerprint(Vec<Fingerprint>);

impl Store {
    /// A store over these endpoints.
    pub fn new(endpoints: Endpoints, keys: Keys) -> Self {
        Self { endpoints, keys: Arc::new(keys) }
    }

    /// Where everything lies.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The store of another cluster in the same etcd.
    #[must_use]
    pub fn beside(&self, keys: Keys) -> Self {
        Self::new(self.endpoints.clone(), keys)
    }

    /// The endpoints that the store uses.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Reads the cluster at one revision, linearizable: nothing that was acknowledged before the call is missed. Transition records,
    /// secrets and earlier settings are left out. Values that cannot be understood are listed in [`Snapshot::problems`]; in the place of settings
    /// that cannot, those are in force that etcd remembers.
    pub async fn read(&self) -> Result<Snapshot, Error> {
        self.read_at(0).await
    }

    /// The same as it was at a revision, which etcd must not have compacted yet; 0: as it is.
    pub async fn read_at(&self, revision: i64) -> Result<Snapshot, Error> {
        self.read_after(revision, &Snapshot::default()).await
    }

    /// The same by somebody who has seen the cluster before, and so knows what settings it had.
    pub(crate) async fn read_after(&self, revision: i64, known: &Snapshot) -> Result<Snapshot, Error> {
        let mut seen = self.read_stored(revision).await?;
        if !seen.settings_are_known(known) {
            self.recall_settings(&mut seen, known).await?;
        }
        seen.tell_settings(self.keys());
        Ok(seen)
    }

    async fn read_stored(&self, revision: i64) -> Result<Snapshot, Error> {
        let answer = self
            .endpoints
            .for_large_answers()
            .call(|client| async move {
                let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                kv.txn(Txn::new().and_then(self.everything_but_bulk(revision))).await
            })
            .await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut gets: Vec<_> = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get),
                TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
            })
            .collect();
        let fingerprint = gets.pop().map(|get| fingerprint(get.kvs().first(), get.count())).unwrap_or_default();
        let found: Vec<KeyValue> = gets.into_iter().flat_map(|mut get| get.take_kvs()).collect();
        Ok(Snapshot::from_stored(&self.keys, revision, fingerprint, &found))
    }

    /// All that lies in a folder, over the connections for large answers.
    pub(crate) async fn read_folder(&self, folder: &str, options: GetOptions) -> Result<Vec<KeyValue>, Error> {
        self.read_range(folder, options.with_prefix()).await
    }

    /// What `options` ask for from `from` on, over the connections for large answers.
    pub(crate) async fn read_range(&self, from: &str, options: GetOptions) -> Result<Vec<KeyValue>, Error> {
        let options = &options;
        let mut answer = self
            .endpoints
            .for_large_answers()
            .call(|client| async move {
                let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                kv.get(from, Some(options.clone())).await
            })
            .await?;
        Ok(answer.take_kvs())
    }

    /// Whether etcd answers: one small linearizable read.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub async fn answers(&self) -> Result<(), Error> {
        self.read_fingerprint().await.map(|_| ())
    }

    /// The durability record alone and the revision at which it was written, linearizable; `None`: there is none that can be understood. The
    /// answer is small: it comes through where a network swallows the large packets of [`Store::read`].
    ///
    /// # Errors
    /// etcd does not answer, or not in time.
    pub async fn sync_record(&self) -> Result<Option<(SyncRecord, i64)>, Error> {
        let key = self.keys.sync();
        let found = self.read_keys(&[&key]).await?;
        let understood = |kv: &KeyValue| Some((sync::from_stored(&text_of(kv)).ok()?, kv.mod_revision()));
        Ok(found.get(&key).and_then(understood))
    }

    /// Reads whether anything has changed; one key travels, without its value.
    pub(crate) async fn read_fingerprint(&self) -> Result<Fingerprint, Error> {
        let answer = self
            .endpoints
            .call(|mut client| async move { client.get(self.keys.base(), Some(newest_only())).await })
            .await?;
        Ok(fingerprint(answer.kvs().first(), answer.count()))
    }

    /// Of the folders that no decision depends on, which [`Store::read`] leaves out: one key of each travels, without its value.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn fingerprint_of_bulk(&self) -> Result<BulkFingerprint, Error> {
        let folders = [self.keys().config_history(), self.keys().secrets(), self.keys().transitions()];
        let gets: Vec<TxnOp> = folders.iter().map(|folder| TxnOp::get(folder.as_str(), Some(newest_only()))).collect();
        let ask = |mut client: etcd_client::Client| {
            let gets = gets.clone();
            async move { client.txn(Txn::new().and_then(gets)).await }
        };
        let answer = self.endpoints.call(ask).await?;
        let of = |response| match response {
            TxnOpResponse::Get(get) => fingerprint(get.kvs().first(), get.count()),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => Fingerprint::default(),
        };
        Ok(BulkFingerprint(answer.op_responses().into_iter().map(of).collect()))
    }

    /// The ranges around the folders that no decision depends on, and the fingerprint last.
    fn everything_but_bulk(&self, revision: i64) -> Vec<TxnOp> {
        let base = self.keys.base();
        let at = GetOptions::new().with_revision(revision);
        let range = |from: String, to: String| TxnOp::get(from, Some(at.clone().with_range(to)));
        let (mut ranges, mut from) = (Vec::new(), base.to_owned());
        // In the order of the keys.
        for folder in [self.keys.config_history(), self.keys.secrets(), self.keys.transitions()] {
            let next = Keys::end_of(&folder);
            ranges.push(range(std::mem::replace(&mut from, next), folder));
        }
        ranges.push(range(from, Keys::end_of(base)));
        ranges.push(TxnOp::get(base, Some(newest_only().with_revision(revision))));
        ranges
    }

    /// The generated passwords, if there are any.
    pub async fn secrets(&self) -> Result<Option<Secrets>, Error> {
        let key = self.keys.replication_secrets();
        match self.read_keys(&[&key]).await?.get(&key) {
            None => Ok(None),
            Some(kv) => match Secrets::from_json(&text_of(kv)) {
                Ok(secrets) => Ok(Some(secrets)),
                // What is wrong with them is not told: serde's words quote what it found.
                Err(_) => Err(Error::Corrupt { key, why: "these are no passwords".to_owned() }),
            },
        }
    }

    /// Stores generated passwords unless there are some already; `Refused`: read those instead.
    pub async fn create_secrets(&self, secrets: &Secrets) -> Result<Outcome, Error> {
        let key = self.keys.replication_secrets();
        self.commit(&[Guard::absent(&key)], &[Write::put(&key, secrets.to_json())]).await
    }
}

fn newest_only() -> GetOptions {
    GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Descend).with_limit(1).with_keys_only()
}

fn fingerprint(newest: Option<&KeyValue>, count: i64) -> Fingerprint {
    Fingerprint { newest: newest.map_or(0, KeyValue::mod_revision), count }
}

/// The text of a value; bytes that are no UTF-8 become marks that no record parses.
pub(crate) fn text_of(kv: &KeyValue) -> String {
    String::from_utf8_lossy(kv.value()).into_owned()
}
