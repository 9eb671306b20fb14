//! Files that must survive a power loss in whole or not at all: written beside the old one, flushed, renamed over it, and the directory
//! flushed after. Anything less can leave an empty configuration behind.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces the content of a file. `mode` are its permission bits.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let temporary = beside(path, ".pgvigil-new");
    let failed = |error| Error::io("write", path, error);
    // A leftover of an agent that was killed here may have other permissions.
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    sync_parent(path)
}

/// Creates an empty file, durably; no error when it is there already.
pub(crate) fn touch(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    write(path, b"", 0o600)
}

/// Removes a file, durably; no error when it is not there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

/// Flushes the directory that a path is in, so that its name is durable as well.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|error| Error::io("flush", parent, error))
}

/// The path with something appended to its last part.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
