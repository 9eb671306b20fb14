//! One question to the server, one row back: everything that a view needs from a primary or a standby. It touches no table, so no lock
//! of a user can make a healthy server look dead; the leadership table is asked in the same round trip, but on its own.

use std::sync::PoisonError;
use std::time::Duration;

use decision::names::{Lsn, Timeline};
use serde::Deserialize;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Row, Statement};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::sql::Session;

/// A server may be promoted while it answers: `standby` is asked once, and what fails on the wrong side hangs on it. In recovery
/// `pg_walfile_name` is not allowed, so the timeline of a standby comes from elsewhere (see `observe`). A walreceiver calls itself
/// streaming before the upstream has agreed to stream; until the first message both its message times are the time of its own start.
/// `to_regclass` fails where the schema may not be used, so that is asked first.
const STATUS: &str = "
SELECT role.standby,
       pg_postmaster_start_time()::text AS started_at,
       current_setting('server_version_num')::int8 AS version,
       current_setting('synchronous_standby_names') AS sync,
       CASE WHEN NOT role.standby THEN pg_current_wal_flush_lsn() END AS flushed,
       CASE WHEN NOT role.standby THEN substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) END AS timeline,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS control_timeline,
       (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS recovery_timeline,
       pg_last_wal_receive_lsn() AS received,
       pg_last_wal_replay_lsn() AS replayed,
       pg_last_xact_replay_timestamp()::text AS replayed_at,
       heard.once AS streaming,
       wr.received_tli,
       wr.conninfo,
       current_setting('primary_conninfo', true) AS configured,
       wr.latest_end_lsn,
       CASE WHEN heard.once THEN extract(epoch FROM clock_timestamp() - wr.last_msg_receipt_time)::float8 END AS message_age,
       process.receiver, process.startup, process.startup_waits, process.startup_waits_type,
       process.checkpointer, process.checkpointer_waits, process.slot_taker,
       own.has_marker, own.has_marker AND pg_has_role('pg_monitor', 'USAGE') AS equipped,
       (SELECT json_agg(json_build_object(
            'pid', pid, 'usename', usename, 'application_name', application_name, 'client_addr', host(client_addr),
            'state', state, 'sync_state', sync_state, 'sync_priority', sync_priority,
            'flush_lsn', flush_lsn::text, 'replay_lsn', replay_lsn::text))
        FROM pg_stat_replication) AS replication
FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) AS role
CROSS JOIN (SELECT max(pid) FILTER (WHERE backend_type = 'walreceiver') AS receiver,
                   max(pid) FILTER (WHERE backend_type = 'startup') AS startup,
                   max(wait_event) FILTER (WHERE backend_type = 'startup') AS startup_waits,
                   max(wait_event_type) FILTER (WHERE backend_type = 'startup') AS startup_waits_type,
                   max(pid) FILTER (WHERE backend_type = 'checkpointer') AS checkpointer,
                   max(wait_event) FILTER (WHERE backend_type = 'checkpointer') AS checkpointer_waits,
                   max(pid) FILTER (WHERE backend_type = 'slotsync worker') AS slot_taker
            FROM pg_stat_get_activity(NULL)) AS process
CROSS JOIN (SELECT coalesce(CASE WHEN has_schema_privilege(to_regnamespace('pgvigil')::oid, 'USAGE')
                                 THEN has_table_privilege(to_regclass('pgvigil.leadership')::oid, 'SELECT')
                                  AND has_table_privilege(to_regclass('pgvigil.leadership')::oid, 'INSERT')
                                  AND has_table_privilege(to_regclass('pgvigil.leadership')::oid, 'UPDATE')
                            END, false) AS has_marker) AS own
LEFT JOIN pg_stat_wal_receiver AS wr ON true
LEFT JOIN LATERAL (SELECT wr.status = 'streaming' AND wr.last_msg_send_time <> wr.last_msg_receipt_time AS once) AS heard ON true";

