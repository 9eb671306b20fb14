//! The signals that are the command's business as much as ours. They are heard from before the hold is taken, so that none ends this program and leaves
//! it to its lease.

use nix::sys::signal::{Signal as Nix, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard(Nix);

/// Where they are heard.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    first: Signal,
    second: Signal,
}

impl Signals {
    /// From now on none of them ends this program.
    ///
    /// # Errors
    /// The system does not let it hear them.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            first: signal(SignalKind::user_defined1())?,
            second: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Heard {
        Heard(tokio::select! {
            _ = self.interrupt.recv() => Nix::SIGINT,
            _ = self.terminate.recv() => Nix::SIGTERM,
            _ = self.hangup.recv() => Nix::SIGHUP,
            _ = self.quit.recv() => Nix::SIGQUIT,
            _ = self.first.recv() => Nix::SIGUSR1,
            _ = self.second.recv() => Nix::SIGUSR2,
        })
    }
}

impl Heard {
    /// Its number, which no signal has above 31 here.
    pub fn number(self) -> u8 {
        u8::try_from(self.0 as i32).unwrap_or(u8::MAX - 128)
    }

    /// Passes it on. What the terminal has sent it has sent to the whole foreground, the command too, for which twice may mean something else than once.
    pub fn pass_on(self, pid: u32) {
        let from_terminal = matches!(self.0, Nix::SIGINT | Nix::SIGQUIT) && in_foreground();
        if let (false, Ok(pid)) = (from_terminal, i32::try_from(pid)) {
            // Whoever is gone already needs none.
            let _ = kill(Pid::from_raw(pid), self.0);
        }
    }
}

/// Whether this process is among those that the terminal sends its signals to.
fn in_foreground() -> bool {
    std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| is_foreground(&stat))
}

/// Behind the name in brackets: state, parent, group, session, terminal, and the group in its foreground.
fn is_foreground(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields.get(2).is_some_and(|group| fields.get(5) == Some(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_the_foreground_is_read_past_the_name() {
        assert!(is_foreground("17 (a) 1 (b)) S 1 17 17 34816 17 4194304 0"));
        assert!(!is_foreground("17 (pgvigil) S 1 17 17 34816 99 4194304 0"));
        assert!(!is_foreground("17 (pgvigil) S 1 17 17 0 -1 4194304 0"));
        assert!(!is_foreground(""));
    }
}
