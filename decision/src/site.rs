//! A whole cluster that follows another one, at another site. It has leaders and elections as ever, but its leader is the standby that streams
//! from the other site, and nobody here is a primary. An operator lets it lead by itself (`pgvigil site promote`), and lets it follow again
//! (`pgvigil site demote`).
//!
//! **Invariants.** The record in etcd (`follows`) says what this site is, the settings only what it is to become. (1) While the record says that it
//! follows, nothing starts or promotes a primary here. (2) Only one claim ends that: of the leader, at an operator's word, when it has left the
//! other site and replayed everything it had from there; under a term above both sites' and a timeline that the other does not take. (3) The
//! record begins to say so only when the primary here has been stopped and can acknowledge nothing any more. (4) In doubt (settings that are
//! gone or say two things, another site that does not answer or is another database) everything stays as it is.

use std::cmp::Reverse;

use crate::action::{Action, Claim, ClaimKind, StartAs, StopMode};
use crate::candidacy::highest_timeline;
use crate::decide::{Choice, stopping, wait};
use crate::durability::{Quorum, ending_with, inherited, mode_in_force, quorum_for_new_leader};
use crate::firsthand::disk_trouble;
use crate::following::{NOT_STREAMING_AFTER, STANDBY_HANGS_AFTER};
use crate::leading::never_fit;
use crate::names::{Lsn, MemberName, SystemId, Term, Timeline};
use crate::reason::Reason;
use crate::rejoin::{copy, end_of_wal, was_primary};
use crate::remote::another_site;
pub use crate::remote::{Promotion, Remote, RemoteSeen, Site, Token, is_another_site};
use crate::settings::Mode;
use crate::view::{
    Cluster, Data, Initialize, MemberRole, OnDisk, Postgres, Request, RequestKind, Server, Standby, Stuck, Upstream,
    View,
};

/// A site that comes to lead leaves so many numbers of timelines to the failovers of the other one, which may not have heard of it yet: the two
/// never write the same number, so what has gone apart is seen to have gone apart.
const ROOM: u32 = 16;

/// I hold the lock, and the record says that this site follows another.
pub(crate) fn leads(view: &View, cluster: &Cluster, postgres: &Postgres, term: Term) -> Choice {
    match &postgres.server {
        _ if postgres.is_or_becomes_primary() => (Action::Stop(StopMode::Kill), Reason::PrimaryWhileFollowing {}),
        Server::Primary(_) => (Action::Stop(StopMode::Kill), Reason::PrimaryWhileFollowing {}),
        Server::Standby(standby) => standby_leads(view, cluster, standby, term),
        Server::Stopped => stopped_leads(view, cluster, &postgres.data),
        Server::Stopping => stopping(view),
        Server::Starting { since } => wait(Reason::Starting { since: *since }),
        Server::Hung { since } if *since >= STANDBY_HANGS_AFTER => {
            (Action::Stop(StopMode::Kill), Reason::Hung { since: *since, stuck: Stuck::Server })
        }
        Server::Hung { since } => wait(Reason::Hung { since: *since, stuck: Stuck::Server }),
    }
}

fn standby_leads(view: &View, cluster: &Cluster, standby: &Standby, term: Term) -> Choice {
    if let Some(choice) = promotion(view, cluster, standby) {
        return choice;
    }
    let Some(remote) = &cluster.site.remote else {
        return wait(Reason::SiteUnclear {});
    };
    let (upstream, to) = (remote.upstream(), remote.to_string());
    let follows = standby.follows.as_ref() == Some(&upstream);
    let streams = follows && standby.streaming;
    if let Some(reason) = (!streams).then(|| diverged(view, standby)).flatten() {
        return (Action::Stop(StopMode::Fast), reason);
    }
    if !follows && view.retry_in().is_none() {
        return (Action::Follow(upstream), Reason::FollowSite { remote: to });
    }
    if let Some(at) = view.signs.upstream_lacks.filter(|_| !standby.streaming) {
        return (Action::Stop(StopMode::Fast), Reason::WalRemoved { leader: another_site(), at });
    }
    if let Some(floor) = cluster.floors.get(&view.me).filter(|floor| streams && standby.received >= **floor) {
        return (Action::ClearFloor, Reason::Regained { floor: *floor });
    }
    if let Some(request) = &cluster.request {
        return requested(view, cluster, request);
    }
    if let Some(token) = cluster.site.promote.as_ref().and_then(|word| word.after) {
        return wait(awaiting(standby, token));
    }
    match view.ages.not_streaming {
        Some(since) if since >= NOT_STREAMING_AFTER => wait(Reason::NotStreaming { leader: another_site(), since }),
        Some(_) | None => wait(Reason::FollowingSite { remote: to, term }),
    }
}