/// Newest marker seen, and newest marker known to be acknowledged.
const MARKER: &str =
    "SELECT coalesce(max(term), 0), coalesce(max(term) FILTER (WHERE acknowledged), 0) FROM pgvigil.leadership";

/// The answer.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) standby: bool,
    pub(crate) started_at: String,
    pub(crate) version: i64,
    pub(crate) sync: String,
    pub(crate) flushed: Option<Lsn>,
    pub(crate) timeline: Option<Timeline>,
    pub(crate) control_timeline: Timeline,
    pub(crate) recovery_timeline: Timeline,
    pub(crate) received: Option<Lsn>,
    pub(crate) replayed: Option<Lsn>,
    pub(crate) replayed_at: Option<String>,
    pub(crate) streaming: bool,
    pub(crate) received_timeline: Option<Timeline>,
    /// The connection string of the walreceiver, without its password; known once it is connected.
    pub(crate) conninfo: Option<String>,
    /// `primary_conninfo` as the server has loaded it; unknown where the agent may not read it.
    pub(crate) configured: Option<String>,
    pub(crate) upstream_end: Option<Lsn>,
    pub(crate) message_age: Option<Duration>,
    /// The process id of the walreceiver, connected or not.
    pub(crate) receiver: Option<i32>,
    /// The process that replays.
    pub(crate) startup: Option<i32>,
    startup_waits: Option<String>,
    startup_waits_type: Option<String>,
    pub(crate) checkpointer: Option<i32>,
    pub(crate) checkpointer_waits: Option<String>,
    /// The process that takes over logical slots. A promotion waits for it, and it may wait for a primary that is gone.
    pub(crate) slot_taker: Option<i32>,
    pub(crate) replication: Vec<serde_json::Value>,
    /// The leadership table is there, and whoever asks may use it and see the standbys.
    pub(crate) equipped: bool,
    /// The newest marker, acknowledged or not.
    pub(crate) marker: i64,
    /// The newest marker that is known to have been acknowledged.
    pub(crate) acknowledged: i64,
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Sender {
    pub(crate) pid: i32,
    pub(crate) application_name: String,
    pub(crate) state: Option<String>,
    pub(crate) flush_lsn: Option<String>,
    pub(crate) replay_lsn: Option<String>,
    /// Above 0: it releases commits, by the names that this WAL sender itself has read.
    pub(crate) sync_priority: Option<i32>,
}

impl Status {
    /// The WAL senders, the unreadable ones left out.
    pub(crate) fn senders(&self) -> Vec<Sender> {
        self.replication.iter().filter_map(|row| serde_json::from_value(row.clone()).ok()).collect()
    }

    /// Replay has used up everything there is: it equals what was received, or the replaying process says that it waits for more.
    pub(crate) fn replay_done(&self) -> bool {
        let level = self.received.is_some() && self.received == self.replayed;
        level || self.startup_waits_for(&["RecoveryWalStream", "RecoveryRetrieveRetryInterval"])
    }

    /// The replaying process has nothing to replay and nobody to ask for more: it read its configuration and follows nobody.
    pub(crate) fn rests(&self) -> bool {
        self.receiver.is_none() && self.startup_waits_for(&["RecoveryRetrieveRetryInterval"])
    }

    /// A reader holds up replay, by a snapshot, a lock or a pinned page.
    pub(crate) fn replay_blocked(&self) -> bool {
        let conflict = self.startup_waits_for(&["RecoveryConflictSnapshot", "RecoveryConflictTablespace"]);
        conflict || self.startup_waits_type.as_deref().is_some_and(|kind| ["Lock", "BufferPin"].contains(&kind))
    }

    /// Somebody has paused replay.
    pub(crate) fn replay_paused(&self) -> bool {
        self.startup_waits_for(&["RecoveryPause"])
    }

    fn startup_waits_for(&self, events: &[&str]) -> bool {
        self.startup_waits.as_deref().is_some_and(|event| events.contains(&event))
    }
}

