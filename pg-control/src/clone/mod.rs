//! Filling a data directory from another member or a backup. The copy is made beside the old directory, made this member's own, and only then
//! swapped in; the old one is moved aside. Where it cannot be moved (a mount point, a parent that cannot be written) the copy goes into the
//! empty directory itself, under a marker of its own.

mod methods;
mod place;
mod progress;

use std::fs;
use std::path::Path;

use decision::view::Upstream;
use tokio_util::sync::CancellationToken;

use crate::datadir::is_empty;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;

use place::IN_PLACE;

pub use methods::{CloneMethod, CloneOptions};
pub use progress::{Progress, Watched};

/// What a copy is made of.
pub struct Copying<'a> {
    /// Whom the standby is to follow.
    pub leader: &'a Upstream,
    /// How it may be made, the first that works.
    pub methods: &'a [CloneMethod],
    /// What it is told.
    pub options: &'a CloneOptions,
    /// Where its progress is to be read.
    pub progress: &'a Watched,
    /// Breaks it off.
    pub cancel: &'a CancellationToken,
}

impl Instance {
    /// Fills the data directory by the first of the methods that works, ready to start as a standby of the leader. What was there is moved
    /// aside; see [`Instance::remove_old_copies`]. Cancelling kills the copy. Returns how it was made.
    ///
    /// # Errors
    /// That of the last method: `SourceNotReady` when the source does not answer, `Host` for lack of space or permission; `WrongState` when a
    /// server runs here.
    pub async fn clone_by(&self, copying: &Copying<'_>) -> Result<String> {
        if self.postmaster().is_some() {
            return Err(Error::WrongState("a server runs in the data directory".to_owned()));
        }
        self.refuse_link_to_nowhere()?;
        self.kill_stray_tools();
        self.archive_the_rest(copying.cancel).await;
        let data_dir = self.real_data_dir();
        let mut failed = None;
        for method in copying.methods {
            self.remove_leftovers()?;
            match self.clone_once(copying, method, &data_dir).await {
                Ok(()) => return Ok(method.name()),
                Err(error @ Error::Cancelled(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(method = method.name(), %error, "the copy has failed");
                    failed = Some(error);
                }
            }
        }
        self.remove_leftovers()?;
        Err(failed.unwrap_or_else(|| Error::Setting("no way to make a copy is configured: [clone] methods".to_owned())))
    }

    /// Whether a copy could be put into place, as far as can be told before the server here is stopped.
    ///
    /// # Errors
    /// As [`Instance::clone_by`].
    pub async fn could_be_copied(&self, copying: &Copying<'_>) -> Result<()> {
        self.refuse_link_to_nowhere()?;
        let movable = self.is_movable();
        if !movable {
            self.refuse_what_is_not_ours_to_clear()?;
        }
        let mut failed = None;
        for method in copying.methods {
            match self.what_it_takes(copying, method, movable).await {
                Ok(_) => return Ok(()),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::Setting("no way to make a copy is configured: [clone] methods".to_owned())))
    }

    /// How many bytes a method copies, if its source would tell; refused where there is no room for them.
    async fn what_it_takes(&self, copying: &Copying<'_>, method: &CloneMethod, movable: bool) -> Result<Option<u64>> {
        let source = match method {
            CloneMethod::BaseBackup(from) => from,
            CloneMethod::Program { .. } => copying.leader,
        };
        let asked = self.ask_source(source, true).await?;
        if matches!(method, CloneMethod::BaseBackup(_)) {
            refuse_tablespaces_in_the_way(&asked.tablespaces)?;
        }
        let data_dir = self.real_data_dir();
        check_space(asked.bytes, if movable { data_dir.parent().unwrap_or(&data_dir) } else { &data_dir })?;
        Ok(asked.bytes)
    }

    /// A copy by `pg_basebackup` from the leader.
    ///
    /// # Errors
    /// As [`Instance::clone_by`].
    pub async fn clone_from(&self, from: &Upstream, cancel: &CancellationToken) -> Result<()> {
        let (options, progress) = (CloneOptions::default(), Watched::default());
        let methods = [CloneMethod::BaseBackup(from.clone())];
        let copying = Copying { leader: from, methods: &methods, options: &options, progress: &progress, cancel };
        self.clone_by(&copying).await.map(|_| ())
    }

    async fn clone_once(&self, copying: &Copying<'_>, method: &CloneMethod, data_dir: &Path) -> Result<()> {
        let (beside, movable) = (self.copy_beside(), self.is_movable());
        if !movable {
            self.clear_in_place()?;
        }
        let needed = self.what_it_takes(copying, method, movable).await?;
        let into = if movable { beside.as_path() } else { data_dir };
        tracing::info!(method = method.name(), bytes = needed, "copies the data");
        let (stalled, stalls_after) = (copying.cancel.child_token(), copying.options.stalls_after);
        let _watching =
            copying.progress.begin(method.name(), into.to_path_buf(), needed, stalls_after, stalled.clone());
        if !movable {
            self.mark_half_made(IN_PLACE)?;
        }
        match self.copy(method, copying.leader, into, copying.options, &stalled).await {
            Err(Error::Cancelled(_)) if !copying.cancel.is_cancelled() => {
                let bytes = copying.progress.now().map_or(0, |progress| progress.done_bytes);
                let why = format!("the copy stands still at {bytes} bytes: its source sends nothing any more");
                return Err(Error::SourceNotReady(why));
            }
            copied => copied?,
        }
        if movable {
            // Marked before it is moved, and not moved then, the old data would pass for a copy that was cut off. In between there is none, which
            // says enough; from the marker on until that goes there is one that nobody has looked at.
            self.set_aside()?;
            self.mark_half_made("clone")?;
            fs::rename(&beside, data_dir).map_err(|error| Error::io("rename into place", data_dir, error))?;
            durable::sync_parent(data_dir)?;
        }
        self.memory().end_of_wal = None;
        self.mark_whole()
    }
}

/// `pg_basebackup` puts a tablespace where it lies on the source, and only where nothing is: what a copy is to replace is still there.
fn refuse_tablespaces_in_the_way(places: &[String]) -> Result<()> {
    let in_the_way = |place: &&String| !is_empty(Path::new(place)).unwrap_or(false);
    let Some(place) = places.iter().find(in_the_way) else { return Ok(()) };
    Err(Error::host(
        format!("pg_basebackup cannot copy the tablespace at {place}: the directory is not empty here"),
        "stop the agent and Postgres here, move the data directory and what is in its tablespaces away, and start the agent",
    ))
}

fn check_space(needed: Option<u64>, on: &Path) -> Result<()> {
    // A directory that is yet to be made takes its space from where it will be.
    let there = on.ancestors().find(|path| path.exists()).unwrap_or(on);
    let Ok(disk) = nix::sys::statvfs::statvfs(there) else { return Ok(()) };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    match needed {
        Some(needed) if needed > free => Err(Error::host(
            format!("the source has {needed} bytes, {} has {free} free", on.display()),
            "free space there, for instance an old copy of the data directory",
        )),
        _ => Ok(()),
    }
}
