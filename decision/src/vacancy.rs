//! Nobody holds the leader lock. The last leader may take it again, for everything is there; the others stop following the old
//! term, say what they have, and the best of a sufficient set takes the lock in one transaction.

use std::collections::BTreeSet;

use crate::action::{Action, Claim, ClaimKind, StartAs, StopMode};
use crate::candidacy::{best, counted, highest_timeline, may_lead_by_ballot};
use crate::decide::{Choice, stopping, wait};
use crate::durability::{ending_with, inherited, mode_in_force, quorum_for_new_leader};
use crate::firsthand;
use crate::following;
use crate::isolation::accepts_writes;
use crate::names::{MemberName, Term, Timeline};
use crate::promise::binding;
use crate::reason::Reason;
use crate::settings::Mode;
use crate::site;
use crate::suspicion;
use crate::takeover::{Count, count};
use crate::view::{
    Cluster, ControlState, Data, Hearing, Initialize, Lock, MemberRole, OnDisk, Postgres, Primary, Request,
    RequestKind, Server, Sound, Standby, SyncRecord, View,
};

/// The `leader` key names me, but under a lease that I do not hold: it is of an earlier life of mine and will expire.
pub(crate) fn lock_of_another_life(postgres: &Postgres) -> Choice {
    if accepts_writes(&postgres.server) {
        (Action::Stop(StopMode::Kill), Reason::LockLost {})
    } else {
        wait(Reason::LockOfEarlierLife {})
    }
}

/// What to do while nobody leads.
pub(crate) fn decide(view: &View, cluster: &Cluster, postgres: &Postgres) -> Choice {
    if !matches!(cluster.initialize, Initialize::Done(_)) {
        return uninitialized(view, cluster, postgres);
    }
    if postgres.is_or_becomes_primary() && (!cluster.last_led_by(&view.me) || cluster.follows()) {
        return (Action::Stop(StopMode::Kill), Reason::LockLost {});
    }
    if let Some(promise) = binding(view, cluster).filter(|promise| promise.leader != view.me) {
        return following::under_promise(view, cluster, postgres, promise);
    }
    if let Some(choice) = empty_ballot(view, cluster, &postgres.server) {
        return choice;
    }
    match (&postgres.server, &postgres.data) {
        // The commits of this very term have been acknowledged here, and go on being: its lease alone has lapsed.
        (Server::Primary(primary), _) if still_leads(view, cluster, primary) && view.fence.trouble.is_none() => {
            (Action::Resume { term: cluster.term }, Reason::Resume { term: cluster.term })
        }
        (Server::Primary(primary), _) => reclaim(view, cluster, primary.timeline, primary.marked_term),
        (Server::Starting { since }, _) => wait(Reason::Starting { since: *since }),
        (Server::Stopping, _) => stopping(view),
        (Server::Hung { since }, _) if *since >= view.hang_after() * firsthand::UNSURE => {
            (Action::Stop(StopMode::Kill), Reason::Hung { since: *since, stuck: view.signs.stuck })
        }
        (Server::Hung { since }, _) => wait(Reason::Hung { since: *since, stuck: view.signs.stuck }),
        (Server::Standby(standby), _) => standby_without_leader(view, cluster, standby),
        (Server::Stopped, Data::Present(disk)) => stopped(view, cluster, disk),
        (Server::Stopped, Data::Empty | Data::HalfMade { .. }) if site::nobody_has_data(view, cluster) => {
            (Action::Acquire(claim(view, cluster, Term(0), Timeline(0))), Reason::NothingToCopy {})
        }
        (Server::Stopped, Data::Empty) => wait(Reason::NothingToCopy {}),
        (Server::Stopped, Data::HalfMade { by }) => wait(Reason::HalfMade { by: by.clone() }),
        (Server::Stopped, Data::Unreadable { why }) => wait(Reason::DataUnreadable { why: why.clone() }),
    }
}

