//! The whole modelled world and its one queue of events. Nothing happens between two events, and after each the invariants are looked at.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::rc::Rc;

use decision::names::{MemberName, Term};
use decision::promise::Refusal;
use fastrand::Rng;

use crate::agent::Agent;
use crate::broken::Rules;
use crate::disk::Disk;
use crate::etcd::Etcd;
use crate::fence::Fence;
use crate::leases::Side;
use crate::ledger::Ledger;
use crate::links::Links;
use crate::plan::Plan;
use crate::postgres::Postgres;
use crate::promises::Book;
use crate::reliance::{Asked, Ground};
use crate::requests::{Answer, Ask, Letter};
use crate::story::Story;
use crate::streaming::{Delivery, Report};
use crate::time::{Clock, MS, Micros};
use crate::wal::Archive;

/// A node, by its place in the cluster.
pub type At = usize;

/// The processes of a host that may stand still on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Agent,
    Postgres,
    Fence,
    /// No process: what stands still with the disk.
    Disk,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// The loop of an agent wakes, if this is still the instant it was to wake at.
    Wake {
        at: At,
        life: u32,
    },
    /// The job under way takes its next step.
    Step {
        at: At,
        life: u32,
        job: u32,
        turn: u32,
    },
    Ask(Letter, Ask),
    Answer(Letter, Answer),
    NoAnswer(Letter),
    Lease {
        at: At,
        life: u32,
        side: Side,
        turn: u32,
    },
    Hint {
        at: At,
        life: u32,
        revision: i64,
    },
    Confirm {
        at: At,
        life: u32,
    },
    Register {
        at: At,
        life: u32,
    },
    Beat {
        at: At,
        life: u32,
    },
    AskPromises {
        at: At,
        life: u32,
    },
    Question(Asked),
    Promised(Asked, Option<Refusal>),
    Sweep,
    Client {
        at: At,
    },
    /// A server has flushed its own WAL to here.
    Flushed {
        at: At,
        server: u32,
        end: usize,
    },
    Delivered(Delivery),
    /// A standby has flushed what it received.
    Received {
        at: At,
        server: u32,
        end: usize,
    },
    Reported(Report),
    Dial {
        at: At,
        server: u32,
    },
    KeepAlive {
        at: At,
        connection: u32,
    },
    /// The server has got one stage further with starting, promoting or stopping.
    Stage {
        at: At,
        server: u32,
    },
    Fence {
        at: At,
        look: u32,
    },
    Strike(usize),
    Mend(usize),
    MendAll,
    BackUp,
    /// A disk that has been filling is full.
    Full {
        at: At,
        number: usize,
    },
}

