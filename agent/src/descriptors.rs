//! File descriptors, of which a process has only so many. The agent takes as many as it may, and lets its clients have less than half of them, so
//! that whoever connects, however often, leaves enough for etcd, Postgres and the files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More would be of no use here, and what Postgres runs may go through all of them one by one.
const WANTED: u64 = 65_536;
/// What the agent's own work may need.
const OWN: u64 = 256;

/// Raises the limit as far as it may be raised. Where it cannot be, the agent does with what it has.
pub fn raise() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = hard.min(WANTED);
    if soft < wanted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::warn!(%error, soft, wanted, "the limit of open files cannot be raised");
    }
}

/// How many of `wanted` connections of clients may be open at a time.
pub fn for_clients(wanted: usize) -> usize {
    share(limit(), wanted)
}

/// How many of `wanted` connections may still be open that have been told to end.
pub fn for_leavers(wanted: usize) -> usize {
    wanted.min(usize::try_from(limit() / 4).unwrap_or(usize::MAX))
}

fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(WANTED, |(soft, _)| soft)
}

fn share(soft: u64, wanted: usize) -> usize {
    let fair = usize::try_from(soft.saturating_sub(OWN) / 2).unwrap_or(usize::MAX);
    // Without any the agent would not be worth asking.
    wanted.min(fair.max(64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_less_than_half_of_what_there_is() {
        assert_eq!(share(65_536, 1024), 1024);
        assert_eq!(share(1024, 1024), 384);
        assert_eq!(share(100, 1024), 64);
        assert_eq!(share(65_536, 64), 64);
    }
}
