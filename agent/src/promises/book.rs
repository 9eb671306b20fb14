//! What this node has promised, and what it has revoked: on disk before anybody is told, so that it binds the next life as well. One
//! lock guards both, for a promise and a ballot against the same term exclude each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use consensus::BootInstant;
use decision::names::{MemberName, Term};
use decision::promise::{Promise, Refusal};
use decision::view::Upstream;
use serde::{Deserialize, Serialize};

/// The notes, as they are on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    /// The highest term that this node may have balloted against; 0: none.
    revoked: u64,
    /// The highest one below it, which stands again when that one has been withdrawn.
    #[serde(default)]
    revoked_before: u64,
    given: Option<Given>,
    /// The number of the last question heard from each leader: an older one is a replay.
    heard: BTreeMap<MemberName, u64>,
}

/// A promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    leader: MemberName,
    term: Term,
    /// The boot of the host by whose clock `until` is counted.
    boot: String,
    until: u64,
    whole_ms: u64,
    #[serde(default)]
    upstream: Option<Upstream>,
}

/// To whom something is promised.
pub struct To {
    /// The leader.
    pub leader: MemberName,
    /// Its term.
    pub term: Term,
    /// Where it is to be followed.
    pub upstream: Option<Upstream>,
}

struct Cell {
    notes: Notes,
    /// Whether the notes are complete: they were found on disk, or etcd has been seen since.
    known: bool,
    /// The outcome of a ballot of this term is unknown, so that it may appear later.
    unsure: u64,
}

/// What was unknown before a ballot was sent.
pub struct Unsure(u64);

/// The book of one node.
pub struct Book {
    path: PathBuf,
    boot: String,
    cell: Mutex<Cell>,
    /// What has been promised, also while it is being written: whoever looks does not wait for the disk.
    shown: Mutex<Option<Given>>,
    /// What has been revoked, for whoever looks.
    pledged: AtomicU64,
    known: AtomicBool,
}

/// Why a question was not answered with a promise.
pub enum No {
    /// The rules forbid it.
    Refused(Refusal),
    /// The number of the question is not above the last one heard.
    Stale(u64),
    /// The promise could not be written down.
    Unwritten(std::io::Error),
}

impl Book {
    /// Opens the book of an earlier life. A promise counted by the clock of an earlier boot is honoured for its whole length from now on.
    pub fn open(state_dir: &Path, boot: String) -> Self {
        let path = state_dir.join("promises.json");
        let read = std::fs::read_to_string(&path).ok();
        let read: Option<Notes> = read.and_then(|text| {
            let parsed = serde_json::from_str(&text);
            parsed
                .inspect_err(
                    |error| tracing::error!(%error, path = %path.display(), "the notes about promises are damaged"),
                )
                .ok()
        });
        let known = read.is_some();
        let mut notes = read.unwrap_or_default();
        if let Some(given) = &mut notes.given {
            let longest = BootInstant::now() + Duration::from_millis(given.whole_ms);
            let until = if given.boot == boot { given.until.min(longest.0) } else { longest.0 };
            (given.until, given.boot) = (until, boot.clone());
        }
        let unsure = notes.revoked;
        let (shown, pledged) = (Mutex::new(notes.given.clone()), AtomicU64::new(notes.revoked));
        let cell = Mutex::new(Cell { notes, known, unsure });
        Self { path, boot, cell, shown, pledged, known: AtomicBool::new(known) }
    }

