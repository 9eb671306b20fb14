//! Which Postgres is restarted after which: whatever was changed, the restarts of the plan bring it into force, and none of them is in vain.

use std::collections::BTreeMap;

use super::builders::name;
use crate::names::MemberName;
use crate::parameters::{Capacities, Parameters, Part, effective};
use crate::rolling::{Node, Pending, Plan, Step, lowered, plan, waiting};

fn pending(pairs: &[(&str, &str, &str)]) -> Pending {
    pairs.iter().map(|(name, now, then)| ((*name).to_owned(), ((*now).to_owned(), (*then).to_owned()))).collect()
}

fn node(connections: u64, waits: &[(&str, &str, &str)]) -> Node {
    let capacities = [("max_connections".to_owned(), connections)].into();
    Node { pending: pending(waits), capacities }
}

/// `pg1` leads.
fn three(nodes: [Node; 3]) -> BTreeMap<MemberName, Node> {
    ["pg1", "pg2", "pg3"].map(name).into_iter().zip(nodes).collect()
}

fn told(plan: &Plan) -> String {
    let step = |step: &Step| match step {
        Step::Standby(name) => name.to_string(),
        Step::InPlace(name) => format!("{name} in place"),
        Step::SwitchOver(name) => format!("away from {name}"),
    };
    plan.steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

#[test]
fn standbys_go_first_save_where_a_capacity_becomes_less() {
    let (raise, lower) = ([("max_connections", "100", "150")], [("max_connections", "150", "100")]);
    let memory = [("shared_buffers", "128MB", "256MB")];
    let both = [lower[0], memory[0]];
    let rest = || node(100, &[]);
    for (nodes, pending, all) in [
        ([rest(), rest(), rest()], "", "pg2, pg3, away from pg1"),
        ([rest(), node(100, &memory), rest()], "pg2", "pg2, pg3, away from pg1"),
        ([node(100, &memory), rest(), rest()], "away from pg1", "pg2, pg3, away from pg1"),
        // The leader says nothing before the standbys have it.
        ([rest(), node(100, &raise), node(100, &raise)], "pg2, pg3, away from pg1", "pg2, pg3, away from pg1"),
        ([rest(), node(100, &raise), node(150, &[])], "pg2, away from pg1", "pg2, pg3, away from pg1"),
        ([node(100, &raise), node(150, &[]), node(150, &[])], "away from pg1", "pg2, pg3, away from pg1"),
        // And the standbys say nothing before the leader has less.
        ([node(150, &lower), node(150, &[]), node(150, &[])], "pg1 in place, pg2, pg3", "pg1 in place, pg2, pg3"),
        ([node(150, &lower), node(150, &[]), rest()], "pg1 in place, pg2", "pg1 in place, pg2, pg3"),
        ([rest(), node(150, &lower), node(150, &lower)], "pg2, pg3", "pg2, pg3, away from pg1"),
        // What may not let a server start is tried on a standby.
        (
            [node(150, &both), node(150, &memory), node(150, &memory)],
            "pg2, pg3, pg1 in place, pg2, pg3",
            "pg2, pg3, pg1 in place, pg2, pg3",
        ),
    ] {
        let nodes = three(nodes);
        let plans = [false, true].map(|all| plan(&name("pg1"), &nodes, all));
        assert_eq!([told(&plans[0]), told(&plans[1])], [pending, all], "{nodes:?}");
        assert_eq!(plans[0].lowered.is_empty(), !pending.contains("in place"));
    }
}

#[test]
fn what_comes_once_others_have_been_restarted_waits_from_the_start() {
    let (raise, lower) = (pending(&[("max_connections", "100", "150")]), pending(&[("max_connections", "150", "100")]));
    let leader = name("pg1");
    let raised = three([node(100, &[]), node(100, &[("max_connections", "100", "150")]), node(150, &[])]);
    let waits = waiting(Some(&leader), &raised);
    assert_eq!((&waits[&leader], &waits[&name("pg2")], waits[&name("pg3")].len()), (&raise, &raise, 0));
    let lowers = three([node(150, &[("max_connections", "150", "100")]), node(150, &[]), node(100, &[])]);
    let waits = waiting(Some(&leader), &lowers);
    assert_eq!((&waits[&leader], &waits[&name("pg2")], waits[&name("pg3")].len()), (&lower, &lower, 0));
    assert!(waiting(None, &lowers)[&name("pg2")].is_empty(), "nobody leads");
    assert_eq!((lowered(&lower).len(), lowered(&raise).len()), (1, 0));
}

const CHANGED: [&str; 2] = ["max_connections", "max_worker_processes"];

/// A cluster that is restarted by a plan, with the rules by which agents configure.
struct Cluster {
    runs: BTreeMap<MemberName, Parameters>,
    asked: Parameters,
    leader: MemberName,
}

impl Cluster {
    fn capacities(&self, name: &MemberName) -> Capacities {
        CHANGED.iter().map(|one| ((*one).to_owned(), self.runs[name][*one].parse().expect("a number"))).collect()
    }

    fn configured(&self, name: &MemberName) -> Parameters {
        let (mine, leader) = (self.capacities(name), self.capacities(&self.leader));
        let standbys: Vec<Capacities> =
            self.runs.keys().filter(|other| *other != name).map(|other| self.capacities(other)).collect();
        let standbys: Vec<&Capacities> = standbys.iter().collect();
        let part = match *name == self.leader {
            true => Part::Leads { mine: &mine, standbys: &standbys },
            false => Part::Follows { leader: Some(&leader) },
        };
        effective(&self.asked, &Parameters::new(), &Capacities::new(), part)
    }

    fn nodes(&self) -> BTreeMap<MemberName, Node> {
        let waits = |name: &MemberName| -> Pending {
            let configured = self.configured(name);
            let differs = |(one, now): (&String, &String)| {
                (configured[one] != *now).then(|| (one.clone(), (now.clone(), configured[one].clone())))
            };
            self.runs[name].iter().filter_map(differs).collect()
        };
        let node = |name: &MemberName| Node { pending: waits(name), capacities: self.capacities(name) };
        self.runs.keys().map(|name| (name.clone(), node(name))).collect()
    }

    fn take(&mut self, step: &Step) {
        if let Step::SwitchOver(name) = step {
            self.leader = self.runs.keys().find(|other| *other != name).expect("another").clone();
        }
        let new = self.configured(step.member());
        self.runs.insert(step.member().clone(), new);
    }
}

#[test]
fn after_the_restarts_of_the_plan_nothing_waits_whatever_was_changed() {
    let values = ["10", "20", "30"];
    let states: Vec<Parameters> = values
        .iter()
        .flat_map(|connections| values.iter().map(move |workers| [*connections, *workers]))
        .flat_map(|values| ["1GB", "2GB"].map(|memory| (values, memory)))
        .map(|(values, memory)| {
            let capacities = CHANGED.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.to_owned()));
            capacities.chain([("shared_buffers".to_owned(), memory.to_owned())]).collect()
        })
        .collect();
    let names = ["pg1", "pg2", "pg3"].map(name);
    for (before, asked) in states.iter().flat_map(|before| states.iter().map(move |asked| (before, asked))) {
        for all in [false, true] {
            let runs = names.iter().map(|name| (name.clone(), before.clone())).collect();
            let mut cluster = Cluster { runs, asked: asked.clone(), leader: names[0].clone() };
            let steps = plan(&names[0], &cluster.nodes(), all);
            let lowers = CHANGED.iter().any(|one| asked[*one] < before[*one]);
            assert_eq!(steps.steps.contains(&Step::InPlace(names[0].clone())), lowers, "{before:?} {asked:?}");
            for step in &steps.steps {
                cluster.take(step);
                let leader = cluster.capacities(&cluster.leader);
                let enough = |name| cluster.capacities(name).iter().all(|(one, now)| *now >= leader[one]);
                assert!(names.iter().all(enough), "{before:?} {asked:?} {step:?}");
            }
            let waits = waiting(Some(&cluster.leader), &cluster.nodes());
            assert!(waits.values().all(Pending::is_empty), "{before:?} {asked:?} {steps:?}: {waits:?}");
            assert!(all || before != asked || steps.steps.is_empty());
        }
    }
}
