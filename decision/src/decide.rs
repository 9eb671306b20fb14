//! Read this first. Which situation are we in? Each has a file of its own; this one only tells them apart, in the order in which
//! safety asks for it: another cluster's data, work under way, etcd out of sight, and then who leads: me, another, or nobody.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, StartAs, StopMode};
use crate::candidacy;
use crate::isolation::accepts_writes;
use crate::names::Term;
use crate::reason::{Reason, Standing};
use crate::view::{Cluster, Data, Initialize, Lock, Postgres, Server, View};
use crate::{firsthand, following, isolation, leading, order, pause, site, suspicion, unreadable, vacancy};

/// How long a server may take to stop before it is killed.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// One action, the reason for it, and what bars each member from leading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Every known member, with everything that bars it from leading.
    pub standings: Vec<Standing>,
}

/// An action with its reason.
pub(crate) type Choice = (Action, Reason);

/// Nothing to do, for this reason.
pub(crate) fn wait(reason: Reason) -> Choice {
    (Action::Wait, reason)
}

/// What this agent should do now, and why. Total: every view has an answer, and the answer to a view that says little is to wait.
pub fn decide(view: &View) -> Decision {
    let (action, reason) = choose(view);
    Decision { action, reason, standings: candidacy::standings(view) }
}

/// What was seen a while ago is reason enough to stop, and to nothing else.
fn choose(view: &View) -> Choice {
    let Some(postgres) = view.postgres.last() else {
        return wait(Reason::PostgresUnseen {});
    };
    let choice = fenced(view, situation(view, postgres));
    match choice.0 {
        Action::Wait | Action::Cancel | Action::Stop(_) => choice,
        _ if view.postgres.now().is_some() => choice,
        _ => wait(Reason::PostgresUnseen {}),
    }
}

/// Nothing that makes a primary happens without a fence.
fn fenced(view: &View, choice: Choice) -> Choice {
    let makes_a_primary = matches!(
        choice.0,
        Action::Bootstrap | Action::Acquire(_) | Action::Promote { .. } | Action::Start(StartAs::Primary { .. })
    );
    match &view.fence.trouble {
        Some(why) if makes_a_primary => wait(Reason::Unfenced { why: why.clone() }),
        _ => choice,
    }
}

/// A leader without a fence that is not primary, or not any more, lets somebody lead who has one.
fn lets_go_for_want_of_a_fence(view: &View, postgres: &Postgres, term: Term) -> Option<Choice> {
    let why = view.fence.trouble.clone()?;
    let holds = matches!(view.lock, Lock::Held { term: mine, .. } if mine == term);
    let cannot_write = matches!(postgres.server, Server::Stopped | Server::Standby(_));
    (holds && cannot_write).then_some((Action::Release, Reason::Unfenced { why }))
}

fn situation(view: &View, postgres: &Postgres) -> Choice {
    let Some(cluster) = view.cluster.now() else {
        return isolation::decide(view, postgres);
    };
    if let Some(choice) = foreign(view, cluster, postgres).or_else(|| busy(view, cluster, postgres)) {
        return choice;
    }
    if let Some(choice) = order::obey(view, cluster, postgres).filter(|_| not_ours(cluster, postgres).is_none()) {
        return choice;
    }
    if view.settings.paused {
        return pause::only_a_switchover(view, cluster, postgres, || usual(view, cluster, postgres));
    }
    usual(view, cluster, postgres)
}

/// What is done with my own cluster when nothing stands in the way.
fn usual(view: &View, cluster: &Cluster, postgres: &Postgres) -> Choice {
    if let Some(choice) = unreadable::decide(view, cluster, postgres) {
        return choice;
    }
    if let Some(reason) = not_ours(cluster, postgres) {
        return wait(reason);
    }
    let unfenced = || lets_go_for_want_of_a_fence(view, postgres, cluster.term);
    let went_back = || vacancy::etcd_went_back(view, cluster, postgres);
    // The leader of a site that follows another is no primary, and needs no fence to be none.
    let may_write = cluster.leader.as_ref() == Some(&view.me) && !cluster.follows();
    let unfenced = if may_write { unfenced() } else { None };
    if let Some(choice) = unfenced.or_else(went_back).or_else(|| old_news(view, cluster, postgres).map(wait)) {
        return choice;
    }
    match (&cluster.leader, view.lock) {
        (Some(leader), Lock::Held { term, .. }) if *leader == view.me && view.lock.leads(cluster.term) => {
            leading::decide(view, cluster, postgres, term)
        }
        (Some(leader), _) if *leader == view.me => vacancy::lock_of_another_life(postgres),
        (Some(leader), _) => following::decide(view, cluster, postgres, leader),
        (None, _) => vacancy::decide(view, cluster, postgres),
    }
}

