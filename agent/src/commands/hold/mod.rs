//! `pgvigil hold` and `pgvigil release`: planned actions wait while a command runs. The hold hangs on a lease of etcd that this program keeps alive, so
//! it goes when the program goes, however that happens; the command itself is never touched.

mod child;
mod signals;
mod watch;

use std::time::Duration;

use consensus::records::{Hold, HoldRecord};
use consensus::{Adopted, LeaseKeeper};
use jiff::{SignedDuration, Timestamp};

use self::signals::Signals;
use super::operator::{agrees, who};
use super::screen::{answer, can_ask, tell};
use super::world::Reach;
use super::{told, words};
use crate::cli::{Exit, HoldArgs, NOT_THE_COMMAND, ReleaseArgs};
use crate::operate::Unable;
use crate::operate::hold as holds;
use crate::operate::proviso::Proviso;
use crate::run::etcd_options;

/// How long a hold with a command lasts unless somebody says otherwise, and the longest of all.
const USUAL: Duration = Duration::from_secs(3600);
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// So much longer than the lock of a leader does the lease live: where both go with one host, the failover that follows still finds the hold.
const OUTLIVES_THE_LOCK: u64 = 5;

/// Takes a hold, and runs the command under it.
pub async fn hold(arguments: &HoldArgs) -> Exit {
    let steps = async {
        let length = length(arguments)?;
        let reach = Reach::new(&arguments.config)?;
        let record = record(arguments, length)?;
        if arguments.command.is_empty() {
            alone(&reach, &record, length, &arguments.expect.proviso()).await
        } else {
            around(&reach, arguments, record, length).await
        }
    };
    let exit = steps.await.unwrap_or_else(|exit| exit);
    if arguments.command.is_empty() { exit } else { apart_from_the_command(exit) }
}

/// No code of ours is to be taken for one of the command.
fn apart_from_the_command(exit: Exit) -> Exit {
    match exit {
        Exit::Command(code) => Exit::Command(code),
        _ => Exit::Command(NOT_THE_COMMAND),
    }
}

/// Gives one up.
pub async fn release(arguments: &ReleaseArgs) -> Exit {
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    let which = match &arguments.id {
        Some(id) => Ok(Some(id.clone())),
        None => unless_it_is_anothers(&reach).await,
    };
    let which = match which {
        Ok(which) => which,
        Err(exit) => return exit,
    };
    match holds::release(&reach, which.as_deref(), &arguments.expect.proviso()).await {
        Ok(Some(what)) => {
            answer(&format!("released: {what}"));
            Exit::Done
        }
        Ok(None) => {
            answer("not held: nothing to release");
            Exit::Done
        }
        Err(unable) => told(unable),
    }
}

/// Where no hold is named: the hold of somebody else is not given up by mistake. One of whoever asks, or one that nobody can read, is. Returns which one
/// was looked at: whoever is asked may take minutes, and another hold that is there by then was not meant.
async fn unless_it_is_anothers(reach: &Reach) -> Result<Option<String>, Exit> {
    let seen =
        reach.store.read().await.map_err(|error| told(Unable::by_etcd(&error, "the hold cannot be released")))?;
    let (which, others) = looked_at(&seen.hold, &who(), Timestamp::now());
    let Some(hold) = others else { return Ok(which) };
    let what = format!("the hold {} by {}", hold.id, hold.by_and_why());
    if !can_ask() {
        tell(&format!("refused: {what} is another's: `pgvigil release {}` releases it", hold.id));
        return Err(Exit::Refused);
    }
    if agrees(&format!("Release {what}?")) {
        return Ok(which);
    }
    tell("nothing was changed");
    Err(Exit::Aborted)
}

/// The name of the hold that is there, and the hold itself where it is in force and somebody else's.
fn looked_at<'a>(hold: &'a Hold, me: &str, now: Timestamp) -> (Option<String>, Option<&'a HoldRecord>) {
    let which = match hold {
        Hold::Taken(record) => Some(record.id.clone()),
        Hold::Nothing | Hold::Unreadable(_) => None,
    };
    (which, hold.in_force(now).filter(|hold| hold.by != me))
}

fn length(arguments: &HoldArgs) -> Result<Duration, Exit> {
    let length = arguments.duration.unwrap_or(USUAL);
    if (Duration::from_secs(1)..=LONGEST).contains(&length) {
        return Ok(length);
    }
    tell("error: --for must be between 1s and 7d, such as 30m");
    Err(Exit::Usage)
}

fn record(arguments: &HoldArgs, length: Duration) -> Result<HoldRecord, Exit> {
    let since = Timestamp::now();
    let until = SignedDuration::try_from(length).ok().and_then(|length| since.checked_add(length).ok());
    let until = until.ok_or(Exit::Usage)?;
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let id = format!("h-{:x}-{:x}", since.as_millisecond(), std::process::id());
    Ok(HoldRecord { id, by: who(), reason: arguments.reason.clone(), since, until, host })
}

