//! Proof that the simulation bites: each row breaks a rule on purpose and names the invariant that has to catch it, in clusters drawn from
//! seeds or in a history written for it. A history in which nothing is broken must break nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::broken::{Broken, Rules};
use crate::directed::*;
use crate::invariants;
use crate::plan::Plan;
use crate::run::{run, tell};
use crate::storm::{asked, asked_for};

/// Where a broken rule has to be caught.
#[derive(Clone, Copy)]
enum In {
    /// Among so many clusters drawn from seeds.
    Seeds(u64),
    /// In this history, with so many draws of the delays.
    History(fn(u64) -> Plan, u64),
}

/// A rule that is broken, and what must notice. Of several rules each hides that the others are broken: alone none may be noticed.
struct Row {
    broken: Rules,
    caught_by: &'static str,
    within: In,
}

const fn drawn(broken: Rules, caught_by: &'static str) -> Row {
    Row { broken, caught_by, within: In::Seeds(300) }
}

const fn told(broken: Rules, caught_by: &'static str, history: fn(u64) -> Plan, draws: u64) -> Row {
    Row { broken, caught_by, within: In::History(history, draws) }
}

/// So many draws of a history are played with nothing broken.
const INNOCENT_DRAWS: u64 = 50;

const LOST: &str = "nothing_acknowledged_is_lost";
const TWO_ACKNOWLEDGE: &str = "one_node_acknowledges";
const TWO_WRITE: &str = "one_writable_leader";
const FENCED: &str = "fenced_by_the_deadline";
const COVERED: &str = "the_record_covers_postgres";
const CAUSE: &str = "no_change_without_a_cause";

const PROMISED: &str = "a_promise_is_kept";

