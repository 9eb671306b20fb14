//! The kernel's watchdog, the last resort behind the fencer: a device that resets the host unless somebody writes to it in time. It is
//! started before Postgres may take writes, and kept in such a way that it strikes after the deadline, so that a fencer in good health
//! never meets it, and before the lease ends, so that nobody else leads yet.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Something that strikes when it is not kept alive.
pub trait Watchdog: std::fmt::Debug {
    /// Whether it could be started.
    fn check(&self) -> Result<(), String>;
    /// Starts it, if it does not run yet.
    fn start(&mut self) -> Result<(), String>;
    /// Keeps it from striking for another timeout.
    fn keep_alive(&mut self) -> Result<(), String>;
    /// Stops it. False: it cannot be stopped, and wants to be kept alive for ever.
    fn stop(&mut self) -> bool;
}

/// A device of the kernel's watchdog interface (`Documentation/watchdog/watchdog-api.rst`). A pipe or a file stands in for it in tests.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    open: Option<File>,
    no_way_out: bool,
}

impl Device {
    /// The device at `path`, not opened yet: opening starts it.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, no_way_out: false }
    }

    fn write(&mut self, what: &[u8]) -> Result<(), String> {
        let Some(device) = &mut self.open else { return Err("it is not open".to_owned()) };
        device.write_all(what).map_err(|error| format!("{} cannot be written: {error}", self.path.display()))
    }
}

impl Watchdog for Device {
    fn check(&self) -> Result<(), String> {
        if self.open.is_some() {
            return Ok(());
        }
        let access = rustix::fs::access(&self.path, rustix::fs::Access::WRITE_OK);
        access.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn start(&mut self) -> Result<(), String> {
        if self.open.is_some() {
            return Ok(());
        }
        // A pipe without a reader, or a device that somebody else has, is an error at once, not a wait.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let device = OpenOptions::new().write(true).custom_flags(flags).open(&self.path);
        self.open = Some(device.map_err(|error| format!("{} cannot be opened: {error}", self.path.display()))?);
        self.no_way_out = has_no_way_out(&self.path);
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), String> {
        self.write(b"\0")
    }

    fn stop(&mut self) -> bool {
        if self.open.is_none() {
            return true;
        }
        // Closed after the magic letter it stops; closed without, it strikes.
        if self.no_way_out || self.write(b"V").is_err() {
            return false;
        }
        self.open = None;
        true
    }
}

/// Whether the driver was loaded so that nothing stops it once it runs.
fn has_no_way_out(device: &Path) -> bool {
    let is_device = fs::metadata(device).is_ok_and(|meta| meta.file_type().is_char_device());
    // /dev/watchdog is another name for /dev/watchdog0.
    let name = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = if name == "watchdog" { "watchdog0".to_owned() } else { name };
    let told = fs::read_to_string(format!("/sys/class/watchdog/{name}/nowayout"));
    is_device && told.is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_kept_alive_and_stopped_by_its_magic_letter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        fs::write(&path, "").unwrap();
        let mut device = Device::new(&path);
        device.check().unwrap();
        device.start().unwrap();
        device.keep_alive().unwrap();
        device.keep_alive().unwrap();
        assert!(device.stop());
        assert_eq!(fs::read(&path).unwrap(), b"\0\0V");
        assert!(device.stop(), "a stopped one stays stopped");
    }

    #[test]
    fn a_device_that_is_not_there_is_told_by_its_name() {
        let mut device = Device::new(Path::new("/dev/no-such-watchdog"));
        assert!(device.check().unwrap_err().contains("/dev/no-such-watchdog"));
        assert!(device.start().unwrap_err().contains("/dev/no-such-watchdog"));
        assert!(device.keep_alive().is_err());
    }
}
