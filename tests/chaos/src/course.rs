//! The course of a storm: which faults come one after another, from a seed. The clock has no part in it, so a course can be read and
//! repeated.

use crate::blow::ms;
use crate::dice::Dice;
use crate::fault::{Back, Fault, Step, Target, all};

/// The faults of the storm `seed`, without end: those that have names, and pairs of them that overlap.
pub fn course(seed: u64, volumes: bool) -> impl Iterator<Item = Fault> {
    let mut dice = Dice(seed);
    let known: Vec<Fault> = all().into_iter().filter(|fault| volumes || !fault.needs_volumes()).collect();
    std::iter::repeat_with(move || {
        let mut one = || known[dice.below(known.len())].clone();
        let (first, second) = (one(), one());
        if dice.below(3) == 0 { pair(first, &second, &mut dice) } else { first }
    })
}

/// The second begins while the first lasts; and as nobody may be left to take over, writes need not be back before all is made good.
fn pair(first: Fault, second: &Fault, dice: &mut Dice) -> Fault {
    let delay = ms(dice.below(2000) as u64);
    let mut steps = first.steps;
    let other = |target| if target == Target::Primary { Target::Replica } else { Target::Primary };
    let elsewhere = dice.below(2) == 0;
    for (number, step) in second.steps.iter().enumerate() {
        let after = if number == 0 { (delay, delay) } else { step.after };
        let target = if elsewhere { other(step.target) } else { step.target };
        // The same thing twice in the same place is one thing.
        if !steps.iter().any(|earlier| (earlier.blow, earlier.target) == (step.blow, target)) {
            steps.push(Step { after, target, ..*step });
        }
    }
    let name = format!("{} + {}{}", first.name, second.name, if elsewhere { " elsewhere" } else { "" });
    Fault { name, steps, lasts: first.lasts.max(second.lasts), back: Back::Mended }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_brings_the_same_storm() {
        let first: Vec<Fault> = course(7, true).take(50).collect();
        assert!(course(7, true).take(50).eq(first.iter().cloned()));
        assert!(!course(8, true).take(50).eq(first));
    }

    #[test]
    fn every_fault_comes_up_and_disks_only_where_there_are_some() {
        let storm: Vec<Fault> = course(1, true).take(600).collect();
        for fault in all() {
            assert!(storm.iter().any(|met| met.name == fault.name), "{}", fault.name);
        }
        assert!(course(1, false).take(600).all(|fault| !fault.needs_volumes()));
    }
}
