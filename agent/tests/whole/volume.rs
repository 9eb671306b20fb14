//! A disk of its own for one node, which fails as disks do: it freezes, and whoever writes to it waits in the kernel and cannot be killed, or
//! the kernel makes it read-only. An ext4 on a loop device, which only root can mount. A shell that outlives this process, however
//! that ends, takes it down again.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agent::demo::node::Node;
use agent::demo::processes;
use anyhow::{Result, ensure};

const MAKE: &str = "truncate -s 1G $P.disk && mkfs.ext4 -q -F -m 0 $P.disk && cp -a $P $P.before";
const MOUNT: &str = "mount -o loop,errors=remount-ro $P.disk $P";
const MOVE_IN: &str = "rmdir $P/lost+found && cp -a $P.before/. $P/ && chown --reference $P.before $P && chmod 700 $P && rm -r $P.before && sync -f $P";
/// Waits until nobody holds the other end of its input any more.
const KEEP: &str = "cat >/dev/null; fsfreeze -u $P 2>/dev/null; umount $P 2>/dev/null || umount -l $P";
const BREAK: &str = "D=$(findmnt -n -o SOURCE $P) && echo 1 >/sys/fs/ext4/${D#/dev/}/trigger_fs_error && sleep 0.1 && ! touch $P/writable 2>/dev/null";
const REPAIR: &str = "umount $P && { e2fsck -fy $P.disk >/dev/null 2>&1 || [ $? -le 2 ]; }";

/// What can become of a disk.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Every write waits.
    Frozen,
    /// Every write is refused, as after an error of the device.
    ReadOnly,
}

/// The disk under the home of a node. Dropping it ends whatever runs on it, and unmounts it.
pub struct Volume {
    home: PathBuf,
    keeper: Child,
}

impl Volume {
    /// Puts all that a node has, of which nothing runs yet, on a disk of its own. `None`: there is none to be had here.
    pub fn under(node: &Node) -> Result<Option<Self>> {
        let home = node.home().to_owned();
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("not played: only root can make a disk that fails");
            return Ok(None);
        }
        run(MAKE, &home)?;
        if let Err(error) = run(MOUNT, &home) {
            eprintln!("not played: this kernel mounts no loop device ({error})");
            return Ok(None);
        }
        let mut keep = shell(KEEP, &home);
        keep.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keep.spawn()?;
        let volume = Self { home, keeper };
        run(MOVE_IN, &volume.home)?;
        Ok(Some(volume))
    }

    /// From now on it fails.
    pub fn fail(&self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Frozen => run("fsfreeze -f $P", &self.home),
            Fault::ReadOnly => run(BREAK, &self.home),
        }
    }

    /// It is good again. A broken one is taken out for that: nothing of its node may run.
    pub fn mend(&self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Frozen => run("fsfreeze -u $P", &self.home),
            Fault::ReadOnly => run(REPAIR, &self.home).and_then(|()| run(MOUNT, &self.home)),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // What hangs with the disk can be killed once it does not hang.
        let _ = shell("fsfreeze -u $P", &self.home).stderr(Stdio::null()).status();
        if let Err(error) = processes::end(|| processes::of_directory(&self.home)) {
            eprintln!("{error:#}");
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn shell(script: &str, home: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("P", home);
    command
}

fn run(script: &str, home: &Path) -> Result<()> {
    let output = shell(script, home).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
