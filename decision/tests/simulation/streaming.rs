//! Streaming: a walreceiver dials its upstream, WAL that is flushed there comes over in order, and what is flushed here is reported back
//! under the name of the term. A connection whose other end is silent lasts until its timeout.

use std::rc::Rc;

use decision::names::Term;

use crate::postgres::Process;
use crate::time::{MS, Micros, SECOND};
use crate::wal::{RecordId, is_prefix};
use crate::world::{At, Event, Part, World};

/// `wal_sender_timeout` and `wal_receiver_timeout`.
const TIMEOUT: Micros = 5 * SECOND;
const DIAL_EVERY: Micros = 200 * MS;

/// The primary's end.
#[derive(Clone, Debug)]
pub struct Sender {
    pub connection: u32,
    pub term: Term,
    pub flushed: usize,
    pub replayed: usize,
    pub caught_up: bool,
    sent: usize,
    /// Where the primary was when the connection began.
    begun_at: usize,
    last_report: Micros,
    busy_until: Micros,
}

/// The standby's end.
#[derive(Clone, Debug)]
pub struct Receiver {
    pub upstream: At,
    pub term: Term,
    /// Where the upstream's address has led to.
    reached: At,
    pub connection: u32,
    pub last_message: Micros,
    flush_until: Micros,
    report_until: Micros,
}

#[derive(Clone, Debug)]
pub struct Delivery {
    pub to: At,
    connection: u32,
    begins_at: usize,
    records: Rc<[RecordId]>,
}

#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub to: At,
    from: At,
    connection: u32,
    flushed: usize,
    replayed: usize,
    closed: bool,
}

impl World {
    pub fn dial(&mut self, at: At, server: u32) {
        if self.nodes[at].postgres.server != server || self.nodes[at].postgres.process != Process::Standby {
            return;
        }
        self.take_reload(at);
        let postgres = &self.nodes[at].postgres;
        let dials = postgres.receiver.is_none() && !postgres.held_up && postgres.promotion.is_none();
        if let Some((upstream, term)) = postgres.obeys.filter(|_| dials) {
            self.connect(at, upstream, term);
        }
        let postgres = &self.nodes[at].postgres;
        let soon = if postgres.reload_at.is_some() { 10 * MS } else { DIAL_EVERY };
        if postgres.reload_at.is_some() || (postgres.receiver.is_none() && postgres.obeys.is_some()) {
            self.after(soon, Event::Dial { at, server });
        }
    }

    /// The replaying process reads its configuration again, unless a reader holds it up.
    fn take_reload(&mut self, at: At) {
        let now = self.now;
        let postgres = &mut self.nodes[at].postgres;
        if postgres.held_up || postgres.reload_at.is_none_or(|due| due > now) {
            return;
        }
        postgres.reload_at = None;
        postgres.obeys = postgres.follows;
        let same = |receiver: &Receiver| Some((receiver.upstream, receiver.term)) == postgres.obeys;
        if postgres.receiver.as_ref().is_some_and(|receiver| !same(receiver)) {
            self.end_receiver(at);
        }
    }

    /// Tells the standby to read its configuration.
    pub fn reload(&mut self, at: At) {
        let later = self.toil(at, 3 * MS);
        let postgres = &mut self.nodes[at].postgres;
        postgres.reload_at = Some(self.now + later);
        let server = postgres.server;
        self.after(later, Event::Dial { at, server });
    }