impl Event {
    /// Whose process must run for it to happen.
    fn owner(&self) -> Option<(At, Part)> {
        match self {
            Event::Wake { at, .. }
            | Event::Step { at, .. }
            | Event::Lease { at, .. }
            | Event::Hint { at, .. }
            | Event::Confirm { at, .. }
            | Event::Register { at, .. }
            | Event::AskPromises { at, .. }
            | Event::Beat { at, .. } => Some((*at, Part::Agent)),
            Event::Question(asked) => Some((asked.to, Part::Agent)),
            Event::Promised(asked, _) => Some((asked.from, Part::Agent)),
            Event::Answer(letter, _) | Event::NoAnswer(letter) => Some((letter.from, Part::Agent)),
            Event::Client { at }
            | Event::Flushed { at, .. }
            | Event::Received { at, .. }
            | Event::Dial { at, .. }
            | Event::KeepAlive { at, .. }
            | Event::Stage { at, .. } => Some((*at, Part::Postgres)),
            Event::Delivered(delivery) => Some((delivery.to, Part::Postgres)),
            Event::Reported(report) => Some((report.to, Part::Postgres)),
            Event::Fence { at, .. } => Some((*at, Part::Fence)),
            Event::Ask(..)
            | Event::Sweep
            | Event::Strike(_)
            | Event::Mend(_)
            | Event::MendAll
            | Event::BackUp
            | Event::Full { .. } => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Queued {
    at: Micros,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A process that stands still, and what it has missed.
#[derive(Clone, Debug, Default)]
pub struct Stillness {
    /// How many faults hold it; it goes on when none does.
    holds: u32,
    since: Micros,
    missed: Vec<(Micros, Event)>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Node {
    pub clock: Clock,
    pub powered: bool,
    pub agent: Agent,
    pub postgres: Postgres,
    pub fence: Fence,
    /// Leases that an agent leaves for its next life: of the member record and of the lock.
    pub notes: [Option<i64>; 2],
    /// What it leaves of promises: what it has promised, and on what ground it led.
    pub book: Book,
    pub ground: Option<Ground>,
    /// Up to which record of which term it has given that ground up.
    pub given_up: Option<(Term, i64)>,
    pub may_not_lead: bool,
    /// How many times slower than usual.
    pub slow_disk: u64,
    pub slow_actions: u64,
    pub disk: Disk,
    still: [Stillness; 4],
    dice: Rng,
}

#[derive(Clone, Debug)]
pub struct World {
    pub now: Micros,
    pub plan: Rc<Plan>,
    pub broken: Rules,
    pub names: Vec<MemberName>,
    pub nodes: Vec<Node>,
    pub etcd: Etcd,
    pub links: Links,
    pub archive: Archive,
    pub ledger: Ledger,
    pub story: Story,
    pub tickets: u64,
    pub connections: u32,
    pub answers_lost: u8,
    pub answers_late: bool,
    /// Whose questions to etcd come late, and how late.
    pub questions_late: BTreeMap<At, Range<Micros>>,
    /// Whom a node reaches, whatever address it asks for.
    pub misled: BTreeMap<At, At>,
    /// The faults that last, and whom they struck.
    pub struck: BTreeMap<usize, At>,
    queue: BinaryHeap<Queued>,
    number: u64,
    pub steps: u64,
    dice: Rng,
}

impl World {
    /// A world in which nothing is there yet.
    pub fn bare(plan: &Plan, broken: Rules, story: Story) -> Self {
        let seed = |salt: u64| Rng::with_seed(plan.seed.wrapping_mul(31).wrapping_add(salt));
        let node = |at: At| Node {
            clock: Clock::new(plan.drift_ppm[at]),
            powered: true,
            agent: Agent::default(),
            postgres: Postgres::default(),
            fence: Fence::default(),
            notes: [None, None],
            book: Book::default(),
            ground: None,
            given_up: None,
            may_not_lead: false,
            slow_disk: plan.disks[at],
            slow_actions: 1,
            disk: Disk::default(),
            still: Default::default(),
            dice: seed(at as u64 + 1),
        };
        let name = |at: At| MemberName::new(format!("pg{}", at + 1)).expect("a good name");
        World {
            now: 0,
            broken,
            names: (0..plan.nodes).map(name).collect(),
            nodes: (0..plan.nodes).map(node).collect(),
            etcd: Etcd::default(),
            links: Links::new(plan.nodes),
            archive: Archive::default(),
            ledger: Ledger::default(),
            story,
            tickets: 0,
            connections: 0,
            answers_lost: 0,
            answers_late: false,
            questions_late: BTreeMap::new(),
            misled: BTreeMap::new(),
            struck: BTreeMap::new(),
            queue: BinaryHeap::new(),
            number: 0,
            steps: 0,
            dice: seed(0),
            plan: Rc::new(plan.clone()),
        }
    }

    /// Lets an event come after so much true time.
    pub fn after(&mut self, span: Micros, event: Event) {
        self.at(self.now + span, event);
    }

    pub fn at(&mut self, instant: Micros, event: Event) {
        self.number += 1;
        self.queue.push(Queued { at: instant, number: self.number, event });
    }

    /// Lets an event come after a host's clock has counted so much.
    pub fn after_local(&mut self, at: At, span: Micros, event: Event) {
        let span = self.nodes[at].clock.true_span(span);
        self.after(span, event);
    }

    /// What a host's clock shows.
    pub fn local(&self, at: At) -> Micros {
        self.nodes[at].clock.shows(self.now)
    }

    pub fn dice(&mut self, at: At) -> &mut Rng {
        match self.nodes.get_mut(at) {
            Some(node) => &mut node.dice,
            None => &mut self.dice,
        }
    }

    /// How long a message takes: mostly a fraction of a millisecond, now and then much longer.
    pub fn transit(&mut self, from: At) -> Micros {
        let dice = self.dice(from);
        match dice.u8(0..100) {
            0 => dice.u64(5 * MS..60 * MS),
            1..10 => dice.u64(MS..5 * MS),
            _ => dice.u64(100..800),
        }
    }

    /// How long one step of an agent's action takes.
    pub fn toil(&mut self, at: At, usual: Micros) -> Micros {
        let slow = self.nodes[at].slow_actions;
        let dice = self.dice(at);
        let odd = if dice.u8(0..50) == 0 { 20 } else { 1 };
        dice.u64(usual / 2..usual * 2 + 1) * slow * odd
    }

    /// How long a flush takes.
    pub fn fsync(&mut self, at: At) -> Micros {
        let slow = self.nodes[at].slow_disk;
        self.dice(at).u64(200..2_000) * slow
    }

    pub fn name(&self, at: At) -> &MemberName {
        &self.names[at]
    }

    pub fn place(&self, name: &MemberName) -> Option<At> {
        self.names.iter().position(|other| other == name)
    }

    /// Says what happens, if anybody listens.
    pub fn tell(&mut self, words: impl FnOnce(&World) -> String) {
        if self.story.listens {
            let words = words(self);
            self.story.add(self.now, words);
        }
    }

    pub fn stands_still(&self, at: At, part: Part) -> bool {
        self.nodes[at].still[part as usize].holds > 0
    }

    pub fn hold(&mut self, at: At, parts: &[Part]) {
        for part in parts {
            let still = &mut self.nodes[at].still[*part as usize];
            if still.holds == 0 {
                still.since = self.now;
            }
            still.holds += 1;
        }
    }

    /// Lets processes go on. What they missed comes at once, or, where their clock stood as well, as much later as it stood.
    pub fn let_go(&mut self, at: At, parts: &[Part], clock_stood: bool) {
        for part in parts {
            let still = &mut self.nodes[at].still[*part as usize];
            still.holds = still.holds.saturating_sub(1);
            if still.holds > 0 {
                continue;
            }
            let (since, missed) = (still.since, std::mem::take(&mut still.missed));
            for (then, event) in missed {
                let message = matches!(event, Event::Answer(..) | Event::Delivered(_) | Event::Reported(_));
                let instant = if clock_stood && !message { then + (self.now - since) } else { self.now };
                self.at(instant, event);
            }
        }
    }

    /// Takes the next event; false when it is past `until`.
    pub fn advance(&mut self, until: Micros) -> bool {
        if self.queue.peek().is_none_or(|next| next.at > until) {
            return false;
        }
        let Some(Queued { at: instant, event, .. }) = self.queue.pop() else { return false };
        self.now = instant.max(self.now);
        let needed = [event.owner(), event.writes().map(|at| (at, Part::Disk))];
        for (at, part) in needed.into_iter().flatten() {
            let still = &mut self.nodes[at].still[part as usize];
            if still.holds > 0 {
                still.missed.push((self.now, event));
                return true;
            }
        }
        self.steps += 1;
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { at, life } => self.wakes(at, life),
            Event::Step { at, life, job, turn } => self.job_goes_on(at, life, job, turn),
            Event::Ask(letter, ask) => self.etcd_is_asked(letter, ask),
            Event::Answer(letter, answer) => self.answered(letter, answer),
            Event::NoAnswer(letter) => self.unanswered(letter),
            Event::Lease { at, life, side, turn } => self.tend_lease(at, life, side, turn),
            Event::Hint { at, life, revision } => self.hinted(at, life, revision),
            Event::Confirm { at, life } => self.confirm(at, life),
            Event::Register { at, life } => self.register(at, life),
            Event::Beat { at, life } => self.beat(at, life),
            Event::AskPromises { at, life } => self.asks_for_promises(at, life),
            Event::Question(asked) => self.hears_a_question(asked),
            Event::Promised(asked, refusal) => self.promised(asked, refusal),
            Event::Sweep => self.sweep(),
            Event::Client { at } => self.client_writes(at),
            Event::Flushed { at, server, end } => self.flushed(at, server, end),
            Event::Delivered(delivery) => self.delivered(delivery),
            Event::Received { at, server, end } => self.received(at, server, end),
            Event::Reported(report) => self.reported(&report),
            Event::Dial { at, server } => self.dial(at, server),
            Event::KeepAlive { at, connection } => self.keep_alive(at, connection),
            Event::Stage { at, server } => self.next_stage(at, server),
            Event::Fence { at, look } => self.fence_looks(at, look),
            Event::Strike(number) => self.strike(number),
            Event::Mend(number) => self.mend(number),
            Event::MendAll => self.mend_all(),
            Event::BackUp => self.etcd.back_up(),
            Event::Full { at, number } => self.disk_is_full(at, number),
        }
    }
}