fn still_leads(view: &View, cluster: &Cluster, primary: &Primary) -> bool {
    let mine = cluster.sync.as_ref().filter(|_| cluster.last_led_by(&view.me));
    mine.is_some_and(|sync| !sync.released && primary.marked_term == cluster.term && primary.timeline == sync.timeline)
}

/// A running primary whose own term is above every term in etcd: etcd was restored from a backup that is older than its reign. Terms are
/// never given out twice, so nobody that is known to etcd has led since, and everything acknowledged is here. What etcd says of the
/// time before may still bind others, so its quorums are kept beside the one that Postgres waits for, until both have been settled.
pub(crate) fn etcd_went_back(view: &View, cluster: &Cluster, postgres: &Postgres) -> Option<Choice> {
    let Server::Primary(primary) = &postgres.server else { return None };
    let holds = matches!(view.lock, Lock::Held { left, .. } if !left.is_zero());
    let by_key = cluster.leader.as_ref() == Some(&view.me) && view.lock.leads(cluster.term);
    let free = cluster.leader.is_none() && (holds || cluster.last_led_by(&view.me));
    if primary.marked_term <= cluster.term || !(by_key || free) {
        return None;
    }
    let reason = Reason::EtcdWentBack { mine: primary.marked_term, etcd: cluster.term };
    let claim = claim_above(view, cluster, primary)?;
    Some((Action::Acquire(Claim { depose: by_key.then(|| view.me.clone()), ..claim }), reason))
}

/// A running primary that holds the lock of its term, while the number of the term in etcd is another than that of its record. One transaction
/// writes them both, so somebody has raised the number alone; standbys would follow under a name that nothing waits for. Nobody else can have
/// led, for the lock is where it was: a term above both puts it right.
pub(crate) fn term_was_raised(view: &View, cluster: &Cluster, postgres: &Postgres) -> Option<Choice> {
    let Server::Primary(primary) = &postgres.server else { return None };
    let mine = cluster.sync.as_ref().filter(|sync| sync.leader == view.me && sync.term == primary.marked_term)?;
    if mine.term >= cluster.term || mine.released || primary.timeline != mine.timeline {
        return None;
    }
    let reason = Reason::TermRaised { mine: mine.term, etcd: cluster.term };
    let claim = claim_above(view, cluster, primary)?;
    Some((Action::Acquire(Claim { depose: Some(view.me.clone()), ..claim }), reason))
}

/// A claim of a running primary to a term above every one that it knows: what is on record is kept beside what Postgres waits for.
fn claim_above(view: &View, cluster: &Cluster, primary: &Primary) -> Option<Claim> {
    let sync = cluster.sync.as_ref()?;
    let running = primary.waits_for.as_ref().map(|(quorum, _)| quorum.clone()).unwrap_or_default();
    Some(Claim {
        term: primary.marked_term.max(cluster.term).next(),
        after: cluster.term,
        policies: ending_with(&inherited(sync), &running),
        mode: mode_in_force(&view.settings, cluster),
        timeline: primary.timeline,
        ballots: Vec::new(),
        failsafe_revision: None,
        depose: None,
        follows: false,
        kind: ClaimKind::Reclaim,
        request: None,
        lost_bytes_bound: Some(0),
    })
}

/// A ballot is a promise of a running standby. Where that is gone others would wait in vain for this node to lead, or count what it
/// has not any more.
fn empty_ballot(view: &View, cluster: &Cluster, server: &Server) -> Option<Choice> {
    let term = cluster.term;
    let balloted = cluster.ballots.get(&view.me).is_some_and(|ballot| ballot.revoked == term);
    (balloted && server.as_standby().is_none()).then_some((Action::Withdraw { revoked: term }, Reason::Vacant { term }))
}

