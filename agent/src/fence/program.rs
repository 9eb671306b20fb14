//! The fencer's program: found beside the agent's own, and started so that it outlives the agent. And the watchdog device, set to a
//! timeout before the fencer opens it.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fencer::protocol::WatchdogOrder;

use crate::config::{Watchdog, WatchdogMode};

/// The fencer beside this very program.
///
/// # Errors
/// It is not there.
pub fn find() -> Result<PathBuf> {
    // An upgrade leaves " (deleted)" behind the name of the program, and the directory as it is.
    let me = std::fs::read_link("/proc/self/exe").context("where is this program?")?;
    let program = me.parent().unwrap_or(Path::new("/")).join(fencer::PROGRAM);
    let runs = std::fs::metadata(&program).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if !runs {
        bail!(
            "{} is missing, and without it nothing stops Postgres when this agent cannot: install it beside {}",
            program.display(),
            me.display()
        );
    }
    Ok(program)
}

/// Starts it. It leaves this agent's session by itself.
pub(super) fn spawn(program: &Path, state_dir: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg(state_dir).current_dir("/").env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    // An arena for each thread would reserve more address space than may be locked.
    command.env("MALLOC_ARENA_MAX", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().with_context(|| format!("cannot run {}", program.display()))
}

/// The device to keep, set to its timeout; `None`: none is wanted. Takes a few milliseconds.
pub(super) fn watchdog(watchdog: &Watchdog, ttl: Duration, safety_margin: Duration) -> Result<Option<WatchdogOrder>> {
    if watchdog.mode == WatchdogMode::Off {
        return Ok(None);
    }
    let device = watchdog.device.clone();
    let name = device.display();
    let wanted = timeout_s(ttl);
    let meta = std::fs::metadata(&device).with_context(|| format!("watchdog {name}"))?;
    if !meta.file_type().is_char_device() {
        return Ok(Some(WatchdogOrder { timeout_s: wanted, device }));
    }
    let output = Command::new("wdctl").arg("--settimeout").arg(wanted.to_string()).arg(&device).output();
    let output = output.context("wdctl (package util-linux) sets the timeout of the watchdog")?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join(" ");
    let timeout_s = match set_to(&said) {
        Some(seconds) => seconds,
        // The fencer of an earlier life holds it, set in that life.
        None if said.contains("already in use") => wanted,
        None => bail!("watchdog {name} cannot be set to {wanted} s: {}", said.trim()),
    };
    if Duration::from_secs(timeout_s) + safety_margin > ttl {
        bail!("watchdog {name} takes {timeout_s} s to strike, longer than a lease of {ttl:?} allows: raise timing.ttl");
    }
    Ok(Some(WatchdogOrder { timeout_s, device }))
}

/// Half the lease: it is kept alive well into each renewal's time, and strikes before the lease ends.
fn timeout_s(ttl: Duration) -> u64 {
    (ttl.as_secs() / 2).max(1)
}

/// "Timeout has been set to 2 seconds."
fn set_to(said: &str) -> Option<u64> {
    said.split_once("set to ")?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_that_a_device_has_taken_is_read() {
        assert_eq!(set_to("Timeout has been set to 2 seconds.\n"), Some(2));
        assert_eq!(set_to("Timeout has been set to 1 second.\n"), Some(1));
        assert_eq!(set_to("wdctl: cannot set timeout for /dev/watchdog: Invalid argument"), None);
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_one_that_nobody_wants_is_not() {
        let ttl = Duration::from_secs(5);
        let margin = Duration::from_millis(500);
        let mut wanted = Watchdog { mode: WatchdogMode::Required, device: "/dev/no-such-watchdog".into() };
        assert!(format!("{:#}", watchdog(&wanted, ttl, margin).unwrap_err()).contains("/dev/no-such-watchdog"));
        wanted.mode = WatchdogMode::Off;
        assert_eq!(watchdog(&wanted, ttl, margin).unwrap(), None);
    }
}
