//! A failover that a rule forbade is on record like one that took place: who asked "why did it not fail over" finds it under its own id. One record an
//! episode, kept by the first node that tells of it, written in the background as far as etcd is there, and closed when somebody leads again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use consensus::Store;
use consensus::records::{Phase, Transition};
use decision::Decision;
use decision::names::{MemberName, Term};
use decision::reason::span;
use decision::refusal::{Refusal, Refused, refusal};
use decision::view::{RequestKind, View};

use crate::chore::Chore;
use crate::hands::Hands;
use crate::recorder::reload;
use crate::transitions::{REFUSED, WITHOUT_PRIMARY, is_refused_still, milliseconds};

/// A write that failed waits this long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// So many refusals of one term have a record each.
const EPISODES_MAX: u32 = 9;
/// So many further reasons of one episode are noted.
const NOTES_MAX: usize = 8;

/// Who keeps the records of refused failovers on this node.
pub struct Refusals {
    hands: Arc<Hands>,
    writing: Chore,
    closing: Chore,
    episode: Option<Episode>,
}

/// From the moment a rule forbade a failover until somebody leads.
struct Episode {
    term: Term,
    /// Since when nobody has led, on the clock of this node.
    began: Instant,
    /// The reasons so far.
    codes: BTreeSet<&'static str>,
    /// The record as it should be.
    draft: Transition,
    kept: Arc<Mutex<Kept>>,
}

/// What has come of writing it.
#[derive(Default)]
struct Kept {
    /// The id of the record, once there is one.
    id: Option<String>,
    /// Another node keeps it.
    is_anothers: bool,
    /// As it was last written.
    written: Option<Transition>,
}

impl Refusals {
    /// Nothing has been refused yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        let (writing, closing) = (Chore::new("record of a refusal"), Chore::new("records of refusals that are over"));
        Self { hands, writing, closing, episode: None }
    }

    /// Looks whether a failover is being refused, or is not any more.
    pub fn see(&mut self, view: &View, decision: &Decision) {
        let vacant = view.cluster.now().filter(|cluster| cluster.leader.is_none());
        let asked = vacant.and_then(|cluster| cluster.request.as_ref());
        if asked.is_some_and(|request| request.kind == RequestKind::Failover) {
            self.hands.recorder.operator_has_spoken();
        }
        match refusal(view, decision) {
            Refusal::Lasts(refused) if refused.is_worth_telling => self.lasts(&refused),
            Refusal::Over(leader) => self.is_over(&leader, view),
            Refusal::Lasts(_) | Refusal::Unclear => {}
        }
        self.write();
    }

    fn lasts(&mut self, refused: &Refused) {
        let is_another = |episode: &Episode| episode.term != refused.term || episode.draft.outcome != "in_progress";
        if self.episode.as_ref().is_none_or(is_another) {
            tracing::warn!(reason = refused.reason.code(), term = refused.term.0, "no failover: {}", refused.reason);
            self.episode = Some(Episode::begin(refused, self.hands.me()));
        }
        let Some(episode) = &mut self.episode else { return };
        let code = refused.reason.code();
        if episode.codes.insert(code) {
            self.hands.metrics.refused_to_fail_over(code);
            episode.hears_another_reason(refused);
        }
        let id = kept(&episode.kept).id.clone().map(|id| format!(" ({id})")).unwrap_or_default();
        let note = format!("before it nobody was promoted for {}{id}: {}", span(refused.since), refused.reason);
        self.hands.recorder.refuses(Some(note));
    }

    fn is_over(&mut self, leader: &MemberName, view: &View) {
        self.hands.recorder.refuses(None);
        let mine = self.episode.as_ref().and_then(|episode| kept(&episode.kept).id.clone());
        if let Some(episode) = self.episode.as_mut().filter(|episode| episode.draft.outcome == "in_progress") {
            episode.ends(leader, self.hands.me());
        }
        self.close_what_nobody_keeps(leader, mine, view);
    }

    /// The record of an earlier life of this agent, but for one that may be this episode's; or, by the leader, of a node that is gone: how long that was nobody has measured to the end.
    fn close_what_nobody_keeps(&mut self, leader: &MemberName, mine: Option<String>, view: &View) {
        let Some(members) = view.cluster.now().map(|cluster| &cluster.members) else { return };
        let (me, leads) = (self.hands.me().clone(), leader == self.hands.me());
        let is_gone = |name: &str| !members.keys().any(|member| member.as_str() == name);
        let episode = self.episode.as_ref();
        let kept_by_nobody = |record: &Transition| {
            is_refused_still(record)
                && mine.as_ref() != Some(&record.id)
                && !episode.is_some_and(|episode| episode.may_yet_keep(record))
                && (record.told_by == me.as_str() || (leads && is_gone(&record.told_by)))
        };
        if !self.hands.ledger.any(kept_by_nobody) {
            return;
        }
        let left: Vec<String> =
            self.hands.ledger.all().into_iter().filter(kept_by_nobody).map(|record| record.id).collect();
        let (hands, leader) = (Arc::clone(&self.hands), leader.clone());
        self.closing.begin(AGAIN_AFTER, async move {
            for id in left {
                hands.store.amend_transition(&id, |record| close_unmeasured(record, &leader)).await?;
            }
            Ok(reload(&hands.store, &hands.ledger).await?)
        });
    }

    /// Has the record written if it is not as it should be. What etcd does not take now it is given later.
    fn write(&mut self) {
        let Some(episode) = &self.episode else { return };
        let draft = {
            let kept = kept(&episode.kept);
            if kept.is_anothers || kept.written.as_ref() == Some(&episode.draft) {
                return;
            }
            episode.draft.clone()
        };
        let (hands, kept) = (Arc::clone(&self.hands), Arc::clone(&episode.kept));
        self.writing.begin(AGAIN_AFTER, async move { keep(&hands, draft, &kept).await });
    }
}

