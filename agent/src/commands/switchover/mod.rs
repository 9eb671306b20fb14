//! `pgvigil switchover`: checks first, asks, writes the request into etcd, and follows what the agents make of it until writes work
//! on the new leader. The agents do all the work: whoever interrupts this program interrupts nothing else.

mod cancel;
mod preflight;

use std::time::{Duration, Instant};

use consensus::records::{FailoverRecord, Transition};
use consensus::{Error, Outcome, Snapshot};
use decision::names::MemberName;
use jiff::Timestamp;

use self::preflight::{Preflight, Wish};
use super::follow::{Asked, Kind, conclude, follow};
use super::operator::{agrees, must_be_able_to_ask, who};
use super::screen::{answer, tell};
use super::transitions::exit_word;
use super::words;
use super::world::{Reach, World};
use crate::cli::{Exit, Output, SwitchoverArgs};

/// How long a standby that is not level may take to become so, and how often it is looked at meanwhile.
const PASSES_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many earlier switchovers the expectation is made of.
const JUDGED_BY: usize = 5;

/// Carries it out, or says why not.
pub async fn run(arguments: &SwitchoverArgs) -> Exit {
    match steps(arguments).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn steps(arguments: &SwitchoverArgs) -> Result<Exit, Exit> {
    if arguments.cancel {
        return cancel::run(&Reach::new(&arguments.config)?).await;
    }
    if !arguments.dry_run {
        must_be_able_to_ask(arguments.yes, "shall this member lead?")?;
    }
    let wish = wish(arguments)?;
    let reach = Reach::new(&arguments.config)?;
    let world = look(&reach, &wish).await;
    let snapshot = world.etcd.as_ref().map_err(|why| {
        tell(&format!("error: a switchover is asked for in etcd, and it does not answer: {why}"));
        Exit::Unreachable
    })?;
    let preflight = Preflight::of(&world, snapshot, &wish, Timestamp::now());
    let expected_pause_ms = expected_pause_ms(&reach).await;
    let (Some(from), Some(to), true) = (&preflight.leader, &preflight.candidate, preflight.passed()) else {
        report(&preflight, arguments, None, Exit::Refused);
        return Ok(Exit::Refused);
    };
    report(&preflight, arguments, expected_pause_ms, Exit::Done);
    if arguments.dry_run {
        return Ok(Exit::Done);
    }
    if !arguments.yes && !agrees(&format!("Hand over from {from} to {to} in cluster {}?", reach.config.cluster)) {
        tell("nothing was changed");
        return Ok(Exit::Failed);
    }
    let asked = request(&reach, snapshot, from, to, arguments).await?;
    let followed = follow(&reach, &asked, arguments.wait).await;
    Ok(conclude(&asked, &followed, arguments.wait, arguments.output))
}

/// Looks at everything; again for a moment, while only such things are in the way as pass by themselves.
async fn look(reach: &Reach, wish: &Wish) -> World {
    let began = Instant::now();
    loop {
        let world = reach.look().await;
        let passes = |snapshot| {
            let preflight = Preflight::of(&world, snapshot, wish, Timestamp::now());
            preflight.may_pass() && !preflight.passed()
        };
        if began.elapsed() > PASSES_WITHIN || !world.etcd.as_ref().is_ok_and(passes) {
            return world;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn wish(arguments: &SwitchoverArgs) -> Result<Wish, Exit> {
    let name = |text: &Option<String>| text.as_deref().map(MemberName::new).transpose();
    let names = name(&arguments.to).and_then(|to| Ok(Wish { to, expect_leader: name(&arguments.expect_leader)? }));
    names.map_err(|bad| {
        tell(&format!("error: {bad}"));
        Exit::Usage
    })
}

/// The checks are the answer of a dry run and of a refusal, and chatter before the deed.
fn report(preflight: &Preflight, arguments: &SwitchoverArgs, expected_pause_ms: Option<f64>, exit: Exit) {
    let final_word = arguments.dry_run || exit != Exit::Done;
    if arguments.output == Output::Json && final_word {
        answer(&preflight.to_json(expected_pause_ms, exit_word(exit)).to_string());
        return;
    }
    let print = |text: &str| if final_word { _ = answer(text) } else { tell(text) };
    for check in &preflight.checks {
        print(&check.line());
    }
    match (&preflight.leader, &preflight.candidate) {
        (Some(from), Some(to)) if exit == Exit::Done => {
            let pause = expected_pause_ms
                .map_or("no earlier switchover tells how long writes will pause".to_owned(), |ms| {
                    format!("expected write pause about {}", words::outage(ms))
                });
            print(&format!("Ready: {from} -> {to}; {pause}."));
        }
        _ => print(&preflight.refusal()),
    }
}

/// The median of the last switchovers, and of an even number the lower one of the two in the middle: where there are only two, one that was
/// out of the ordinary says nothing of the next.
async fn expected_pause_ms(reach: &Reach) -> Option<f64> {
    let (records, _) = reach.store.transitions().await.ok()?;
    median_pause_ms(&records)
}

fn median_pause_ms(records: &[Transition]) -> Option<f64> {
    let done = records.iter().rev().filter(|record| record.kind == "switchover" && record.outcome == "done");
    let mut pauses: Vec<f64> = done.filter_map(|record| record.write_outage_ms).take(JUDGED_BY).collect();
    pauses.sort_by(f64::total_cmp);
    pauses.get(pauses.len().saturating_sub(1) / 2).copied()
}

async fn request(
    reach: &Reach,
    snapshot: &Snapshot,
    from: &MemberName,
    to: &MemberName,
    arguments: &SwitchoverArgs,
) -> Result<Asked, Exit> {
    let record = FailoverRecord {
        leader: Some(from.to_string()),
        member: Some(to.to_string()),
        kind: Some("switchover".to_owned()),
        requested_by: Some(who()),
        reason: arguments.reason.clone(),
        ..FailoverRecord::default()
    };
    let revision = write_request(reach, &record).await?;
    let (from, to, term_before) = (Some(from.clone()), to.clone(), snapshot.cluster.term);
    Ok(Asked { kind: Kind::Switchover, revision, from, to, term_before })
}

/// What somebody has asked for, in a few words.
fn asked_for(request: &FailoverRecord) -> String {
    format!(
        "{} to {} by {}",
        request.kind.as_deref().unwrap_or("switchover"),
        request.member.as_deref().unwrap_or("the best candidate"),
        request.requested_by.as_deref().unwrap_or("somebody")
    )
}

/// Writes the request; its revision names it from then on.
pub async fn write_request(reach: &Reach, record: &FailoverRecord) -> Result<i64, Exit> {
    match reach.store.request_failover(record).await {
        Ok(Outcome::Applied { revision }) => Ok(revision),
        Ok(Outcome::Refused) => {
            tell("refused: somebody else has asked for a switchover or failover at this very moment");
            Err(Exit::Refused)
        }
        Err(error @ Error::Unknown(_)) => {
            tell(&format!("error: {error}; `pgvigil status` tells whether the request waits"));
            Err(Exit::Unreachable)
        }
        Err(error @ Error::Unreachable(_)) => {
            tell(&format!("error: {error}; nothing was changed"));
            Err(Exit::Unreachable)
        }
        Err(error) => {
            tell(&format!("error: {error}"));
            Err(Exit::Failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expectation_is_the_median_of_the_last_ones_that_succeeded() {
        let record = |outcome: &str, ms| Transition {
            kind: "switchover".to_owned(),
            outcome: outcome.to_owned(),
            write_outage_ms: Some(ms),
            ..Transition::default()
        };
        assert_eq!(median_pause_ms(&[record("failed", 9000.0)]), None);
        for (pauses, median) in [
            (&[900.0, 120.0, 140.0, 110.0, 5000.0, 130.0][..], 130.0),
            (&[120.0, 3_600_000.0], 120.0),
            (&[3_600_000.0, 120.0], 120.0),
            (&[120.0, 130.0, 3_600_000.0, 140.0], 130.0),
            (&[120.0], 120.0),
        ] {
            let records: Vec<Transition> = pauses.iter().map(|ms| record("done", *ms)).collect();
            assert_eq!(median_pause_ms(&records), Some(median), "{pauses:?}");
        }
    }
}