fn awaiting(standby: &Standby, token: Token) -> Reason {
    let Token { timeline, lsn, .. } = token;
    Reason::AwaitingSite { replayed: standby.replayed, on: standby.timeline, needed: lsn, timeline }
}

/// An operator's word that this site is to lead: leave the other, replay everything, and then claim the lead in one transaction.
fn promotion(view: &View, cluster: &Cluster, standby: &Standby) -> Option<Choice> {
    let word = cluster.site.promote.as_ref()?;
    if let Some(token) = word.after {
        if let Initialize::Done(mine) = cluster.initialize
            && mine != token.system_id
        {
            return Some(wait(Reason::ForeignSite { mine, theirs: token.system_id }));
        }
        if !has_reached(standby, token) {
            return None;
        }
    }
    let reason = Reason::PromoteSite { term: above_both(cluster, standby) };
    if let Some(after) = view.retry_in() {
        return Some(wait(Reason::Retrying { after }));
    }
    if standby.follows.is_some() || standby.receiver_running || !standby.replay_done {
        return Some((Action::LeaveRemote, reason));
    }
    Some((Action::Acquire(claim_to_lead(view, cluster, standby)), reason))
}

/// Whether everything that the other site has acknowledged is here. Positions are compared on its last timeline only: elsewhere they say
/// nothing.
fn has_reached(standby: &Standby, token: Token) -> bool {
    standby.timeline == token.timeline && standby.replayed > token.lsn
}

fn above_both(cluster: &Cluster, standby: &Standby) -> Term {
    cluster.term.max(standby.wal_term).next()
}

/// As long as the marker of the new reign is not acknowledged, this node alone need have what came from the other site last: a takeover before
/// that needs its ballot.
fn claim_to_lead(view: &View, cluster: &Cluster, standby: &Standby) -> Claim {
    let quorum = quorum_for_new_leader(&view.me, cluster, &view.settings);
    let old = cluster.sync.as_ref().map(inherited).unwrap_or_default();
    let theirs = view.signs.remote.as_ref().and_then(|seen| seen.timeline).unwrap_or_default();
    let highest = highest_timeline(cluster, standby.timeline).max(theirs);
    Claim {
        term: above_both(cluster, standby),
        after: cluster.term,
        policies: ending_with(&old, &quorum),
        mode: mode_in_force(&view.settings, cluster),
        timeline: Timeline((highest.0 / ROOM + 1) * ROOM),
        ballots: Vec::new(),
        failsafe_revision: None,
        depose: Some(view.me.clone()),
        follows: false,
        kind: ClaimKind::Site,
        request: None,
        lost_bytes_bound: cluster.site.promote.as_ref().and_then(|word| word.after).map(|_| 0),
    }
}

/// A claim to lead a site that goes on following another: nobody is promoted, nothing is promised, and the timeline stays.
pub(crate) fn claim_to_follow(cluster: &Cluster, wal_term: Term, timeline: Timeline) -> Claim {
    let recorded = cluster.sync.as_ref().map(|sync| sync.timeline).unwrap_or_default();
    let balloted = cluster.ballots.values().map(|ballot| ballot.wal_term).max().unwrap_or_default();
    Claim {
        term: cluster.term.max(balloted).max(wal_term).next(),
        after: cluster.term,
        policies: vec![Quorum::none()],
        mode: Mode::Async,
        timeline: recorded.max(timeline),
        ballots: Vec::new(),
        failsafe_revision: None,
        depose: None,
        follows: true,
        kind: ClaimKind::Failover,
        request: None,
        lost_bytes_bound: Some(0),
    }
}

/// Nobody leads a site that follows another, and nobody here has any data: whoever is here copies from there.
pub(crate) fn nobody_has_data(view: &View, cluster: &Cluster) -> bool {
    let has_none = |name: &MemberName| {
        *name == view.me || cluster.members.get(name).is_none_or(|member| member.role == MemberRole::Down)
    };
    let may_lead = cluster.eligible().contains(&view.me);
    cluster.follows() && cluster.site.remote.is_some() && may_lead && cluster.members.keys().all(has_none)
}

