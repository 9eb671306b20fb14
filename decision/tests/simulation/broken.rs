//! Rules, each broken on purpose, to show that the simulation bites. They change what an agent sees, what it decides, or how an action is
//! carried out; the real rules are not touched.

use decision::action::{Action, Claim, ClaimKind, StopMode};
use decision::durability::Policies;
use decision::names::{Lsn, MemberName, Term, Timeline};
use decision::reason::Reason;
use decision::view::{ControlState, Data, Lock, OnDisk, Seen, Server, Sound, View};

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
    /// A pledge that is broken off is taken for one that never became a ballot.
    IsSureOfABallotOnItsWay,
    /// What was cut off is started.
    StartsWhatIsHalfMade,
    /// One missed beat is enough.
    SuspectsTooSoon,
    /// Nobody ever takes the lock.
    NeverTakesTheLock,
    /// A failover without proof claims to be proven.
    ClaimsToLoseNothing,
    /// A silent leader is deposed before its lease ends, although its commits wait for nobody.
    DeposesWithoutProof,
    /// The silence of the leader's agent is enough, whatever its Postgres says.
    OneWitnessIsEnough,
    /// A takeover does not wait for voters that still hear the leader.
    IgnoresTheVeto,
    /// The fence strikes when the lease ends, not a margin before.
    FencesWithoutMargin,
    /// A marker counts when it is written, not when it is acknowledged.
    TrustsAMarkerThatNobodyAcknowledged,
    /// The lock is handed over before the candidate has replayed everything.
    HandsOverTooEarly,
    /// A hand-over does not say which position the new leader must have replayed.
    HandsOverWithoutAPosition,
    /// A hand-over is not guarded by the request that it answers.
    HandsOverWithoutItsRequest,
    /// A hand-over does not look whether the record has been written anew.
    HandsOverOverAnyRecord,
    /// Postgres is started again on the record as it is, so that what was sent before may still come true.
    StartsOnTheOldRecord,
    /// What is found in etcd counts as written, though it may have been there before.
    TakesWhatWasThereForItsOwn,
    /// The ground that was given up for a hand-over or a release is taken again from a picture of before.
    TakesItsGroundBack,
    /// That it was given up is not known to the next life of the agent.
    ForgetsWhatItGaveUp,
    /// A hand-over that failed is not taken back in etcd.
    DoesNotTakeAHandOverBack,
    /// Postgres is started again while the request for its hand-over still lies in etcd.
    StartsWithTheRequestOnTheTable,
    /// A hand-over that failed is taken back, its heir is not.
    KeepsTheHeirWhenItBreaksOff,
    /// A leader without a hand-over under way leaves an heir in its record.
    KeepsTheHeirOnRecord,
    /// A promise does not bind the next life of the agent.
    DoesNotNoteItsPromise,
    /// A node ballots although it has promised not to.
    IgnoresItsPromise,
    /// A node promises although it has balloted.
    PromisesInSpiteOfItsBallot,
    /// A promise counts for longer than it was given.
    CountsAPromiseTooLong,
    /// One promise is enough, however many voters it takes to block a takeover.
    RestsOnOnePromise,
    /// The leader relies on what it has seen of its record, not on what it may have written since.
    RecordsWithoutANote,
    /// Postgres waits for one voter less than is recorded.
    WaitsForOneTooFew,
    /// A new quorum takes the place of the old one in the record, while Postgres still waits for the old one.
    RecordsTheNewAlone,
    /// A quorum that the record has, but not as the last, is applied at once.
    GoesBackOnTheRecordAsItIs,
    /// A standby waits for nobody, should it become a primary.
    LetsAStandbyAcknowledge,
    /// The number of a timeline that nobody ordered is forgotten with it.
    ForgetsAStrayTimeline,
    /// A ballot of a timeline that nobody ordered counts like that of a later reign.
    CountsAStrayTimeline,
    /// Nobody who has forgotten WAL is let lead by an operator's word.
    PassesOverWhoHasForgotten,
    /// Postgres is started as a primary however long the disk has kept the start from going on.
    StartsWithoutALookAtTheFence,
    /// The next life of a leader does not heed what this one may have written.
    ForgetsWhatItMayHaveWritten,
    /// The member record is not written again when an older one has come after it.
    WritesItsMemberRecordOnce,
    /// Whoever was taken out of the cluster leaves the record at once, while Postgres still waits for it.
    StrikesOutWhoLeft,
}

/// The rules that are broken in a world: none, one, or the layers that hide each other.
pub type Rules = &'static [Broken];

impl World {
    pub fn breaks(&self, rule: Broken) -> bool {
        self.broken.contains(&rule)
    }
}

/// What an agent with these broken rules sees, decides and says.
pub fn decide(rules: Rules, view: View) -> (View, Action, Reason) {
    let led_by = view.cluster.now().and_then(|cluster| cluster.leader.clone());
    let view = rules.iter().fold(view, |view, rule| see(*rule, view));
    let decision = decision::decide(&view);
    let action = rules.iter().fold(decision.action, |action, rule| think(*rule, &view, action));
    let action = match action {
        // Whom it did not want to see it has to depose.
        Action::Acquire(claim) if rules.contains(&Broken::DeposesWithoutProof) => {
            Action::Acquire(Claim { depose: led_by, ..claim })
        }
        action => action,
    };
    (view, action, decision.reason)
}

