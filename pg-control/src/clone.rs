//! Filling a data directory from another member. The copy is made beside the old directory, made this member's own, and only then swapped
//! in; the old one is moved aside. Where the parent cannot be written (a mount point) the copy goes into the empty directory
//! itself, under a marker that says so.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use decision::view::Upstream;
use tokio_util::sync::CancellationToken;

use crate::conf::{Conf, Recovery};
use crate::datadir::is_empty;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::tool;

impl Instance {
    /// Copies `from` into the data directory, ready to start as its standby. What was there is moved aside; see
    /// [`Instance::remove_old_copies`]. Cancelling kills the copy.
    ///
    /// # Errors
    /// `SourceNotReady` when the source does not answer, `Host` for lack of space or permission, `WrongState` when a server runs here.
    pub async fn clone_from(&self, from: &Upstream, cancel: &CancellationToken) -> Result<()> {
        if self.postmaster().is_some() {
            return Err(Error::WrongState("a server runs in the data directory".to_owned()));
        }
        self.kill_stray_tools();
        for leftover in self.siblings(&[".cloning-"]) {
            fs::remove_dir_all(&leftover).map_err(|error| Error::io("remove", &leftover, error))?;
        }
        let data_dir = self.real_data_dir();
        let beside = durable::beside(&data_dir, &format!(".cloning-{}", std::process::id()));
        self.check_space(from, data_dir.parent().unwrap_or(&data_dir)).await?;
        if movable(&data_dir, &beside) {
            self.copy(from, &beside, cancel).await?;
            // From here on until the marker goes there is no data directory, or one that nobody has looked at.
            self.mark_half_made("clone")?;
            self.set_aside()?;
            fs::rename(&beside, &data_dir).map_err(|error| Error::io("rename into place", &data_dir, error))?;
            durable::sync_parent(&data_dir)?;
        } else {
            self.clear_in_place(&data_dir)?;
            self.mark_half_made("clone")?;
            self.copy(from, &data_dir, cancel).await?;
        }
        self.memory().end_of_wal = None;
        self.mark_whole()
    }

    async fn copy(&self, from: &Upstream, into: &Path, cancel: &CancellationToken) -> Result<()> {
        let mut arguments: Vec<OsString> = vec!["-D".into(), into.into()];
        arguments.extend(["-X", "stream", "-c", "fast", "--no-password", "-d"].map(OsString::from));
        arguments.push(self.source_conninfo(from, &self.config().replication_user).into());
        let said = self.run("pg_basebackup", &arguments, cancel).await?;
        if !said.ok {
            return Err(tool::failed("pg_basebackup", &said));
        }
        let conf = Conf::of_standby(Recovery::Following(from.clone()));
        self.write_conf_into(into, &conf)?;
        durable::touch(&into.join("standby.signal"))
    }

    /// Only what was never whole may be deleted to make room; anything else is for a person to move.
    fn clear_in_place(&self, data_dir: &Path) -> Result<()> {
        if is_empty(data_dir)? {
            return Ok(());
        }
        if !matches!(self.half_made_by().as_deref(), Some("clone" | "bootstrap")) {
            let problem = format!(
                "{} cannot be moved aside: its parent is not writable, or it is a mount point",
                data_dir.display()
            );
            return Err(Error::host(
                problem,
                "make the parent writable for the agent, use a subdirectory, or empty it by hand",
            ));
        }
        let entries = fs::read_dir(data_dir).map_err(|error| Error::io("read", data_dir, error))?;
        for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
            let removed =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }

    async fn check_space(&self, from: &Upstream, on: &Path) -> Result<()> {
        let source = self.ask_source(from, true).await?;
        let Ok(disk) = nix::sys::statvfs::statvfs(on) else { return Ok(()) };
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        match source.bytes {
            Some(needed) if needed > free => Err(Error::host(
                format!("the source has {needed} bytes, {} has {free} free", on.display()),
                "free space there, for instance an old copy of the data directory",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether directories beside the data directory can be made and swapped with it: a mount point cannot be renamed.
fn movable(data_dir: &Path, beside: &PathBuf) -> bool {
    let device = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).map(|meta| meta.dev()).ok()
    };
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    let same_device = !data_dir.exists() || device(data_dir) == device(parent);
    same_device && fs::create_dir(beside).is_ok() && fs::remove_dir(beside).is_ok()
}