fn stopped_leads(view: &View, cluster: &Cluster, data: &Data) -> Choice {
    if let Some(what) = disk_trouble(view) {
        let reason = Reason::DiskUnfit { what };
        return if others_stand_by(view, cluster) { (Action::Release, reason) } else { wait(reason) };
    }
    if let Some(after) = view.retry_in() {
        let cannot_start = view.ages.failed_action.as_deref() == Some("start_standby");
        if cannot_start && others_stand_by(view, cluster) {
            return (Action::Release, Reason::CannotStart { why: "the last attempt failed".to_owned() });
        }
        return wait(Reason::Retrying { after });
    }
    let upstream = cluster.site.remote.as_ref().map(Remote::upstream);
    match (data, upstream) {
        (Data::Unreadable { why }, _) => wait(Reason::DataUnreadable { why: why.clone() }),
        (Data::Present(_), Some(upstream)) if view.signs.upstream_lacks.is_some() => {
            let at = view.signs.upstream_lacks.unwrap_or_default();
            copied_or_left(view, cluster, upstream, Reason::WalRemoved { leader: another_site(), at })
        }
        (Data::Present(disk), Some(upstream)) => match judge(view, disk) {
            Fate::Starts => {
                let reason = Reason::FollowSite { remote: upstream.host.clone() };
                (Action::Start(StartAs::Standby(Some(upstream))), reason)
            }
            Fate::Twin(timeline) => copied_or_left(view, cluster, upstream, Reason::Twin { timeline }),
            fate => rewound(cluster, upstream, fate),
        },
        (Data::Present(_), None) => (Action::Start(StartAs::Standby(None)), Reason::SiteUnclear {}),
        (Data::Empty, Some(upstream)) => {
            copied_or_left(view, cluster, upstream, Reason::EmptyDirectory { leader: another_site() })
        }
        (Data::HalfMade { by }, Some(upstream)) => {
            copied_or_left(view, cluster, upstream, Reason::HalfMade { by: by.clone() })
        }
        (Data::Empty | Data::HalfMade { .. }, None) => wait(Reason::SiteUnclear {}),
    }
}

/// Somebody here who has data leads better than one who must copy all of it from far away.
fn copied_or_left(view: &View, cluster: &Cluster, from: Upstream, reason: Reason) -> Choice {
    if others_stand_by(view, cluster) {
        return (Action::Release, reason);
    }
    (Action::Clone { from, floor: Lsn(0) }, reason)
}

/// Whether somebody else here could lead at once.
fn others_stand_by(view: &View, cluster: &Cluster) -> bool {
    cluster.eligible().iter().any(|name| stands_by(view, cluster, name))
}

fn stands_by(view: &View, cluster: &Cluster, name: &MemberName) -> bool {
    *name != view.me && cluster.members.get(name).is_some_and(|member| member.role == MemberRole::Standby)
}

/// A stopped directory beside the leader of a site that follows another. What it may have is for the other site to say, for there alone is a
/// primary.
pub(crate) fn beside_a_leader(view: &View, cluster: &Cluster, disk: &OnDisk, upstream: Upstream) -> Choice {
    let remote = cluster.site.remote.as_ref().map(Remote::upstream);
    match (judge(view, disk), remote) {
        (Fate::Twin(timeline), _) => copy(cluster, upstream, Reason::Twin { timeline }),
        (Fate::Starts, _) | (Fate::Diverged { .. } | Fate::EndUnknown | Fate::Foreign { .. }, None) => {
            let reason = Reason::CleanRejoin { leader: upstream.member.clone(), end: disk.checkpoint };
            (Action::Start(StartAs::Standby(Some(upstream))), reason)
        }
        (fate, Some(remote)) => rewound(cluster, remote, fate),
    }
}

fn rewound(cluster: &Cluster, from: Upstream, fate: Fate) -> Choice {
    match fate {
        Fate::EndUnknown => (Action::FindEndOfWal, Reason::EndOfWalUnknown {}),
        Fate::Foreign { theirs, mine } => wait(Reason::ForeignSite { mine, theirs }),
        Fate::Diverged { ready: false, .. } => wait(Reason::AwaitingLeaderCheckpoint { leader: from.member }),
        Fate::Diverged { timeline, end, forked_at, .. } => {
            let floor = crate::rejoin::floor(cluster);
            (Action::Rewind { from, floor }, Reason::Diverged { timeline, end, forked_at })
        }
        Fate::Starts | Fate::Twin(_) => wait(Reason::SiteUnclear {}),
    }
}

/// What may become of a stopped directory, judged by the history of the other site's primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It may follow: nothing here is beyond that history, or nothing is known of it; Postgres itself refuses to follow what it has left.
    Starts,
    EndUnknown,
    Diverged {
        timeline: Timeline,
        end: Lsn,
        forked_at: Lsn,
        ready: bool,
    },
    Twin(Timeline),
    Foreign {
        mine: SystemId,
        theirs: SystemId,
    },
}

