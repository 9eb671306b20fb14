//! The temporary directory of a cluster: everything that its programs write is in here, and goes with it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;

use super::account::Account;

/// Three data directories with their WAL, and etcd, which reserves 128 MB a member.
const NEEDED_BYTES: u64 = 1 << 30;
/// The path of a unix socket ends at 107 bytes; `/pgvigil-demo-XXXXXX/n1/s/.s.PGSQL.12345` comes after this.
const LONGEST_ABOVE: usize = 60;

/// A directory that is removed when it is dropped, unless it is to be kept.
#[derive(Debug)]
pub struct Workdir {
    path: PathBuf,
    account: Account,
    keep: AtomicBool,
}

impl Workdir {
    /// Makes it, for nobody else to read.
    ///
    /// # Errors
    /// No permission, or too little space.
    pub fn create(account: Account, prefix: &str) -> Result<Self> {
        let usual = std::env::temp_dir();
        let above = if usual.as_os_str().len() > LONGEST_ABOVE { PathBuf::from("/tmp") } else { usual };
        let cannot =
            || format!("cannot make a directory in {}: set TMPDIR to a place where you may write", above.display());
        let above = above.canonicalize().with_context(cannot)?;
        let space =
            statvfs(&above).with_context(|| format!("cannot see how much space is left in {}", above.display()))?;
        let free = space.blocks_available() * space.fragment_size();
        if free < NEEDED_BYTES {
            bail!(
                "only {} MB are free in {}, and a cluster needs {} MB: make room, or set TMPDIR to a larger disk",
                free >> 20,
                above.display(),
                NEEDED_BYTES >> 20
            );
        }
        let path = tempfile::Builder::new().prefix(prefix).tempdir_in(&above).with_context(cannot)?.keep();
        let workdir = Self { path, account, keep: AtomicBool::new(false) };
        std::fs::set_permissions(&workdir.path, PermissionsExt::from_mode(0o700))?;
        account.own(&workdir.path)?;
        account.reach(&workdir.path)?;
        Ok(workdir)
    }

    /// Its path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It stays when this is dropped.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }

    /// A directory in it, for the programs to write.
    ///
    /// # Errors
    /// The disk is full.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// A file in it, for the programs to read.
    ///
    /// # Errors
    /// The disk is full.
    pub fn file(&self, name: &str, text: &str, mode: u32) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.hand_over(path, mode)
    }

    /// A copy of a program: the original may be out of the account's reach, or be built anew while the copy runs.
    ///
    /// # Errors
    /// The original cannot be read, or the disk is full.
    pub fn copy(&self, program: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::copy(program, &path).with_context(|| format!("cannot copy {}", program.display()))?;
        self.hand_over(path, 0o755)
    }

    /// A copy of `pgvigil`, with the fencer that belongs beside it.
    ///
    /// # Errors
    /// One of them cannot be read, or the disk is full.
    pub fn copy_pgvigil(&self, program: &Path) -> Result<PathBuf> {
        self.copy(&program.with_file_name(fencer::PROGRAM), fencer::PROGRAM)?;
        self.copy(program, "pgvigil")
    }

    fn hand_over(&self, path: PathBuf, mode: u32) -> Result<PathBuf> {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
        self.account.own(&path)?;
        Ok(path)
    }
}

/// Brings to disk what the start of a cluster has left in memory: 300 MB on their way to a disk that all nodes share would stand in the way
/// of the first commits.
pub fn settle(directory: &Path) {
    if let Ok(open) = std::fs::File::open(directory) {
        let _ = nix::unistd::syncfs(open);
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if self.is_kept() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}
