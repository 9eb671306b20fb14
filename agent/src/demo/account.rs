//! Who runs the programs of a cluster on this machine. Postgres refuses to run as root, so whoever is root hands every program and
//! every file to the user `postgres`, and stays outside to clean up.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{Gid, Uid, User, chown};

/// The user that runs the programs.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// Set where it is somebody else than the one who asks.
    other: Option<(Uid, Gid)>,
}

impl Account {
    /// Whoever runs this process, or `postgres` where that is root.
    ///
    /// # Errors
    /// Root on a machine that has no user `postgres`.
    pub fn find() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { other: None });
        }
        let user = User::from_name("postgres").ok().flatten().ok_or_else(|| {
            anyhow!(
                "Postgres does not run as root, and there is no user \"postgres\" to run it: \
                 install a PostgreSQL package (apt-get install postgresql-15), or start this as an ordinary user"
            )
        })?;
        Ok(Self { other: Some((user.uid, user.gid)) })
    }

    /// A command of this user, with a clean environment: nothing set in a terminal reaches etcd, Postgres or an agent.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").env("LANG", "C.UTF-8");
        command.current_dir("/");
        if let Some((uid, gid)) = self.other {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Makes a file or directory this user's.
    ///
    /// # Errors
    /// It is not there, or belongs to somebody else.
    pub fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.other else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot hand {} to postgres", path.display()))
    }

    /// Makes sure that this user can get to a directory of its own.
    ///
    /// # Errors
    /// A directory above is closed.
    pub fn reach(&self, directory: &Path) -> Result<()> {
        if self.other.is_none() {
            return Ok(());
        }
        let there = self.command("test").arg("-w").arg(directory).status().context("cannot run `test`")?;
        if !there.success() {
            bail!("the user postgres cannot reach {}: set TMPDIR to a place that it can", directory.display());
        }
        Ok(())
    }
}
