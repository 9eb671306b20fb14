//! What becomes of an operator's request: its record is watched until writes work on whoever leads then, and told phase by phase. Done is
//! what the new leader's own agent confirms; a record alone, or a lock alone, is not enough.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use consensus::records::{Phase, Transition, request_id};
use decision::names::{MemberName, Term};

use super::world::Reach;

/// How often everything is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long an agent may take to say whether it takes writes.
const ASK_WITHIN: Duration = Duration::from_millis(300);
/// How long a record may be missing, or unfinished, beside a leader that is settled.
const RECORD_WITHIN: Duration = Duration::from_secs(2);

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From a leader that writes.
    Switchover,
    /// Where nobody leads.
    Failover,
}

impl Kind {
    /// Its word in records.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Switchover => "switchover",
            Kind::Failover => "failover",
        }
    }
}

/// A request that has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What kind.
    pub kind: Kind,
    /// Its identity.
    pub revision: i64,
    /// Who led when it was written.
    pub from: Option<MemberName>,
    /// Who is to lead.
    pub to: MemberName,
    /// The term when it was written.
    pub term_before: Term,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Who was asked for leads, and takes writes.
    Done,
    /// Another leads, and takes writes.
    Otherwise(MemberName),
    /// It was broken off, and the old leader leads on.
    Failed(String),
    /// The agents refused it.
    Refused(String),
}

/// What was found out.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The end; `None`: none yet.
    pub end: Option<End>,
    /// The record, as far as it had come.
    pub record: Option<Transition>,
    /// Why etcd could not be read at last.
    pub unreachable: Option<String>,
}

/// What is seen at one moment.
#[derive(Clone, Debug, Default)]
struct Sight {
    record: Option<Transition>,
    /// The leader, while it takes writes; where this site follows another, while it is its standby leader.
    writer: Option<MemberName>,
    term: Term,
    /// The request has not been taken off the table.
    request_stands: bool,
    /// How long writer, term and request have been as they are.
    settled_for: Duration,
}

/// Which phases have been told, and to whom.
struct Teller<'a> {
    told: BTreeSet<(String, String)>,
    tell: &'a mut (dyn FnMut(&Phase) + Send),
}

impl Teller<'_> {
    fn phases(&mut self, record: &Transition) {
        for phase in &record.phases {
            if self.told.insert((phase.name.clone(), phase.measured_on.clone())) {
                (self.tell)(phase);
            }
        }
    }
}

