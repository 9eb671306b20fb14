//! A modelled Postgres: what is on its disk, which processes run, and how it starts, commits, promotes, stops and dies. A process that dies
//! leaves what it had written; a host that loses power leaves what was flushed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use decision::durability::Quorum;
use decision::names::{Term, Timeline};
use decision::view::ControlState;

use crate::broken::Broken;
use crate::streaming::{Receiver, Sender};
use crate::time::{MS, Micros, SECOND};
use crate::wal::{Kind, RecordId};
use crate::world::{At, Event, Part, World};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Directory {
    #[default]
    Empty,
    /// Cut off in the middle of this work.
    Half(&'static str),
    Whole,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Process {
    #[default]
    Down,
    Starting {
        as_primary: bool,
        since: Micros,
    },
    Primary,
    Standby,
    /// Told to stop; `checkpoint` says that its last checkpoint is on disk.
    Stopping {
        was_primary: bool,
        checkpoint: bool,
        since: Micros,
    },
}

/// How far a promotion has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    Signalled,
    /// The history file is there, `standby.signal` is gone.
    Named(Timeline),
    /// The first record of the new timeline is on disk.
    Begun(Timeline),
}

/// Who waits for a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    Client,
    /// A job of the agent's life so-and-so.
    Job {
        life: u32,
        job: u32,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Control {
    pub state: ControlState,
    pub timeline: Timeline,
    /// How many records there were with the latest checkpoint.
    pub checkpoint: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self { state: ControlState::ShutDown, timeline: Timeline(1), checkpoint: 0 }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Postgres {
    pub directory: Directory,
    pub wal: Vec<RecordId>,
    pub flushed: usize,
    pub control: Control,
    pub signal: bool,
    /// Whom the configuration says to follow, and under which term's name.
    pub follows: Option<(At, Term)>,
    /// Whom the configuration says to wait for.
    pub names: (Quorum, Term),
    /// Numbers of timelines that are known here, and those that are only reserved.
    pub histories: BTreeSet<u32>,
    pub reserved: BTreeSet<u32>,
    /// A timeline whose first WAL file was made and holds nothing of its own yet.
    pub begun: Option<Timeline>,
    /// The newest marker that is on record as acknowledged.
    pub acknowledged: Term,

    /// Which start of the server this is.
    pub server: u32,
    pub process: Process,
    /// The postmaster is dead and its backends live.
    pub orphaned: bool,
    /// Whom commits wait for.
    pub in_force: (Quorum, Term),
    pub waiting: VecDeque<(usize, Waiter)>,
    pub senders: BTreeMap<At, Sender>,
    pub receiver: Option<Receiver>,
    /// Whom the replaying process knows that it is to follow.
    pub obeys: Option<(At, Term)>,
    /// A reload that it has not taken yet.
    pub reload_at: Option<Micros>,
    pub replayed: usize,
    /// The end of what a walreceiver of this server has flushed; 0: none has.
    pub taken_in: usize,
    /// A reader holds up replay.
    pub held_up: bool,
    pub promotion: Option<Promotion>,
    /// The server stands still because of a fault of its own, not of its host's.
    pub frozen: bool,
}

impl Postgres {
    pub fn runs(&self) -> bool {
        self.process != Process::Down
    }

    /// Whether there is a postmaster.
    pub fn has_postmaster(&self) -> bool {
        self.runs() && !self.orphaned
    }

    /// The highest number a timeline has here, real or reserved.
    pub fn newest_number(&self, present: Timeline) -> Timeline {
        let known = self.histories.iter().chain(&self.reserved).max().copied().unwrap_or(0);
        Timeline(known).max(present)
    }

    /// Gives numbers back whose promotion never came.
    pub fn drop_unused_reservations(&mut self, present: Timeline) {
        let newest = self.histories.iter().max().copied().unwrap_or(0).max(present.0);
        self.reserved.retain(|number| *number <= newest);
    }
}

impl World {
    pub fn timeline_of(&self, at: At) -> Timeline {
        self.archive.timeline(&self.nodes[at].postgres.wal)
    }

    /// Whether clients can commit there, as far as the server is concerned.
    pub fn accepts_writes(&self, at: At) -> bool {
        self.nodes[at].postgres.process == Process::Primary && !self.stands_still(at, Part::Postgres)
    }

    /// Starts the server as its directory is configured. The caller has seen to it that nothing of an earlier one is left.
    pub fn start_server(&mut self, at: At, as_primary: bool) {
        self.start_is_allowed(at);
        let since = self.local(at);
        let slow = self.nodes[at].slow_disk;
        let long = if self.dice(at).u8(0..8) == 0 { 3_000 * MS } else { 200 * MS };
        let recovery = self.dice(at).u64(30 * MS..long) * slow.min(5);
        let postgres = &mut self.nodes[at].postgres;
        postgres.server += 1;
        postgres.process = Process::Starting { as_primary, since };
        postgres.control.state =
            if as_primary { ControlState::InCrashRecovery } else { ControlState::InArchiveRecovery };
        (postgres.taken_in, postgres.promotion, postgres.held_up) = (0, None, false);
        (postgres.obeys, postgres.reload_at, postgres.in_force) = (postgres.follows, None, postgres.names.clone());
        let server = postgres.server;
        self.after(recovery, Event::Stage { at, server });
    }

    pub fn next_stage(&mut self, at: At, server: u32) {
        if self.nodes[at].postgres.server != server || self.died_writing(at) {
            return;
        }
        match self.nodes[at].postgres.process {
            Process::Down | Process::Primary => {}
            Process::Starting { as_primary, .. } => self.recovered(at, as_primary),
            Process::Standby => self.promotes(at),
            Process::Stopping { was_primary, checkpoint, since } => self.stops(at, was_primary, checkpoint, since),
        }
    }

    fn recovered(&mut self, at: At, as_primary: bool) {
        let timeline = self.timeline_of(at);
        let partly = self.dice(at).u8(0..3) == 0;
        let postgres = &mut self.nodes[at].postgres;
        postgres.flushed = postgres.wal.len();
        let (server, end) = (postgres.server, postgres.wal.len());
        if as_primary {
            postgres.process = Process::Primary;
            (postgres.control.state, postgres.control.timeline) = (ControlState::InProduction, timeline);
            (postgres.control.checkpoint, postgres.begun) = (end, None);
            self.tell(|world| format!("{}: Postgres is up as primary on timeline {timeline}", world.name(at)));
            self.insert(at, Kind::Checkpoint);
            self.came_to_accept_writes(at);
        } else {
            postgres.process = Process::Standby;
            // Reads are allowed from a consistent point on; the rest is replayed after that.
            postgres.replayed = if partly { end / 2 } else { end };
            let rest = self.fsync(at) * 4;
            self.after(rest, Event::Received { at, server, end });
            self.after(MS, Event::Dial { at, server });
            self.tell(|world| format!("{}: Postgres is up as standby, {end} records", world.name(at)));
        }
    }

    /// Adds a record to a primary's WAL, and has it flushed.
    pub fn insert(&mut self, at: At, kind: Kind) -> usize {
        let timeline = self.timeline_of(at);
        self.insert_on(at, timeline, kind)
    }

    fn insert_on(&mut self, at: At, timeline: Timeline, kind: Kind) -> usize {
        let before = self.nodes[at].postgres.wal.last().copied();
        let id = self.archive.add(before, timeline, kind, at);
        self.wrote(at, id);
        let postgres = &mut self.nodes[at].postgres;
        postgres.wal.push(id);
        let (server, end) = (postgres.server, postgres.wal.len());
        let flush = self.fsync(at);
        self.after(flush, Event::Flushed { at, server, end });
        end
    }

    pub fn client_writes(&mut self, at: At) {
        let every = self.plan.write_every;
        let pause = self.dice(at).u64(every / 2..every * 2);
        self.after(pause, Event::Client { at });
        if self.accepts_writes(at) && !self.nodes[at].disk.takes_no_wal() {
            let end = self.insert(at, Kind::Row);
            self.nodes[at].postgres.waiting.push_back((end, Waiter::Client));
        }
    }

    pub fn flushed(&mut self, at: At, server: u32, end: usize) {
        let postgres = &mut self.nodes[at].postgres;
        if postgres.server != server || postgres.wal.len() < end || postgres.flushed >= end {
            return;
        }
        postgres.flushed = end;
        self.flushed_here(at, end);
        self.ship(at);
        self.release_waiters(at);
    }

    /// Tells those who wait for a commit that enough voters have it.
    pub fn release_waiters(&mut self, at: At) {
        let postgres = &self.nodes[at].postgres;
        let (quorum, term) = &postgres.in_force;
        let counts = |(who, sender): &(&At, &Sender)| {
            let named = sender.term == *term || self.breaks(Broken::IgnoresTheTermInTheName);
            named && quorum.voters.contains(&self.names[**who])
        };
        let mut ends: Vec<usize> = postgres.senders.iter().filter(counts).map(|(_, sender)| sender.flushed).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let released = match quorum.k as usize {
            0 => postgres.flushed,
            k => ends.get(k - 1).copied().unwrap_or(0).min(postgres.flushed),
        };
        let mut done = Vec::new();
        let waiting = &mut self.nodes[at].postgres.waiting;
        while let Some((end, waiter)) = waiting.front().copied().filter(|(end, _)| *end <= released) {
            waiting.pop_front();
            done.push((end, waiter));
        }
        for (end, waiter) in done {
            self.acknowledge(at, end, waiter);
        }
    }

    /// The promote signal has come.
    pub fn signal_promotion(&mut self, at: At) {
        let postgres = &mut self.nodes[at].postgres;
        if postgres.process == Process::Standby && postgres.promotion.is_none() {
            postgres.promotion = Some(Promotion::Signalled);
            let server = postgres.server;
            self.end_receiver(at);
            self.after(2 * MS, Event::Stage { at, server });
        }
    }

    fn promotes(&mut self, at: At) {
        let pause = self.fsync(at) + MS;
        let postgres = &mut self.nodes[at].postgres;
        let server = postgres.server;
        let Some(promotion) = postgres.promotion else { return };
        match promotion {
            Promotion::Signalled if postgres.held_up || postgres.replayed < postgres.wal.len() => {}
            Promotion::Signalled => {
                let present = self.archive.timeline(&postgres.wal);
                let number = Timeline(postgres.newest_number(present).0 + 1);
                postgres.flushed = postgres.wal.len();
                postgres.histories.insert(number.0);
                (postgres.begun, postgres.signal) = (Some(number), false);
                postgres.promotion = Some(Promotion::Named(number));
            }
            Promotion::Named(number) => {
                postgres.promotion = Some(Promotion::Begun(number));
                self.began_timeline(at, number);
                let end = self.insert_on(at, number, Kind::Begin);
                self.nodes[at].postgres.flushed = end;
                self.flushed_here(at, end);
            }
            Promotion::Begun(number) => {
                (postgres.promotion, postgres.process, postgres.begun) = (None, Process::Primary, None);
                postgres.control.state = ControlState::InProduction;
                postgres.waiting.clear();
                self.tell(|world| format!("{}: Postgres is primary now, on timeline {number}", world.name(at)));
                self.ship(at);
                return self.came_to_accept_writes(at);
            }
        }
        self.after(pause, Event::Stage { at, server });
    }

    /// A fast shutdown begins: sessions end, a last checkpoint is written, and its standbys are to get it.
    pub fn begin_stop(&mut self, at: At) {
        let now = self.now;
        let pause = 5 * MS + self.fsync(at) * 5;
        let postgres = &mut self.nodes[at].postgres;
        let was_primary = postgres.process == Process::Primary;
        if matches!(postgres.process, Process::Down | Process::Stopping { .. }) || postgres.orphaned {
            return;
        }
        let starting = matches!(postgres.process, Process::Starting { .. });
        postgres.process = Process::Stopping { was_primary, checkpoint: starting, since: now };
        postgres.waiting.clear();
        postgres.promotion = None;
        let server = postgres.server;
        self.end_receiver(at);
        self.after(pause, Event::Stage { at, server });
    }

    fn stops(&mut self, at: At, was_primary: bool, checkpoint: bool, since: Micros) {
        let server = self.nodes[at].postgres.server;
        if !was_primary {
            if !checkpoint {
                self.nodes[at].postgres.control.state = ControlState::ShutDownInRecovery;
            }
            return self.server_ends(at);
        }
        if !checkpoint {
            let timeline = self.timeline_of(at);
            let end = self.insert(at, Kind::Checkpoint);
            let postgres = &mut self.nodes[at].postgres;
            postgres.control = Control { state: ControlState::ShutDown, timeline, checkpoint: end };
            (postgres.flushed, postgres.process) = (end, Process::Stopping { was_primary, checkpoint: true, since });
            self.flushed_here(at, end);
            self.ship(at);
        }
        let postgres = &self.nodes[at].postgres;
        let all_have_it = postgres.senders.values().all(|sender| sender.flushed >= postgres.wal.len());
        if all_have_it || self.now > since + 5 * SECOND {
            return self.server_ends(at);
        }
        self.after(10 * MS, Event::Stage { at, server });
    }

    /// The last process of a server has ended.
    pub fn server_ends(&mut self, at: At) {
        self.end_receiver(at);
        let postgres = &mut self.nodes[at].postgres;
        let frozen = std::mem::take(&mut postgres.frozen);
        (postgres.process, postgres.orphaned, postgres.promotion) = (Process::Down, false, None);
        postgres.server += 1;
        postgres.waiting.clear();
        (postgres.receiver, postgres.reload_at) = (None, None);
        let senders = std::mem::take(&mut postgres.senders);
        for (standby, sender) in senders {
            if self.links.carries(at, standby) {
                let later = self.transit(at);
                self.after(later, Event::KeepAlive { at: standby, connection: sender.connection });
            }
        }
        if frozen {
            self.let_go(at, &[Part::Postgres], false);
        }
    }

    /// Every process is killed: what was written stays, what was only inserted may not.
    pub fn kill_server(&mut self, at: At) {
        if !self.nodes[at].postgres.runs() {
            return;
        }
        self.tell(|world| format!("{}: every Postgres process is killed", world.name(at)));
        let postgres = &self.nodes[at].postgres;
        let (flushed, len) = (postgres.flushed.min(postgres.wal.len()), postgres.wal.len());
        let keep = self.dice(at).usize(flushed..=len);
        self.nodes[at].postgres.wal.truncate(keep);
        self.server_ends(at);
    }

    /// Power loss: only what was flushed is left.
    pub fn lose_power(&mut self, at: At) {
        let postgres = &mut self.nodes[at].postgres;
        postgres.wal.truncate(postgres.flushed);
        self.server_ends(at);
    }

    /// The postmaster alone is killed. A primary's backends go on; anything else ends with it.
    pub fn kill_postmaster(&mut self, at: At) {
        if self.nodes[at].postgres.process == Process::Primary {
            self.nodes[at].postgres.orphaned = true;
        } else {
            self.kill_server(at);
        }
    }

    /// A checkpoint, which brings the control file to the present timeline.
    pub fn checkpoint(&mut self, at: At) {
        if self.accepts_writes(at) {
            let timeline = self.timeline_of(at);
            let end = self.insert(at, Kind::Checkpoint);
            let control = &mut self.nodes[at].postgres.control;
            (control.timeline, control.checkpoint) = (timeline, end);
        }
    }
}
