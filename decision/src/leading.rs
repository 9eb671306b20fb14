//! I hold the leader lock. Keep Postgres primary and its durability record true; serve an operator's switchover; and where my
//! Postgres cannot be primary, choose between starting it again and letting a standby take over.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Action, StartAs};
use crate::candidacy::best_standby;
use crate::decide::{Choice, stopping, wait};
use crate::durability::{Quorum, Step, mode_in_force, next_step, proven, wanted_quorum};
use crate::firsthand;
use crate::names::{MemberName, Term};
use crate::reason::{Reason, span};
use crate::recovery::forecast;
use crate::settings::Mode;
use crate::site;
use crate::vacancy;
use crate::view::{
    Cluster, ControlState, Data, MemberRole, OnDisk, Postgres, Primary, Request, RequestKind, Server, Standby,
    SyncRecord, View,
};

/// How long a switchover waits for a candidate that is not level yet, before it is refused.
const CANDIDATE_MAY_COME: Duration = Duration::from_secs(2);

/// What to do while the lock is mine.
pub(crate) fn decide(view: &View, cluster: &Cluster, postgres: &Postgres, term: Term) -> Choice {
    if let Some(choice) = vacancy::term_was_raised(view, cluster, postgres) {
        return choice;
    }
    let Some(sync) = cluster.sync.as_ref().filter(|sync| sync.leader == view.me && sync.term == term) else {
        // The record is written in the very transaction that gives the lock, so somebody has tampered with it.
        return wait(Reason::RecordMissing { term });
    };
    if sync.follows {
        return site::leads(view, cluster, postgres, term);
    }
    if let Some(choice) = firsthand::failing_disk(view, cluster, sync, &postgres.server) {
        return choice;
    }
    if let Some(heir) = &sync.heir {
        // No hand-over is under way, or this would not be asked: it was broken off, here or in an earlier life.
        let reason = changing(format!("{heir} was not handed the lock, so the others are to follow me again"));
        return (Action::RecordSync { mode: sync.mode, policies: sync.policies.clone() }, reason);
    }
    match &postgres.server {
        Server::Primary(primary) => primary_leads(view, cluster, sync, primary, term),
        Server::Standby(standby) => standby_leads(view, cluster, sync, standby, term),
        Server::Stopped => stopped_leads(view, cluster, sync, &postgres.data, term),
        Server::Stopping => stopping(view),
        Server::Starting { since } => firsthand::starting(view, cluster, sync, postgres, *since),
        Server::Hung { since } => firsthand::hung(view, cluster, sync, *since),
    }
}

/// Standbys that could take over right now: enough voters to prove it, or in `async` mode anybody.
pub(crate) fn others_ready(view: &View, cluster: &Cluster, sync: &SyncRecord) -> Vec<MemberName> {
    let standing_by =
        |name: &MemberName| cluster.members.get(name).is_some_and(|member| member.role == MemberRole::Standby);
    let counts = |name: &MemberName| *name != view.me && standing_by(name) && !cluster.floors.contains_key(name);
    let alive: BTreeSet<MemberName> = cluster.eligible().into_iter().filter(counts).collect();
    if sync.mode == Mode::Async || proven(&sync.policies, &alive) { alive.into_iter().collect() } else { Vec::new() }
}

