//! A reign whose beginning nobody measured to its end: the agent that took the lock ended before its first write was proven and on record, and the next
//! one knows nothing of what was measured. It is on record all the same, and says what is not known.

use consensus::records::Transition;
use decision::names::{MemberName, Term};
use decision::view::SyncRecord;

use super::KEPT_RECORDS;
use crate::transitions::{hands_over, write_outage_ms};

const WHY: &str = "the agent that took the lock ended before its first write was proven and on record: how long nobody could write was not measured to its end";

/// What the records lack of a reign.
#[derive(Debug, PartialEq)]
pub(super) enum Lack {
    Nothing,
    /// The end of a switchover, or of a failover that was forced, under this id.
    End(String),
    /// All of it.
    Beginning(Box<Transition>),
}

/// What these records, the oldest first, lack of the reign of `me` in this term, of which `sync` is the durability record.
pub(super) fn lack(records: &[Transition], sync: Option<&SyncRecord>, term: Term, me: &MemberName) -> Lack {
    let of_term = || records.iter().rev().filter(|record| record.term_after == term.0);
    // Where some have been let go, its own may have been among them: others of its term say that it had one.
    let may_be_gone = records.len() >= KEPT_RECORDS && of_term().any(|record| !hands_over(record));
    if may_be_gone || of_term().any(|record| begins_reign(record) && record.outcome == "done") {
        return Lack::Nothing;
    }
    // A failover that an operator has forced begins its record with the lock.
    let forced = |record: &&Transition| {
        let begun = begins_reign(record) && !hands_over(record) && record.outcome == "in_progress";
        begun && record.to.as_deref() == Some(me.as_str())
    };
    if let Some(forced) = of_term().find(forced) {
        return Lack::End(forced.id.clone());
    }
    let handed = sync.is_some_and(|sync| sync.handover_lsn.is_some());
    let was_handed = |record: &&Transition| {
        let begun = hands_over(record) && record.outcome == "in_progress" && record.to.as_deref() == Some(me.as_str());
        begun && (handed || record.phases.iter().any(|phase| phase.name == "hand_over"))
    };
    if let Some(switchover) = of_term().find(was_handed) {
        return Lack::End(switchover.id.clone());
    }
    let Some(before) = records.iter().rev().find(|record| begins_reign(record) && record.outcome == "done") else {
        return Lack::Nothing;
    };
    let kind = match sync {
        Some(sync) if sync.reclaimed => "reclaim",
        _ if handed => "switchover",
        _ => "failover",
    };
    Lack::Beginning(Box::new(Transition {
        id: format!("t-{term}"),
        kind: kind.into(),
        cause: "unmeasured".into(),
        cause_text: WHY.into(),
        from: before.to.clone(),
        to: Some(me.to_string()),
        term_before: before.term_after,
        term_after: term.0,
        timeline_before: before.timeline_after,
        timeline_after: sync.map(|sync| sync.timeline.0),
        started_at: jiff::Timestamp::now().to_string(),
        outcome: "done".into(),
        ..Transition::default()
    }))
}

/// Ends a record whose last phases nobody has measured.
pub(super) fn end(record: &mut Transition) {
    if record.outcome != "in_progress" {
        return;
    }
    record.outcome = "done".into();
    record.write_outage_ms = Some(write_outage_ms(&record.phases)).filter(|outage| *outage > 0.0);
    record.write_outage_at_least = true;
    record.notes.push(WHY.into());
}

/// The kinds of what makes somebody lead.
const REIGNS: [&str; 5] = ["failover", "switchover", "reclaim", "bootstrap", "site_promotion"];

fn begins_reign(record: &Transition) -> bool {
    REIGNS.contains(&record.kind.as_str()) && record.term_after > record.term_before
}

#[cfg(test)]
mod tests {
    use consensus::records::Phase;
    use decision::durability::Quorum;
    use decision::names::{Lsn, Timeline};
    use decision::settings::Mode;

    use super::*;

