//! I lead, and know first hand that my server is in trouble: it hangs, recovers, or its disk fails. Where the voters can prove that they
//! have everything, I tell them so and kill it, and they need not wait for anything; elsewhere patience costs less than data.

use std::time::Duration;

use crate::action::{Action, StopMode};
use crate::candidacy::best_standby;
use crate::decide::{Choice, wait};
use crate::leading::others_ready;
use crate::names::MemberName;
use crate::reason::{Reason, bytes, span};
use crate::recovery::forecast_for;
use crate::settings::Mode;
use crate::view::{Cluster, DiskFault, Job, Postgres, Primary, Server, SyncRecord, View};

/// A kill without successors, or without proof, is only worth it after a longer silence.
pub(crate) const UNSURE: u32 = 4;
/// How long after it has asked in vain a leader with a full disk asks again to be relieved.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// After so long a request to be relieved that is not there any more has failed: a full disk takes no checkpoint, either.
const ASKED_IN_VAIN: Duration = Duration::from_secs(2);
/// How long the preparation of a hand-over may take on a full disk. With room for it, it takes about 150 ms.
const PREPARED_WITHIN: Duration = Duration::from_millis(300);

/// Those that can take over at once without losing anything, and that clients can reach; nobody, where they have just left the lock to me.
pub(crate) fn sure_successors(view: &View, cluster: &Cluster, sync: &SyncRecord) -> Vec<MemberName> {
    if sync.mode == Mode::Async || sync.reclaimed {
        return Vec::new();
    }
    let listens = |name: &MemberName| cluster.members.get(name).is_some_and(|member| member.not_listening.is_none());
    others_ready(view, cluster, sync).into_iter().filter(listens).collect()
}

/// My server does not answer, or something of it does not go on.
pub(crate) fn hung(view: &View, cluster: &Cluster, sync: &SyncRecord, since: Duration) -> Choice {
    let sure = !sure_successors(view, cluster, sync).is_empty();
    let limit = view.hang_after() * if sure { 1 } else { UNSURE };
    let reason = Reason::Hung { since, stuck: view.signs.stuck };
    match (since >= limit, sure) {
        (false, _) => wait(reason),
        (true, true) => (Action::Abdicate, reason),
        (true, false) => (Action::Stop(StopMode::Kill), reason),
    }
}

/// My server starts, or recovers by itself after one of its processes has died.
pub(crate) fn starting(
    view: &View,
    cluster: &Cluster,
    sync: &SyncRecord,
    postgres: &Postgres,
    since: Duration,
) -> Choice {
    let sure = postgres.is_or_becomes_primary() && !sure_successors(view, cluster, sync).is_empty();
    if let Some(forecast) = forecast_for(view, &postgres.data).filter(|_| sure)
        && (forecast.handover_is_shorter(Some(since)) || forecast.is_overdue(since))
    {
        let reason = Reason::SlowRecovery { since, restart: forecast.restart, handover: forecast.handover };
        return (Action::Abdicate, reason);
    }
    // It may well recover, and still let nobody in: a session that finds no room for its relation cache is refused.
    if let Some(what) = full(view).filter(|_| sure) {
        return (Action::Abdicate, Reason::DiskFailed { what });
    }
    let too_long = since >= view.settings.timing.primary_start_timeout;
    if too_long && !others_ready(view, cluster, sync).is_empty() {
        return (Action::Stop(StopMode::Kill), Reason::Starting { since });
    }
    wait(Reason::Starting { since })
}

/// What is wrong with the disk here, if anything, as the end of a sentence.
pub(crate) fn disk_trouble(view: &View) -> Option<String> {
    let disk = &view.signs.disk;
    let limit = view.settings.timing.disk_frozen_after;
    // A disk that takes the WAL of clients is slow, not frozen.
    let moves = view.ages.wal_still.is_some_and(|still| still < limit);
    match (disk.fault, disk.frozen_for) {
        (Some(DiskFault::ReadOnly), _) => Some("is read-only".to_owned()),
        (Some(DiskFault::InputOutput), _) => Some("reports errors".to_owned()),
        (None, Some(since)) if since >= limit && !moves => Some(format!("has taken no write for {}", span(since))),
        (None, _) => None,
    }
}

