//! Rules, each broken on purpose, to show that the simulation bites. They change what an agent sees, what it decides, or how an action is
//! carried out; the real rules are not touched.

use decision::action::{Action, Claim, ClaimKind};
use decision::names::{Lsn, Term, Timeline};
use decision::reason::Reason;
use decision::view::{Data, Seen, Sound, View};

use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// One ballot less than proves that nothing is missed.
    CountsOneBallotTooFew,
    /// The fence never strikes.
    DoesNotFence,
    /// The lease is counted from the answer, not from before the question.
    CountsTheLeaseFromTheAnswer,
    /// Postgres waits for the new quorum before the record says so.
    AppliesBeforeItRecords,
    /// The old quorum leaves the record before a commit has proven the new one.
    ForgetsTheOldPromise,
    /// The lock is let go while Postgres still runs.
    ReleasesBeforeItIsDead,
    /// Candidates rank by position alone.
    RanksByPositionOnly,
    /// A copy or a rewind leaves no floor.
    DropsTheFloor,
    /// A standby is made primary by a restart, on the timeline that it was on.
    RestartsInsteadOfPromoting,
    /// A promotion takes whatever number Postgres would.
    ReusesTimelines,
    /// A claim does not raise the term.
    DoesNotRaiseTheTerm,
    /// The ballot is given while WAL still streams in.
    PledgesWhileItStreams,
    /// A claim counts ballots that were taken back meanwhile.
    ForgetsToGuardBallots,
    /// A claim does not look whether the record has changed.
    TakesOverAnyRecord,
    /// The record is written without asking who leads.
    RecordsUnguarded,
    /// Whoever streams counts, under the name of any term.
    IgnoresTheTermInTheName,
    /// A pledge is not taken back before the leader is followed again.
    FollowsInSpiteOfItsPledge,
    /// What was cut off is started.
    StartsWhatIsHalfMade,
    /// One missed beat is enough.
    SuspectsTooSoon,
    /// Nobody ever takes the lock.
    NeverTakesTheLock,
    /// A failover without proof claims to be proven.
    ClaimsToLoseNothing,
}

impl World {
    pub fn broken_names(&self) -> bool {
        self.broken == Some(Broken::IgnoresTheTermInTheName)
    }

    pub fn broken_lease(&self) -> bool {
        self.broken == Some(Broken::CountsTheLeaseFromTheAnswer)
    }
}

/// What an agent with this broken rule takes for its view.
pub fn see(broken: Option<Broken>, mut view: View) -> View {
    let Some(broken) = broken else { return view };
    let me = view.me.clone();
    if broken == Broken::SuspectsTooSoon && view.hearing.agent != Sound::Fine && view.hearing.agent != Sound::Unknown {
        (view.hearing.agent, view.hearing.postgres) = (Sound::Gone, Sound::Gone);
    }
    if let (Broken::StartsWhatIsHalfMade, Seen::Now(postgres)) = (broken, &mut view.postgres)
        && let Data::HalfMade { .. } = postgres.data
        && let Some(cluster) = view.cluster.now()
        && let Some(timeline) = cluster.sync.as_ref().map(|sync| sync.timeline)
    {
        postgres.data = Data::Present(decision::view::OnDisk {
            system_id: crate::look::SYSTEM,
            state: decision::view::ControlState::InArchiveRecovery,
            timeline,
            checkpoint: Lsn(0),
            redo: Lsn(0),
            standby_signal: true,
            end_of_wal: Some(Lsn(0)),
        });
    }
    let Seen::Now(cluster) = &mut view.cluster else { return view };
    match broken {
        Broken::CountsOneBallotTooFew => {
            if let Some(sync) = &mut cluster.sync {
                sync.policies.iter_mut().filter(|quorum| quorum.k > 0).for_each(|quorum| quorum.k += 1);
            }
        }
        Broken::RanksByPositionOnly => {
            let newest = cluster.ballots.values().map(|ballot| ballot.timeline).max().unwrap_or_default();
            cluster.ballots.values_mut().for_each(|ballot| ballot.timeline = newest);
        }
        Broken::FollowsInSpiteOfItsPledge if cluster.leader.is_some() => {
            cluster.ballots.remove(&me);
        }
        _ => {}
    }
    view
}

/// What an agent with this broken rule decides.
pub fn think(broken: Option<Broken>, view: &View, action: Action, reason: Reason) -> (Action, Reason) {
    let action = match (broken, action) {
        (Some(Broken::AppliesBeforeItRecords), Action::RecordSync { policies, .. }) if policies.len() > 1 => {
            Action::ApplySync(policies.last().cloned().unwrap_or_default())
        }
        (Some(Broken::NeverTakesTheLock), Action::Acquire(claim)) if claim.kind != ClaimKind::Reclaim => Action::Wait,
        (Some(broken), Action::Acquire(claim)) => Action::Acquire(changed(broken, view, claim)),
        (_, action) => action,
    };
    (action, reason)
}

fn changed(broken: Broken, view: &View, claim: Claim) -> Claim {
    match broken {
        Broken::ForgetsTheOldPromise => {
            let policies = claim.policies.last().cloned().into_iter().collect();
            Claim { policies, ..claim }
        }
        Broken::DoesNotRaiseTheTerm if claim.after > Term(1) => Claim { term: claim.after, ..claim },
        Broken::ClaimsToLoseNothing => Claim { lost_bytes_bound: Some(0), ..claim },
        Broken::ReusesTimelines if claim.kind != ClaimKind::Reclaim => {
            let server = view.postgres.now().map(|postgres| &postgres.server);
            let mine = server.and_then(|server| server.as_standby()).map_or(claim.timeline, |standby| standby.timeline);
            Claim { timeline: Timeline(mine.0 + 1), ..claim }
        }
        _ => claim,
    }
}
