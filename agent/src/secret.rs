//! Words that nobody but the other side may read. A [`Secret`] prints as `***` wherever it is shown, and comes from a
//! file that only its owner can read: never from the configuration file, the environment or the command line, which all
//! end up in listings.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A text that never shows in a log, an error or a debugger's print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing, or not for us.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than its owner may read the file.
    #[error("{} is open to others than its owner (mode {mode:04o}): chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Nothing is in the file.
    #[error("{} is empty: put the secret on its first line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// Wraps a text that is already at hand, such as a password made up on the spot.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads a secret file, without the line end at its end. Read it again at each use: then a rotated secret needs no
    /// restart.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        // The mode is asked of the open file, so that nobody can swap the file between the question and the reading.
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unreadable)?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(SecretError::Empty { path: path.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }

    /// The text itself. Call it at the last moment, where the text leaves for its destination.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// What is wrong with the rights of a private key that others read for us. As Postgres has it: nobody but its owner, or, where root owns it, its group.
pub fn key_is_open(path: &Path) -> Option<String> {
    let found = std::fs::metadata(path).ok()?;
    let mode = found.permissions().mode() & 0o7777;
    let forbidden = if found.uid() == 0 { 0o027 } else { 0o077 };
    let path = path.display();
    (mode & forbidden != 0)
        .then(|| format!("{path} is open to others than its owner (mode {mode:04o}): chmod 600 {path}"))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file_with(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_secret_file_loses_its_line_end_and_nothing_else() {
        let (_keep, path) = file_with(" with spaces \n", 0o600);
        assert_eq!(Secret::read(&path).unwrap().expose(), " with spaces ");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_mend() {
        let (_keep, path) = file_with("x", 0o640);
        let told = Secret::read(&path).unwrap_err().to_string();
        assert!(told.contains("(mode 0640): chmod 600 /"), "{told}");
    }

    #[test]
    fn a_key_that_anybody_can_read_is_told() {
        let (_keep, path) = file_with("x", 0o644);
        let told = key_is_open(&path).unwrap();
        assert!(told.contains("(mode 0644): chmod 600 /"), "{told}");
        for mode in [0o600, 0o400] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(key_is_open(&path), None);
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let owned_by_root = std::fs::metadata(&path).unwrap().uid() == 0;
        assert_eq!(key_is_open(&path).is_none(), owned_by_root, "root may let a group read it");
    }

    #[test]
    fn an_empty_or_missing_file_is_told_apart() {
        let (keep, path) = file_with("\n", 0o400);
        assert!(Secret::read(&path).unwrap_err().to_string().contains("is empty"));
        assert!(Secret::read(&keep.path().join("none")).unwrap_err().to_string().contains("No such file"));
    }
}
