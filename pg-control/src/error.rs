//! What can go wrong with the local Postgres, told apart by what the caller can do about it. Messages are for a person and name the
//! mend where there is one. A password never gets here: it travels in files and in SCRAM verifiers only.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio_postgres::error::SqlState;

/// Everything that can go wrong here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server process, or it went away. Look again.
    #[error("postgres is not running: {0}")]
    Down(String),
    /// The server is there and says that it starts up, recovers or shuts down. Wait.
    #[error("postgres does not take connections at the moment: {0}")]
    NotAccepting(String),
    /// The server is alive and has no room for us: connection slots, a lock, a conflict with replay. Never a reason to fail over.
    #[error("postgres is alive but busy: {0}")]
    Busy(String),
    /// No answer within the time given. The server may hang; what was asked for may or may not have happened.
    #[error("no answer within {after:?} while {doing}")]
    Timeout {
        /// What was under way.
        doing: String,
        /// The time that was given.
        after: Duration,
    },
    /// The server refuses us: a role, a password or an entry in `pg_hba.conf` is missing. A person must mend it.
    #[error("postgres refuses the agent: {0}")]
    Refused(String),
    /// A commit returned, but not because the standbys had acknowledged it. Durability is not proven.
    #[error("the commit came back without the acknowledgement of its standbys: {0}")]
    NotAcknowledged(String),
    /// The other server cannot be reached, or is not yet what is needed (a leader before its first checkpoint). Try again later.
    #[error("the source server is not ready: {0}")]
    SourceNotReady(String),
    /// The node file asks for something that cannot be. A person must mend it.
    #[error("bad setting: {0}")]
    Setting(String),
    /// This host lacks something: a program, a permission, a free port, space, a locale. A person must mend it.
    #[error("{problem}; {mend}")]
    Host {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// The data directory cannot be brought back by a rewind: only a clone helps.
    #[error("the data directory must be cloned again: {0}")]
    NeedsClone(String),
    /// Not possible in the present state of the server or of the data directory. Look again, then decide.
    #[error("not possible now: {0}")]
    WrongState(String),
    /// Postgres was started and ended again.
    #[error("postgres did not start: {0}")]
    StartFailed(String),
    /// The caller cancelled it.
    #[error("cancelled while {0}")]
    Cancelled(&'static str),
    /// A Postgres program failed in a way that nothing above describes.
    #[error("{program} failed: {message}")]
    Tool {
        /// Which one.
        program: String,
        /// The end of what it said.
        message: String,
    },
    /// A statement failed in a way that nothing above describes.
    #[error("statement failed: {0}")]
    Sql(String),
    /// A file could not be read or written.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was under way, with the path.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn timeout(doing: impl Into<String>, after: Duration) -> Self {
        Error::Timeout { doing: doing.into(), after }
    }

    pub(crate) fn host(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Error::Host { problem: problem.into(), mend: mend.into() }
    }

    /// Turns an IO error about a path into one with a mend, where the cause is known.
    pub(crate) fn io(verb: &str, path: &Path, source: io::Error) -> Self {
        let what = format!("cannot {verb} {}", path.display());
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                Error::host(format!("{what}: permission denied"), "make it accessible to the user that runs the agent")
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::host(format!("{what}: no space left"), "free space on that file system")
            }
            io::ErrorKind::ReadOnlyFilesystem => Error::host(
                format!("{what}: the file system is read-only"),
                "remount it writable, and look for disk errors",
            ),
            _ => Error::Io { doing: format!("{verb} {}", path.display()), source },
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let text = with_causes(&error);
            let kind = io_kind(&error);
            // A unix socket whose backlog is full answers EAGAIN at once: somebody listens there.
            return if kind == Some(io::ErrorKind::WouldBlock) { Error::Busy(text) } else { Error::Down(text) };
        };
        let message = db.message().to_owned();
        let code = db.code();
        if *code == SqlState::CANNOT_CONNECT_NOW {
            return Error::NotAccepting(message);
        }
        let busy = [
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ];
        if busy.contains(code) {
            return Error::Busy(message);
        }
        if [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code) {
            return Error::Down(message);
        }
        if code.code().starts_with("28")
            || [SqlState::UNDEFINED_DATABASE, SqlState::INSUFFICIENT_PRIVILEGE].contains(code)
        {
            return Error::Refused(message);
        }
        if *code == SqlState::DISK_FULL {
            return Error::host(message, "free space on the file system of the data directory");
        }
        Error::Sql(format!("{message} ({})", code.code()))
    }
}

/// `tokio_postgres::Error` prints no cause of its own.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(inner) = next {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = inner.source();
    }
    None
}