    fn connect(&mut self, at: At, wanted: At, term: Term) {
        let upstream = self.misled.get(&at).copied().unwrap_or(wanted);
        let other = &self.nodes[upstream];
        let serves = matches!(other.postgres.process, Process::Primary | Process::Standby) && !other.postgres.orphaned;
        let reaches = self.links.both_ways(at, upstream) && other.powered;
        if !serves || !reaches || self.stands_still(upstream, Part::Postgres) || upstream == at {
            return;
        }
        let (mine, theirs) = (&self.nodes[at].postgres, &other.postgres);
        let has = mine.wal.len();
        let to_offer = &theirs.wal[..theirs.flushed.min(theirs.wal.len())];
        if has > to_offer.len() {
            return;
        }
        if !is_prefix(&mine.wal, to_offer) {
            let same_timeline =
                |one: RecordId, other: RecordId| self.archive.get(one).timeline == self.archive.get(other).timeline;
            if has > 0 && same_timeline(mine.wal[has - 1], to_offer[has - 1]) {
                self.streams_over_a_fork(at, upstream);
            }
            return;
        }
        self.connections += 1;
        let (now, connection, begun_at) = (self.now, self.connections, to_offer.len());
        let receiver = Receiver {
            upstream: wanted,
            term,
            reached: upstream,
            connection,
            last_message: now,
            flush_until: 0,
            report_until: 0,
        };
        self.nodes[at].postgres.receiver = Some(receiver);
        let sender = Sender {
            connection,
            term,
            flushed: 0,
            replayed: 0,
            caught_up: false,
            sent: has,
            begun_at,
            last_report: now,
            busy_until: now,
        };
        self.nodes[upstream].postgres.senders.insert(at, sender);
        self.nodes[at].postgres.taken_in = has;
        self.learn_histories(at, upstream);
        self.after(SECOND, Event::KeepAlive { at, connection });
        self.report(at);
        self.ship(upstream);
        self.wake_soon(at);
    }

    /// A walreceiver fetches the history files up to its upstream's timeline, reserved ones among them.
    fn learn_histories(&mut self, at: At, upstream: At) {
        let up_to = self.timeline_of(upstream).0;
        let theirs = &self.nodes[upstream].postgres;
        let histories: Vec<u32> = theirs.histories.iter().copied().filter(|number| *number <= up_to).collect();
        let reserved: Vec<u32> = theirs.reserved.iter().copied().filter(|number| *number <= up_to).collect();
        let mine = &mut self.nodes[at].postgres;
        mine.histories.extend(histories);
        mine.reserved.extend(reserved);
    }

    /// Sends what is flushed and not sent yet. What a cut link swallows is sent again when it is joined.
    pub fn ship(&mut self, at: At) {
        let senders: Vec<At> = self.nodes[at].postgres.senders.keys().copied().collect();
        for standby in senders {
            if self.links.carries(at, standby) {
                self.ship_to(at, standby);
            }
        }
    }

    fn ship_to(&mut self, at: At, standby: At) {
        let later = self.now + self.transit(at);
        let postgres = &mut self.nodes[at].postgres;
        let end = postgres.flushed.min(postgres.wal.len());
        let Some(sender) = postgres.senders.get_mut(&standby) else { return };
        if sender.sent >= end {
            return;
        }
        let records: Rc<[RecordId]> = postgres.wal[sender.sent..end].into();
        let delivery = Delivery { to: standby, connection: sender.connection, begins_at: sender.sent, records };
        sender.sent = end;
        sender.busy_until = later.max(sender.busy_until + 1);
        let instant = sender.busy_until;
        self.at(instant, Event::Delivered(delivery));
    }

    pub fn delivered(&mut self, delivery: Delivery) {
        let at = delivery.to;
        let same = |receiver: &&mut Receiver| receiver.connection == delivery.connection;
        let (now, flush) = (self.now, self.fsync(at));
        let postgres = &mut self.nodes[at].postgres;
        let Some(receiver) = postgres.receiver.as_mut().filter(same) else { return };
        receiver.last_message = now;
        receiver.flush_until = (now + flush).max(receiver.flush_until + 1);
        let (instant, upstream, server) = (receiver.flush_until, receiver.reached, postgres.server);
        if delivery.begins_at != postgres.wal.len() {
            return;
        }
        let before = self.archive.timeline(&postgres.wal);
        postgres.wal.extend(delivery.records.iter());
        let end = postgres.wal.len();
        if self.archive.timeline(&self.nodes[at].postgres.wal) != before {
            self.learn_histories(at, upstream);
        }
        self.at(instant, Event::Received { at, server, end });
    }

