//! Where a copy is made: beside the data directory, to be swapped with it, or, where that cannot be moved, in it. What lies in it then is deleted
//! only under a marker that says that all of it is a copy, or a new cluster, that was cut off.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::datadir::is_empty;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;

/// The marker of a copy that goes into the empty data directory itself.
pub(super) const IN_PLACE: &str = "clone-in-place";

impl Instance {
    /// Where a copy is made before it is swapped in.
    pub(super) fn copy_beside(&self) -> PathBuf {
        durable::beside(&self.real_data_dir(), &format!(".cloning-{}", std::process::id()))
    }

    /// Whether directories beside the data directory can be made and swapped with it.
    pub(crate) fn is_movable(&self) -> bool {
        let (data_dir, beside) = (self.real_data_dir(), self.copy_beside());
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        let parent = data_dir.parent().unwrap_or(Path::new("/"));
        let same_device = !data_dir.exists() || device(&data_dir) == device(parent);
        same_device
            && !is_mount_point(&data_dir)
            && (beside.exists() || (fs::create_dir(&beside).is_ok() && fs::remove_dir(&beside).is_ok()))
    }

    /// A link whose disk is not mounted leads nowhere: what is made would not get there, or fill another disk.
    pub(crate) fn refuse_link_to_nowhere(&self) -> Result<()> {
        let data_dir = self.data_dir();
        match fs::read_link(data_dir) {
            Ok(target) if !data_dir.exists() => Err(Error::host(
                format!("{} is a symbolic link to {}, which is not there", data_dir.display(), target.display()),
                format!("mount what belongs there, or make it: install -d -m 700 {}", target.display()),
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Refuses to copy into a data directory that is neither movable nor empty nor ours to clear.
    pub(super) fn refuse_what_is_not_ours_to_clear(&self) -> Result<()> {
        if is_empty(self.data_dir())? || matches!(self.half_made_by().as_deref(), Some(IN_PLACE | "bootstrap")) {
            return Ok(());
        }
        let problem = format!(
            "{} cannot be moved aside: its parent is not writable, or it is a mount point",
            self.data_dir().display()
        );
        Err(Error::host(problem, "make the parent writable for the agent, use a subdirectory, or empty it by hand"))
    }

    /// Deletes what was never whole from a data directory that cannot be moved; anything else is for a person to move.
    pub(crate) fn clear_in_place(&self) -> Result<()> {
        self.refuse_what_is_not_ours_to_clear()?;
        let data_dir = self.data_dir();
        if is_empty(data_dir)? {
            return Ok(());
        }
        tracing::info!(path = %data_dir.display(), "deleting what was cut off, for it cannot be moved aside");
        let entries = fs::read_dir(data_dir).map_err(|error| Error::io("read", data_dir, error))?;
        for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
            let removed =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }
}

/// A mount point cannot be renamed, and one of a directory on its own file system (`mount --bind`) has the device of its parent.
fn is_mount_point(path: &Path) -> bool {
    let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo());
    mounts.is_ok_and(|mounts| mounts.into_iter().any(|mount| mount.mount_point == path))
}
