//! Replication slots of the local server: seen in one question on the observing connection, changed on a session of their own, for what writes
//! files may take its time. Which of them the agent has made stands in its own directory from before it makes one, so that it never drops
//! another's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use decision::names::Lsn;
use decision::slots::{Kind, Made, Slot, SlotName, Step};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_postgres::types::PgLsn;

use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::sql::Session;

/// How long one change may take. Each flushes a few files.
const CHANGED_WITHIN: Duration = Duration::from_secs(30);

/// The columns differ from version to version; what a version does not have is not there.
const SLOTS: &str = "
SELECT to_jsonb(s) || jsonb_build_object('retained', greatest(0, pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, s.restart_lsn)))
FROM pg_replication_slots AS s WHERE NOT s.temporary ORDER BY s.slot_name";

#[derive(Deserialize)]
struct Row {
    slot_name: SlotName,
    slot_type: String,
    database: Option<String>,
    plugin: Option<String>,
    active: bool,
    restart_lsn: Option<String>,
    confirmed_flush_lsn: Option<String>,
    xmin: Option<serde_json::Value>,
    catalog_xmin: Option<String>,
    wal_status: Option<String>,
    #[serde(default)]
    conflicting: Option<bool>,
    #[serde(default)]
    failover: bool,
    #[serde(default)]
    synced: bool,
    retained: Option<f64>,
}

impl Row {
    fn read(self, made: Option<Made>) -> Slot {
        let lsn = |text: Option<String>| text.and_then(|text| text.parse::<Lsn>().ok());
        let kind = match self.slot_type.as_str() {
            "logical" => {
                Kind::Logical { database: self.database.unwrap_or_default(), plugin: self.plugin.unwrap_or_default() }
            }
            _ => Kind::Physical,
        };
        Slot {
            name: self.slot_name,
            kind,
            active: self.active,
            restart: lsn(self.restart_lsn),
            confirmed: lsn(self.confirmed_flush_lsn),
            has_xmin: self.xmin.is_some_and(|xmin| !xmin.is_null()),
            catalog_xmin: self.catalog_xmin.and_then(|xmin| xmin.parse().ok()),
            lost: self.wal_status.as_deref() == Some("lost") || self.conflicting == Some(true),
            failover: self.failover,
            synced: self.synced,
            retained_bytes: self.retained.map_or(0, |bytes| bytes as u64),
            made,
        }
    }
}

/// The slots that this agent has made.
pub(crate) type Own = BTreeMap<SlotName, Made>;

impl Instance {
    /// The slots of the running server, but for temporary ones.
    ///
    /// # Errors
    /// As a look at the server.
    pub async fn slots(&self) -> Result<Vec<Slot>> {
        let rows = self.ask(SLOTS, &[]).await?;
        let own = self.own_slots();
        let read = |row: &tokio_postgres::Row| -> Result<Slot> {
            let row: Row = serde_json::from_value(row.try_get(0)?).map_err(|error| Error::Sql(error.to_string()))?;
            let made = own.get(&row.slot_name).copied();
            Ok(row.read(made))
        };
        rows.iter().map(read).collect()
    }

    /// Carries the steps out, each for itself: one that cannot be done keeps no other from it. What could not be done is told.
    ///
    /// # Errors
    /// The server lets nobody in, or what is made cannot be written down.
    pub async fn change_slots(&self, steps: &[Step]) -> Result<Vec<(SlotName, Error)>> {
        let _turn = self.0.slots_turn.lock().await;
        let session = self.open_session().await?;
        let mut failed = Vec::new();
        for step in steps {
            let work = timeout(CHANGED_WITHIN, self.change_slot(&session, step));
            let done = work.await.unwrap_or_else(|_| Err(Error::timeout("changing a slot", CHANGED_WITHIN)));
            match done {
                Ok(()) => {}
                // Somebody's transaction is under way: the steps after this one need not wait for it.
                Err(error @ Error::Timeout { .. }) if waits_for_transactions(step) => {
                    failed.push((step.slot().clone(), error));
                }
                Err(error @ (Error::Down(_) | Error::Timeout { .. })) => return Err(error),
                Err(error) => failed.push((step.slot().clone(), error)),
            }
        }
        Ok(failed)
    }

    async fn change_slot(&self, session: &Session, step: &Step) -> Result<()> {
        match step {
            Step::Create(name, made) => {
                tracing::info!(slot = %name, "a replication slot is made");
                self.create_slot(session, name, *made).await
            }
            Step::Renew(name, made, why) => {
                tracing::info!(slot = %name, why, "a replication slot is dropped and made anew");
                drop_slot(session, name).await?;
                self.create_slot(session, name, *made).await
            }
            Step::Drop(name, why) => {
                tracing::info!(slot = %name, why, "a replication slot is dropped");
                drop_slot(session, name).await?;
                self.own_slot(name, None).await
            }
            Step::CreateLogical(name, kind) => {
                tracing::info!(slot = %name, "a logical replication slot is made");
                self.create_logical(name, kind).await
            }
            Step::RenewLogical(name, kind, why) => {
                tracing::warn!(slot = %name, why, "a logical replication slot is dropped and made anew: whoever reads by it misses what came before");
                drop_slot(session, name).await?;
                self.create_logical(name, kind).await
            }
            Step::AdvanceLogical(name, Kind::Logical { database, .. }, to) => {
                let sql = "SELECT pg_replication_slot_advance($1::text::name, $2)";
                let inside = self.open_session_in(database).await?;
                inside.client.execute(sql, &[&name.as_str(), &PgLsn::from(to.0)]).await?;
                Ok(())
            }
            Step::AdvanceLogical(..) => Ok(()),
            Step::Note(name, made) => self.own_slot(name, Some(*made)).await,
            Step::Advance(name, to) => {
                let sql = "SELECT pg_replication_slot_advance($1::text::name, $2)";
                session.client.execute(sql, &[&name.as_str(), &PgLsn::from(to.0)]).await?;
                Ok(())
            }
        }
    }