const ROWS: &[Row] = &[
    drawn(&[Broken::AppliesBeforeItRecords], COVERED),
    drawn(&[Broken::RecordsTheNewAlone], COVERED),
    drawn(&[Broken::WaitsForOneTooFew], COVERED),
    drawn(&[Broken::DoesNotFence], FENCED),
    drawn(&[Broken::RestartsInsteadOfPromoting], "no_fork_under_a_lock"),
    drawn(&[Broken::DoesNotRaiseTheTerm], "terms_are_never_reused"),
    drawn(&[Broken::StartsWhatIsHalfMade], "a_half_made_directory_is_never_started"),
    drawn(&[Broken::NeverTakesTheLock], "a_leader_again"),
    drawn(&[Broken::ClaimsToLoseNothing], "a_loss_is_on_record"),
    drawn(&[Broken::ReusesTimelines], "timelines_never_collide"),
    told(&[Broken::CountsOneBallotTooFew], LOST, the_only_one_left_has_missed_commits, 10),
    told(&[Broken::RanksByPositionOnly], LOST, the_dead_branch_is_longer, 20),
    told(&[Broken::ForgetsTheOldPromise], LOST, the_new_leader_dies_before_anybody_follows, 20),
    told(&[Broken::TrustsAMarkerThatNobodyAcknowledged], LOST, the_new_leader_dies_before_anybody_follows, 20),
    told(&[Broken::DropsTheFloor], LOST, a_rewound_node_is_asked_for_its_ballot, 100),
    told(&[Broken::PledgesWhileItStreams], LOST, backends_commit_on_while_the_voters_ballot, 100),
    told(&[Broken::ForgetsToGuardBallots], LOST, a_ballot_is_taken_back_while_it_is_counted, 60),
    told(&[Broken::TakesOverAnyRecord], LOST, the_record_changes_while_it_is_taken_over, 600),
    told(
        &[Broken::HandsOverTooEarly, Broken::HandsOverWithoutAPosition],
        LOST,
        the_candidate_misses_the_end_of_the_wal,
        100,
    ),
    told(
        &[Broken::HandsOverWithoutItsRequest, Broken::HandsOverOverAnyRecord],
        LOST,
        the_order_to_hand_over_comes_late,
        100,
    ),
    told(
        &[Broken::DoesNotTakeAHandOverBack, Broken::StartsWithTheRequestOnTheTable, Broken::HandsOverOverAnyRecord],
        LOST,
        the_order_to_hand_over_comes_late,
        60,
    ),
    told(&[Broken::HandsOverOverAnyRecord], PROMISED, another_life_takes_the_heir_back, 100),
    told(&[Broken::TakesItsGroundBack], PROMISED, another_life_goes_on_before_the_order_to_hand_over_arrives, 100),
    told(&[Broken::ForgetsWhatItGaveUp], PROMISED, another_life_goes_on_before_the_order_to_hand_over_arrives, 100),
    told(&[Broken::StartsOnTheOldRecord], TWO_WRITE, the_release_comes_late, 400),
    told(&[Broken::TakesWhatWasThereForItsOwn], TWO_WRITE, the_release_comes_late_and_the_record_stays_as_it_was, 600),
    told(&[Broken::GoesBackOnTheRecordAsItIs], COVERED, a_proof_is_recorded_late, 200),
    told(&[Broken::PassesOverWhoHasForgotten], "a_leader_again", the_only_one_left_has_forgotten_wal, 40),
    told(&[Broken::StartsWithoutALookAtTheFence], TWO_WRITE, a_start_hangs_with_its_disk, 60),
    told(&[Broken::ForgetsWhatItMayHaveWritten], FENCED, another_life_does_not_know_what_is_on_its_way, 60),
    told(&[Broken::WritesItsMemberRecordOnce], "a_leader_again", etcd_comes_back_from_a_backup, 30),
    told(
        &[Broken::KeepsTheHeirWhenItBreaksOff, Broken::KeepsTheHeirOnRecord],
        "a_leader_again",
        the_candidate_misses_the_end_of_the_wal,
        30,
    ),
    told(&[Broken::LetsAStandbyAcknowledge], TWO_ACKNOWLEDGE, a_standby_is_promoted_by_hand, 20),
    told(&[Broken::ForgetsAStrayTimeline], "timelines_never_collide", a_standby_is_promoted_by_hand, 20),
    told(&[Broken::CountsAStrayTimeline], LOST, the_leader_dies_beside_a_standby_that_was_promoted_by_hand, 100),
    told(&[Broken::FollowsInSpiteOfItsPledge], LOST, a_voter_follows_again_after_its_pledge, 20),
    told(&[Broken::IsSureOfABallotOnItsWay], PROMISED, a_leader_is_heard_again_while_a_ballot_is_on_its_way, 300),
    told(&[Broken::IgnoresTheTermInTheName], TWO_ACKNOWLEDGE, an_old_address_leads_back_to_the_old_leader, 20),
    told(&[Broken::DeposesWithoutProof], TWO_WRITE, an_isolated_leader_whose_commits_wait_for_nobody, 20),
    told(&[Broken::ReleasesBeforeItIsDead], TWO_WRITE, a_leader_lets_go_and_stands_still, 200),
    told(&[Broken::RecordsUnguarded], COVERED, a_deposed_leader_writes_its_record, 20),
    told(&[Broken::CountsTheLeaseFromTheAnswer], FENCED, the_last_answer_was_late, 100),
    told(&[Broken::FencesWithoutMargin], FENCED, a_leader_is_isolated, 100),
    told(&[Broken::SuspectsTooSoon], CAUSE, a_hiccup, 20),
    told(&[Broken::OneWitnessIsEnough], CAUSE, the_leaders_agent_is_restarted, 20),
    told(&[Broken::IgnoresTheVeto], CAUSE, one_of_four_still_hears_the_leader, 20),
    told(&[Broken::IgnoresItsPromise], PROMISED, a_leader_goes_on_by_promises, 10),
    told(&[Broken::DoesNotNoteItsPromise], FENCED, those_who_promised_begin_another_life, 20),
    told(&[Broken::CountsAPromiseTooLong], PROMISED, a_leader_on_promises_is_out_of_sight, 40),
    told(&[Broken::RestsOnOnePromise], FENCED, a_leader_reaches_one_of_four, 20),
    told(&[Broken::PromisesInSpiteOfItsBallot], PROMISED, a_voter_that_has_balloted_is_asked_for_a_promise, 100),
    told(&[Broken::StrikesOutWhoLeft], COVERED, a_voter_is_taken_out_and_comes_back, 10),
    told(&[Broken::RecordsWithoutANote], FENCED, etcd_is_lost_while_the_record_changes, 50),
];