/// There is no cluster yet. An empty node may create it; a database that is already here is somebody's, and is left alone.
fn uninitialized(view: &View, cluster: &Cluster, postgres: &Postgres) -> Choice {
    let in_progress = cluster.initialize == Initialize::InProgress;
    let runs = !matches!(postgres.server, Server::Stopped);
    let mine = view.ages.failed_action.as_deref() == Some("bootstrap");
    match &postgres.data {
        // What still lies in etcd is of the attempt that failed here.
        _ if in_progress && mine && !runs && view.retry_in().is_some() => {
            wait(Reason::Retrying { after: view.retry_in().unwrap_or_default() })
        }
        _ if in_progress || runs || others_have_a_database(view, cluster) => {
            wait(Reason::NotInitialized { in_progress })
        }
        Data::Empty | Data::HalfMade { .. } if view.is_barred_from_leading(cluster) => {
            wait(match &view.fence.trouble {
                Some(why) => Reason::Unfenced { why: why.clone() },
                None => Reason::NeverLeads {},
            })
        }
        Data::Empty | Data::HalfMade { .. } => match view.retry_in() {
            Some(after) => wait(Reason::Retrying { after }),
            None => (Action::Bootstrap, Reason::CreateCluster {}),
        },
        Data::Present(_) => wait(Reason::NotInitialized { in_progress }),
        Data::Unreadable { why } => wait(Reason::DataUnreadable { why: why.clone() }),
    }
}

/// Then the keys in etcd were lost, and creating another cluster of the same name would leave theirs out in the cold.
fn others_have_a_database(view: &View, cluster: &Cluster) -> bool {
    cluster.members.iter().any(|(name, member)| *name != view.me && member.role != MemberRole::Down)
}

fn stopped(view: &View, cluster: &Cluster, disk: &OnDisk) -> Choice {
    // The last leader of a site that follows another has led nothing: it ballots like the others.
    let last =
        |sync: &&SyncRecord| cluster.last_led_by(&view.me) && !sync.follows && !another_has_led(cluster, sync, disk);
    let led = cluster.sync.as_ref().filter(|sync| last(sync) && has_everything(sync, disk));
    if let Some(sync) = led.filter(|_| !view.is_barred_from_leading(cluster)) {
        // With the lock in its hand it would keep from leading whoever can.
        if let Some(what) = firsthand::unfit_disk(view) {
            return wait(Reason::DiskUnfit { what });
        }
        let released = sync.released;
        let waited = view.ages.vacancy.unwrap_or_default();
        let patience = view.settings.timing.reclaim_after;
        if released && waited < patience {
            return wait(Reason::LeavingItToOthers { for_another: patience - waited });
        }
        return reclaim(view, cluster, disk.timeline, Term::default());
    }
    match view.retry_in() {
        Some(after) => wait(Reason::Retrying { after }),
        None => (Action::Start(StartAs::Standby(None)), Reason::Vacant { term: cluster.term }),
    }
}

/// Whether the WAL here or that of a ballot is of a later reign than the one on record: etcd was restored from an old backup.
fn another_has_led(cluster: &Cluster, sync: &SyncRecord, disk: &OnDisk) -> bool {
    disk.timeline > sync.timeline || cluster.ballots.values().any(|ballot| ballot.wal_term > cluster.term)
}

/// The last leader has everything, but for one: a lock that was handed over may have reached a standby that still lacked the last
/// WAL. Until its promotion is there for all to see, it ballots like the others.
fn has_everything(sync: &SyncRecord, disk: &OnDisk) -> bool {
    let recovered = !matches!(disk.state, ControlState::InArchiveRecovery | ControlState::ShutDownInRecovery);
    let promoted = !disk.standby_signal && recovered && disk.timeline >= sync.timeline;
    sync.handover_lsn.is_none() || promoted
}

