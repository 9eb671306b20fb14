//! The log that the server writes before its own collector takes over, and for good where none does: `pg_ctl` lets it append to a file in the agent's
//! directory, which must not fill the disk of a server that runs for months.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;

/// Beyond this the log goes to `postgres.log.1`, in place of what was there.
const LIMIT_BYTES: u64 = 64 * 1024 * 1024;

impl Instance {
    /// The log lies in the agent's own directory, and a server that cannot open it does not start and says nothing.
    pub(crate) fn prepare_log(&self) -> Result<()> {
        self.keep_state_dir()?;
        let log = self.log_file();
        let mut length = fs::metadata(&log).map_or(0, |meta| meta.len());
        if length > LIMIT_BYTES {
            fs::rename(&log, durable::beside(&log, ".1")).map_err(|error| Error::io("rename", &log, error))?;
            length = 0;
        }
        self.memory().log_length_at_start = length;
        Ok(())
    }

    /// Keeps the log of a running server within bounds, and says whether anything was to be done. The server holds the file open, so it is copied and
    /// emptied; only what is written between the two is lost. May take as long as the disk does.
    ///
    /// # Errors
    /// The log cannot be copied; it is left as it is.
    pub fn bound_log(&self) -> Result<bool> {
        let log = self.log_file();
        let Ok(meta) = fs::metadata(&log) else { return Ok(false) };
        let appends = || self.postmaster().is_some_and(|server| appends(server.pid, &meta));
        if meta.len() <= LIMIT_BYTES || !appends() {
            return Ok(false);
        }
        let before = durable::beside(&log, ".1");
        // The room of the older one is needed where the disk is nearly full.
        durable::remove(&before)?;
        let emptied = fs::copy(&log, &before).and_then(|_| File::options().write(true).open(&log)?.set_len(0));
        if let Err(error) = emptied {
            let _ = fs::remove_file(&before);
            return Err(Error::io("copy and empty", &log, error));
        }
        self.memory().log_length_at_start = 0;
        Ok(true)
    }
}

/// Whether what this process says goes to this file, and to its end wherever that is by then: another would go on behind the gap.
fn appends(pid: i32, log: &Metadata) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let is_log = |number: &&str| {
        let open = fs::metadata(process.join("fd").join(number));
        open.is_ok_and(|open| (open.dev(), open.ino()) == (log.dev(), log.ino()))
    };
    let appends = |number: &str| {
        let told = fs::read_to_string(process.join("fdinfo").join(number)).unwrap_or_default();
        let flags = told.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        flags.is_some_and(|flags| flags & nix::libc::O_APPEND != 0)
    };
    let mut open = ["1", "2"].iter().copied().filter(is_log).peekable();
    open.peek().is_some() && open.all(appends)
}
