//! Many seeds on all processors; the first that fails is shortened and told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::plan::Plan;
use crate::run::{run, tell};
use crate::shrink::shrink;

/// How many seeds every run of the tests plays.
const SEEDS: u64 = 2_000;

/// What so many seeds made of it.
#[derive(Debug, Default)]
struct Sum {
    events: AtomicU64,
    reigns: AtomicU64,
    acknowledged: AtomicU64,
}

#[allow(clippy::disallowed_methods, reason = "how many seeds is asked of whoever runs the tests, never of the mind")]
pub fn asked_for(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub fn asked(name: &str) -> Option<u64> {
    asked_for(name)?.parse().ok()
}

#[test]
fn clusters_under_random_faults_keep_every_promise() {
    let from = asked("FROM").unwrap_or(0);
    let seeds = asked("SEEDS").unwrap_or(SEEDS);
    let (next, failed, sum) = (AtomicU64::new(from), Mutex::new(Vec::new()), Sum::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let outcome = run(&Plan::of(seed), &[]);
                    sum.events.fetch_add(outcome.events, Ordering::Relaxed);
                    sum.reigns.fetch_add(outcome.reigns as u64, Ordering::Relaxed);
                    sum.acknowledged.fetch_add(outcome.acknowledged as u64, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation {
                        failed.lock().expect("no worker panics").push((seed, violation));
                    }
                }
            });
        }
    });
    println!("{seeds} seeds: {sum:?}");
    let mut failed = failed.into_inner().expect("no worker panics");
    failed.sort_by_key(|(seed, _)| *seed);
    for (seed, violation) in &failed {
        println!("seed {seed}: {}: {}", violation.invariant, violation.what);
    }
    if let Some((seed, violation)) = failed.first() {
        panic!("{} of {seeds} seeds fail\n{}", failed.len(), explained(*seed, violation.invariant));
    }
}

/// The story of a seed that fails, as short as it can be told.
fn explained(seed: u64, invariant: &str) -> String {
    let (plan, tried) = shrink(&Plan::of(seed), &[], invariant);
    let told = tell(&plan, &[]);
    let what = told.violation.map(|violation| violation.what).unwrap_or_default();
    format!(
        "seed {seed} breaks {invariant}\n{}\n{what}\nthe plan, shortened in {tried} tries: {plan:#?}\nplay it again: make storm FROM={seed} SEEDS=1",
        told.story
    )
}
