//! Proof that the simulation bites: each row breaks one rule on purpose and names the invariant that has to catch it.

use crate::broken::Broken;
use crate::invariants;
use crate::plan::Plan;
use crate::run::run;

/// So many seeds must be enough.
const WITHIN: u64 = 1_500;

/// A rule that is broken, and what must notice.
struct Row {
    broken: Broken,
    caught_by: &'static str,
}

const fn row(broken: Broken, caught_by: &'static str) -> Row {
    Row { broken, caught_by }
}

/// Caught within a few dozen seeds, in every run of the tests.
const ROWS: &[Row] = &[
    row(Broken::AppliesBeforeItRecords, "the_record_covers_postgres"),
    row(Broken::DoesNotFence, "fenced_by_the_deadline"),
    row(Broken::RestartsInsteadOfPromoting, "no_fork_under_a_lock"),
    row(Broken::DoesNotRaiseTheTerm, "terms_are_never_reused"),
    row(Broken::StartsWhatIsHalfMade, "a_half_made_directory_is_never_started"),
    row(Broken::NeverTakesTheLock, "a_leader_again"),
    row(Broken::ClaimsToLoseNothing, "a_loss_is_on_record"),
];

/// What needs a rarer turn of events, and so more seeds than every run of the tests plays.
const RARE: &[Row] = &[
    row(Broken::CountsOneBallotTooFew, "nothing_acknowledged_is_lost"),
    row(Broken::RanksByPositionOnly, "nothing_acknowledged_is_lost"),
    row(Broken::DropsTheFloor, "nothing_acknowledged_is_lost"),
    row(Broken::ForgetsTheOldPromise, "nothing_acknowledged_is_lost"),
    row(Broken::PledgesWhileItStreams, "nothing_acknowledged_is_lost"),
    row(Broken::ForgetsToGuardBallots, "one_node_acknowledges"),
    row(Broken::FollowsInSpiteOfItsPledge, "one_node_acknowledges"),
    row(Broken::IgnoresTheTermInTheName, "one_node_acknowledges"),
    row(Broken::TakesOverAnyRecord, "nothing_acknowledged_is_lost"),
    row(Broken::RecordsUnguarded, "the_record_covers_postgres"),
    row(Broken::CountsTheLeaseFromTheAnswer, "fenced_by_the_deadline"),
    row(Broken::ReleasesBeforeItIsDead, "one_writable_leader"),
    row(Broken::ReusesTimelines, "timelines_never_collide"),
    row(Broken::SuspectsTooSoon, "no_change_without_a_cause"),
];

/// The first seed at which the invariant catches the broken rule, and what else was caught before it.
fn caught(row: &Row) -> Result<u64, Vec<&'static str>> {
    let mut others = Vec::new();
    for seed in 0..WITHIN {
        match run(&Plan::of(seed), Some(row.broken)).violation {
            Some(violation) if violation.invariant == row.caught_by => {
                println!("{:?}: caught by {} at seed {seed}", row.broken, row.caught_by);
                return Ok(seed);
            }
            Some(violation) => others.push(violation.invariant),
            None => {}
        }
    }
    others.sort_unstable();
    Err(others)
}

#[test]
fn a_broken_rule_is_caught_by_the_invariant_that_it_breaks() {
    all_are_caught(ROWS);
}

#[test]
#[ignore = "takes minutes; run it in release after a change of the model"]
fn a_broken_rule_that_rarely_matters_is_caught_by_the_invariant_that_it_breaks() {
    all_are_caught(RARE);
}

fn all_are_caught(rows: &[Row]) {
    let results: Vec<(&Row, Result<u64, Vec<&str>>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = rows.iter().map(|row| scope.spawn(move || (row, caught(row)))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect()
    });
    for (row, result) in &results {
        if let Err(others) = result {
            println!("{:?}: NOT caught by {}; others: {}", row.broken, row.caught_by, counts(others));
        }
    }
    assert!(results.iter().all(|(_, result)| result.is_ok()), "a broken rule goes unnoticed");
}

fn counts(names: &[&str]) -> String {
    let count = |name: &&str| names.iter().filter(|other| *other == name).count();
    let mut seen: Vec<&str> = names.to_vec();
    seen.dedup();
    seen.iter().map(|name| format!("{name} {}", count(name))).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_invariant_has_a_broken_rule_that_it_is_to_catch() {
    let meant = |name: &str| ROWS.iter().chain(RARE).any(|row| row.caught_by == name);
    let unproven: Vec<&str> = invariants::NAMES.iter().copied().filter(|name| !meant(name)).collect();
    assert!(unproven.is_empty(), "nothing shows that these bite: {unproven:?}");
}