fn stopped_leads(view: &View, cluster: &Cluster, sync: &SyncRecord, data: &Data, term: Term) -> Choice {
    let disk = match data {
        Data::Present(disk) => disk,
        Data::Empty => return (Action::Release, Reason::CannotStart { why: "its data directory is empty".to_owned() }),
        Data::HalfMade { by } => return (Action::Release, Reason::HalfMade { by: by.clone() }),
        Data::Unreadable { why } => return (Action::Release, Reason::CannotStart { why: why.clone() }),
    };
    let ready = others_ready(view, cluster, sync);
    if let Some(choice) = firsthand::full_disk(view, cluster, sync) {
        return choice;
    }
    if failed_in_this_reign(view) && !ready.is_empty() && (sync.mode != Mode::Async || crashed(disk)) {
        return (Action::Release, Reason::CannotStart { why: "the last attempt failed".to_owned() });
    }
    // Never started as primary on the timeline before its promotion: that one may have gone on elsewhere. A promotion that was cut off
    // may have left files of its new timeline, but the control file says that recovery had not ended.
    if disk.standby_signal || disk.timeline < sync.timeline || still_in_recovery(disk) {
        return match view.retry_in() {
            Some(after) => wait(Reason::Retrying { after }),
            None => (Action::Start(StartAs::Standby(None)), Reason::Promote { term }),
        };
    }
    let forecast = forecast(view, disk);
    // Letting go of a crashed primary is only safe where the voters can prove that they have everything.
    let sure = firsthand::sure_successors(view, cluster, sync);
    if crashed(disk) && !sure.is_empty() && forecast.handover_is_shorter(None) {
        let (restart, handover) = (forecast.restart, forecast.handover);
        return (Action::Abdicate, Reason::PrimaryDied { standbys_ready: sure, restart, handover });
    }
    let too_long = forecast.restart > view.settings.timing.primary_start_timeout;
    if crashed(disk) && too_long && !sync.reclaimed && !ready.is_empty() {
        let why = format!("its recovery would take about {}", span(forecast.restart));
        return (Action::Release, Reason::CannotStart { why });
    }
    if let Some(after) = view.retry_in() {
        return wait(Reason::Retrying { after });
    }
    if let Some(choice) = settle_request(cluster) {
        return choice;
    }
    if sync.released {
        return lead_on(sync);
    }
    let quorum = recorded_quorum(sync);
    let (restart, handover) = (span(forecast.restart), span(forecast.handover));
    let because = match (crashed(disk), ready.is_empty()) {
        (_, true) => format!("no standby can prove that it has everything (recovery takes about {restart})"),
        (false, false) => "its data is here and intact".to_owned(),
        (true, false) if sync.mode == Mode::Async => {
            format!("nothing proves that a standby has everything (recovery takes about {restart})")
        }
        (true, false) => format!("recovery takes about {restart}, a hand-over about {handover}"),
    };
    (Action::Start(StartAs::Primary { term, quorum, record_anew: true }), Reason::RestartInPlace { because })
}

/// I had let go of the lead and still have it, for nobody could take it: the voters must not go on pledging against me.
fn lead_on(sync: &SyncRecord) -> Choice {
    let reason = changing("nobody has taken over: say that this node leads on".to_owned());
    (Action::RecordSync { mode: sync.mode, policies: sync.policies.clone() }, reason)
}

/// **Invariant: a hand-over whose outcome is unknown cannot come true once Postgres starts as primary again.** It is one transaction,
/// guarded by the request and removing it. So the request goes first, by a guarded write of its own: afterwards the hand-over is void, or
/// else it came first, and the very picture in which the request is gone shows the new leader.
fn settle_request(cluster: &Cluster) -> Option<Choice> {
    let request = cluster.request.as_ref().filter(|request| request.kind == RequestKind::Switchover)?;
    let why = "Postgres was stopped before the lock was handed over, and starts here again".to_owned();
    Some((Action::RefuseRequest { request: request.revision, why: why.clone() }, Reason::RequestRefused { why }))
}

/// Whether Postgres could not be started or promoted in this reign. A failure of an earlier reign is no reason to let go: in this one
/// nothing has been tried yet. Nor is the failure of anything else: a lost answer of etcd, or a hand-over that was broken off, says
/// nothing against this node.
fn failed_in_this_reign(view: &View) -> bool {
    let reign = view.ages.reign.unwrap_or_default();
    let tried = |action: &str| action.starts_with("start_") || ["promote", "restart_primary"].contains(&action);
    view.ages.failed_action.as_deref().is_none_or(tried) && view.ages.last_failure.is_some_and(|age| age <= reign)
}

fn still_in_recovery(disk: &OnDisk) -> bool {
    matches!(disk.state, ControlState::InArchiveRecovery | ControlState::ShutDownInRecovery)
}

