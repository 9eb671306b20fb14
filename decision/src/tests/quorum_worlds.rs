//! Every quorum of up to four nodes: `covers` says what brute force says, and every walk from one quorum to another keeps the record
//! covering what Postgres waits for, wherever the leader dies in between.

use std::collections::BTreeSet;

use super::builders::*;
use crate::durability::{Policies, Quorum, Step, covered, next_step, proven};
use crate::names::MemberName;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

fn subsets(nodes: &[&str]) -> Vec<BTreeSet<MemberName>> {
    let chosen = |bits: usize| {
        nodes.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, node)| name(node)).collect()
    };
    (0..1 << nodes.len()).map(chosen).collect()
}

/// Every quorum over these nodes, the one of nobody included.
fn quorums(nodes: &[&str]) -> Vec<Quorum> {
    let of_set = |voters: BTreeSet<MemberName>| {
        let count = u32::try_from(voters.len()).expect("few");
        (1..=count).map(move |k| Quorum::of(k, voters.clone()))
    };
    std::iter::once(Quorum::none()).chain(subsets(nodes).into_iter().flat_map(of_set)).collect()
}

/// Whether commits could be acknowledged without anybody of `heard` having them.
fn could_miss(running: &Quorum, heard: &BTreeSet<MemberName>) -> bool {
    running.voters.difference(heard).count() >= running.k as usize
}

#[test]
fn a_record_covers_a_quorum_if_and_only_if_no_takeover_can_miss_an_acknowledged_commit() {
    let everyone = subsets(&NODES);
    for recorded in quorums(&NODES) {
        let takeovers: Vec<_> = everyone.iter().filter(|heard| recorded.satisfied_by(heard)).collect();
        for running in quorums(&NODES) {
            let safe = takeovers.iter().all(|heard| !could_miss(&running, heard));
            assert_eq!(recorded.covers(&running), safe, "recorded {recorded}, running {running}");
        }
    }
}

#[test]
fn the_ballots_needed_meet_every_acknowledging_set_and_one_less_does_not() {
    let everyone = subsets(&NODES);
    for quorum in quorums(&NODES) {
        let acknowledging: Vec<_> =
            everyone.iter().filter(|set| set.is_subset(&quorum.voters) && set.len() == quorum.k as usize).collect();
        for heard in &everyone {
            let meets_all = quorum.k > 0 && acknowledging.iter().all(|set| !set.is_disjoint(heard));
            assert_eq!(quorum.satisfied_by(heard), meets_all, "{quorum}, heard {heard:?}");
        }
    }
}

/// What a takeover would see and what Postgres waits for. `None`: names of a term that has passed, which nobody answers to.
#[derive(Clone, Debug)]
struct Walk {
    recorded: Policies,
    running: Option<Quorum>,
    /// What was written over this record and given up as lost. It may still come true, until the record is another.
    on_its_way: Vec<Policies>,
}

impl Walk {
    /// One step towards `wanted`; `None` once it is settled.
    fn step(&mut self, wanted: &Quorum) -> Option<()> {
        match self.next(wanted) {
            Step::Settled => return None,
            Step::Apply(quorum) => self.running = Some(quorum),
            write @ (Step::Record(_) | Step::Prove(_)) => {
                self.recorded = written(write);
                self.on_its_way.clear();
            }
        }
        if let Some(running) = &self.running {
            let may_be_in_force = self.on_its_way.iter().chain([&self.recorded]);
            may_be_in_force.for_each(|list| assert!(covered(list, running), "towards {wanted}: {self:?}"));
        }
        Some(())
    }

    fn next(&self, wanted: &Quorum) -> Step {
        let step = next_step(&self.recorded, self.running.as_ref(), wanted);
        if let Step::Prove(quorum) = &step {
            assert_eq!(self.running.as_ref(), Some(quorum), "a proof of what Postgres does not do");
        }
        step
    }

    /// The next step is a write of the record, and its answer is lost.
    fn loses_the_answer(mut self, wanted: &Quorum) -> Self {
        if let write @ (Step::Record(_) | Step::Prove(_)) = self.next(wanted) {
            self.on_its_way.push(written(write));
        }
        self
    }

    fn settle(mut self, wanted: &Quorum) {
        let steps = (0..10).take_while(|_| self.step(wanted).is_some()).count();
        assert!(steps <= 5, "{steps} steps to {wanted}");
        assert_eq!((self.recorded.as_slice(), self.running.as_ref()), (std::slice::from_ref(wanted), Some(wanted)));
    }
}

fn written(step: Step) -> Policies {
    match step {
        Step::Record(policies) => policies,
        Step::Prove(quorum) => vec![quorum],
        Step::Settled | Step::Apply(_) => unreachable!("{step:?} writes nothing"),
    }
}

#[test]
fn every_change_is_covered_at_every_instant_and_ends_also_when_it_is_broken_off_for_another() {
    let quorums = quorums(&NODES[..3]);
    let lists = quorums.iter().flat_map(|first| {
        let two =
            quorums.iter().filter(move |second| *second > first).map(move |second| vec![first.clone(), second.clone()]);
        std::iter::once(vec![first.clone()]).chain(two)
    });
    for recorded in lists {
        let covered: Vec<_> = quorums.iter().filter(|running| covered(&recorded, running)).cloned().map(Some).collect();
        for running in covered.into_iter().chain([None]) {
            for wanted in &quorums {
                let mut walk = Walk { recorded: recorded.clone(), running: running.clone(), on_its_way: Vec::new() };
                walk.clone().settle(wanted);
                // The leader dies, or changes its mind, after each step. Every fifth of the others is enough to find what there is.
                let others = || quorums.iter().step_by(5).chain(&recorded);
                others().for_each(|other| walk.clone().loses_the_answer(wanted).settle(other));
                while walk.step(wanted).is_some() {
                    others().for_each(|other| walk.clone().settle(other));
                    others().for_each(|other| walk.clone().loses_the_answer(wanted).settle(other));
                    (Walk { running: None, ..walk.clone() }).settle(wanted);
                }
            }
        }
    }
}

#[test]
fn what_is_running_uncovered_is_recorded_before_anything_else_changes() {
    for recorded in quorums(&NODES[..3]) {
        for running in quorums(&NODES[..3]).iter().filter(|running| !recorded.covers(running)) {
            let (list, running) = (vec![recorded.clone()], Some(running.clone()));
            let mut walk = Walk { recorded: list, running: running.clone(), on_its_way: Vec::new() };
            if Some(&recorded) != running.as_ref() {
                match next_step(&walk.recorded, walk.running.as_ref(), &recorded) {
                    Step::Record(list) => walk.recorded = list,
                    other => panic!("recorded {recorded}, running {running:?}: {other:?}"),
                }
                walk.settle(&recorded);
            }
        }
    }
}

#[test]
fn a_longer_list_is_never_easier_to_satisfy() {
    for heard in subsets(&NODES[..3]) {
        for first in quorums(&NODES[..3]) {
            for second in quorums(&NODES[..3]) {
                let both = proven(&vec![first.clone(), second.clone()], &heard);
                assert_eq!(both, first.satisfied_by(&heard) && second.satisfied_by(&heard));
            }
        }
    }
    assert!(!proven(&Vec::new(), &names(&NODES)), "an empty record proves nothing");
}
