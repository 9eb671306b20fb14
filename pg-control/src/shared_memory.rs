//! What a killed server leaves in shared memory. The next start in the same directory removes it; where the directory goes as well, nobody
//! does: the kernel keeps 4096 segments at most, and what lies in `/dev/shm` is memory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use procfs::process::{MMapPath, Process};

/// The shared memory of some processes of Postgres.
#[derive(Debug, Default)]
pub struct SharedMemory {
    files: BTreeSet<PathBuf>,
    segments: BTreeSet<u64>,
}

impl SharedMemory {
    /// What these processes have mapped now. Whoever is gone, or another's, adds nothing.
    pub fn of(pids: &[i32]) -> Self {
        let mut found = Self::default();
        let maps = pids.iter().filter_map(|pid| Process::new(*pid).ok()?.maps().ok());
        for map in maps.flatten() {
            match map.pathname {
                MMapPath::Path(path) if path.to_string_lossy().starts_with("/dev/shm/PostgreSQL.") => {
                    found.files.insert(path);
                }
                // Linux shows the number of a System V segment where the inode of a file would be.
                MMapPath::Vsys(_) => {
                    found.segments.insert(map.inode);
                }
                _ => {}
            }
        }
        found
    }

    /// Removes it. For servers that are dead, and whose directory is never started again.
    pub fn remove(self) {
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
        for segment in self.segments {
            let mut command = Command::new("ipcrm");
            command.arg("-m").arg(segment.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = command.status();
        }
    }
}