impl Episode {
    fn begin(refused: &Refused, me: &MemberName) -> Self {
        let now = Instant::now();
        let began = now.checked_sub(refused.since).unwrap_or(now);
        let since = jiff::SignedDuration::try_from(refused.since).unwrap_or_default();
        let draft = Transition {
            kind: REFUSED.to_owned(),
            cause: refused.reason.code().to_owned(),
            cause_text: refused.reason.to_string(),
            evidence: refused.evidence.clone(),
            from: refused.last_leader.as_ref().map(ToString::to_string),
            term_before: refused.term.0,
            term_after: refused.term.0,
            started_at: (jiff::Timestamp::now() - since).to_string(),
            told_by: me.to_string(),
            lost: "none".to_owned(),
            lost_bytes_bound: Some(0),
            ..Transition::default()
        };
        Self { term: refused.term, began, codes: BTreeSet::new(), draft, kept: Arc::default() }
    }

    /// The first reason is the cause; what is said later is noted, with what is known then.
    fn hears_another_reason(&mut self, refused: &Refused) {
        if self.codes.len() > 1 && self.draft.notes.len() < NOTES_MAX {
            let note = format!("after {}: {}: {}", span(refused.since), refused.reason.code(), refused.reason);
            self.draft.notes.push(note);
            self.draft.evidence.clone_from(&refused.evidence);
        }
    }

    /// Whether this record may be its own: what was written last may have reached etcd without an answer, and is told once it is written again.
    fn may_yet_keep(&self, record: &Transition) -> bool {
        let kept = kept(&self.kept);
        let is_to_be_written = !kept.is_anothers && kept.written.as_ref() != Some(&self.draft);
        is_to_be_written && record.told_by == self.draft.told_by && record.term_before == self.term.0
    }

    fn ends(&mut self, leader: &MemberName, me: &MemberName) {
        self.draft.outcome = "refused".to_owned();
        self.draft.to = Some(leader.to_string());
        self.draft.ended_at = Some(jiff::Timestamp::now().to_string());
        self.draft.phases = vec![Phase {
            name: WITHOUT_PRIMARY.to_owned(),
            duration_ms: milliseconds(self.began.elapsed()),
            measured_on: me.to_string(),
        }];
    }
}

