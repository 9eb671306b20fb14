//! The data directory as a thing that is whole, half-made or missing. Work that leaves it unfit in between (initdb, clone, rewind) first
//! writes a marker outside of it; whoever finds the marker never starts what is there. Data is moved aside, never deleted, until
//! its replacement is known to work.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

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

    /// Moves what is in the way of a new data directory aside, to `<data>.old-<unix time>`; an empty directory is just removed.
    pub(crate) fn set_aside(&self) -> Result<()> {
        let data_dir = self.real_data_dir();
        if !data_dir.exists() {
            return Ok(());
        }
        if is_empty(&data_dir)? {
            return fs::remove_dir(&data_dir).map_err(|error| Error::io("remove", &data_dir, error));
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut aside = durable::beside(&data_dir, &format!(".old-{seconds}"));
        for number in 1.. {
            if !aside.exists() {
                break;
            }
            aside = durable::beside(&data_dir, &format!(".old-{seconds}-{number}"));
        }
        tracing::info!(from = %data_dir.display(), to = %aside.display(), "moving the old data directory aside");
        fs::rename(&data_dir, &aside).map_err(|error| {
            let problem = format!("cannot move {} aside: {error}", data_dir.display());
            Error::host(
                problem,
                "make its parent directory writable for the agent, or empty the data directory by hand",
            )
        })?;
        durable::sync_parent(&data_dir)
    }

    /// Keeps a failed attempt of ours beside the data directory, for whoever wants to know why; the one before it goes.
    pub(crate) fn keep_as_failed(&self) -> Result<()> {
        let data_dir = self.real_data_dir();
        let failed = durable::beside(&data_dir, ".failed");
        if failed.exists() {
            fs::remove_dir_all(&failed).map_err(|error| Error::io("remove", &failed, error))?;
        }
        fs::rename(&data_dir, &failed).map_err(|error| Error::io("rename", &data_dir, error))?;
        durable::sync_parent(&data_dir)
    }

    /// The data directory with symbolic links followed, so that what is moved is the directory and not the link.
    pub(crate) fn real_data_dir(&self) -> PathBuf {
        fs::canonicalize(self.data_dir()).unwrap_or_else(|_| self.data_dir().to_path_buf())
    }

    /// Deletes what clones have moved aside or left behind; returns how many directories. Call it once the replacement streams.
    ///
    /// # Errors
    /// `Host` or `Io` when something cannot be deleted.
    pub async fn remove_old_copies(&self) -> Result<usize> {
        let old = self.siblings(&[".old-", ".cloning-"]);
        let remove = move || {
            for path in &old {
                fs::remove_dir_all(path).map_err(|error| Error::io("remove", path, error))?;
            }
            Ok(old.len())
        };
        let removed = tokio::task::spawn_blocking(remove).await;
        removed.map_err(|error| Error::WrongState(format!("removing old copies was cut off: {error}")))?
    }

    /// Directories beside the data directory whose names are its name, one of these infixes, and more.
    pub(crate) fn siblings(&self, infixes: &[&str]) -> Vec<PathBuf> {
        let data_dir = self.real_data_dir();
        let name = data_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(entries) = data_dir.parent().and_then(|parent| fs::read_dir(parent).ok()) else { return Vec::new() };
        let ours = |path: &PathBuf| {
            let rest =
                path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(name.as_str()));
            rest.is_some_and(|rest| infixes.iter().any(|infix| rest.starts_with(infix)))
        };
        entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()).filter(ours).collect()
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
