//! What goes on in the local server at this moment, for whoever wants to know whether a change of the schema may begin: how old its oldest transaction
//! is, whether statements queue for locks, and how far its standbys are. Asked on a connection of its own, so that observing never waits for it.

use decision::names::{Lsn, MemberName, parse_application_name};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::instance::Instance;

/// A statement that waits for a lock is in a queue once it is older than a second. Where the role may not see the others' transactions, none is said to
/// be old: `sees` tells.
const ACTIVITY: &str = "
WITH clients AS (
  SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s,
         wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '1 second' AS queues
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
)
SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS sees,
       (SELECT pid FROM clients WHERE age_s IS NOT NULL ORDER BY age_s DESC LIMIT 1) AS oldest_pid,
       (SELECT max(age_s) FROM clients) AS oldest_s,
       (SELECT count(*) FROM clients WHERE queues) AS queue,
       (SELECT extract(epoch FROM clock_timestamp() - min(prepared))::float8 FROM pg_prepared_xacts) AS prepared_s,
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn()::text END AS flushed";

const STANDBYS: &str = "
SELECT application_name, state, flush_lsn::text AS received, replay_lsn::text AS replayed FROM pg_stat_replication";

/// What goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    /// The age of the oldest transaction of a client, in seconds; `None`: there is none.
    pub longest_transaction_s: Option<f64>,
    /// Its process.
    pub longest_transaction_pid: Option<i32>,
    /// The age of the oldest prepared transaction (two-phase commit), in seconds; `None`: there is none.
    pub oldest_prepared_s: Option<f64>,
    /// How many statements older than a second wait for a lock.
    pub lock_waiters: u64,
    /// The end of WAL on this disk; `None`: this is a standby.
    pub flushed: Option<Lsn>,
    /// The standbys that are connected, as far as they are members.
    pub standbys: Vec<StandbyActivity>,
}

/// One standby, as this server sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandbyActivity {
    /// Which.
    pub member: MemberName,
    /// It streams, and does not catch up only.
    pub streaming: bool,
    /// How far it has received; `None`: it has not said.
    pub received: Option<Lsn>,
    /// How far it has replayed; `None`: it has not said.
    pub replayed: Option<Lsn>,
}

impl Instance {
    /// What goes on in the server. Takes at most `answer_within`.
    ///
    /// # Errors
    /// The server does not answer, or does not let the agent see.
    pub async fn activity(&self) -> Result<Activity> {
        let within = self.config().answer_within;
        let asked = timeout(within, self.ask_activity()).await;
        asked.unwrap_or_else(|_| Err(Error::timeout("asking postgres what goes on", within)))
    }

    async fn ask_activity(&self) -> Result<Activity> {
        let session = self.open_to_look().await?;
        let row = session.client.query_one(ACTIVITY, &[]).await?;
        if !row.try_get::<_, bool>("sees")? {
            return Err(Error::Refused(
                "the agent's role may not see the transactions of others (pg_monitor)".to_owned(),
            ));
        }
        let flushed: Option<String> = row.try_get("flushed")?;
        let mut standbys = Vec::new();
        for row in session.client.query(STANDBYS, &[]).await? {
            let name: String = row.try_get("application_name")?;
            let Some((member, _)) = parse_application_name(&name) else { continue };
            let state: Option<String> = row.try_get("state")?;
            let (received, replayed): (Option<String>, Option<String>) =
                (row.try_get("received")?, row.try_get("replayed")?);
            let (received, replayed) = (position(received), position(replayed));
            standbys.push(StandbyActivity {
                member,
                streaming: state.as_deref() == Some("streaming"),
                received,
                replayed,
            });
        }
        Ok(Activity {
            longest_transaction_s: row.try_get("oldest_s")?,
            longest_transaction_pid: row.try_get("oldest_pid")?,
            oldest_prepared_s: row.try_get("prepared_s")?,
            lock_waiters: u64::try_from(row.try_get::<_, i64>("queue")?).unwrap_or_default(),
            flushed: position(flushed),
            standbys,
        })
    }
}

fn position(text: Option<String>) -> Option<Lsn> {
    text.and_then(|text| text.parse().ok())
}
