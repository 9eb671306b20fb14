//! The data directory as a thing that is whole, half-made or missing. Work that leaves it unfit in between (initdb, clone, rewind) first
//! writes a marker outside of it; whoever finds the marker never starts what is there. Data is moved aside, never deleted, until
//! its replacement is known to work.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use decision::view::{Data, OnDisk};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::controldata::{self, Control, FullControl};
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::timeline::newest_with_wal;
use crate::tool;

#[derive(Serialize, Deserialize)]
struct HalfMade {
    by: String,
}

impl Instance {
    fn marker(&self) -> PathBuf {
        self.config().state_dir.join("half-made")
    }

    /// Says durably that the data directory is unfit until further notice.
    pub(crate) fn mark_half_made(&self, by: &str) -> Result<()> {
        self.write_marker(&mut self.known_marker(), by)
    }

    fn write_marker(&self, known: &mut Option<String>, by: &str) -> Result<()> {
        let json = serde_json::to_string(&HalfMade { by: by.to_owned() }).unwrap_or_default();
        durable::write(&self.marker(), json.as_bytes(), 0o600)?;
        *known = Some(by.to_owned());
        Ok(())
    }

    fn known_marker(&self) -> MutexGuard<'_, Option<String>> {
        self.0.half_made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the marker again where somebody has deleted it. Says whether it was missing.
    pub(crate) fn keep_half_made_marker(&self) -> Result<bool> {
        let mut known = self.known_marker();
        match known.clone().filter(|_| !self.marker().exists()) {
            Some(by) => self.write_marker(&mut known, &by).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives up on the data directory for good: it is never started, and a clone replaces it (moving it aside). `why` is one word.
    ///
    /// # Errors
    /// `Io` when the marker cannot be written.
    pub fn condemn(&self, why: &str) -> Result<()> {
        self.mark_half_made(why)
    }

    /// Takes that back, where nothing has been touched since. Says whether.
    ///
    /// # Errors
    /// `Io` when the marker cannot be removed.
    pub fn spare(&self, why: &str) -> Result<bool> {
        if self.half_made_by().as_deref() != Some(why) {
            return Ok(false);
        }
        self.mark_whole().map(|()| true)
    }

    pub(crate) fn mark_whole(&self) -> Result<()> {
        let mut known = self.known_marker();
        durable::remove(&self.marker())?;
        *known = None;
        Ok(())
    }

    /// Which work was cut off, if any.
    pub(crate) fn half_made_by(&self) -> Option<String> {
        let mut known = self.known_marker();
        // One that somebody has deleted since is one all the same.
        let Ok(text) = fs::read_to_string(self.marker()) else { return known.clone() };
        // Even a marker that cannot be read is one.
        let by = serde_json::from_str::<HalfMade>(&text).map_or_else(|_| "unknown".to_owned(), |marker| marker.by);
        *known = Some(by.clone());
        Some(by)
    }

    /// Refuses to go on with a half-made directory.
    pub(crate) fn refuse_half_made(&self) -> Result<()> {
        match self.half_made_by() {
            Some(by) => Err(Error::NeedsClone(format!("a {by} of the data directory was cut off"))),
            None => Ok(()),
        }
    }

    /// What is in the data directory. Microseconds while the format of `pg_control` is known; where no server runs its WAL files are
    /// listed as well, for a server that died soon after a promotion has written on a timeline that its control file does not know.
    pub(crate) async fn data(&self, runs: bool) -> Data {
        if let Some(by) = self.half_made_by() {
            return Data::HalfMade { by };
        }
        match is_empty(self.data_dir()) {
            Ok(true) => return Data::Empty,
            Ok(false) => {}
            Err(error) => return Data::Unreadable { why: error.to_string() },
        }
        match self.control_facts().await {
            Ok(control) => Data::Present(self.on_disk(control, runs)),
            Err(error) => Data::Unreadable { why: error.to_string() },
        }
    }

    fn on_disk(&self, control: Control, runs: bool) -> OnDisk {
        let in_wal = || newest_with_wal(&self.data_dir().join("pg_wal"), control.timeline).ok();
        let newest = if runs { None } else { in_wal() };
        let timeline = newest.map_or(control.timeline, |(timeline, _)| timeline);
        let forked = self.local_history(timeline).unwrap_or_default().pop();
        let known = self.memory().end_of_wal.filter(|(then, _)| *then == control);
        OnDisk {
            system_id: control.system_id,
            state: control.state,
            timeline,
            checkpoint: control.checkpoint,
            redo: control.redo,
            standby_signal: self.data_dir().join("standby.signal").exists(),
            from_backup: self.data_dir().join("backup_label").exists(),
            forked: forked.map(|fork| (fork.timeline, fork.ended_at)),
            end_of_wal: known.map(|(_, end)| end.lsn),
        }
    }

    /// The facts in `pg_control`.
    pub(crate) async fn control_facts(&self) -> Result<Control> {
        match controldata::read_direct(self.data_dir())? {
            Some(control) => Ok(control),
            None => Ok(self.full_control().await?.control),
        }
    }

    /// Everything that `pg_controldata` says.
    pub async fn full_control(&self) -> Result<FullControl> {
        let said = self.run("pg_controldata", &[self.data_dir().into()], &CancellationToken::new()).await?;
        if !said.ok {
            return Err(tool::failed("pg_controldata", &said));
        }
        controldata::parse(&said.out)
    }

    /// The data directory with symbolic links followed, so that what is moved is the directory and not the link.
    pub(crate) fn real_data_dir(&self) -> PathBuf {
        fs::canonicalize(self.data_dir()).unwrap_or_else(|_| self.data_dir().to_path_buf())
    }
}

/// Whether a directory is missing or has nothing in it.
pub(crate) fn is_empty(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("read", dir, error)),
    }
}
