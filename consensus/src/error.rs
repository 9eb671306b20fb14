//! What can go wrong between an agent and etcd, sorted by what the caller can do about it.

/// Why a call to etcd did not give an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No endpoint answered within the deadline, and nothing was changed: try again later.
    #[error("no etcd endpoint answers: {0}")]
    Unreachable(String),
    /// A write was sent, its answer never came, and reading back did not settle it; it may even be applied later.
    /// Look at the cluster again before doing anything that depends on it.
    #[error("it is unknown whether etcd has applied the write: {0}")]
    Unknown(String),
    /// A lease named in the request does not exist any more, and nothing was changed: get a new one.
    #[error("the etcd lease is gone: {0}")]
    LeaseGone(String),
    /// etcd does not know who asks, or does not let them, and nothing was changed: a person is needed.
    #[error("etcd turns this away: {0}")]
    Unauthorised(String),
    /// etcd answered that it will not (space quota, bad request), and nothing was changed: a person is needed.
    #[error("etcd refuses the request: {0}")]
    Rejected(String),
    /// A stored value that the call depends on cannot be understood: a person is needed.
    #[error("the value of {key} cannot be understood: {why}")]
    Corrupt {
        /// The full etcd key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The options cannot work on this host (no endpoint, unreadable TLS file, no thread): mend the configuration.
    #[error("etcd cannot be used as configured: {0}")]
    Misconfigured(String),
}