fn kept(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates the record, or brings it up to date; leaves it to another node that tells of the same.
async fn keep(hands: &Hands, draft: Transition, kept_here: &Mutex<Kept>) -> Result<()> {
    let known = kept(kept_here).id.clone();
    let id = match known {
        Some(id) => {
            hands.store.amend_transition(&id, |record| take_over(record, &draft)).await?;
            id
        }
        None => match create(&hands.store, &draft).await? {
            Begun::Mine(id) => id,
            Begun::Anothers(id) => {
                let mut kept = kept(kept_here);
                (kept.id, kept.is_anothers) = (id, true);
                return Ok(());
            }
        },
    };
    {
        let mut kept = kept(kept_here);
        (kept.id, kept.written) = (Some(id), Some(draft));
    }
    Ok(reload(&hands.store, &hands.ledger).await?)
}

/// Who keeps the record of an episode.
enum Begun {
    Mine(String),
    /// `None`: this term has had so many that this one has no record.
    Anothers(Option<String>),
}

async fn create(store: &Store, draft: &Transition) -> Result<Begun> {
    for turn in 1..=EPISODES_MAX {
        let id = if turn == 1 { format!("n-{}", draft.term_before) } else { format!("n-{}.{turn}", draft.term_before) };
        let record = Transition { id: id.clone(), ..draft.clone() };
        if store.create_transition(&record).await?.applied() {
            return Ok(Begun::Mine(id));
        }
        let Some(there) = store.transition(&id).await? else { continue };
        if !is_refused_still(&there) && !is_closed_before_it_was_told(&there, draft) {
            continue;
        }
        if there.told_by != draft.told_by {
            return Ok(Begun::Anothers(Some(id)));
        }
        store.amend_transition(&id, |record| take_over(record, draft)).await?;
        return Ok(Begun::Mine(id));
    }
    Ok(Begun::Anothers(None))
}

/// Whether this is the record of the same episode, which was written without an answer, and closed unmeasured before it could be brought up to date.
fn is_closed_before_it_was_told(there: &Transition, draft: &Transition) -> bool {
    let of = |record: &Transition| {
        let (told_by, cause) = (record.told_by.clone(), record.cause.clone());
        (told_by, cause, record.term_before, record.started_at.clone())
    };
    there.kind == REFUSED && there.phases.is_empty() && of(there) == of(draft)
}

/// The record becomes the draft; what an earlier life of this agent has told stays.
fn take_over(record: &mut Transition, draft: &Transition) {
    let id = std::mem::take(&mut record.id);
    let earlier = std::mem::take(&mut record.started_at);
    let is_earlier = match (earlier.parse::<jiff::Timestamp>(), draft.started_at.parse::<jiff::Timestamp>()) {
        (Ok(earlier), Ok(mine)) => earlier < mine,
        _ => false,
    };
    let mut notes = draft.notes.clone();
    if is_earlier {
        notes.push(
            "the agent that tells of it was restarted meanwhile: it has lasted longer than was measured".to_owned(),
        );
    }
    let started_at = if is_earlier { earlier } else { draft.started_at.clone() };
    *record = Transition { id, started_at, notes, ..draft.clone() };
}

fn close_unmeasured(record: &mut Transition, leader: &MemberName) {
    if !is_refused_still(record) {
        return;
    }
    record.outcome = "refused".to_owned();
    record.to = Some(leader.to_string());
    record.ended_at = Some(jiff::Timestamp::now().to_string());
    record
        .notes
        .push("the agent that told of it was not there at its end: how long it lasted was not measured".to_owned());
}

#[cfg(test)]
mod tests {
    use decision::reason::Reason;

    use super::*;

    fn refused(reason: Reason) -> Refused {
        let evidence = vec![format!("as of {}", reason.code())];
        let (last_leader, since) = (MemberName::new("pg1").ok(), Duration::from_secs(3));
        Refused { term: Term(7), last_leader, reason, since, is_worth_telling: true, evidence }
    }

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("a good name")
    }

    #[test]
    fn an_episode_has_one_cause_notes_what_else_is_said_and_ends_with_whoever_leads() {
        let first = refused(Reason::NoCandidate {});
        let mut episode = Episode::begin(&first, &name("pg2"));
        for reason in [Reason::NoCandidate {}, Reason::Paused {}, Reason::Paused {}] {
            let refused = refused(reason);
            if episode.codes.insert(refused.reason.code()) {
                episode.hears_another_reason(&refused);
            }
        }
        assert_eq!((episode.draft.cause.as_str(), episode.draft.notes.len()), ("no_candidate", 1));
        assert_eq!((episode.draft.evidence.len(), episode.draft.evidence[0].as_str()), (1, "as of paused"));
        assert!(is_refused_still(&episode.draft));
        episode.ends(&name("pg3"), &name("pg2"));
        assert!(!is_refused_still(&episode.draft) && episode.draft.to.as_deref() == Some("pg3"));
        assert!(episode.draft.phases[0].duration_ms >= 3000.0, "{:?}", episode.draft.phases);
        assert!(episode.draft.write_outage_ms.is_none(), "the transition that follows counts it");
    }

    #[test]
    fn what_an_earlier_life_has_begun_keeps_its_beginning_and_says_that_it_was_longer() {
        let mut begun = Episode::begin(&refused(Reason::NoCandidate {}), &name("pg2")).draft;
        (begun.id, begun.started_at) = ("n-7".to_owned(), "2026-09-01T00:00:00Z".to_owned());
        let draft = Episode::begin(&refused(Reason::Paused {}), &name("pg2")).draft;
        take_over(&mut begun, &draft);
        assert_eq!((begun.id.as_str(), begun.started_at.as_str()), ("n-7", "2026-09-01T00:00:00Z"));
        assert!(begun.notes[0].contains("restarted meanwhile"), "{:?}", begun.notes);
    }

    #[test]
    fn what_nobody_kept_to_its_end_is_closed_without_a_length() {
        let mut begun = Episode::begin(&refused(Reason::NoCandidate {}), &name("pg2")).draft;
        close_unmeasured(&mut begun, &name("pg3"));
        assert!(begun.outcome == "refused" && begun.phases.is_empty() && begun.notes.len() == 1);
        let closed = begun.clone();
        close_unmeasured(&mut begun, &name("pg1"));
        assert_eq!(begun, closed, "once");
    }

    #[test]
    fn a_record_that_may_be_this_episodes_is_left_until_that_is_written() {
        let episode = || Episode::begin(&refused(Reason::NoCandidate {}), &name("pg2"));
        let (lost, told, anothers) = (episode(), episode(), episode());
        kept(&told.kept).written = Some(told.draft.clone());
        kept(&anothers.kept).is_anothers = true;
        let there = Transition { id: "n-7".to_owned(), ..lost.draft.clone() };
        for (episode, record, may) in [
            (&lost, there.clone(), true),
            (&lost, Transition { told_by: "pg3".to_owned(), ..there.clone() }, false),
            (&lost, Transition { term_before: 6, ..there.clone() }, false),
            (&told, there.clone(), false),
            (&anothers, there, false),
        ] {
            assert_eq!(episode.may_yet_keep(&record), may, "{record:?}");
        }
    }

    #[test]
    fn a_record_that_was_closed_before_its_episode_was_told_is_taken_over_and_no_other() {
        let mut episode = Episode::begin(&refused(Reason::NoCandidate {}), &name("pg2"));
        let mut closed = Transition { id: "n-7".to_owned(), ..episode.draft.clone() };
        close_unmeasured(&mut closed, &name("pg3"));
        episode.ends(&name("pg3"), &name("pg2"));
        let measured = Transition { phases: episode.draft.phases.clone(), ..closed.clone() };
        for (there, is) in [
            (closed.clone(), true),
            (measured, false),
            (Transition { told_by: "pg1".to_owned(), ..closed.clone() }, false),
            (Transition { cause: "paused".to_owned(), ..closed.clone() }, false),
            (Transition { term_before: 6, ..closed.clone() }, false),
            (Transition { started_at: "2026-09-01T00:00:00Z".to_owned(), ..closed.clone() }, false),
        ] {
            assert_eq!(is_closed_before_it_was_told(&there, &episode.draft), is, "{there:?}");
        }
        take_over(&mut closed, &episode.draft);
        assert_eq!(closed, Transition { id: "n-7".to_owned(), ..episode.draft }, "nothing is said of a restart");
    }
}