fn read(row: &Row, marker: (i64, i64)) -> Result<Status> {
    let lsn = |name: &str| row.try_get::<_, Option<PgLsn>>(name).map(|lsn| lsn.map(|lsn| Lsn(u64::from(lsn))));
    let number = |name: &str| row.try_get::<_, Option<i32>>(name);
    // A timeline is an unsigned number that SQL shows as a signed one.
    let timeline = |name: &str| number(name).map(|tli| tli.map(|tli| Timeline(tli.cast_unsigned())));
    let walfile: Option<String> = row.try_get("timeline")?;
    let replication: Option<serde_json::Value> = row.try_get("replication")?;
    let age: Option<f64> = row.try_get("message_age")?;
    Ok(Status {
        standby: row.try_get("standby")?,
        started_at: row.try_get("started_at")?,
        version: row.try_get("version")?,
        sync: row.try_get("sync")?,
        flushed: lsn("flushed")?,
        timeline: walfile.and_then(|text| u32::from_str_radix(&text, 16).ok()).map(Timeline),
        control_timeline: timeline("control_timeline")?.unwrap_or_default(),
        recovery_timeline: timeline("recovery_timeline")?.unwrap_or_default(),
        received: lsn("received")?,
        replayed: lsn("replayed")?,
        replayed_at: row.try_get("replayed_at")?,
        streaming: row.try_get::<_, Option<bool>>("streaming")?.unwrap_or(false),
        received_timeline: timeline("received_tli")?,
        conninfo: row.try_get("conninfo")?,
        configured: row.try_get("configured")?,
        upstream_end: lsn("latest_end_lsn")?,
        message_age: age.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()),
        receiver: number("receiver")?,
        startup: number("startup")?,
        startup_waits: row.try_get("startup_waits")?,
        startup_waits_type: row.try_get("startup_waits_type")?,
        checkpointer: number("checkpointer")?,
        checkpointer_waits: row.try_get("checkpointer_waits")?,
        slot_taker: number("slot_taker")?,
        replication: replication.and_then(|rows| rows.as_array().cloned()).unwrap_or_default(),
        equipped: row.try_get("equipped")?,
        marker: marker.0,
        acknowledged: marker.1,
    })
}

impl Instance {
    /// Asks the running server for its status, by the deadline of a probe.
    ///
    /// # Errors
    /// `Timeout` when it does not answer; the connection is dropped then.
    pub(crate) async fn status(&self) -> Result<Status> {
        let within = self.config().answer_within;
        let session = self.control().await?;
        let both = async {
            let status = session.prepared(&session.status, STATUS).await?;
            let known = session.marker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Both are sent at once, so this is one round trip.
            let ask_marker = async {
                if let Some(statement) = &known {
                    read_marker(&session, statement).await;
                }
            };
            let (row, ()) = tokio::join!(session.client.query_one(&status, &[]), ask_marker);
            let row = row?;
            if known.is_none()
                && row.try_get("has_marker")?
                && let Ok(statement) = session.prepared(&session.marker, MARKER).await
            {
                read_marker(&session, &statement).await;
            }
            let seen = *session.marker_seen.lock().unwrap_or_else(PoisonError::into_inner);
            read(&row, seen)
        };
        match tokio::time::timeout(within, both).await {
            Ok(answer) => answer,
            Err(_) => {
                self.drop_control(&session).await;
                Err(Error::timeout("asking postgres for its status", within))
            }
        }
    }
}

/// Asks the leadership table. Where it does not answer (locked, dropped, in the way of replay), what it said last stands: that says
/// nothing about the server.
async fn read_marker(session: &Session, statement: &Statement) {
    let Ok(row) = session.client.query_one(statement, &[]).await else { return };
    if let (Ok(newest), Ok(acknowledged)) = (row.try_get(0), row.try_get(1)) {
        *session.marker_seen.lock().unwrap_or_else(PoisonError::into_inner) = (newest, acknowledged);
    }
}
