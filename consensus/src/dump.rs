//! Everything that is stored of one cluster, as it is, for whoever has to find out what went wrong: every key but the passwords, at one revision.

use etcd_client::{GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};

use crate::error::Error;
use crate::keys::Keys;
use crate::store::{ANSWER_BYTES_MAX, Store, text_of};

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The full key.
    pub key: String,
    /// Its value; `None`: it is not told.
    pub value: Option<String>,
    /// The revision at which it was last written.
    pub revision: i64,
    /// The lease that it is bound to; 0: none.
    pub lease: i64,
}

impl Store {
    /// Every key of the cluster with its value. Of what is under `secrets/` only the names.
    ///
    /// # Errors
    /// etcd does not answer, or not in time.
    pub async fn dump(&self) -> Result<Vec<Stored>, Error> {
        let (base, secrets) = (self.keys().base(), self.keys().secrets());
        let (after_secrets, end) = (Keys::end_of(&secrets), Keys::end_of(base));
        let ranges = [
            (base, secrets.as_str(), GetOptions::new()),
            (secrets.as_str(), after_secrets.as_str(), GetOptions::new().with_keys_only()),
            (after_secrets.as_str(), end.as_str(), GetOptions::new()),
        ];
        let answer = self
            .endpoints()
            .for_large_answers()
            .call(|client| {
                let gets: Vec<TxnOp> = ranges
                    .iter()
                    .map(|(from, to, options)| TxnOp::get(*from, Some(options.clone().with_range(*to))))
                    .collect();
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                    kv.txn(Txn::new().and_then(gets)).await
                }
            })
            .await?;
        let mut stored = Vec::new();
        for (response, is_secret) in answer.op_responses().into_iter().zip([false, true, false]) {
            let TxnOpResponse::Get(mut get) = response else { continue };
            stored.extend(get.take_kvs().iter().map(|kv| one(kv, is_secret)));
        }
        Ok(stored)
    }
}

fn one(kv: &KeyValue, is_secret: bool) -> Stored {
    Stored {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: (!is_secret).then(|| text_of(kv)),
        revision: kv.mod_revision(),
        lease: kv.lease(),
    }
}