    pub fn received(&mut self, at: At, server: u32, end: usize) {
        let postgres = &mut self.nodes[at].postgres;
        if postgres.server != server || !matches!(postgres.process, Process::Standby) || postgres.wal.len() < end {
            return;
        }
        postgres.flushed = postgres.flushed.max(end);
        if postgres.receiver.is_some() {
            postgres.taken_in = postgres.taken_in.max(postgres.flushed);
        }
        if postgres.held_up {
            // It is replayed when the reader has gone.
        } else {
            postgres.replayed = postgres.replayed.max(end);
        }
        self.report(at);
        // Whoever streams from a standby gets what it has flushed.
        self.ship(at);
    }

    /// The walreceiver says how far it is.
    fn report(&mut self, at: At) {
        self.send_report(at, false);
    }

    fn send_report(&mut self, at: At, closed: bool) {
        let later = self.now + self.transit(at);
        let postgres = &mut self.nodes[at].postgres;
        let (flushed, replayed) = (postgres.flushed, postgres.replayed);
        let Some(receiver) = postgres.receiver.as_mut() else { return };
        receiver.report_until = later.max(receiver.report_until + 1);
        let (to, connection, instant) = (receiver.reached, receiver.connection, receiver.report_until);
        if self.links.carries(at, to) {
            self.at(instant, Event::Reported(Report { to, from: at, connection, flushed, replayed, closed }));
        }
    }

    pub fn reported(&mut self, report: &Report) {
        let now = self.now;
        let postgres = &mut self.nodes[report.to].postgres;
        let Some(sender) = postgres.senders.get_mut(&report.from).filter(|it| it.connection == report.connection)
        else {
            return;
        };
        if report.closed {
            postgres.senders.remove(&report.from);
            return;
        }
        sender.last_report = now;
        sender.flushed = sender.flushed.max(report.flushed);
        sender.replayed = sender.replayed.max(report.replayed);
        sender.caught_up |= sender.flushed >= sender.begun_at;
        self.release_waiters(report.to);
    }

    /// Ends the walreceiver, if there is one; it flushes what it has written first.
    pub fn end_receiver(&mut self, at: At) {
        if self.nodes[at].postgres.receiver.is_none() {
            return;
        }
        let postgres = &mut self.nodes[at].postgres;
        postgres.flushed = postgres.wal.len();
        postgres.taken_in = postgres.wal.len();
        let (server, end) = (postgres.server, postgres.wal.len());
        self.send_report(at, true);
        self.nodes[at].postgres.receiver = None;
        self.after(MS, Event::Received { at, server, end });
        let later = self.dice(at).u64(MS..DIAL_EVERY);
        self.after(later, Event::Dial { at, server });
    }

    /// Once a second, and when the other end has closed: is the connection still good?
    pub fn keep_alive(&mut self, at: At, connection: u32) {
        let now = self.now;
        let Some(receiver) = self.nodes[at].postgres.receiver.as_ref().filter(|it| it.connection == connection) else {
            return;
        };
        let upstream = receiver.reached;
        let silent = now - receiver.last_message > TIMEOUT;
        let hears = self.links.carries(upstream, at) && self.nodes[upstream].powered;
        let sender = self.nodes[upstream].postgres.senders.get(&at).filter(|it| it.connection == connection);
        let speaks = !self.stands_still(upstream, Part::Postgres);
        match (hears, sender) {
            (true, None) => return self.receiver_lost(at),
            (true, Some(_)) if speaks => {
                self.nodes[at].postgres.receiver.as_mut().expect("seen above").last_message = now;
                self.report(at);
                self.ship(upstream);
            }
            _ if silent => return self.receiver_lost(at),
            _ => {}
        }
        self.after(SECOND, Event::KeepAlive { at, connection });
    }

    fn receiver_lost(&mut self, at: At) {
        self.end_receiver(at);
        self.wake_soon(at);
    }

    /// Forgets standbys that have not reported for longer than the timeout.
    pub fn drop_silent_senders(&mut self, at: At) {
        let now = self.now;
        self.nodes[at].postgres.senders.retain(|_, sender| now - sender.last_report <= TIMEOUT);
    }

    /// After a link was joined, what it swallowed is sent again.
    pub fn resume_shipping(&mut self) {
        for at in 0..self.nodes.len() {
            self.ship(at);
            self.report(at);
        }
    }
}