/// Watches until the end, or until the wait is over. Each phase is told once, when it is known.
pub async fn follow(reach: &Reach, asked: &Asked, wait: Duration, tell: &mut (dyn FnMut(&Phase) + Send)) -> Followed {
    let began = Instant::now();
    let mut followed = Followed::default();
    let mut teller = Teller { told: BTreeSet::new(), tell };
    let mut steady = (None, Instant::now());
    while began.elapsed() < wait {
        match look(reach, asked).await {
            Err(why) => followed.unreachable = Some(why),
            Ok(mut sight) => {
                followed.unreachable = None;
                let state = Some((sight.writer.clone(), sight.term, sight.request_stands));
                if steady.0 != state {
                    steady = (state, Instant::now());
                }
                sight.settled_for = steady.1.elapsed();
                if let Some(record) = &sight.record {
                    teller.phases(record);
                }
                followed.end = judge(asked, &sight);
                followed.record = sight.record;
                if followed.end.is_some() {
                    complete(reach, asked, &mut followed, &mut teller).await;
                    break;
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    followed
}

async fn look(reach: &Reach, asked: &Asked) -> Result<Sight, String> {
    let id = asked.id();
    let (record, snapshot) = tokio::join!(reach.store.transition(&id), reach.store.read());
    let (record, snapshot) = (record.map_err(|error| error.to_string())?, snapshot.map_err(|error| error.to_string())?);
    let mut writer = None;
    if let Some(leader) = &snapshot.cluster.leader
        && let Some(member) = snapshot.cluster.members.get(leader)
        && let Ok(beat) = reach.peers.get(&member.api_url, "/beat", ASK_WITHIN).await
        && (beat["writable"] == true || (snapshot.cluster.follows() && beat["role"] == "standby_leader"))
    {
        writer = Some(leader.clone());
    }
    Ok(Sight {
        record,
        writer,
        term: snapshot.cluster.term,
        request_stands: snapshot.failover_revision == asked.revision,
        settled_for: Duration::ZERO,
    })
}

/// Whether this is the end.
fn judge(asked: &Asked, sight: &Sight) -> Option<End> {
    let outcome = sight.record.as_ref().map(|record| record.outcome.as_str());
    if let (Some("refused"), Some(record)) = (outcome, &sight.record) {
        return Some(End::Refused(record.cause_text.clone()));
    }
    let writer = sight.writer.as_ref()?;
    if *writer == asked.to {
        let led_before = sight.term <= asked.term_before;
        let record_done = outcome == Some("done") || asked.kind == Kind::Failover;
        return (!led_before && (record_done || sight.settled_for > RECORD_WITHIN)).then_some(End::Done);
    }
    if asked.from.as_ref() != Some(writer) {
        return Some(End::Otherwise(writer.clone()));
    }
    match outcome {
        Some("failed") => {
            let why = sight.record.as_ref().map(|record| record.notes.join("; ")).unwrap_or_default();
            Some(End::Failed(why))
        }
        None if !sight.request_stands && sight.settled_for > RECORD_WITHIN => {
            Some(End::Failed("the request was taken off the table without a record".to_owned()))
        }
        _ => None,
    }
}

/// The record is written by both sides, a moment after the deed: waits a little for the rest of it.
async fn complete(reach: &Reach, asked: &Asked, followed: &mut Followed, teller: &mut Teller<'_>) {
    if matches!(followed.end, Some(End::Refused(_) | End::Failed(_)) | None) {
        return;
    }
    let began = Instant::now();
    while !is_complete(asked, followed.record.as_ref()) && began.elapsed() < RECORD_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok((records, _)) = reach.store.transitions().await else { continue };
        // Where the old leader died on the way, it is the record of the failover that tells the truth.
        let mine = |record: &&Transition| record.outcome == "done" && record.term_after > asked.term_before.0;
        followed.record = records.iter().rev().find(mine).cloned().or(followed.record.take());
        if let Some(record) = &followed.record {
            teller.phases(record);
        }
    }
}

/// Both the old and the new leader have added what they measured.
fn is_complete(asked: &Asked, record: Option<&Transition>) -> bool {
    record.is_some_and(|record| has_all_from(asked.from.as_ref().map(MemberName::as_str), record))
}

/// Whether a record of something that is done has what the old leader measured.
pub fn has_all_from(from: Option<&str>, record: &Transition) -> bool {
    let measured = |name: &str| record.phases.iter().any(|phase| phase.measured_on == name);
    let handed_over = record.kind == "switchover";
    record.outcome == "done" && from.filter(|_| handed_over).is_none_or(measured)
}

impl Asked {
    /// Under which the agents record what they make of it.
    pub fn id(&self) -> String {
        request_id(self.revision)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    fn asked() -> Asked {
        Asked { kind: Kind::Switchover, revision: 40, from: Some(name("pg1")), to: name("pg2"), term_before: Term(7) }
    }

    fn sight(outcome: Option<&str>, writer: Option<&str>, term: u64) -> Sight {
        let record = outcome.map(|outcome| Transition {
            outcome: outcome.to_owned(),
            cause_text: "because".to_owned(),
            notes: vec!["it broke".to_owned()],
            ..Transition::default()
        });
        Sight { record, writer: writer.map(name), term: Term(term), request_stands: true, settled_for: Duration::ZERO }
    }

    #[test]
    fn done_is_a_finished_record_and_a_leader_that_writes() {
        assert_eq!(judge(&asked(), &sight(Some("done"), None, 8)), None);
        assert_eq!(judge(&asked(), &sight(Some("in_progress"), Some("pg2"), 8)), None);
        assert_eq!(judge(&asked(), &sight(Some("done"), Some("pg2"), 8)), Some(End::Done));
        let late = Sight { settled_for: Duration::from_secs(3), ..sight(None, Some("pg2"), 8) };
        assert_eq!(judge(&asked(), &late), Some(End::Done));
    }

    #[test]
    fn another_leader_is_done_otherwise() {
        assert_eq!(judge(&asked(), &sight(Some("in_progress"), Some("pg3"), 8)), Some(End::Otherwise(name("pg3"))));
    }

    #[test]
    fn a_failure_ends_when_the_old_leader_writes_again() {
        assert_eq!(judge(&asked(), &sight(Some("failed"), None, 7)), None);
        assert_eq!(judge(&asked(), &sight(Some("failed"), Some("pg1"), 7)), Some(End::Failed("it broke".to_owned())));
        assert_eq!(judge(&asked(), &sight(None, Some("pg1"), 7)), None);
        let dropped =
            Sight { request_stands: false, settled_for: Duration::from_secs(3), ..sight(None, Some("pg1"), 7) };
        assert!(matches!(judge(&asked(), &dropped), Some(End::Failed(_))));
    }

    #[test]
    fn a_refusal_is_told_at_once() {
        assert_eq!(judge(&asked(), &sight(Some("refused"), None, 7)), Some(End::Refused("because".to_owned())));
    }

    #[test]
    fn a_failover_needs_no_record_of_the_old_leader() {
        let asked = Asked { kind: Kind::Failover, from: None, ..asked() };
        assert_eq!(judge(&asked, &sight(None, Some("pg2"), 8)), Some(End::Done));
        assert_eq!(judge(&asked, &sight(None, Some("pg1"), 8)), Some(End::Otherwise(name("pg1"))));
    }
}