    fn lock(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, cell: &mut Cell, notes: Notes) -> std::io::Result<()> {
        if cell.notes != notes || !cell.known {
            super::durably(&self.path, &serde_json::to_vec(&notes)?)?;
            self.pledged.store(notes.revoked, Ordering::SeqCst);
            (cell.notes, cell.known) = (notes, true);
            self.known.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Writes the notes again where somebody has deleted them. Says whether they were missing.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn keep(&self) -> std::io::Result<bool> {
        let cell = self.lock();
        if !cell.known || self.path.exists() {
            return Ok(false);
        }
        super::durably(&self.path, &serde_json::to_vec(&cell.notes)?).map(|()| true)
    }

    /// The promise that runs.
    pub fn running(&self) -> Option<Promise> {
        running(self.shown.lock().unwrap_or_else(PoisonError::into_inner).as_ref())
    }

    /// The term against which a pledge is noted.
    pub fn pledged(&self) -> Option<Term> {
        Some(Term(self.pledged.load(Ordering::SeqCst))).filter(|term| term.0 > 0)
    }

    /// etcd has been seen, with `balloted` as the term of this node's ballot there: from now on it is known what it has revoked.
    pub fn saw_etcd(&self, balloted: Option<Term>) {
        if self.known.load(Ordering::SeqCst) {
            return;
        }
        let mut cell = self.lock();
        if !cell.known {
            let notes = Notes { revoked: balloted.map_or(0, |term| term.0), ..cell.notes.clone() };
            if let Err(error) = self.write(&mut cell, notes) {
                tracing::warn!(%error, "the notes about promises cannot be written: this node promises nothing");
            }
        }
    }

    /// Before anything is done against `term`: no promise forbids it, and none will be given any more. `released` tells of a promise
    /// whether its leader has let this node go.
    ///
    /// # Errors
    /// A promise runs, or the note cannot be written.
    pub fn revoke(&self, term: Term, released: impl FnOnce(&Promise) -> bool) -> Result<()> {
        let mut cell = self.lock();
        if let Some(promise) =
            running(cell.notes.given.as_ref()).filter(|promise| promise.term >= term && !released(promise))
        {
            bail!("{} has been promised to lead term {} on, for {:?} more", promise.leader, promise.term, promise.left);
        }
        let mut notes = cell.notes.clone();
        if term.0 > notes.revoked {
            (notes.revoked_before, notes.revoked) = (notes.revoked, term.0);
        }
        self.write(&mut cell, notes).context("noting that this node revokes a term")
    }

    /// A ballot against `term` is about to be sent: from now on its outcome is unknown. Returns what was unknown before.
    pub fn unsure(&self, term: Term) -> Unsure {
        let mut cell = self.lock();
        let before = cell.unsure;
        cell.unsure = before.max(term.0);
        Unsure(before)
    }

    /// The outcome of the ballot that was sent since is known.
    pub fn certain_again(&self, before: Unsure) {
        self.lock().unsure = before.0;
    }

    /// Whether a ballot against `term` may still appear in etcd, sent by this life or an earlier one.
    pub fn may_have_balloted(&self, term: Term) -> bool {
        let cell = self.lock();
        term.0 > 0 && cell.notes.revoked == term.0 && cell.unsure >= term.0
    }

    /// This node follows `term`. A pledge against it that never became a ballot is forgotten; one that may have become a ballot only once
    /// it has been withdrawn for certain.
    ///
    /// # Errors
    /// It stays noted, for the notes cannot be written.
    pub fn follows(&self, term: Term, withdrawn: bool) -> Result<()> {
        let mut cell = self.lock();
        let free = withdrawn || cell.unsure < term.0;
        if cell.notes.revoked == term.0 && term.0 > 0 && free {
            let before = cell.notes.revoked_before;
            let notes = Notes { revoked: before, revoked_before: 0, ..cell.notes.clone() };
            self.write(&mut cell, notes).context("a withdrawn pledge stays noted")?;
            cell.unsure = cell.unsure.min(before);
        }
        Ok(())
    }

    /// Promises the leader `to` to let it lead its term for `time`, if `rules` (which are told what has been revoked, and what promise runs) agree.
    pub fn promise(
        &self,
        to: To,
        number: u64,
        time: Duration,
        rules: impl FnOnce(Option<Term>, Option<Promise>) -> Result<(), Refusal>,
    ) -> Result<(), No> {
        let mut cell = self.lock();
        let last = cell.notes.heard.get(&to.leader).copied().unwrap_or_default();
        if number <= last {
            return Err(No::Stale(last));
        }
        let revoked = cell.known.then_some(Term(cell.notes.revoked));
        rules(revoked, running(cell.notes.given.as_ref())).map_err(No::Refused)?;
        let leader = to.leader.clone();
        let given = Given {
            leader: to.leader,
            term: to.term,
            upstream: to.upstream,
            boot: self.boot.clone(),
            until: (BootInstant::now() + time).0,
            whole_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(given.clone());
        let mut notes = Notes { given: Some(given), ..cell.notes.clone() };
        notes.heard.insert(leader, number);
        self.write(&mut cell, notes).map_err(No::Unwritten)
    }
}

fn running(given: Option<&Given>) -> Option<Promise> {
    let given = given?;
    let left = BootInstant(given.until).remaining();
    let promise = || Promise { leader: given.leader.clone(), term: given.term, left, upstream: given.upstream.clone() };
    (!left.is_zero()).then(promise)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    fn pg1() -> MemberName {
        MemberName::new("pg1").unwrap()
    }

    fn pg1_leads() -> To {
        let upstream = Upstream { member: pg1(), host: "10.0.0.1".to_owned(), port: 5432, term: Term(7), slot: None };
        To { leader: pg1(), term: Term(7), upstream: Some(upstream) }
    }

    fn gives(book: &Book, number: u64) -> bool {
        book.promise(pg1_leads(), number, TIME, |revoked, _| match revoked {
            Some(Term(revoked)) if revoked < 7 => Ok(()),
            Some(_) => Err(Refusal::Revoked),
            None => Err(Refusal::KnowsTooLittle),
        })
        .is_ok()
    }

    #[test]
    fn a_promise_and_a_pledge_exclude_each_other_in_this_life_and_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path(), "boot".into());
        assert!(!gives(&book, 1), "it does not know whether it has balloted");
        book.saw_etcd(None);
        assert!(gives(&book, 2));
        assert!(book.revoke(Term(7), |_| false).is_err());
        let freed = Book::open(dir.path(), "boot".into());
        assert!(freed.revoke(Term(7), |promise| promise.leader == pg1()).is_ok(), "its leader has let go");
        freed.follows(Term(7), true).unwrap();
        book.revoke(Term(8), |_| false).unwrap();
        for boot in ["boot", "another boot"] {
            let next = Book::open(dir.path(), boot.into());
            assert!(next.running().is_some_and(|promise| promise.term == Term(7) && promise.left > TIME / 2), "{boot}");
            assert!(next.revoke(Term(7), |_| false).is_err(), "{boot}");
        }
        let other = tempfile::tempdir().unwrap();
        let book = Book::open(other.path(), "boot".into());
        book.saw_etcd(None);
        book.revoke(Term(7), |_| false).unwrap();
        assert!(!gives(&book, 1));
        let next = Book::open(other.path(), "boot".into());
        assert!(!gives(&next, 1));
        next.follows(Term(7), false).unwrap();
        assert!(!gives(&next, 1), "an earlier life may have balloted");
        next.follows(Term(7), true).unwrap();
        assert!(gives(&next, 1));
    }

    #[test]
    fn a_promise_whose_note_was_deleted_binds_the_next_life_all_the_same() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        std::fs::create_dir(&dir).unwrap();
        let book = Book::open(&dir, "boot".into());
        book.saw_etcd(None);
        assert!(gives(&book, 1));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(book.keep().unwrap() && !book.keep().unwrap());
        assert!(Book::open(&dir, "boot".into()).revoke(Term(7), |_| false).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(gives(&book, 2), "its directory is made again");
        std::fs::remove_dir_all(home.path()).unwrap();
        assert!(book.keep().unwrap_err().to_string().contains("install -d -m 700"), "it says what to do");
    }

    #[test]
    fn a_question_that_has_been_heard_before_prolongs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path(), "boot".into());
        book.saw_etcd(None);
        assert!(gives(&book, 5));
        assert!(matches!(book.promise(pg1_leads(), 5, TIME, |_, _| Ok(())), Err(No::Stale(5))));
        assert!(!gives(&Book::open(dir.path(), "boot".into()), 4));
        assert!(gives(&book, 6));
    }

    #[test]
    fn a_pledge_that_was_broken_off_is_forgotten_when_its_term_is_followed_again() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path(), "boot".into());
        book.saw_etcd(None);
        book.revoke(Term(7), |_| false).unwrap();
        book.follows(Term(7), false).unwrap();
        assert!(gives(&book, 1));
        let other = tempfile::tempdir().unwrap();
        let unsure = Book::open(other.path(), "boot".into());
        unsure.saw_etcd(None);
        unsure.revoke(Term(7), |_| false).unwrap();
        let before = unsure.unsure(Term(7));
        unsure.follows(Term(7), false).unwrap();
        assert!(!gives(&unsure, 1), "it may be on its way");
        assert!(unsure.may_have_balloted(Term(7)) && !book.may_have_balloted(Term(7)));
        assert_eq!((unsure.pledged(), book.pledged()), (Some(Term(7)), None));
        let lost = unsure.unsure(Term(7));
        unsure.certain_again(lost);
        assert!(unsure.may_have_balloted(Term(7)), "an earlier one may still be on its way");
        unsure.certain_again(before);
        assert!(!unsure.may_have_balloted(Term(7)));
    }
    #[test]
    fn a_pledge_that_is_withdrawn_leaves_an_earlier_one_standing() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path(), "boot".into());
        book.saw_etcd(None);
        book.revoke(Term(7), |_| false).unwrap();
        let _ = book.unsure(Term(7));
        book.revoke(Term(8), |_| false).unwrap();
        book.follows(Term(8), true).unwrap();
        assert!(
            !gives(&book, 1) && book.may_have_balloted(Term(7)),
            "term 7 has been revoked, and may come back with an old etcd"
        );
        assert!(!gives(&Book::open(dir.path(), "boot".into()), 2));
        book.follows(Term(7), true).unwrap();
        assert!(gives(&book, 3));
        assert_eq!(book.running().unwrap().upstream, pg1_leads().upstream);
    }
}
