//! What may be done to a cluster from outside, whoever asks: the command line and the control API work by the same functions, with the same checks
//! before and the same guarded writes. Nothing here prints; why something was not done comes back as [`Unable`].

pub mod actions;
pub mod failover;
pub mod follow;
pub mod gate;
pub mod hold;
pub mod orders;
pub mod pause;
pub mod preflight;
pub mod proviso;
pub mod rolling;
pub mod schedule;
pub mod settings;
pub mod status;
pub mod switchover;
#[cfg(test)]
pub mod testing;
pub mod words;
pub mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use consensus::Error;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unable {
    /// In what way.
    pub kind: Kind,
    /// One mistake a line.
    pub why: Vec<String>,
}

/// In what way something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was asked for in words that will not do.
    Misused,
    /// A check forbids it.
    Refused,
    /// Planned actions wait, and it is one.
    Held,
    /// Another leads than the one who must.
    Unexpected,
    /// Somebody else was faster.
    Overtaken,
    /// It did not work; nothing was changed.
    Failed,
    /// What is needed for it does not answer; nothing was changed.
    Unreachable,
    /// No answer came to a change: it may have been made.
    Unknown,
    /// etcd does not know who asks, or does not let them; nothing was changed.
    Unauthorised,
}

/// Whether this process has begun to ask for a change.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Says that a change is about to be asked for: from here on it may have been made.
pub fn asks() {
    ASKED.store(true, Ordering::Relaxed);
}

/// Whether a change was asked for, so that it may have been made.
pub fn has_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

impl Unable {
    /// For one reason.
    pub fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, why: vec![why.into()] }
    }

    /// As etcd says.
    pub fn by_etcd(error: &Error, tried: &str) -> Self {
        match error {
            Error::Unknown(_) => Self::new(Kind::Unknown, format!("it is not known whether that was done: {error}")),
            Error::Unreachable(_) => Self::new(Kind::Unreachable, format!("{tried}: {error}")),
            Error::Unauthorised(_) => Self::new(Kind::Unauthorised, format!("{tried}: {error}")),
            _ => Self::new(Kind::Failed, format!("{tried}: {error}")),
        }
    }

    /// All of it as one text.
    pub fn text(&self) -> String {
        self.why.join("; ")
    }
}