/// The disk under my server takes no writes. Whoever waits for it to come back waits in vain; without proof that others have everything,
/// a frozen one is given as long as a lost leader.
pub(crate) fn failing_disk(view: &View, cluster: &Cluster, sync: &SyncRecord, server: &Server) -> Option<Choice> {
    let what = disk_trouble(view)?;
    let reason = Reason::DiskFailed { what: what.clone() };
    if !sure_successors(view, cluster, sync).is_empty() {
        return Some((Action::Abdicate, reason));
    }
    let stopped = matches!(server, Server::Stopped);
    let frozen = view.signs.disk.fault.is_none();
    let patient = frozen && view.signs.disk.frozen_for.unwrap_or_default() < view.settings.timing.ttl;
    let others = sync.mode == Mode::Async && !sync.reclaimed && !others_ready(view, cluster, sync).is_empty();
    match (stopped, others && !patient) {
        (true, true) => Some((Action::Release, reason)),
        (false, true) => Some((Action::Stop(StopMode::Kill), reason)),
        (true, false) => Some(wait(Reason::DiskUnfit { what })),
        (false, false) => None,
    }
}

fn full(view: &View) -> Option<String> {
    let disk = &view.signs.disk;
    disk.full.then(|| format!("is full ({} free)", bytes(disk.free_bytes.unwrap_or_default())))
}

/// Why a primary would not live on the disk here, if anything: it fails, or is full.
pub(crate) fn unfit_disk(view: &View) -> Option<String> {
    disk_trouble(view).or_else(|| full(view))
}

/// My server is down and its disk is full: it would fail again at once.
pub(crate) fn full_disk(view: &View, cluster: &Cluster, sync: &SyncRecord) -> Option<Choice> {
    let what = full(view)?;
    if others_ready(view, cluster, sync).is_empty() || sync.reclaimed {
        return Some(wait(Reason::DiskUnfit { what }));
    }
    Some((Action::Release, Reason::DiskFailed { what }))
}

/// The preparation of a hand-over has met a full disk, which takes no checkpoint: whoever waits for it waits in vain.
pub(crate) fn fills_in_preparation(view: &View, job: &Job, server: &Server) -> bool {
    let prepares = job.action == "hand_over" && matches!(server, Server::Primary(_));
    prepares && view.signs.disk.full && job.age >= PREPARED_WITHIN
}

fn has_room(cluster: &Cluster, name: &MemberName) -> bool {
    cluster.members.get(name).is_some_and(|member| !member.disk_low)
}

/// A disk that was full before the hand-over could be prepared takes no writes: where the voters can prove that they have everything, and
/// one of them has room, they lead.
pub(crate) fn full_in_vain(view: &View, cluster: &Cluster) -> Option<Choice> {
    let what = full(view)?;
    let failed = view.ages.failed_action.as_deref() == Some("hand_over");
    let unanswered = cluster.request.is_none() && view.ages.asked_switchover.is_some_and(|age| age >= ASKED_IN_VAIN);
    let sure = sure_successors(view, cluster, cluster.sync.as_ref()?);
    let better = sure.iter().any(|name| has_room(cluster, name));
    ((failed || unanswered) && better).then_some((Action::Abdicate, Reason::DiskFailed { what }))
}

/// All is well but for a disk that is about to fill: hand over before it does, to somebody who has room. Nobody with room is asked twice.
pub(crate) fn low_disk(view: &View, cluster: &Cluster, primary: &Primary) -> Option<Choice> {
    let disk = &view.signs.disk;
    if !disk.low {
        return None;
    }
    let free_bytes = disk.free_bytes.unwrap_or_default();
    let asked = view.ages.asked_switchover;
    let rests = asked.is_some_and(|age| age < ASK_AGAIN);
    let Some(to) = best_standby(cluster, &primary.standbys).filter(|name| has_room(cluster, name)).filter(|_| !rests)
    else {
        return Some(wait(Reason::DiskLow { free_bytes }));
    };
    let why = format!("the disk of {} is about to fill: {} free", view.me, bytes(free_bytes));
    Some((Action::AskSwitchover { to: to.clone(), why }, Reason::DiskFilling { to, free_bytes }))
}