/// The last leader takes its lock again: same data, same timeline, a new term.
fn reclaim(view: &View, cluster: &Cluster, timeline: Timeline, marked: Term) -> Choice {
    let Some(sync) = &cluster.sync else {
        return wait(Reason::NoCandidate {});
    };
    // A promotion that never happened still has its timeline ahead of it.
    let timeline = timeline.max(sync.timeline);
    let claim = Claim {
        term: cluster.term.max(marked).next(),
        after: cluster.term,
        policies: sync.policies.clone(),
        mode: mode_in_force(&view.settings, cluster),
        timeline,
        ballots: Vec::new(),
        failsafe_revision: None,
        depose: None,
        follows: false,
        kind: ClaimKind::Reclaim,
        request: None,
        lost_bytes_bound: Some(0),
    };
    (Action::Acquire(claim), Reason::LastLeader { term: cluster.term })
}

fn standby_without_leader(view: &View, cluster: &Cluster, standby: &Standby) -> Choice {
    let why = Reason::Vacant { term: cluster.term };
    // Its leader is of a term that etcd has forgotten, and still sends: it will put that right.
    if standby.wal_term > cluster.term && standby.streaming && !cluster.follows() {
        return wait(Reason::EtcdWentBack { mine: standby.wal_term, etcd: cluster.term });
    }
    if let Some(leader) = unfenced_leader(view, cluster).filter(|_| !is_forced(cluster)) {
        return wait(Reason::LastLeaderAnswers { leader: leader.clone() });
    }
    if let Some(choice) = pledge_first(view, cluster, standby, why).or_else(|| forced(view, cluster, standby)) {
        return choice;
    }
    match take_if_elected(view, cluster, None) {
        (Action::Wait, reason) => void_request(view, cluster, &reason).unwrap_or((Action::Wait, reason)),
        choice => choice,
    }
}

/// The last leader, where its agent is away and its Postgres is heard although its lease is over: its agent ended in a pause, which has no fence, or
/// was killed together with its fencer. One whose agent is back, or whose name outlasts its lock by a moment, takes its lock again in a moment, or stops.
///
/// **Invariant: without proof nobody leads who hears the last leader's Postgres.** Where voters prove a takeover they have revoked its term, so it
/// acknowledges nothing; without proof it would go on acknowledging beside a new leader.
fn unfenced_leader<'a>(view: &View, cluster: &'a Cluster) -> Option<&'a MemberName> {
    let answers = view.hearing.postgres == Sound::Fine;
    let is_standby =
        |leader: &MemberName| cluster.members.get(leader).is_some_and(|member| member.role == MemberRole::Standby);
    unproven_leader(cluster).filter(|leader| answers && **leader != view.me && !is_standby(leader))
}

/// Whoever led last and may not have been fenced, where a takeover needs no proof.
fn unproven_leader(cluster: &Cluster) -> Option<&MemberName> {
    let of_this_term = |sync: &&SyncRecord| sync.term == cluster.term && !sync.released && !sync.follows;
    let sync = cluster.sync.as_ref().filter(of_this_term).filter(|sync| sync.mode == Mode::Async)?;
    Some(&sync.leader)
}

/// The same, where it has no agent that could be asked.
pub(crate) fn leader_without_agent(cluster: &Cluster) -> Option<&MemberName> {
    unproven_leader(cluster).filter(|leader| !cluster.members.contains_key(*leader))
}

fn is_forced(cluster: &Cluster) -> bool {
    cluster.request.as_ref().is_some_and(|request| request.kind == RequestKind::Failover && request.accept_data_loss)
}

/// A request that nobody can carry out while nobody leads would lie there for ever, and no other could be asked for beside it.
fn void_request(view: &View, cluster: &Cluster, nobody_leads: &Reason) -> Option<Choice> {
    let request = cluster.request.as_ref()?;
    let vacant = view.ages.vacancy.unwrap_or_default();
    let asked = view.ages.request.unwrap_or_default();
    let (why, since) = match request.kind {
        RequestKind::Switchover => {
            ("nobody leads, so there is nobody to hand over: ask for a failover".to_owned(), vacant)
        }
        RequestKind::Failover => (in_vain(cluster, request, nobody_leads)?, vacant.min(asked)),
    };
    let choice =
        (Action::RefuseRequest { request: request.revision, why: why.clone() }, Reason::RequestRefused { why });
    (since >= view.settings.timing.ttl).then_some(choice)
}

