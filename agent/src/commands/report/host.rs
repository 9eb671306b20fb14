//! What a bundle says of the host: its system, its load, its disks, and the journal of the agent.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::bundle::Bundle;
use super::read;

/// No program is waited for longer.
const WITHIN: Duration = Duration::from_secs(3);

/// Of a file that is logged to so much is read, from its end.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Puts in what the system says.
pub async fn facts(bundle: &mut Bundle) {
    let mut text = format!("pgvigil {}\n", env!("CARGO_PKG_VERSION"));
    for file in ["/etc/os-release", "/proc/version", "/proc/uptime", "/proc/loadavg", "/proc/pressure/io"] {
        let found = read(file.as_ref()).unwrap_or_else(|why| why);
        text.push_str(&format!("\n# {file}\n{}\n", found.trim_end()));
    }
    let memory = read("/proc/meminfo".as_ref()).unwrap_or_else(|why| why);
    let memory: Vec<&str> = memory.lines().take(6).collect();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    text.push_str(&format!("\n# memory\n{}\n\n# processors\n{processors}", memory.join("\n")));
    bundle.text("host/system.txt", Ok::<_, String>(text));
    bundle.text("host/disks.txt", output("df", &["-P", "-k"]).await);
    bundle.text("host/clock.txt", output("timedatectl", &["show"]).await);
}

/// Puts in the last lines of the agent's journal, if there is one.
pub async fn journal(bundle: &mut Bundle, unit: &str, lines: u32) {
    let count = lines.to_string();
    let told = output("journalctl", &["--no-pager", "-o", "short-iso-precise", "-u", unit, "-n", &count]).await;
    let told = match told {
        Ok(text) if text.trim().is_empty() || text.contains("-- No entries --") => Err(format!(
            "the journal has nothing of the unit {unit} (--unit names another); where the agent logs to a file: --log FILE"
        )),
        told => told,
    };
    bundle.text("log/agent.txt", told);
}

/// Puts in the last lines of the file that the agent logs to.
pub fn log_file(bundle: &mut Bundle, file: &Path, lines: u32) {
    let told = end_of(file).map_err(|error| format!("{}: {error}", file.display()));
    bundle.text("log/agent.txt", told.map(|text| last_lines(&text, lines as usize)));
}

/// No more than is looked at: a log may be larger than the memory of its host.
fn end_of(file: &Path) -> io::Result<String> {
    let mut log = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file)?;
    let about = log.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    log.seek(SeekFrom::Start(about.len().saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    log.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// What a program prints.
pub async fn output(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String, String> {
    let program = program.as_ref();
    let shown = program.to_string_lossy();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env("LC_ALL", "C").kill_on_drop(true);
    match tokio::time::timeout(WITHIN, command.output()).await {
        Err(_) => Err(format!("{shown} has not ended within {WITHIN:?}")),
        Ok(Err(error)) => Err(format!("{shown}: {error}")),
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{shown}: {}, {}", output.status, said.trim()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_last_lines_are_taken() {
        assert_eq!((last_lines("a\nb\nc\n", 2).as_str(), last_lines("a\n", 9).as_str()), ("b\nc", "a"));
    }
}
