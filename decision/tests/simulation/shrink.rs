//! Makes a plan that fails as short as it can be while it still breaks the same invariant: faults are dropped, then made shorter, then the
//! rest of the setting made plain.

use crate::broken::Rules;
use crate::plan::Plan;
use crate::run::run;
use crate::time::{MS, SECOND};

/// The shortest plan found, and how many were tried.
pub fn shrink(plan: &Plan, broken: Rules, invariant: &str) -> (Plan, usize) {
    let mut best = plan.clone();
    let mut tried = 0;
    let mut fails = |candidate: &Plan| {
        tried += 1;
        run(candidate, broken).violation.is_some_and(|violation| violation.invariant == invariant)
    };
    let mut smaller = true;
    while smaller {
        smaller = false;
        for candidate in simpler(&best) {
            if fails(&candidate) {
                best = candidate;
                smaller = true;
                break;
            }
        }
    }
    (best, tried)
}

fn simpler(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    for number in 0..plan.faults.len() {
        let mut fewer = plan.clone();
        fewer.faults.remove(number);
        all.push(fewer);
    }
    if plan.drift_ppm.iter().any(|drift| *drift != 0) {
        all.push(Plan { drift_ppm: vec![0; plan.nodes], ..plan.clone() });
    }
    if plan.disks.iter().any(|disk| *disk != 1) {
        all.push(Plan { disks: vec![1; plan.nodes], ..plan.clone() });
    }
    if plan.wait_for_lease {
        all.push(Plan { wait_for_lease: false, ..plan.clone() });
    }
    let last = plan.faults.iter().map(|planned| planned.at + planned.lasts).max().unwrap_or_default();
    if plan.healed_at > last + 2 * SECOND {
        all.push(Plan { healed_at: last + SECOND, ..plan.clone() });
    }
    for number in 0..plan.faults.len() {
        if plan.faults[number].lasts > 100 * MS {
            let mut shorter = plan.clone();
            shorter.faults[number].lasts /= 2;
            all.push(shorter);
        }
    }
    all
}