/// Why a failover that was asked for cannot come about as things are. One that only waits for somebody who is there may still.
fn in_vain(cluster: &Cluster, request: &Request, nobody_leads: &Reason) -> Option<String> {
    if let (Some(from), Some(sync)) = (&request.from, &cluster.sync)
        && *from != sync.leader
    {
        return Some(format!("it names {from} as the leader, but {} led last", sync.leader));
    }
    if let Some(to) = &request.to {
        let Some(member) = cluster.members.get(to) else {
            return Some(format!("{to} is not registered: is its agent running?"));
        };
        if let Some(why) = &member.no_fence {
            return Some(format!("the fence of {to} cannot be armed: {why}"));
        }
    }
    let is_a_matter_of_time = matches!(nobody_leads, Reason::AwaitingBallots { .. } | Reason::Outranked { .. });
    (!request.accept_data_loss && !is_a_matter_of_time)
        .then(|| format!("it accepts no loss of data, and {nobody_leads}"))
}

/// A pledge comes before everything else, and it must still say what is so.
fn pledge_first(view: &View, cluster: &Cluster, standby: &Standby, why: Reason) -> Option<Choice> {
    let pledged = standby.follows.is_none() && !standby.receiver_running;
    let mine = cluster.ballots.get(&view.me).filter(|ballot| ballot.revoked == cluster.term);
    let true_still =
        mine.is_some_and(|ballot| (ballot.timeline, ballot.received) == (standby.timeline, standby.received));
    (!pledged || !true_still).then_some((Action::Pledge { revoked: cluster.term }, why))
}

fn take_if_elected(view: &View, cluster: &Cluster, depose: Option<&MemberName>) -> Choice {
    match count(view, cluster) {
        Count::Nobody(reason) => wait(reason),
        Count::Elected { member, .. } if *member != view.me => wait(Reason::Outranked { by: member.clone() }),
        Count::Elected { ballot, counted, lost_bytes_bound, .. } => {
            let reason =
                Reason::Elected { ballots: counted.iter().map(|(name, _)| name.clone()).collect(), lost_bytes_bound };
            let claim = claim(view, cluster, ballot.wal_term, ballot.timeline);
            let kind = if depose.is_some() { ClaimKind::Takeover } else { ClaimKind::Failover };
            let depose = depose.cloned();
            (Action::Acquire(Claim { ballots: counted, lost_bytes_bound, depose, kind, ..claim }), reason)
        }
    }
}

/// The leader is not heard any more, though its lease still runs: the voters revoke its term, and the best of enough of them takes the
/// lock. One voter that still hears the leader does not pledge, and by that vetoes.
pub(crate) fn take_over(view: &View, cluster: &Cluster, standby: &Standby, leader: &MemberName) -> Choice {
    let evidence = if suspicion::has_let_go(cluster) || view.hearing.postgres == Sound::ReportedDead {
        "it says itself that its Postgres is dead".to_owned()
    } else {
        evidence(&view.hearing)
    };
    let why = Reason::Suspect { leader: leader.clone(), evidence };
    if let Some(choice) = pledge_first(view, cluster, standby, why) {
        return choice;
    }
    let ballots = cluster.current_ballots();
    let silent = |name: &MemberName| name != leader && !ballots.contains_key(name);
    let missing: Vec<MemberName> = cluster.eligible().into_iter().filter(silent).collect();
    if !missing.is_empty() {
        return wait(Reason::AwaitingBallots { have: ballots.len(), missing });
    }
    take_if_elected(view, cluster, Some(leader))
}