fn see(broken: Broken, mut view: View) -> View {
    let me = view.me.clone();
    let silent = |sound: Sound| !matches!(sound, Sound::Fine | Sound::Unknown);
    match broken {
        Broken::SuspectsTooSoon if silent(view.hearing.agent) => {
            (view.hearing.agent, view.hearing.postgres) = (Sound::Gone, Sound::Gone);
        }
        Broken::OneWitnessIsEnough => view.hearing.postgres = view.hearing.agent,
        Broken::StartsWhatIsHalfMade => return with_a_whole_directory(view),
        _ => {}
    }
    let both = silent(view.hearing.agent) && silent(view.hearing.postgres);
    let stopped = view.postgres.now().is_some_and(|postgres| postgres.server == Server::Stopped);
    let Seen::Now(cluster) = &mut view.cluster else { return view };
    let led_by_another = cluster.leader.as_ref().is_some_and(|leader| *leader != me);
    match broken {
        Broken::CountsOneBallotTooFew if view.lock == Lock::NotHeld => {
            if let Some(sync) = &mut cluster.sync {
                sync.policies.iter_mut().filter(|quorum| quorum.k > 0).for_each(|quorum| quorum.k += 1);
            }
        }
        Broken::RanksByPositionOnly => {
            // Its own ballot must say what is so, or it would be given again.
            let mine = cluster.ballots.get(&me).map(|ballot| ballot.timeline);
            cluster.ballots.values_mut().for_each(|ballot| ballot.timeline = mine.unwrap_or(ballot.timeline));
        }
        Broken::CountsAStrayTimeline => {
            let highest = cluster.ballots.values().map(|ballot| ballot.timeline).max();
            if let Some(sync) = cluster.sync.as_mut().filter(|_| cluster.leader.is_none()) {
                sync.timeline = highest.map_or(sync.timeline, |highest| highest.max(sync.timeline));
            }
        }
        Broken::FollowsInSpiteOfItsPledge if led_by_another && !both => drop(cluster.ballots.remove(&me)),
        Broken::StartsWithTheRequestOnTheTable if stopped => cluster.request = None,
        Broken::IgnoresTheVeto if led_by_another && both => {
            let leader = cluster.leader.clone();
            let balloted: Vec<MemberName> = cluster.current_ballots().into_keys().cloned().collect();
            let pledged = balloted.contains(&me);
            cluster.members.retain(|name, _| !pledged || Some(name) == leader.as_ref() || balloted.contains(name));
        }
        Broken::DeposesWithoutProof if led_by_another && both => {
            cluster.leader = None;
            view.ages.vacancy = Some(view.settings.timing.ballot_window);
        }
        _ => {}
    }
    view
}

fn with_a_whole_directory(mut view: View) -> View {
    let timeline = view.cluster.now().and_then(|cluster| cluster.sync.as_ref()).map(|sync| sync.timeline);
    if let (Seen::Now(postgres), Some(timeline)) = (&mut view.postgres, timeline)
        && let Data::HalfMade { .. } = postgres.data
    {
        postgres.data = Data::Present(OnDisk {
            system_id: crate::look::SYSTEM,
            state: ControlState::InArchiveRecovery,
            timeline,
            checkpoint: Lsn(0),
            redo: Lsn(0),
            standby_signal: true,
            from_backup: false,
            forked: None,
            end_of_wal: Some(Lsn(0)),
        });
    }
    view
}

fn think(broken: Broken, view: &View, action: Action) -> Action {
    match (broken, action) {
        (Broken::AppliesBeforeItRecords, Action::RecordSync { policies, .. }) if policies.len() > 1 => {
            Action::ApplySync(policies.last().cloned().unwrap_or_default())
        }
        (Broken::GoesBackOnTheRecordAsItIs, Action::RecordSync { policies, .. })
            if recorded(view).is_some_and(|before| before.len() == policies.len() && *before != policies) =>
        {
            Action::ApplySync(policies.last().cloned().unwrap_or_default())
        }
        (Broken::RecordsTheNewAlone, Action::RecordSync { policies, mode }) => {
            Action::RecordSync { mode, policies: policies.last().cloned().into_iter().collect() }
        }
        (Broken::ReleasesBeforeItIsDead, Action::Stop(StopMode::Kill)) if matches!(view.lock, Lock::Held { .. }) => {
            Action::Release
        }
        (Broken::PassesOverWhoHasForgotten, Action::Acquire(claim))
            if claim.kind == ClaimKind::Forced
                && view.cluster.now().is_some_and(|cluster| cluster.floors.contains_key(&view.me)) =>
        {
            Action::Wait
        }
        (Broken::NeverTakesTheLock, Action::Acquire(claim)) if claim.kind != ClaimKind::Reclaim => Action::Wait,
        (broken, Action::Acquire(claim)) => Action::Acquire(changed(broken, view, claim)),
        (_, action) => action,
    }
}

fn recorded(view: &View) -> Option<&Policies> {
    view.cluster.now().and_then(|cluster| cluster.sync.as_ref()).map(|sync| &sync.policies)
}

fn changed(broken: Broken, view: &View, claim: Claim) -> Claim {
    match broken {
        // Only the count is wrong, not what is recorded.
        Broken::CountsOneBallotTooFew => {
            let mut policies = claim.policies;
            let old = policies.len().saturating_sub(1);
            policies[..old].iter_mut().for_each(|quorum| quorum.k = quorum.k.saturating_sub(1));
            Claim { policies, ..claim }
        }
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