    fn record(kind: &str, term: u64, to: &str, outcome: &str) -> Transition {
        Transition {
            id: format!("{kind}-{term}"),
            kind: kind.into(),
            term_before: term - 1,
            term_after: term,
            to: Some(to.into()),
            outcome: outcome.into(),
            ..Transition::default()
        }
    }

    #[test]
    fn a_reign_that_is_on_no_record_gets_one_and_a_switchover_its_end() {
        let me = MemberName::new("pg2").expect("a good name");
        let sync = |handover_lsn: Option<u64>, timeline| SyncRecord {
            handover_lsn: handover_lsn.map(Lsn),
            ..SyncRecord::of_reign(me.clone(), Term(8), Mode::Quorum, vec![Quorum::none()], Timeline(timeline))
        };
        let (won, handed) = (sync(None, 4), sync(Some(7), 4));
        let before = record("failover", 7, "pg1", "done");
        let of = |records: &[Transition], sync| match lack(
            &[std::slice::from_ref(&before), records].concat(),
            Some(sync),
            Term(8),
            &me,
        ) {
            Lack::Nothing => "nothing".to_owned(),
            Lack::End(id) => format!("the end of {id}"),
            Lack::Beginning(record) => {
                assert_eq!((record.from.as_deref(), record.lost.as_str()), (Some("pg1"), "unknown"));
                assert!(record.write_outage_ms.is_none() && !record.cause_text.is_empty());
                format!("{} {}", record.kind, record.id)
            }
        };
        let begun = record("switchover", 8, "pg2", "in_progress");
        let phase = Phase { name: "hand_over".into(), ..Phase::default() };
        let after_hand_over = Transition { phases: vec![phase], ..begun.clone() };
        for (records, sync, lacks) in [
            (vec![], &won, "failover t-8"),
            (vec![record("failover", 8, "pg2", "done")], &won, "nothing"),
            (vec![begun.clone()], &handed, "the end of switchover-8"),
            (vec![after_hand_over], &won, "the end of switchover-8"),
            (vec![begun], &won, "failover t-8"),
            (vec![record("switchover", 8, "pg2", "failed")], &won, "failover t-8"),
            (vec![record("switchover", 8, "pg3", "in_progress")], &won, "failover t-8"),
            (vec![record("switchover", 8, "pg2", "done")], &handed, "nothing"),
            (vec![record("failover", 8, "pg2", "in_progress")], &won, "the end of failover-8"),
            (vec![record("failover", 8, "pg3", "in_progress")], &won, "failover t-8"),
            (vec![Transition { term_before: 8, ..record("degrade", 8, "pg2", "done") }], &won, "failover t-8"),
            (vec![Transition { term_before: 8, ..record("restart", 8, "pg3", "done") }; KEPT_RECORDS], &won, "nothing"),
            (vec![], &SyncRecord { reclaimed: true, ..won.clone() }, "reclaim t-8"),
        ] {
            assert_eq!(of(&records, sync), lacks, "{records:?}");
        }
        assert_eq!(lack(&[], Some(&won), Term(8), &me), Lack::Nothing, "nothing is known of any reign");
    }

    #[test]
    fn the_page_knows_the_same_reigns() {
        let page = include_str!("../http/ui/page.js");
        let list = page.lines().find_map(|line| line.strip_prefix("const REIGNS = ")).expect("the list");
        let kinds: Vec<String> = serde_json::from_str(list.trim_end_matches(';')).expect("JSON");
        assert_eq!(kinds, REIGNS);
    }

    #[test]
    fn the_end_of_a_switchover_says_how_much_was_measured_and_that_it_was_more() {
        let phase = Phase { name: "shutdown".into(), duration_ms: 50.0, measured_on: "pg1".into() };
        let mut begun = Transition { phases: vec![phase], ..record("switchover", 8, "pg2", "in_progress") };
        end(&mut begun);
        assert_eq!(
            (begun.outcome.as_str(), begun.write_outage_ms, begun.write_outage_at_least),
            ("done", Some(50.0), true)
        );
        let ended = begun.clone();
        end(&mut begun);
        assert_eq!(begun, ended, "once");
    }
}
