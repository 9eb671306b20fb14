//! A peer's side of promises (`agent/src/promises/book.rs`, `hear.rs`): what it has promised and what it has revoked, on disk before anybody
//! is told, so that it binds its next life as well.

use std::rc::Rc;

use decision::names::Term;
use decision::promise::{Promise, Question, answer, is_released};
use decision::view::{Seen, View};

use crate::broken::Broken;
use crate::look::SYSTEM;
use crate::reliance::Asked;
use crate::time::{Micros, duration, micros};
use crate::world::{At, Event, World};

/// A promise, by the clock of who gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    pub leader: At,
    pub term: Term,
    pub until: Micros,
    whole: Micros,
}

/// The notes of a node, on disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Book {
    /// The highest term that it may have balloted against.
    revoked: Term,
    /// Whether that is complete.
    known: bool,
    /// A ballot against this term may have been written.
    unsure: Term,
    /// The same before the last ballot was sent.
    unsure_before: Term,
    given: Option<Given>,
}

impl World {
    /// The promise of a node that runs, whoever asks.
    pub fn given(&self, at: At) -> Option<Given> {
        self.nodes[at].book.given.filter(|given| given.until > self.local(at))
    }

    /// As its decisions see it.
    pub fn promise_seen(&self, at: At) -> Option<Promise> {
        let given = self.given(at).filter(|_| !self.breaks(Broken::IgnoresItsPromise))?;
        let left = duration(given.until.saturating_sub(self.local(at)));
        let upstream = Some(self.upstream(given.leader, given.term));
        Some(Promise { leader: self.names[given.leader].clone(), term: given.term, left, upstream })
    }

    /// The pledge that is noted.
    pub fn pledged_seen(&self, at: At) -> Option<Term> {
        Some(self.nodes[at].book.revoked).filter(|term| *term > Term(0))
    }

    /// etcd has been seen: from now on it is known what was revoked.
    pub fn saw_etcd(&mut self, at: At) {
        let balloted = self.nodes[at]
            .agent
            .picture
            .as_ref()
            .and_then(|picture| picture.cluster.ballots.get(&self.names[at]).map(|ballot| ballot.revoked));
        let book = &mut self.nodes[at].book;
        if !book.known {
            (book.known, book.revoked) = (true, balloted.unwrap_or_default());
        }
    }

    /// Before anything is done against `term`; false: a promise forbids it.
    pub fn revoke(&mut self, at: At, term: Term) -> bool {
        let cluster = self.nodes[at].agent.picture.as_ref().map(|picture| &picture.cluster);
        let binds = |promise: &Promise| promise.term >= term && !cluster.is_some_and(|it| is_released(it, promise));
        if self.promise_seen(at).as_ref().is_some_and(binds) {
            return false;
        }
        let book = &mut self.nodes[at].book;
        (book.revoked, book.known) = (book.revoked.max(term), true);
        true
    }

    /// A ballot is about to be sent.
    pub fn unsure_of_its_ballot(&mut self, at: At, term: Term) {
        if !self.breaks(Broken::IsSureOfABallotOnItsWay) {
            self.unsure(at, term);
        }
    }

    fn unsure(&mut self, at: At, term: Term) {
        let book = &mut self.nodes[at].book;
        (book.unsure_before, book.unsure) = (book.unsure, book.unsure.max(term));
    }

    /// What became of it; `known`: that is certain.
    pub fn heard_of_its_ballot(&mut self, at: At, term: Term, known: bool) {
        if known {
            let book = &mut self.nodes[at].book;
            book.unsure = book.unsure_before;
        } else {
            self.unsure(at, term);
        }
    }

    /// Whether a ballot against `term` may be on its way.
    pub fn may_have_balloted(&self, at: At, term: Term) -> bool {
        let book = &self.nodes[at].book;
        term > Term(0) && book.revoked == term && book.unsure >= term
    }

    /// A term is followed: a pledge against it that never became a ballot, or was withdrawn, is forgotten.
    pub fn follows_again(&mut self, at: At, term: Term, withdrawn: bool) {
        let book = &mut self.nodes[at].book;
        if book.revoked == term && (withdrawn || book.unsure < term) {
            (book.revoked, book.unsure) = (Term(0), Term(0));
        }
    }

    /// A new life of the agent opens its notes. A promise that was counted by the clock of an earlier boot is honoured in its whole length.
    pub fn open_book(&mut self, at: At, booted: bool) {
        let now = self.local(at);
        let forgets = self.breaks(Broken::DoesNotNoteItsPromise);
        let book = &mut self.nodes[at].book;
        book.unsure = book.revoked;
        book.given = book.given.filter(|_| !forgets);
        if let Some(given) = book.given.as_mut().filter(|_| booted) {
            given.until = now + given.whole;
        }
    }

    /// The disk is lost with its notes. A promise still holds: there is nothing here to ballot with before it has ended.
    pub fn lose_book(&mut self, at: At) {
        let given = self.nodes[at].book.given;
        self.nodes[at].book = Book { given, ..Book::default() };
    }

    /// A leader asks this node to let it go on. What is promised is flushed before it is answered.
    pub fn hears_a_question(&mut self, asked: Asked) {
        let at = asked.to;
        if !self.nodes[at].agent.up {
            return;
        }
        let view = self.view(at);
        let refusal = self.judge_question(at, asked, &view);
        let later = self.fsync(at) + self.transit(at);
        if self.links.carries(at, asked.from) {
            self.after(later, Event::Promised(asked, refusal));
        }
    }

    fn judge_question(&mut self, at: At, asked: Asked, view: &View) -> Option<decision::promise::Refusal> {
        let question = Question { system_id: SYSTEM, leader: self.names[asked.from].clone(), term: asked.term };
        let running = self.given(at).map(|given| Promise {
            leader: self.names[given.leader].clone(),
            term: given.term,
            left: duration(given.until - self.local(at)),
            upstream: Some(self.upstream(given.leader, given.term)),
        });
        let book = self.nodes[at].book;
        let forgets = self.breaks(Broken::PromisesInSpiteOfItsBallot);
        let revoked = book.known.then_some(if forgets { Term(0) } else { book.revoked });
        let mut view = View { promise: running, ..view.clone() };
        if let (true, Seen::Now(cluster) | Seen::Before { value: cluster, .. }) = (forgets, &mut view.cluster) {
            cluster.ballots.clear();
        }
        let refused = answer(&view, revoked, &question).err();
        if refused.is_none() {
            let whole = micros(self.settings_of_house().timing.ttl);
            let until = self.local(at) + whole;
            self.nodes[at].book.given = Some(Given { leader: asked.from, term: asked.term, until, whole });
            self.tell(|world| format!("{} promises {} to let it go on", world.name(at), world.name(asked.from)));
        } else {
            self.tell(|world| format!("{} promises {} nothing: {refused:?}", world.name(at), world.name(asked.from)));
        }
        refused
    }

    /// Who has promised `leader` to let it lead `term` on, in truth.
    pub fn promised_to(&self, leader: At, term: Term) -> std::collections::BTreeSet<decision::names::MemberName> {
        let has = |at: &At| self.given(*at).is_some_and(|given| (given.leader, given.term) == (leader, term));
        (0..self.nodes.len()).filter(has).map(|at| self.names[at].clone()).collect()
    }

    /// The picture that a node has of etcd, for a write.
    pub fn picture_of(&self, at: At) -> Option<Rc<crate::etcd::Snapshot>> {
        self.nodes[at].agent.picture.clone()
    }
}
