//! A volume of its own for what one node writes: small enough to be filled, and an ext4 that can be frozen, so that writers wait for it
//! in the kernel as they wait for a dead disk. Without root there are no disks to mount, and it lies in memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent::demo::account::Account;
use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

const SIZE_BYTES: u64 = 1 << 30;
/// What fills it.
const FILLER: &str = "filler";

/// A mounted volume. Dropping it thaws and unmounts it.
#[derive(Debug)]
pub struct Volume {
    at: PathBuf,
    image: Option<PathBuf>,
}

impl Volume {
    /// Makes one and mounts it on a directory that is there.
    ///
    /// # Errors
    /// What the tools say.
    pub fn mount(at: &Path, account: Account) -> Result<Self> {
        let image = Uid::effective().is_root().then(|| at.with_extension("disk"));
        if let Some(image) = &image {
            File::create(image).and_then(|file| file.set_len(SIZE_BYTES)).context("making the image of a volume")?;
            tool("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image])?;
            tool("mount", &["-o".as_ref(), "loop".as_ref(), image, at])?;
        } else {
            let size = format!("size={SIZE_BYTES},mode=700");
            tool("mount", &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "pgvigil".as_ref(), at])?;
        }
        let volume = Self { at: at.to_owned(), image };
        // What mkfs has put there is in the way of a tool that wants an empty directory.
        let _ = std::fs::remove_dir(at.join("lost+found"));
        std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        account.own(at)?;
        Ok(volume)
    }

    /// Leaves not a byte free.
    ///
    /// # Errors
    /// What the tools say.
    pub fn fill(&self) -> Result<()> {
        let filler = self.at.join(FILLER);
        for block in ["1M", "4k"] {
            let mut command = Command::new("dd");
            command.arg("if=/dev/zero").arg(format!("of={}", filler.display()));
            command.arg(format!("bs={block}")).args(["oflag=append", "conv=notrunc"]);
            let output = output_of(&mut command)?;
            // It ends by the disk being full, and by nothing else.
            if !output.contains("No space left") {
                bail!("filling {}: {output}", self.at.display());
            }
        }
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// It was not full.
    pub fn empty(&self) -> Result<()> {
        std::fs::remove_file(self.at.join(FILLER)).context("removing what fills a volume")
    }

    /// Whoever writes to it waits from now on, and cannot be killed.
    ///
    /// # Errors
    /// It lies in memory.
    pub fn freeze(&self) -> Result<()> {
        if self.image.is_none() {
            bail!("only root can mount a disk that freezes");
        }
        tool("fsfreeze", &["-f".as_ref(), &self.at])
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It was not frozen.
    pub fn thaw(&self) -> Result<()> {
        tool("fsfreeze", &["-u".as_ref(), &self.at])
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let quietly = |command: &mut Command| command.stderr(Stdio::null()).status();
        if self.image.is_some() {
            let _ = quietly(Command::new("fsfreeze").arg("-u").arg(&self.at));
        }
        // Somebody may still have a file open there: then it goes with them.
        let _ = quietly(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn tool(program: &str, arguments: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run `{program}`: apt-get install e2fsprogs util-linux"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().context("cannot run `dd`")?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}