fn tell_taken(record: &HoldRecord, length: Duration) {
    tell(&format!(
        "held until {} ({}) by {}; planned actions wait, failovers do not",
        words::moment(&record.until.to_string()),
        words::length(length),
        record.by_and_why()
    ));
}

/// Without a command: it ends by itself, or is released.
async fn alone(reach: &Reach, record: &HoldRecord, length: Duration, proviso: &Proviso) -> Result<Exit, Exit> {
    holds::take(reach, record, None, proviso).await.map_err(told)?;
    tell_taken(record, length);
    tell(&format!("`pgvigil release {}` ends it early", record.id));
    answer(&record.id);
    Ok(Exit::Done)
}

/// Around a command.
async fn around(reach: &Reach, arguments: &HoldArgs, record: HoldRecord, length: Duration) -> Result<Exit, Exit> {
    let failed = |error: &dyn std::fmt::Display| {
        tell(&format!("error: {error}; the command was not run"));
        Exit::Failed
    };
    let mut signals = Signals::listen().map_err(|error| failed(&error))?;
    let options = etcd_options(&reach.config).map_err(|error| failed(&error))?;
    let (patience, timing) = (options.request_timeout * 4, reach.config.timing);
    let ttl = Duration::from_secs(timing.ttl.as_secs() + OUTLIVES_THE_LOCK);
    let keeper =
        LeaseKeeper::start(options, ttl, timing.heartbeat, Adopted::default()).map_err(|error| failed(&error))?;
    let proviso = arguments.expect.proviso();
    let taken = tokio::select! {
        taken = under_lease(reach, &keeper, patience, (&record, &proviso)) => taken,
        signal = signals.next() => Err(Exit::Command(128 + signal.number())),
    };
    let ended = match taken {
        Ok(lease) => {
            tell_taken(&record, length);
            let watch = watch::Watch::new(reach, &record, keeper.member(), lease);
            let runs = child::run(&arguments.command, &record.id, &mut signals);
            let ended = beside(runs, watch.over()).await;
            Ok(if ended == Exit::Command(0) && watch.is_lost().await { lost() } else { ended })
        }
        Err(exit) => Err(exit),
    };
    if let Err(error) = keeper.drop_member_lease().await {
        tell(&format!("warning: the hold is not released, and ends by itself within {}: {error}", words::length(ttl)));
    }
    ended
}

/// A command that ended well, and not under the hold that it was to run under.
fn lost() -> Exit {
    tell(
        "error: the hold was lost while the command ran, and was not there when it ended: planned actions may have come between; the command itself \
         ended with 0",
    );
    Exit::Command(NOT_THE_COMMAND)
}

/// What comes of the first, with the second beside it as long as that goes on.
async fn beside<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> T {
    let mut first = std::pin::pin!(first);
    tokio::select! {
        done = &mut first => return done,
        () = second => {}
    }
    first.await
}

/// Takes it under the lease that is being kept; which one that is.
async fn under_lease(
    reach: &Reach,
    keeper: &LeaseKeeper,
    patience: Duration,
    (record, proviso): (&HoldRecord, &Proviso),
) -> Result<i64, Exit> {
    let mut lease = keeper.member();
    let granted = tokio::time::timeout(patience, lease.wait_for(|lease| lease.alive().is_some())).await;
    let Some(id) = granted.ok().and_then(Result::ok).and_then(|lease| lease.id()) else {
        tell("error: etcd does not answer, and without it there is no hold; the command was not run");
        return Err(Exit::Unreachable);
    };
    holds::take(reach, record, Some(id), proviso).await.map_err(|unable| {
        let exit = told(unable);
        tell("the command was not run");
        exit
    })?;
    Ok(id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_that_was_looked_at_is_the_one_that_is_released_and_somebody_elses_only_if_they_agree() {
        let at = |time: &str| format!("2026-11-22T{time}:00Z").parse::<Timestamp>().unwrap();
        let taken = |by: &str, until: &str| {
            Hold::Taken(HoldRecord {
                id: "h-1".to_owned(),
                by: by.to_owned(),
                reason: String::new(),
                since: at("09:00"),
                until: at(until),
                host: String::new(),
            })
        };
        for (hold, which, asks) in [
            (taken("otto", "11:00"), Some("h-1"), true),
            (taken("anna", "11:00"), Some("h-1"), false),
            (taken("otto", "09:30"), Some("h-1"), false),
            (Hold::Nothing, None, false),
            (Hold::Unreadable("?".to_owned()), None, false),
        ] {
            let (id, others) = looked_at(&hold, "anna", at("10:00"));
            assert_eq!((id.as_deref(), others.is_some()), (which, asks), "{hold:?}");
        }
    }
}