fn evidence(hearing: &Hearing) -> String {
    let one = |sound: Sound| match sound {
        Sound::Gone => "refuses connections".to_owned(),
        Sound::ReportedDead => "is dead".to_owned(),
        Sound::Silent { since } => format!("silent for {}", crate::reason::span(since)),
        Sound::Fine | Sound::Unknown => "answers".to_owned(),
    };
    format!("its agent {}, its Postgres {}", one(hearing.agent), one(hearing.postgres))
}

/// An operator's word stands in for the proof. What may be lost is recorded.
fn forced(view: &View, cluster: &Cluster, standby: &Standby) -> Option<Choice> {
    let request = cluster.request.as_ref()?;
    let about = |from: &MemberName| cluster.sync.as_ref().is_some_and(|sync| sync.leader == *from);
    let asked = match &request.to {
        Some(to) => *to == view.me,
        None => is_best_of_all(view, cluster),
    };
    if !is_forced(cluster) || !asked || !request.from.as_ref().is_none_or(about) {
        return None;
    }
    // What this node has forgotten was there once, whatever the last leader had published.
    let there_was = cluster.leader_lsn.max(cluster.floors.get(&view.me).copied());
    let lost_bytes_bound = there_was.map(|there_was| standby.received.bytes_behind(there_was)).filter(|lost| *lost > 0);
    let claim = claim(view, cluster, standby.wal_term, standby.timeline);
    let policies = match claim.follows {
        true => claim.policies.clone(),
        false => vec![quorum_for_new_leader(&view.me, cluster, &view.settings)],
    };
    let kind = ClaimKind::Forced;
    let claim = Claim { kind, policies, request: Some(request.revision), lost_bytes_bound, ..claim };
    Some((Action::Acquire(claim), Reason::Forced { lost_bytes_bound }))
}

/// Where the operator leaves it open who is to lead, the best does, once everybody alive has been heard or has had the time. Whoever has
/// forgotten WAL, which proves nothing to anybody, is the last resort of this word too: it is given the lead where nobody else is there for it.
fn is_best_of_all(view: &View, cluster: &Cluster) -> bool {
    let (whole, heard) = (counted(cluster), may_lead_by_ballot(cluster));
    let names: BTreeSet<MemberName> = heard.iter().map(|(name, _, _)| (*name).clone()).collect();
    let all = names.is_superset(&cluster.eligible());
    let waited = view.ages.vacancy.unwrap_or_default();
    let timing = &view.settings.timing;
    let (ballots, patience) = if whole.is_empty() { (heard, timing.ttl) } else { (whole, timing.ballot_window) };
    (all || waited >= patience) && best(&ballots).is_some_and(|(best, _)| *best == view.me)
}

fn claim(view: &View, cluster: &Cluster, wal_term: Term, timeline: Timeline) -> Claim {
    let highest_wal_term = cluster.ballots.values().map(|ballot| ballot.wal_term).max().unwrap_or_default();
    let mode = mode_in_force(&view.settings, cluster);
    let quorum = quorum_for_new_leader(&view.me, cluster, &view.settings);
    // Until the marker commit is acknowledged the new leader alone may hold what the old policy promised, so a further takeover
    // must satisfy the old quorums and the new one.
    let old = cluster.sync.as_ref().map(inherited).unwrap_or_default();
    let asks_no_proof = cluster.sync.as_ref().is_none_or(|sync| sync.mode == Mode::Async);
    if cluster.follows() {
        return site::claim_to_follow(cluster, wal_term, timeline);
    }
    Claim {
        term: cluster.term.max(highest_wal_term).max(wal_term).next(),
        after: cluster.term,
        policies: ending_with(&old, &quorum),
        mode,
        timeline: Timeline(highest_timeline(cluster, timeline).0 + 1),
        ballots: Vec::new(),
        failsafe_revision: asks_no_proof.then_some(cluster.failsafe_revision),
        depose: None,
        follows: false,
        kind: ClaimKind::Failover,
        request: None,
        lost_bytes_bound: None,
    }
}
