//! Real file systems that can be frozen, broken and filled: ext4 on loop devices. Root mounts them in a mount namespace of this run, which
//! takes them along when it ends, and does what only root may on request over a socket; the tests themselves run as `postgres`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::Failure;

/// Where the tests find the socket.
pub const SOCKET: &str = "PGVIGIL_IT_ROOT";
/// Set in the mount namespace.
pub const INSIDE: &str = "PGVIGIL_IT_INSIDE";

/// One file system, unmounted when dropped.
pub struct Disk {
    place: PathBuf,
}

/// A fresh one; none where root is not there to make it.
pub fn disk(name: &str) -> Option<Disk> {
    let Some(socket) = std::env::var_os(SOCKET) else {
        println!("      not run: only root can make a disk that fails");
        return None;
    };
    let place = Path::new(&socket).with_file_name(format!("disk-{name}"));
    let disk = Disk { place };
    match disk.ask("mount") {
        Ok(()) => Some(disk),
        Err(error) => {
            println!("      not run: this kernel mounts no loop device ({error})");
            None
        }
    }
}

/// A directory mounted over itself: it has the device of its parent, and cannot be renamed.
pub fn bound(place: &Path) -> Option<Disk> {
    std::env::var_os(SOCKET)?;
    let disk = Disk { place: place.to_owned() };
    disk.ask("bind").map(|()| disk).inspect_err(|error| println!("      not run: {error}")).ok()
}

impl Disk {
    /// Its directory.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Every write waits from now on.
    pub fn freeze(&self) -> Result<(), Failure> {
        self.ask("freeze")
    }

    /// The writes go on.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.ask("thaw")
    }

    /// As after an error of the device: the kernel makes it read-only.
    pub fn break_into_read_only(&self) -> Result<(), Failure> {
        self.ask("break")
    }

    /// Takes up all space but this.
    pub fn leave_free(&self, bytes: u64) -> Result<(), Failure> {
        let ballast = self.place.join("ballast");
        let _ = std::fs::remove_file(&ballast);
        let system = nix::sys::statvfs::statvfs(&self.place)?;
        let take = (system.blocks_available() * system.fragment_size()).saturating_sub(bytes);
        let done = Command::new("fallocate").arg("-l").arg(take.to_string()).arg(&ballast).status()?;
        if done.success() { Ok(()) } else { Err("fallocate failed".into()) }
    }

    fn ask(&self, what: &str) -> Result<(), Failure> {
        let socket = std::env::var_os(SOCKET).ok_or("no root")?;
        let mut stream = UnixStream::connect(socket)?;
        writeln!(stream, "{what} {}", self.place.display())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        if answer.trim() == "ok" { Ok(()) } else { Err(answer.into()) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.ask("unmount");
    }
}

/// Root's side: a thread that does what it is asked, for the life of this process.
pub fn serve(socket: &Path) -> std::io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let own = Command::new("chown").arg("postgres").arg(socket).status()?;
    if !own.success() {
        return Err(std::io::Error::other("chown failed"));
    }
    std::thread::spawn(move || {
        for mut stream in listener.incoming().filter_map(|stream| stream.ok()) {
            let mut line = String::new();
            let _ = stream.try_clone().map(BufReader::new).and_then(|mut reader| reader.read_line(&mut line));
            let answer = line.trim().split_once(' ').map_or(Err("what?".to_owned()), |(what, place)| act(what, place));
            let _ = writeln!(stream, "{}", answer.err().unwrap_or("ok".to_owned()));
        }
    });
    Ok(())
}

fn act(what: &str, place: &str) -> Result<(), String> {
    let script = match what {
        "mount" => {
            "truncate -s 320M $P.img && mkfs.ext4 -q -F -m 0 $P.img && mkdir -p $P \
             && mount -o loop,errors=remount-ro $P.img $P && chown postgres $P && chmod 700 $P"
        }
        "bind" => "mount --bind $P $P",
        "freeze" => "fsfreeze --freeze $P",
        "thaw" => "fsfreeze --unfreeze $P",
        "break" => {
            "D=$(awk -v p=$P '$2 == p { sub(\"/dev/\", \"\", $1); print $1 }' /proc/mounts) \
             && (echo 1 > /sys/fs/ext4/$D/trigger_fs_error; sleep 0.1; grep -q emergency_ro /proc/mounts || grep -q ' ro,' /proc/mounts)"
        }
        "unmount" => "fsfreeze --unfreeze $P 2>/dev/null; umount -l $P; rm -f $P.img",
        other => return Err(format!("what is {other}?")),
    };
    let done = Command::new("sh").args(["-c", script]).env("P", place).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&done.stderr).replace('\n', "; ");
    if done.status.success() { Ok(()) } else { Err(format!("{what}: {said}")) }
}
