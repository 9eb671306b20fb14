//! `postmaster.pid`: the one file in which a running server says who it is and how far it has come. Pure parsing; whether the process
//! that it names is really ours is asked elsewhere, since the file outlives a crash and process ids are used again.

/// How far the server says it has come (the last line of the file; `src/include/utils/pidfile.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Does not accept connections yet (or has not said anything yet).
    Starting,
    /// Stopping.
    Stopping,
    /// Accepts connections. A hot standby says so too: this never tells a primary from a standby.
    Ready,
    /// Runs as a standby that does not accept connections.
    StandbyWithoutConnections,
}

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// The process id of the postmaster.
    pub pid: i32,
    /// When it started, in seconds since 1970 by the wall clock of that moment.
    pub started_at: i64,
    /// The port of its sockets, once it has said so.
    pub port: Option<u16>,
    /// How far it has come.
    pub status: Status,
}

/// Reads the file; `None` while it is still being written, or when it belongs to a standalone backend (whose id is negative).
pub fn parse(text: &str) -> Option<PidFile> {
    let mut lines = text.lines();
    let pid: i32 = lines.next()?.trim().parse().ok()?;
    let started_at = lines.nth(1)?.trim().parse().ok()?;
    let port = lines.next().and_then(|line| line.trim().parse().ok());
    let status = match lines.nth(3).map(str::trim) {
        Some("ready") => Status::Ready,
        Some("standby") => Status::StandbyWithoutConnections,
        Some("stopping") => Status::Stopping,
        _ => Status::Starting,
    };
    (pid > 0).then_some(PidFile { pid, started_at, port, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_server_is_read() {
        let text = "12126\n/tmp/d\n1795342534\n5999\n/tmp\n\n 10018978         4\nready   \n";
        let (pid, started_at, port) = (12126, 1_795_342_534, Some(5999));
        assert_eq!(parse(text), Some(PidFile { pid, started_at, port, status: Status::Ready }));
    }

    #[test]
    fn a_file_without_its_last_line_is_a_server_that_starts() {
        assert_eq!(parse("7\n/tmp/d\n100\n5999\n").map(|file| file.status), Some(Status::Starting));
    }

    #[test]
    fn a_standalone_backend_and_half_a_file_are_no_postmaster() {
        assert_eq!(parse("-12\n/tmp/d\n100\n"), None);
        assert_eq!(parse("12"), None);
        assert_eq!(parse(""), None);
    }
}