fn crashed(disk: &OnDisk) -> bool {
    match disk.state {
        ControlState::ShutDown | ControlState::ShutDownInRecovery => false,
        ControlState::InProduction
        | ControlState::InArchiveRecovery
        | ControlState::InCrashRecovery
        | ControlState::ShuttingDown
        | ControlState::StartingUp => true,
    }
}

fn standby_leads(view: &View, cluster: &Cluster, sync: &SyncRecord, standby: &Standby, term: Term) -> Choice {
    // The lock comes from an old backup of etcd: another has led since, and the WAL of its term is here.
    if standby.wal_term > term {
        return (Action::Release, Reason::EtcdWentBack { mine: standby.wal_term, etcd: term });
    }
    let long_enough = view.ages.reign.unwrap_or_default() > view.settings.timing.ttl * 2;
    // In a pause nobody else would take it: it is tried again here.
    let others_may = long_enough && !view.settings.paused;
    if others_may && failed_in_this_reign(view) && !others_ready(view, cluster, sync).is_empty() {
        return (Action::Release, Reason::CannotStart { why: "it cannot be promoted".to_owned() });
    }
    if let Some(needed) = sync.handover_lsn.filter(|needed| standby.replayed < *needed) {
        if view.ages.reign.unwrap_or_default() > view.settings.timing.ttl {
            return (Action::Release, Reason::AwaitingHandover { replayed: standby.replayed, needed });
        }
        return wait(Reason::AwaitingHandover { replayed: standby.replayed, needed });
    }
    if view.ages.last_failure.is_some_and(|age| age < view.settings.timing.heartbeat) {
        return wait(Reason::Retrying { after: view.settings.timing.heartbeat });
    }
    let quorum = recorded_quorum(sync);
    (Action::Promote { term, timeline: sync.timeline, quorum }, Reason::Promote { term })
}

fn primary_leads(view: &View, cluster: &Cluster, sync: &SyncRecord, primary: &Primary, term: Term) -> Choice {
    if sync.released {
        return lead_on(sync);
    }
    let wanted = wanted_quorum(&view.me, term, primary, cluster, &view.ages, &view.settings);
    // Names of another term are strangers' names: whatever Postgres waits for under them is set anew first.
    let running =
        primary.waits_for.as_ref().filter(|(quorum, of)| *of == term || quorum.k == 0).map(|(quorum, _)| quorum);
    let step = next_step(&sync.policies, running, &wanted);
    let marked = primary.marked_term >= term;
    let mode = mode_in_force(&view.settings, cluster);
    match step {
        Step::Settled | Step::Prove(_) if !marked => (Action::Mark { term }, Reason::ProveWrites { term }),
        Step::Settled if sync.mode != mode => {
            let reason = changing(format!("the mode is {mode} from here on"));
            (Action::RecordSync { mode, policies: sync.policies.clone() }, reason)
        }
        // Whoever leads has everything, whatever it once forgot.
        Step::Settled if cluster.floors.contains_key(&view.me) => {
            let floor = cluster.floors[&view.me];
            (Action::ClearFloor, Reason::Regained { floor })
        }
        Step::Settled => match (firsthand::full_in_vain(view, cluster), &cluster.request) {
            (Some(choice), _) => choice,
            (None, Some(request)) => requested(view, cluster, primary, request),
            (None, None) => site::demotion(view, cluster)
                .or_else(|| firsthand::low_disk(view, cluster, primary))
                .unwrap_or(wait(Reason::Leading { term })),
        },
        Step::Record(policies) => {
            let reason =
                changing(format!("commits are to wait for {wanted}; recorded first, so that a takeover heeds both"));
            (Action::RecordSync { mode, policies }, reason)
        }
        Step::Apply(quorum) => {
            let reason = changing(format!("let commits wait for {quorum}"));
            (Action::ApplySync(quorum), reason)
        }
        Step::Prove(quorum) => {
            let reason = changing(format!("prove with a commit that {quorum} acknowledges, then record it alone"));
            (Action::ProveSync { mode, quorum }, reason)
        }
    }
}

fn changing(step: String) -> Reason {
    Reason::ChangeDurability { step }
}