    /// It is this agent's before it is there: one that was made and not written down would be nobody's for ever.
    async fn create_slot(&self, session: &Session, name: &SlotName, made: Made) -> Result<()> {
        self.own_slot(name, Some(made)).await?;
        let sql = "SELECT pg_create_physical_replication_slot($1::text::name, true)";
        if let Err(error) = session.client.execute(sql, &[&name.as_str()]).await {
            self.own_slot(name, None).await?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Only a session in its database can make one. It waits for every transaction that is under way.
    async fn create_logical(&self, name: &SlotName, kind: &Kind) -> Result<()> {
        let Kind::Logical { database, plugin } = kind else { return Ok(()) };
        let inside = self.open_session_in(database).await?;
        // A wait for a transaction is a wait for a lock: with the usual limit no slot would ever be made beside a transaction that takes its time.
        inside.client.batch_execute("SET lock_timeout = 0").await?;
        self.own_slot(name, Some(Made::Permanent)).await?;
        let sql = if self.syncs_slots() {
            "SELECT pg_create_logical_replication_slot($1::text::name, $2::text::name, failover => true)"
        } else {
            "SELECT pg_create_logical_replication_slot($1::text::name, $2::text::name)"
        };
        if let Err(error) = inside.client.execute(sql, &[&name.as_str(), plugin]).await {
            self.own_slot(name, None).await?;
            return Err(error.into());
        }
        Ok(())
    }

    pub(crate) fn own_slots(&self) -> Own {
        let mut kept = self.0.own_slots.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert_with(|| read_own(&self.own_slots_file())).clone()
    }

    fn own_slots_file(&self) -> PathBuf {
        self.config().state_dir.join("slots.json")
    }

    pub(crate) async fn own_slot(&self, name: &SlotName, made: Option<Made>) -> Result<()> {
        let mut own = self.own_slots();
        match made {
            Some(made) => own.insert(name.clone(), made),
            None => own.remove(name),
        };
        let (file, text) = (self.own_slots_file(), serde_json::to_string(&own).unwrap_or_default());
        // Flushing a file may hang with its disk.
        let written = tokio::task::spawn_blocking(move || durable::write(&file, text.as_bytes(), 0o600)).await;
        written.map_err(|error| Error::WrongState(format!("writing down a slot was cut off: {error}")))??;
        *self.0.own_slots.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
        Ok(())
    }
}

fn waits_for_transactions(step: &Step) -> bool {
    matches!(step, Step::CreateLogical(..) | Step::RenewLogical(..))
}

async fn drop_slot(session: &Session, name: &SlotName) -> Result<()> {
    // Somebody may have been quicker.
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1::text::name";
    session.client.execute(sql, &[&name.as_str()]).await?;
    Ok(())
}

/// Without the file every slot counts as somebody else's: it is used, and never dropped.
fn read_own(file: &Path) -> Own {
    fs::read_to_string(file).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// What a quarter of the file system of the WAL is in MB: more is kept for no slot, so that a forgotten one does not fill it.
pub(crate) fn quarter_of_disk_mb(data_dir: &Path) -> Option<u64> {
    let places = [data_dir.join("pg_wal"), data_dir.to_path_buf(), data_dir.parent()?.to_path_buf()];
    let disk = places.iter().find_map(|place| nix::sys::statvfs::statvfs(place).ok())?;
    let bytes = disk.blocks().saturating_mul(disk.fragment_size());
    Some((bytes / 4) >> 20).filter(|megabytes| *megabytes > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_whatever_columns_a_version_has() {
        let physical = r#"{"slot_name":"n2","plugin":null,"slot_type":"physical","datoid":null,"database":null,"temporary":false,
            "active":true,"active_pid":7,"xmin":"733","catalog_xmin":null,"restart_lsn":"0/3000148","confirmed_flush_lsn":null,
            "wal_status":"reserved","safe_wal_size":null,"two_phase":false,"retained":4096}"#;
        let slot = serde_json::from_str::<Row>(physical).unwrap().read(Some(Made::Member));
        assert_eq!((slot.kind, slot.restart, slot.retained_bytes), (Kind::Physical, Some(Lsn(0x300_0148)), 4096));
        assert!(slot.active && slot.has_xmin && !slot.lost);
        let logical = r#"{"slot_name":"cdc","plugin":"pgoutput","slot_type":"logical","database":"orders","active":false,"xmin":null,
            "restart_lsn":null,"confirmed_flush_lsn":"0/5","wal_status":"lost","conflicting":false,"failover":true,"synced":false,"retained":null}"#;
        let slot = serde_json::from_str::<Row>(logical).unwrap().read(None);
        assert_eq!((slot.restart, slot.confirmed, slot.lost, slot.has_xmin), (None, Some(Lsn(5)), true, false));
        assert_eq!((slot.failover, slot.synced), (true, false));
        assert!(matches!(slot.kind, Kind::Logical { database, .. } if database == "orders"));
    }
}
