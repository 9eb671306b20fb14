//! Running one plan: a healthy cluster comes up, what is planned befalls it, everything is mended, and it has to be well again in time.

use std::rc::Rc;

use decision::durability::Quorum;
use decision::names::{Term, Timeline};
use decision::settings::Mode;
use decision::view::{RequestKind, SyncRecord};

use crate::broken::Rules;
use crate::etcd::{Key, Txn, Value, Write};
use crate::invariants::{is_well, no_database_is_left};
use crate::ledger::Violation;
use crate::look::SYSTEM;
use crate::plan::{Fault, Plan};
use crate::postgres::Directory;
use crate::story::Story;
use crate::time::{MS, Micros, SECOND};
use crate::wal::Kind;
use crate::world::{Event, World};

/// How long a cluster in which everything is mended may take to be well.
const WELL_WITHIN: Micros = 60 * SECOND;
/// When an operator gives the word where nothing can be proven any more.
const OPERATOR_AFTER: Micros = 25 * SECOND;

/// How a run went.
pub struct Outcome {
    pub violation: Option<Violation>,
    pub events: u64,
    pub reigns: usize,
    pub acknowledged: usize,
    pub story: String,
}

pub fn run(plan: &Plan, broken: Rules) -> Outcome {
    outcome(played(plan, broken, Story::default()))
}

/// As [`run`], and tells what happened.
pub fn tell(plan: &Plan, broken: Rules) -> Outcome {
    outcome(played(plan, broken, Story::told()))
}

fn outcome(world: World) -> Outcome {
    Outcome {
        violation: world.ledger.violation.clone(),
        events: world.steps,
        reigns: world.ledger.reigns.len(),
        acknowledged: world.ledger.acknowledged.len(),
        story: world.story.text(),
    }
}

/// The world after a plan was played, or after the first violation.
pub fn played(plan: &Plan, broken: Rules, story: Story) -> World {
    let mut world = begun(plan, broken, story);
    go_on(&mut world, plan.healed_at);
    let deadline = plan.healed_at + WELL_WITHIN;
    let mut operator = excusable(plan);
    let mut until = plan.healed_at;
    while world.ledger.violation.is_none() && !is_well(&world) && !no_database_is_left(&world) {
        if until >= deadline {
            let leader = world.etcd.leader().map(|at| world.names[at].to_string()).unwrap_or("nobody".to_owned());
            let what =
                format!("{leader} leads, and the cluster is not well {} s after all was mended", WELL_WITHIN / SECOND);
            world.violated("a_leader_again", what);
            break;
        }
        if operator && until >= plan.healed_at + OPERATOR_AFTER && world.etcd.leader().is_none() {
            operator = false;
            world.take_request_back();
            world.ask_for(RequestKind::Failover, None, true);
        }
        until += 250 * MS;
        go_on(&mut world, until);
    }
    world
}

/// Where a disk or the memory of etcd was lost, a proof may be gone for good, and an operator has to decide.
fn excusable(plan: &Plan) -> bool {
    plan.has(|fault| matches!(fault, Fault::DiskLost(_) | Fault::EtcdRestored))
}

fn go_on(world: &mut World, until: Micros) {
    while world.ledger.violation.is_none() && world.advance(until) {
        world.look_at_invariants();
    }
    if world.ledger.violation.is_none() {
        world.now = world.now.max(until);
    }
}

/// A cluster that was shut down cleanly, about to start: `pg1` led term 1.
fn begun(plan: &Plan, broken: Rules, story: Story) -> World {
    let mut world = World::bare(plan, broken, story);
    let begin = world.archive.add(None, Timeline(1), Kind::Begin, 0);
    let marker = world.archive.add(Some(begin), Timeline(1), Kind::Marker(Term(1)), 0);
    let last = world.archive.add(Some(marker), Timeline(1), Kind::Checkpoint, 0);
    world.ledger.markers.insert(Term(1), 0);
    world.ledger.timelines.insert(1, 0);
    for (at, node) in world.nodes.iter_mut().enumerate() {
        let postgres = &mut node.postgres;
        (postgres.directory, postgres.wal, postgres.flushed) = (Directory::Whole, vec![begin, marker, last], 3);
        (postgres.control.checkpoint, postgres.acknowledged) = (3, Term(1));
        postgres.signal = at != 0;
        if at != 0 {
            postgres.control.state = decision::view::ControlState::ShutDownInRecovery;
        }
    }
    let voters = world.names[1..].iter().cloned().collect();
    let quorum = if plan.mode == Mode::Async { Quorum::none() } else { Quorum::of(plan.acknowledgers, voters) };
    let sync = SyncRecord::of_reign(
        world.names[0].clone(),
        Term(1),
        if plan.mode == Mode::Auto { Mode::Async } else { plan.mode },
        vec![quorum],
        Timeline(1),
    );
    let writes = vec![
        Write::Put(Key::Initialize, Value::Initialize(Some(SYSTEM)), None),
        Write::Put(Key::Term, Value::Term(Term(1)), None),
        Write::Put(Key::Sync, Value::Sync(Rc::new(sync)), None),
    ];
    world.etcd.commit(&Txn { guards: Vec::new(), writes });
    for at in 0..plan.nodes {
        world.start_agent(at);
        world.after(at as Micros * 7 * MS, Event::Client { at });
    }
    world.after(100 * MS, Event::Sweep);
    for (number, planned) in plan.faults.iter().enumerate() {
        world.at(planned.at, Event::Strike(number));
    }
    world.at(2_500 * MS, Event::BackUp);
    world.at(plan.healed_at, Event::MendAll);
    world
}
