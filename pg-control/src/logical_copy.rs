//! Logical slots of a primary, copied into a standby that is about to be started: Postgres reads the slots that it finds on its disk when it
//! starts, and in no other moment. What is on the primary's disk of one is never ahead of what it keeps for it. A copy that would keep the
//! server from starting, or whose WAL is not here, is not made.

use std::fs;
use std::path::Path;
use std::time::Duration;

use decision::names::Lsn;
use decision::slots::{Made, SlotName};
use decision::view::Upstream;
use tokio::time::timeout;
use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::tool;

/// How long the primary may take to hand a slot over. A start waits for it.
const COPIED_WITHIN: Duration = Duration::from_secs(3);

const THERE: &str = "
SELECT slot_name::text, restart_lsn, pg_read_binary_file('pg_replslot/' || slot_name || '/state')
FROM pg_replication_slots
WHERE slot_type = 'logical' AND NOT temporary AND restart_lsn IS NOT NULL AND slot_name = ANY($1::text[]::name[]) AND NOT pg_is_in_recovery()";

impl Instance {
    /// Copies those of these logical slots that are not here from a primary into the stopped server, and says which came. Those that are here
    /// are from a time when this node led, or from an earlier copy: until more is known they count as copied just now.
    ///
    /// # Errors
    /// The source does not answer, the server runs, or files cannot be written.
    pub async fn copy_logical_slots(&self, from: &Upstream, wanted: &[SlotName]) -> Result<Vec<SlotName>> {
        if self.postmaster().is_some() {
            return Err(Error::WrongState("a server reads slots only when it starts".to_owned()));
        }
        let at = |name: &SlotName| self.data_dir().join("pg_replslot").join(name.as_str());
        let (here, missing): (Vec<&SlotName>, Vec<&SlotName>) = wanted.iter().partition(|name| at(name).exists());
        let own = self.own_slots();
        for name in here.into_iter().filter(|name| own.get(*name) == Some(&Made::Permanent)) {
            self.own_slot(name, Some(Made::Copied)).await?;
        }
        if missing.is_empty() || !self.bears_logical_slots(missing.len()).await? {
            return Ok(Vec::new());
        }
        let oldest = self.oldest_wal().await?;
        let mut copied = Vec::new();
        for (name, needed, state) in self.states_at(from, &missing).await? {
            if needed < oldest {
                tracing::warn!(slot = %name, %needed, %oldest, "a logical slot is not copied: the WAL that it needs is not here");
                continue;
            }
            self.own_slot(&name, Some(Made::Copied)).await?;
            write_slot(&at(&name), &state)?;
            tracing::info!(slot = %name, from = %from.member, "a logical slot was copied");
            copied.push(name);
        }
        Ok(copied)
    }

    /// With a logical slot Postgres starts only where `wal_level` is `logical`, and with no more slots than are configured.
    async fn bears_logical_slots(&self, more: usize) -> Result<bool> {
        if self.configured_value("wal_level").await? != "logical" {
            return Ok(false);
        }
        let room: usize = self.configured_value("max_replication_slots").await?.parse().unwrap_or(0);
        let slots = self.data_dir().join("pg_replslot");
        let there = fs::read_dir(&slots).map_err(|error| Error::io("read", &slots, error))?.count();
        Ok(there + more <= room)
    }

    /// What the stopped server would run with, in its own words.
    pub(crate) async fn configured_value(&self, name: &str) -> Result<String> {
        let arguments = ["-D".into(), self.data_dir().into(), "-C".into(), name.into()];
        let said = self.run("postgres", &arguments, &CancellationToken::new()).await?;
        if said.ok { Ok(said.out.trim().to_owned()) } else { Err(tool::failed("postgres", &said)) }
    }

    /// Where the oldest WAL begins that is here, of whatever timeline.
    async fn oldest_wal(&self) -> Result<Lsn> {
        let segment = self.full_control().await?.wal_segment_bytes.max(1);
        let per_file = (1_u64 << 32) / segment;
        let dir = self.data_dir().join("pg_wal");
        let entries = fs::read_dir(&dir).map_err(|error| Error::io("read", &dir, error))?;
        let names =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| name.len() == 24);
        let hex = |text: Option<&str>| u64::from_str_radix(text?, 16).ok();
        let number = |name: String| Some(hex(name.get(8..16))? * per_file + hex(name.get(16..24))?);
        Ok(names.filter_map(number).min().map_or(Lsn(u64::MAX), |first| Lsn(first * segment)))
    }

    async fn states_at(&self, from: &Upstream, wanted: &[&SlotName]) -> Result<Vec<(SlotName, Lsn, Vec<u8>)>> {
        let names: Vec<&str> = wanted.iter().map(|name| name.as_str()).collect();
        let ask = async {
            let (client, pump) = self.connect_to_source(from).await?;
            let rows = client.query(THERE, &[&names]).await?;
            pump.abort();
            let read = |row: &tokio_postgres::Row| -> Result<(SlotName, Lsn, Vec<u8>)> {
                let name: String = row.try_get(0)?;
                let name = SlotName::new(name).map_err(|bad| Error::Sql(bad.to_string()))?;
                Ok((name, Lsn(row.try_get::<_, PgLsn>(1)?.into()), row.try_get(2)?))
            };
            rows.iter().map(read).collect()
        };
        let late = || Err(Error::timeout("asking the source for its logical slots", COPIED_WITHIN));
        timeout(COPIED_WITHIN, ask).await.unwrap_or_else(|_| late())
    }
}

/// Under a name that Postgres clears away when it starts, until it is whole.
fn write_slot(at: &Path, state: &[u8]) -> Result<()> {
    let unfinished = durable::beside(at, ".tmp");
    let made = fs::remove_dir_all(&unfinished).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    made.and_then(|()| fs::create_dir(&unfinished)).map_err(|error| Error::io("create", &unfinished, error))?;
    durable::write(&unfinished.join("state"), state, 0o600)?;
    fs::rename(&unfinished, at).map_err(|error| Error::io("rename into place", at, error))?;
    durable::sync_parent(at)
}