impl In {
    fn draws(self) -> u64 {
        match self {
            In::Seeds(draws) | In::History(_, draws) => draws,
        }
    }

    fn plan(self, seed: u64) -> Plan {
        match self {
            In::Seeds(_) => Plan::of(seed),
            In::History(history, _) => history(seed),
        }
    }

    /// What each draw breaks.
    fn broken_by(self, rules: Rules) -> impl Iterator<Item = (u64, &'static str)> {
        let broken = move |seed| run(&self.plan(seed), rules).violation.map(|violation| (seed, violation.invariant));
        (0..self.draws()).filter_map(broken)
    }
}

impl Row {
    /// What is wrong with this row; nothing, where the invariant catches the broken rule.
    fn fault(&self) -> Option<String> {
        let mut others = Vec::new();
        let mut caught = None;
        for (seed, invariant) in self.within.broken_by(self.broken) {
            if invariant == self.caught_by {
                caught = Some(seed);
                break;
            }
            others.push(invariant);
        }
        match caught {
            Some(seed) => println!("{:?}: caught by {} at draw {seed}", self.broken, self.caught_by),
            None => return Some(format!("not caught by {}; others: {}", self.caught_by, counts(others))),
        }
        if self.broken.len() > 1 {
            let alone = |rule: &'static Broken| self.within.broken_by(std::slice::from_ref(rule)).next();
            let noticed = self.broken.iter().find_map(|rule| alone(rule).map(|(seed, by)| (rule, seed, by)));
            if let Some((rule, seed, by)) = noticed {
                return Some(format!("{rule:?} is caught alone, by {by} at draw {seed}: give it a row of its own"));
            }
        }
        match self.within {
            In::Seeds(_) => None,
            In::History(history, _) => {
                let innocent = In::History(history, self.within.draws().min(INNOCENT_DRAWS)).broken_by(&[]).next();
                innocent.map(|(seed, invariant)| format!("with no rule broken draw {seed} breaks {invariant}"))
            }
        }
    }
}

/// All rows, or those that `ROW` names.
fn wanted() -> Vec<&'static Row> {
    let name = asked_for("ROW").unwrap_or_default();
    ROWS.iter().filter(|row| format!("{:?}", row.broken).contains(&name)).collect()
}

#[test]
fn a_broken_rule_is_caught_by_the_invariant_that_it_breaks() {
    let rows = wanted();
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(fault) = row.fault() {
                        faults.lock().expect("no worker panics").push(format!("{:?}: {fault}", row.broken));
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().expect("no worker panics");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn counts(mut names: Vec<&str>) -> String {
    names.sort_unstable();
    let groups = names.chunk_by(|one, other| one == other);
    groups.map(|group| format!("{} {}", group[0], group.len())).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_invariant_has_a_broken_rule_that_it_catches() {
    let meant = |name: &str| ROWS.iter().any(|row| row.caught_by == name);
    let unproven: Vec<&str> = invariants::NAMES.iter().copied().filter(|name| !meant(name)).collect();
    assert!(unproven.is_empty(), "nothing shows that these bite: {unproven:?}");
}

#[test]
#[ignore = "tells a history: ROW=DropsTheFloor DRAW=3, and BROKEN=0 to see it with nothing broken"]
fn a_broken_rule_is_told() {
    for row in wanted() {
        let rules = if asked("BROKEN") == Some(0) { &[] } else { row.broken };
        println!("{:?}\n{}", row.broken, tell(&row.within.plan(asked("DRAW").unwrap_or(0)), rules).story);
    }
}
