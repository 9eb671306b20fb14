//! How an agent talks to etcd: a question that may be lost on the way, an answer that may be lost on the way back, and a deadline for both.
//! A write whose answer was lost is read back, never sent again.

use std::rc::Rc;

use decision::durability::Quorum;
use decision::settings::{Durability, Mode};

use crate::broken::Broken;
use crate::etcd::{Config, Outcome, Snapshot, Txn};
use crate::leases::Side;
use crate::time::{MS, Micros, micros};
use crate::world::{At, Event, World};

/// Etcd revokes leases that have run out this often.
const SWEEP_EVERY: Micros = 500 * MS;

/// Who asks, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    pub from: At,
    pub life: u32,
    ticket: u64,
    /// When it was sent, by the sender's clock.
    pub sent: Micros,
    pub purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see the cluster.
    Watch,
    Lease(Side),
    /// For the member record; the second attempt is for a key that is not there.
    Register {
        first: bool,
    },
    Job(u32),
    /// To publish where the timeline before this one ended.
    History(decision::names::Timeline),
    /// Nobody waits for the answer.
    Errand,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Read,
    Grant,
    Renew(i64),
    Revoke(i64),
    Commit(Rc<Txn>),
    /// What became of a write whose answer was lost.
    Recall(Rc<Txn>),
}

#[derive(Clone, Debug)]
pub enum Answer {
    Picture(Rc<Snapshot>),
    Lease(Option<i64>),
    Done(Outcome),
}

impl World {
    /// Sends a question.
    pub fn ask(&mut self, from: At, purpose: Purpose, ask: Ask) {
        self.tickets += 1;
        let (life, ticket, sent) = (self.nodes[from].agent.life, self.tickets, self.local(from));
        let letter = Letter { from, life, ticket, sent, purpose };
        let mut later = self.transit(from) + self.dice(from).u64(300..3_000);
        if self.dice(from).u16(0..1_000) == 0 {
            later += self.dice(from).u64(50 * MS..900 * MS);
        }
        if let Some(late) = self.questions_late.get(&from).cloned() {
            later += self.dice(from).u64(late);
        }
        let timeout = micros(self.settings_of_house().timing.request_timeout);
        self.nodes[from].agent.open.insert(ticket);
        if later > timeout || !self.links.carries(from, self.links.etcd()) {
            self.after_local(from, timeout, Event::NoAnswer(letter));
        }
        if self.links.carries(from, self.links.etcd()) {
            self.after(later, Event::Ask(letter, ask));
        }
    }

    pub fn etcd_is_asked(&mut self, letter: Letter, ask: Ask) {
        if self.now < self.etcd.silent_until {
            // A question that meets an election is forgotten, or carried out when it is over and nobody waits any more.
            let dice = self.dice(letter.from);
            if dice.u8(0..4) == 0 && matches!(ask, Ask::Commit(_) | Ask::Renew(_)) {
                let later = self.etcd.silent_until + self.dice(letter.from).u64(1..20 * MS);
                self.at(later, Event::Ask(letter, ask));
            }
            return self.lose(letter);
        }
        let before = self.etcd.revision;
        let answer = self.etcd_answers(letter, &ask);
        if self.etcd.revision != before {
            self.etcd_changed(Some(letter.from));
        }
        let lost = self.answers_lost > 0 && self.dice(letter.from).u8(0..100) < self.answers_lost;
        if lost || !self.links.carries(self.links.etcd(), letter.from) {
            return self.lose(letter);
        }
        let mut later = self.transit(letter.from);
        if self.answers_late {
            later += self.dice(letter.from).u64(200 * MS..680 * MS);
        }
        let timeout = micros(self.settings_of_house().timing.request_timeout);
        if self.local(letter.from) + later >= letter.sent + timeout {
            return self.lose(letter);
        }
        self.after(later, Event::Answer(letter, answer));
    }

    fn lose(&mut self, letter: Letter) {
        if !self.nodes[letter.from].agent.open.contains(&letter.ticket) {
            return;
        }
        let timeout = micros(self.settings_of_house().timing.request_timeout);
        let passed = self.local(letter.from).saturating_sub(letter.sent);
        self.after_local(letter.from, timeout.saturating_sub(passed), Event::NoAnswer(letter));
    }

    fn etcd_answers(&mut self, letter: Letter, ask: &Ask) -> Answer {
        let now = self.now;
        match ask {
            Ask::Read => Answer::Picture(self.picture()),
            Ask::Grant => {
                let ttl = micros(self.settings_of_house().timing.ttl);
                Answer::Lease(Some(self.etcd.grant(now, ttl)))
            }
            Ask::Renew(lease) => Answer::Lease(self.etcd.renew(now, *lease).then_some(*lease)),
            Ask::Revoke(lease) => {
                self.etcd.revoke(*lease);
                Answer::Lease(None)
            }
            Ask::Commit(txn) => {
                let reign = self.etcd.term();
                let outcome = self.etcd.commit(txn);
                self.tell_commit(letter.from, txn, outcome);
                if self.etcd.term() != reign {
                    self.reign_begins(letter.from);
                }
                Answer::Done(outcome)
            }
            Ask::Recall(txn) => Answer::Done(self.etcd.recall(txn, self.breaks(Broken::TakesWhatWasThereForItsOwn))),
        }
    }

