//! The command that runs under a hold: its input and output are ours, signals are passed on to it, and its end is ours.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tokio::process::Command;

use super::signals::Signals;
use crate::cli::Exit;
use crate::commands::screen::tell;

/// As shells say it: what was to be run is not there, or is not to be run.
const NOT_FOUND: u8 = 127;
const NOT_TO_BE_RUN: u8 = 126;

/// Runs it to its end.
pub async fn run(command: &[OsString], hold: &str, signals: &mut Signals) -> Exit {
    let Some((program, arguments)) = command.split_first() else { return Exit::Usage };
    let mut child = match Command::new(program).args(arguments).env("PGVIGIL_HOLD", hold).spawn() {
        Ok(child) => child,
        Err(error) => {
            tell(&format!("error: {} cannot be run: {error}", program.to_string_lossy()));
            let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_TO_BE_RUN };
            return Exit::Command(code);
        }
    };
    loop {
        let pid = child.id();
        tokio::select! {
            ended = child.wait() => return match ended {
                Ok(status) => Exit::Command(code(status)),
                Err(error) => {
                    tell(&format!("error: how the command has ended is not known: {error}"));
                    Exit::Failed
                }
            },
            signal = signals.next() => if let Some(pid) = pid { signal.pass_on(pid) },
        }
    }
}

/// Its exit code, or 128 and the number of the signal that has ended it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_command_is_told_as_shells_tell_it() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(15)), 143);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
    }
}
