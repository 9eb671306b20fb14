//! How far another server has come: what a node that is about to forget its WAL must regain before it counts again.

use std::time::Duration;

use decision::names::Lsn;
use decision::view::Upstream;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::instance::Instance;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Instance {
    /// The end of the flushed WAL of the primary `from`; where it `may_be_standby`, as in a site that follows another, of what that has
    /// replayed.
    ///
    /// # Errors
    /// `SourceNotReady` when it does not answer or is a standby, `Refused` when it does not let the rewind role in.
    pub async fn source_position(&self, from: &Upstream, may_be_standby: bool) -> Result<Lsn> {
        let ask = async {
            let (client, pump) = self.connect_to_source(from).await?;
            let question = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text
                WHEN $1 THEN pg_last_wal_replay_lsn()::text END";
            let row = client.query_one(question, &[&may_be_standby]).await;
            pump.abort();
            let text: Option<String> = row?.try_get(0)?;
            let standby = || Error::SourceNotReady(format!("{} is a standby", from.member));
            text.and_then(|text| text.parse().ok()).ok_or_else(standby)
        };
        timeout(ANSWER_WITHIN, ask).await.unwrap_or_else(|_| Err(Error::timeout("asking the source", ANSWER_WITHIN)))
    }
}
