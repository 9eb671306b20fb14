//! What becomes of an operator's request, as it is told to people: phase by phase, and in one last line.

use std::time::Duration;

use consensus::records::{Phase, Transition};
use serde_json::Value;

use super::screen::{answer, tell};
use super::transitions::with_exit;
use super::words;
use super::world::Reach;
use crate::cli::{Exit, Output};
use crate::operate::follow::{self, Asked, End, Followed};

/// Watches until the end, or until the wait is over, and tells each phase.
pub async fn follow(reach: &Reach, asked: &Asked, wait: Duration) -> Followed {
    let mut tell_phase = |phase: &Phase| {
        tell(&format!("  {}", phase_line(phase)));
    };
    follow::follow(reach, asked, wait, &mut tell_phase).await
}

/// `promote 70 ms on pg2`
pub fn phase_line(phase: &Phase) -> String {
    format!("{} {} on {}", phase.name, words::phase(phase.duration_ms), phase.measured_on)
}

/// Says how it ended, in the last line of the answer.
pub fn conclude(asked: &Asked, followed: &Followed, wait: Duration, output: Output) -> Exit {
    let (exit, sentence) = conclusion(asked, followed, wait);
    match output {
        Output::Table => answer(&sentence),
        Output::Json => {
            tell(&sentence);
            let unrecorded = Transition {
                id: asked.id(),
                kind: asked.kind.word().to_owned(),
                from: asked.from.as_ref().map(ToString::to_string),
                to: Some(asked.to.to_string()),
                term_before: asked.term_before.0,
                ..Transition::default()
            };
            let body: Value = with_exit(followed.record.as_ref().unwrap_or(&unrecorded), exit);
            answer(&body.to_string())
        }
    };
    exit
}

/// The exit code, and the last line.
pub fn conclusion(asked: &Asked, followed: &Followed, wait: Duration) -> (Exit, String) {
    let (to, id) = (&asked.to, asked.id());
    let measured = || match &followed.record {
        Some(record) => {
            let pause = words::outage_of(record).map(|pause| format!(", write pause {pause}")).unwrap_or_default();
            format!("{pause}, {}", words::lost_sentence(record))
        }
        None => "; the agents have not recorded it".to_owned(),
    };
    match &followed.end {
        Some(End::Done) => (Exit::Done, format!("done: {to} is primary{}", measured())),
        Some(End::Otherwise(leader)) => (Exit::DoneOtherwise, format!("done otherwise: {leader} is primary, not {to}")),
        Some(End::Failed(why)) => {
            let leads_on = asked.from.as_ref().map(|from| format!("; {from} leads on")).unwrap_or_default();
            (Exit::Failed, format!("failed: {why}{leads_on}"))
        }
        Some(End::Refused(why)) => (Exit::Refused, format!("refused: {why}")),
        None => match &followed.unreachable {
            Some(why) => (Exit::Unreachable, format!("unknown: etcd does not answer ({why}); the request {id} stands")),
            None => (
                Exit::StillRunning,
                format!(
                    "still running after {}: see `pgvigil transitions {id}` and `pgvigil why`",
                    humantime::format_duration(wait)
                ),
            ),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use decision::names::{MemberName, Term};

    use super::*;
    use crate::operate::follow::Kind;

    fn asked() -> Asked {
        let name = |text: &str| MemberName::new(text).unwrap();
        Asked { kind: Kind::Switchover, revision: 40, from: Some(name("pg1")), to: name("pg2"), term_before: Term(7) }
    }

    #[test]
    fn the_last_line_says_it_all() {
        let record = Transition { write_outage_ms: Some(131.0), lost: "none".to_owned(), ..Transition::default() };
        let done = Followed { end: Some(End::Done), record: Some(record), unreachable: None };
        let wait = Duration::from_secs(60);
        assert_eq!(
            conclusion(&asked(), &done, wait),
            (Exit::Done, "done: pg2 is primary, write pause 0.13 s, nothing lost".to_owned())
        );
        let failed = Followed { end: Some(End::Failed("it broke".to_owned())), ..Followed::default() };
        assert_eq!(conclusion(&asked(), &failed, wait).1, "failed: it broke; pg1 leads on");
        assert_eq!(conclusion(&asked(), &Followed::default(), wait).0, Exit::StillRunning);
        let dark = Followed { unreachable: Some("silence".to_owned()), ..Followed::default() };
        assert_eq!(conclusion(&asked(), &dark, wait).0, Exit::Unreachable);
    }
}
