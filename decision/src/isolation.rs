//! etcd is out of sight. A standby keeps what it has. A primary may go on for as long as its lease lasts by its own clock, and not
//! an instant longer, unless its peers promise to let it (see [`crate::promise`]): after that somebody else may lead.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Action, StartAs, StopMode};
use crate::decide::{Choice, is_unmarked, wait};
use crate::durability::proven;
use crate::firsthand;
use crate::following;
use crate::leading::recorded_quorum;
use crate::names::{MemberName, Term};
use crate::promise::{Reliance, binding};
use crate::reason::Reason;
use crate::settings::Mode;
use crate::view::{Data, Job, Lock, Postgres, Seen, Server, SyncRecord, View};

/// What to do while etcd does not answer.
pub(crate) fn decide(view: &View, postgres: &Postgres) -> Choice {
    let silent = |lease_left| match &view.cluster {
        Seen::Never { tried_for } => Reason::EtcdNeverSeen { tried_for: *tried_for },
        Seen::Before { age, .. } => Reason::EtcdSilent { age: *age, lease_left },
        Seen::Now(_) => Reason::EtcdSilent { age: Duration::ZERO, lease_left },
    };
    if view.settings.paused {
        return wait(silent(None));
    }
    // A start may hang with its disk, and go on when others lead.
    if view.job.as_ref().is_some_and(Job::makes_a_primary) && !view.lock.covers_a_primary() {
        return (Action::Cancel, Reason::LockLost {});
    }
    let deposed = view.reliance.as_ref().is_some_and(|reliance| reliance.deposed_by.is_some());
    let in_place = || {
        let here = kill_what_hangs(view, postgres).or_else(|| restart(view, postgres));
        here.or_else(|| give_way(view, postgres)).filter(|_| !deposed)
    };
    if let Some(choice) = in_place().or_else(|| keep_following(view, postgres)) {
        return choice;
    }
    match (view.lock, accepts_writes(&postgres.server)) {
        (Lock::Held { left, .. }, _) if !left.is_zero() && !deposed => wait(match &view.reliance {
            Some(reliance) if !reliance.left.is_zero() => on_promises(view, reliance, left),
            Some(_) | None => silent(Some(left)),
        }),
        (_, false) => wait(silent(None)),
        (Lock::NotHeld, true) if is_somebody_elses(view, postgres) => wait(silent(None)),
        (Lock::NotHeld, true) if just_started(view) => wait(silent(view.fence.covers)),
        (Lock::NotHeld | Lock::Held { .. }, true) => match &view.job {
            Some(job) if job.is_a_stop() => wait(silent(None)),
            Some(_) => (Action::Cancel, Reason::LockLost {}),
            None => (Action::Stop(StopMode::Kill), Reason::LockLost {}),
        },
    }
}

fn on_promises(view: &View, reliance: &Reliance, left: Duration) -> Reason {
    let silent_for = match &view.cluster {
        Seen::Never { tried_for } => *tried_for,
        Seen::Before { age, .. } => *age,
        Seen::Now(_) => Duration::ZERO,
    };
    Reason::LeadingOnPromises { silent_for, promised_by: reliance.promised_by.clone(), left }
}

/// A primary that hangs while promises carry it is killed, to be started again; others would have to wait until the promises end.
fn kill_what_hangs(view: &View, postgres: &Postgres) -> Option<Choice> {
    let Server::Hung { since } = postgres.server else { return None };
    let held = matches!(view.lock, Lock::Held { left, .. } if !left.is_zero());
    let too_long = since >= view.hang_after() * firsthand::UNSURE;
    (held && carried(view) && too_long && view.job.is_none())
        .then_some((Action::Stop(StopMode::Kill), Reason::Hung { since, stuck: view.signs.stuck }))
}

fn carried(view: &View) -> bool {
    view.reliance.as_ref().is_some_and(|reliance| !reliance.left.is_zero())
}