/// While I still lead a term above every term in etcd, what etcd says of an earlier one is old news from a backup: whoever held the lock
/// then holds it no longer than its lease, and I no longer than mine.
fn old_news(view: &View, cluster: &Cluster, postgres: &Postgres) -> Option<Reason> {
    let (Server::Primary(primary), Lock::Held { term, left }) = (&postgres.server, view.lock) else { return None };
    let went_back = term > cluster.term && primary.marked_term > cluster.term && cluster.leader.is_some();
    (went_back && !left.is_zero()).then_some(Reason::EtcdWentBack { mine: primary.marked_term, etcd: cluster.term })
}

/// A database of another cluster is left alone, whatever else is so: it is somebody's data.
fn foreign(view: &View, cluster: &Cluster, postgres: &Postgres) -> Option<Choice> {
    let (Initialize::Done(theirs), Data::Present(disk)) = (cluster.initialize, &postgres.data) else {
        return None;
    };
    let reason = Reason::ForeignSystem { mine: disk.system_id, cluster: theirs };
    // A lock is no use in the hands of somebody who cannot lead; what does not run need not be touched to give it up.
    let useless_lock = leads(view, cluster) && postgres.server == Server::Stopped && !view.settings.paused;
    let idle = view.job.is_none();
    (disk.system_id != theirs).then(|| if useless_lock && idle { (Action::Release, reason) } else { wait(reason) })
}

/// A cluster to which no term was ever given out was not made here: another system keeps it, Patroni for instance, and it may be running.
fn not_ours(cluster: &Cluster, postgres: &Postgres) -> Option<Reason> {
    let made_elsewhere = cluster.term == Term(0) && matches!(cluster.initialize, Initialize::Done(_));
    (made_elsewhere && is_unmarked(postgres)).then_some(Reason::NotOurs {})
}

/// Whether no leader of any term has left its marker in what runs here, as far as can be seen.
pub(crate) fn is_unmarked(postgres: &Postgres) -> bool {
    match &postgres.server {
        Server::Primary(primary) => primary.marked_term == Term(0),
        Server::Standby(standby) => standby.wal_term == Term(0),
        Server::Stopped | Server::Stopping | Server::Starting { .. } | Server::Hung { .. } => true,
    }
}

/// One long action at a time. Broken off are: a copy from a member that is gone or not the leader any more; a pledge that is not
/// wanted any more, for its node may be the one whose acknowledgement the new leader waits for; what would make a primary without a lock;
/// and, unless it is the stop itself, whatever keeps a primary alive that must not be one.
fn busy(view: &View, cluster: &Cluster, postgres: &Postgres) -> Option<Choice> {
    let job = view.job.as_ref()?;
    let reason = Reason::Busy { action: job.action.clone(), age: job.age };
    let source_is_gone = job.from.as_ref().filter(|from| !site::is_another_site(from)).is_some_and(|from| {
        !cluster.members.contains_key(from) || cluster.leader.as_ref().is_some_and(|leader| leader != from)
    });
    let suspect = suspicion::is_gone(view, cluster);
    let hopeless = || cannot_end(view, postgres) || firsthand::fills_in_preparation(view, job, &postgres.server);
    let in_vain = leads(view, cluster) && !job.is_a_stop() && hopeless();
    let unwanted_pledge = job.action == "pledge" && cluster.leader.is_some() && !suspect;
    let deposed = accepts_writes(&postgres.server) && !may_be_primary(view, cluster) && !job.is_a_stop();
    let unfounded = job.makes_a_primary() && !view.lock.covers_a_primary();
    let at_once = (deposed || in_vain || unfounded) && !view.settings.paused;
    let broken_off = source_is_gone || unwanted_pledge || at_once;
    Some((if broken_off { Action::Cancel } else { Action::Wait }, reason))
}

/// Whatever is under way on a server that hangs, or on a disk that does, only keeps the end from being seen.
fn cannot_end(view: &View, postgres: &Postgres) -> bool {
    let hangs = matches!(postgres.server, Server::Hung { since } if since >= view.hang_after());
    hangs || firsthand::disk_trouble(view).is_some()
}

/// A stop is waited for, but not for ever: nothing is lost by cutting it short.
pub(crate) fn stopping(view: &View) -> Choice {
    match view.ages.stopping {
        Some(since) if since >= STOPS_WITHIN => (Action::Stop(StopMode::Kill), Reason::StopOverdue { since }),
        Some(_) | None => wait(Reason::Stopping {}),
    }
}

fn leads(view: &View, cluster: &Cluster) -> bool {
    cluster.leader.as_ref() == Some(&view.me) && view.lock.leads(cluster.term)
}

fn may_be_primary(view: &View, cluster: &Cluster) -> bool {
    match &cluster.leader {
        Some(_) => leads(view, cluster),
        None => cluster.last_led_by(&view.me) || unreadable::goes_on(view, cluster),
    }
}