    fn tell_commit(&mut self, from: At, txn: &Txn, outcome: Outcome) {
        let quiet = |key: &crate::etcd::Key| matches!(key, crate::etcd::Key::Status | crate::etcd::Key::Member(_));
        self.tell(|world| {
            let words: Vec<String> = txn
                .writes
                .iter()
                .map(|write| match write {
                    crate::etcd::Write::Put(key, value, _) if quiet(key) => format!("{key:?} {}", brief(value)),
                    crate::etcd::Write::Put(key, value, _) => format!("{key:?} = {}", brief(value)),
                    crate::etcd::Write::Delete(key) => format!("{key:?} removed"),
                })
                .collect();
            format!("etcd: {} writes {}: {outcome:?}", world.name(from), words.join(", "))
        });
    }

    /// The picture of the cluster, shared by all who read the same revision.
    pub fn picture(&mut self) -> Rc<Snapshot> {
        let usual = Config {
            durability: Durability { mode: self.plan.mode, acknowledgers: self.plan.acknowledgers, other_zone: false },
            paused: false,
        };
        self.etcd.picture(&self.names, usual)
    }

    /// Tells the watchers. A change of nothing but positions wakes nobody.
    pub fn etcd_changed(&mut self, _by: Option<At>) {
        let revision = self.etcd.revision;
        let loud = |(key, stored): (&crate::etcd::Key, &crate::etcd::Stored)| {
            stored.revision == revision && *key == crate::etcd::Key::Status
        };
        if self.etcd.store.iter().any(loud) {
            return;
        }
        for at in 0..self.nodes.len() {
            let life = self.nodes[at].agent.life;
            if self.nodes[at].agent.up && self.links.carries(self.links.etcd(), at) {
                let later = self.transit(at) + 500;
                self.after(later, Event::Hint { at, life, revision });
            }
        }
    }

    pub fn sweep(&mut self) {
        self.after(SWEEP_EVERY, Event::Sweep);
        let now = self.now;
        if now < self.etcd.silent_until {
            return;
        }
        let led = self.etcd.leader();
        if self.etcd.sweep(now) {
            if let Some(leader) = led.filter(|_| self.etcd.leader().is_none()) {
                self.tell(|world| format!("etcd: the lease of the leader {} is over", world.name(leader)));
            }
            self.etcd_changed(None);
        }
    }

    pub fn answered(&mut self, letter: Letter, answer: Answer) {
        let at = letter.from;
        if !self.closes(letter) {
            return;
        }
        match (letter.purpose, answer) {
            (Purpose::Watch, Answer::Picture(picture)) => self.pictured(at, letter.sent, picture),
            (Purpose::Lease(side), Answer::Lease(lease)) => self.lease_answered(at, side, letter.sent, lease),
            (Purpose::Register { first }, Answer::Done(outcome)) => self.registered(at, first, Some(outcome)),
            (Purpose::Job(job), Answer::Done(outcome)) => self.job_answered(at, job, outcome),
            (Purpose::Job(job), Answer::Picture(picture)) => self.last_record_answered(at, job, &picture),
            (Purpose::History(timeline), Answer::Done(Outcome::Applied(_))) => self.history_told(at, timeline),
            (Purpose::Job(job), Answer::Lease(_)) => self.job_answered(at, job, Outcome::Applied(0)),
            _ => {}
        }
    }

    pub fn unanswered(&mut self, letter: Letter) {
        let at = letter.from;
        if !self.closes(letter) {
            return;
        }
        match letter.purpose {
            Purpose::Watch => self.picture_missing(at),
            Purpose::Lease(side) => self.lease_silent(at, side),
            Purpose::Register { first } => self.registered(at, first, None),
            Purpose::Job(job) => self.job_unanswered(at, job),
            Purpose::Errand | Purpose::History(_) => {}
        }
    }

    /// Whether anybody still waits for this; from here on nobody does.
    fn closes(&mut self, letter: Letter) -> bool {
        let agent = &mut self.nodes[letter.from].agent;
        agent.up && agent.life == letter.life && agent.open.remove(&letter.ticket)
    }
}

/// A value in a few words.
fn brief(value: &crate::etcd::Value) -> String {
    use crate::etcd::Value;
    match value {
        Value::Sync(sync) => {
            let policies: Vec<String> = sync.policies.iter().map(Quorum::to_string).collect();
            let mode = match sync.mode {
                Mode::Async => "async, ",
                _ => "",
            };
            format!(
                "({} of {}, {mode}timeline {}, [{}]{}{})",
                sync.term,
                sync.leader,
                sync.timeline,
                policies.join("; "),
                if sync.released { ", released" } else { "" },
                match (&sync.heir, sync.handover_lsn) {
                    (Some(heir), _) => format!(", heir {heir}"),
                    (None, Some(_)) => ", handed over".to_owned(),
                    (None, None) => String::new(),
                },
            )
        }
        Value::Ballot(ballot) => {
            format!("(revokes {}, has {} on timeline {})", ballot.revoked, ballot.received, ballot.timeline)
        }
        Value::Member(member) => format!("({:?}, timeline {:?})", member.role, member.timeline.map(|it| it.0)),
        Value::Leader(at) => format!("pg{}", at + 1),
        Value::Term(term) => term.to_string(),
        Value::Position(lsn) => lsn.to_string(),
        Value::Request(request) => format!("{:?} to {:?}", request.kind, request.to),
        Value::Initialize(_)
        | Value::History(_)
        | Value::Config(_)
        | Value::List(_)
        | Value::Timeline(_)
        | Value::Left(_) => {
            format!("{value:?}")
        }
    }
}