/// A primary that dies while promises carry it is started again here: nobody else can lead meanwhile.
fn restart(view: &View, postgres: &Postgres) -> Option<Choice> {
    let Lock::Held { term, left } = view.lock else { return None };
    let Seen::Before { value: cluster, .. } = &view.cluster else { return None };
    let (Server::Stopped, Data::Present(disk)) = (&postgres.server, &postgres.data) else { return None };
    let sync = cluster.sync.as_ref().filter(|_| cluster.last_led_by(&view.me) && cluster.term == term)?;
    let was_primary = !disk.standby_signal && disk.timeline == sync.timeline && !sync.released;
    let rests = view.job.is_some() || view.retry_in().is_some() || firsthand::unfit_disk(view).is_some();
    if !carried(view) || left.is_zero() || !was_primary || rests {
        return None;
    }
    let quorum = recorded_quorum(sync);
    let because = "etcd is silent and nobody else can lead".to_owned();
    Some((Action::Start(StartAs::Primary { term, quorum, record_anew: false }), Reason::RestartInPlace { because }))
}

/// What keeps this primary from reading etcd keeps its WAL from the voters as well: they promise, so their agents are well, and acknowledge
/// nothing. A network that swallows large packets does that. No commit ends here for as long as it lasts, and enough of them are there to lead
/// in its place; the few words that tell them so may get through where a picture of the cluster does not.
fn give_way(view: &View, postgres: &Postgres) -> Option<Choice> {
    let Lock::Held { term, left } = view.lock else { return None };
    let Seen::Before { value: cluster, .. } = &view.cluster else { return None };
    let of_this_reign = |sync: &&SyncRecord| sync.leader == view.me && sync.term == term && !sync.released;
    let sync = cluster.sync.as_ref().filter(of_this_reign).filter(|sync| sync.mode != Mode::Async)?;
    let there: BTreeSet<MemberName> = view.reliance.iter().flat_map(|reliance| reliance.promised_by.clone()).collect();
    let writes = matches!(postgres.server, Server::Primary(_)) && !left.is_zero();
    if !writes || view.job.is_some() || view.retry_in().is_some() || !proven(&sync.policies, &there) {
        return None;
    }
    let waits_for = sync.policies.last()?;
    let since = waits_for.unheard_for(&view.ages).filter(|since| *since >= view.settings.timing.degrade_after)?;
    Some((Action::Abdicate, Reason::Unheard { since, voters: waits_for.voters.iter().cloned().collect() }))
}

/// Whoever has promised a leader to let it go on is needed by it: its commits may wait for this very standby.
fn keep_following(view: &View, postgres: &Postgres) -> Option<Choice> {
    let Seen::Before { value: cluster, .. } = &view.cluster else { return None };
    let promise = binding(view, cluster).filter(|promise| promise.term == cluster.term && view.job.is_none())?;
    let choice = following::under_promise(view, cluster, postgres, promise);
    // A copy or a rewind needs its floor in etcd first.
    matches!(choice.0, Action::Follow(_) | Action::Start(StartAs::Standby(_))).then_some(choice)
}

/// A primary that was never led by anybody here: no marker in it, no term in etcd as far as that was seen, and no fence from an earlier life.
fn is_somebody_elses(view: &View, postgres: &Postgres) -> bool {
    let no_term = view.cluster.last().is_none_or(|cluster| cluster.term == Term(0));
    no_term && is_unmarked(postgres) && view.fence.covers.is_none()
}

/// An agent that has only just started asks etcd first: the Postgres that it found may be covered by a lease that it will adopt. An armed
/// fence tells how long that may take, and kills when it is over; without one the agent's earlier life is over for nobody knows how long.
fn just_started(view: &View) -> bool {
    let Seen::Never { tried_for } = view.cluster else { return false };
    let soon = tried_for < view.settings.timing.request_timeout * 2;
    view.fence.covers.map_or(soon, |left| !left.is_zero())
}

/// A server that is not known to be in recovery may accept writes.
pub(crate) fn accepts_writes(server: &Server) -> bool {
    match server {
        Server::Primary(_) => true,
        // A hung or starting server may have been a standby all along; its own rules deal with it once etcd is back. The fence of
        // the agent that held the lock kills it at the deadline in any case.
        Server::Standby(_) | Server::Stopped | Server::Stopping | Server::Starting { .. } | Server::Hung { .. } => {
            false
        }
    }
}