fn judge(view: &View, disk: &OnDisk) -> Fate {
    let Some(seen) = &view.signs.remote else { return Fate::Starts };
    if seen.system_id != disk.system_id {
        return Fate::Foreign { mine: disk.system_id, theirs: seen.system_id };
    }
    // Of a copy that has never been started only a start shows where it ends.
    let fresh = disk.from_backup && disk.standby_signal;
    let Some(theirs) = seen.timeline.filter(|_| !fresh) else { return Fate::Starts };
    let timeline = disk.timeline;
    let Some(forked_at) = left_at(seen, theirs, timeline) else {
        return if was_primary(disk) { Fate::Twin(timeline) } else { Fate::Starts };
    };
    match end_of_wal(disk, forked_at) {
        None => Fate::EndUnknown,
        Some(end) if end <= forked_at => Fate::Starts,
        Some(end) => Fate::Diverged { timeline, end, forked_at, ready: seen.rewind_source_ready },
    }
}

/// Where their history left `timeline`; `None`: they write it. One that was never theirs has nothing in common with it as far as is known here.
fn left_at(seen: &RemoteSeen, theirs: Timeline, timeline: Timeline) -> Option<Lsn> {
    let ended = |(of, ended_at): &(Timeline, Lsn)| (*of == timeline).then_some(*ended_at);
    (timeline != theirs).then(|| seen.history.iter().find_map(ended).unwrap_or_default())
}

/// Whether a running standby has WAL that the other site's primary does not have: that failed over to a node which had received less.
pub(crate) fn diverged(view: &View, standby: &Standby) -> Option<Reason> {
    let seen = view.signs.remote.as_ref()?;
    let forked_at = left_at(seen, seen.timeline?, standby.timeline)?;
    let (timeline, end) = (standby.timeline, standby.received);
    (end > forked_at).then_some(Reason::Diverged { timeline, end, forked_at })
}

/// I lead as a primary, and the settings want this site to follow another. Nothing is stopped before that has answered.
pub(crate) fn demotion(view: &View, cluster: &Cluster) -> Option<Choice> {
    let remote = cluster.site.remote.as_ref().filter(|_| cluster.site.promote.is_none())?;
    let Some(seen) = &view.signs.remote else {
        return Some(wait(Reason::SiteUnseen { remote: remote.to_string() }));
    };
    if let Initialize::Done(mine) = cluster.initialize
        && mine != seen.system_id
    {
        return Some(wait(Reason::ForeignSite { mine, theirs: seen.system_id }));
    }
    if let Some(after) = view.retry_in() {
        return Some(wait(Reason::Retrying { after }));
    }
    Some((Action::DemoteSite { to: remote.upstream() }, Reason::DemoteSite { remote: remote.to_string() }))
}

/// A switchover within a site that follows another: only the lock goes over, for nobody writes.
fn requested(view: &View, cluster: &Cluster, request: &Request) -> Choice {
    let refuse = |why: String| {
        (Action::RefuseRequest { request: request.revision, why: why.clone() }, Reason::RequestRefused { why })
    };
    if let Some(from) = request.from.as_ref().filter(|from| **from != view.me) {
        return refuse(format!("it names {from} as the leader, but {} leads", view.me));
    }
    if request.kind == RequestKind::Failover {
        return refuse(format!("a failover is for a cluster that nobody leads, but {} leads", view.me));
    }
    let asked = view.ages.request.unwrap_or_default();
    let rank = |name: &MemberName| {
        let member = cluster.members.get(name);
        let priority = member.map_or(0, |member| member.tags.failover_priority);
        (member.and_then(|member| member.timeline), priority, Reverse(name.clone()))
    };
    let fits = |name: &MemberName| stands_by(view, cluster, name) && never_fit(view, cluster, name).is_none();
    let best = || cluster.eligible().into_iter().filter(fits).max_by_key(rank);
    let Some(to) = request.to.clone().or_else(best) else {
        return refuse("no standby runs here that may lead".to_owned());
    };
    if let Some(why) = never_fit(view, cluster, &to) {
        return refuse(why);
    }
    if cluster.members.get(&to).is_some_and(|member| member.lock_lease != 0) && stands_by(view, cluster, &to) {
        return (Action::HandOver { to: to.clone(), request: request.revision }, Reason::Switchover { to });
    }
    if asked > view.settings.timing.ttl {
        return refuse(format!("{to} did not get ready to hold the lock"));
    }
    wait(Reason::AwaitingCandidate { to })
}