/// An operator's request, seen by the leader. It is carried out, waited for, or refused with its reason; never forgotten.
fn requested(view: &View, cluster: &Cluster, primary: &Primary, request: &Request) -> Choice {
    let refuse = |why: String| {
        (Action::RefuseRequest { request: request.revision, why: why.clone() }, Reason::RequestRefused { why })
    };
    if let Some(from) = request.from.as_ref().filter(|from| **from != view.me) {
        return refuse(format!("it names {from} as the leader, but {} leads", view.me));
    }
    if request.kind == RequestKind::Failover {
        return refuse(format!(
            "a failover is for a cluster that nobody leads, but {} leads: ask for a switchover",
            view.me
        ));
    }
    if view.settings.paused && request.to.is_none() {
        return refuse("in a pause nobody is chosen: name the candidate, or pgvigil resume first".to_owned());
    }
    let asked = view.ages.request.unwrap_or_default();
    if view.ages.last_failure.is_some_and(|age| age < asked) {
        return refuse("the hand-over failed; see the log, and ask again".to_owned());
    }
    // A standby that has just come back goes from one timeline to the next, and is not there for an instant.
    let may_pass = asked < CANDIDATE_MAY_COME;
    let any = || {
        let may_come = |name: &MemberName| may_pass && *name != view.me && never_fit(view, cluster, name).is_none();
        cluster.eligible().into_iter().find(may_come)
    };
    let best = || best_standby(cluster, &primary.standbys).or_else(any);
    let Some(to) = request.to.clone().or_else(best) else {
        return refuse("no standby streams and may lead".to_owned());
    };
    if let Some(why) = never_fit(view, cluster, &to) {
        return refuse(why);
    }
    if let Some(why) = not_fit_yet(view, cluster, primary, &to) {
        return if may_pass { wait(Reason::AwaitingCandidate { to }) } else { refuse(why) };
    }
    if cluster.members.get(&to).is_some_and(|member| member.lock_lease != 0) {
        return (Action::HandOver { to: to.clone(), request: request.revision }, Reason::Switchover { to });
    }
    if asked > view.settings.timing.ttl {
        return refuse(format!("{to} did not get ready to hold the lock"));
    }
    wait(Reason::AwaitingCandidate { to })
}

/// Why a member cannot take a switchover, now or in a moment.
pub(crate) fn never_fit(view: &View, cluster: &Cluster, to: &MemberName) -> Option<String> {
    if *to == view.me {
        return Some(format!("{to} leads already"));
    }
    let Some(member) = cluster.members.get(to) else {
        return Some(format!("{to} is not registered: is its agent running?"));
    };
    if member.tags.never_leads() {
        return Some(format!("the tags of {to} bar it from leading"));
    }
    let fence = member.no_fence.as_ref().map(|why| format!("the fence of {to} cannot be armed: {why}"));
    let unheard = || member.not_listening.as_ref().map(|at| format!("Postgres of {to} does not listen on {at}"));
    fence.or_else(unheard)
}

/// Why a member cannot take a switchover at this moment.
fn not_fit_yet(view: &View, cluster: &Cluster, primary: &Primary, to: &MemberName) -> Option<String> {
    let Some(standby) = primary.standbys.iter().find(|standby| standby.member == *to) else {
        return Some(format!("{to} does not stream from {}", view.me));
    };
    if standby.term != cluster.term {
        return Some(format!("{to} streams under the name of an earlier term"));
    }
    if !standby.caught_up {
        return Some(format!("{to} is still catching up"));
    }
    let behind = standby.replayed.bytes_behind(primary.flushed);
    let limit = view.settings.max_lag_on_failover_bytes.max(16 << 20);
    (behind > limit).then(|| {
        format!(
            "{to} has {} left to replay, the limit is {}",
            crate::reason::bytes(behind),
            crate::reason::bytes(limit)
        )
    })
}

/// What Postgres must wait for before it may start as primary: the last recorded quorum.
pub(crate) fn recorded_quorum(sync: &SyncRecord) -> Quorum {
    sync.policies.last().cloned().unwrap_or_default()
}
