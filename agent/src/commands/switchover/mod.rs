//! `pgvigil switchover`: checks first, asks, writes the request into etcd, and follows what the agents make of it until writes work
//! on the new leader. The agents do all the work: whoever interrupts this program interrupts nothing else.

mod cancel;
mod planned;

use consensus::records::Transition;
use decision::names::MemberName;
use jiff::Timestamp;

use super::checks::report;
use super::follow::{conclude, follow};
use super::operator::{agrees, must_be_able_to_ask, who};
use super::screen::tell;
use super::world::Reach;
use super::{told, words};
use crate::cli::{Exit, SwitchoverArgs};
use crate::operate::preflight::{Preflight, Wish};
use crate::operate::switchover::{look, request};

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
    if arguments.later.is_said() {
        return planned::run(arguments).await;
    }
    let wish = wish(arguments)?;
    let reach = Reach::new(&arguments.config)?;
    let world = look(&reach, &wish).await;
    let snapshot = world.etcd.as_ref().map_err(|why| {
        tell(&format!("error: a switchover is asked for in etcd, and it does not answer: {why}"));
        reach.silence()
    })?;
    let preflight = Preflight::of(&world, snapshot, &wish, Timestamp::now());
    let expected_pause_ms = expected_pause_ms(&reach).await;
    let how = (arguments.output, arguments.dry_run);
    let (Some(from), Some(to), true) = (&preflight.leader, &preflight.candidate, preflight.passed()) else {
        report(&preflight, how, None, None);
        return Ok(Exit::Refused);
    };
    report(&preflight, how, Some(&ready(from, to, expected_pause_ms)), expected_pause_ms);
    if arguments.dry_run {
        return Ok(Exit::Done);
    }
    if !arguments.yes && !agrees(&format!("Hand over from {from} to {to} in cluster {}?", reach.config.cluster)) {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    let by = (who(), arguments.reason.as_deref());
    let asked = request(&reach, snapshot, (from, to), &by.0, by.1, arguments.ignore_hold).await.map_err(told)?;
    let followed = follow(&reach, &asked, arguments.wait).await;
    Ok(conclude(&asked, &followed, arguments.wait, arguments.output))
}

fn wish(arguments: &SwitchoverArgs) -> Result<Wish, Exit> {
    let to = arguments.to.as_deref().map(MemberName::new).transpose().map_err(|bad| {
        tell(&format!("error: {bad}"));
        Exit::Usage
    })?;
    let expect_leader = arguments.expect.expect_leader.clone();
    Ok(Wish { to, expect_leader, ignore_hold: arguments.ignore_hold })
}

/// What is ready to be done, and for how long writes will pause.
fn ready(from: &MemberName, to: &MemberName, expected_pause_ms: Option<f64>) -> String {
    let unknown = "no earlier switchover tells how long writes will pause".to_owned();
    let pause = expected_pause_ms.map_or(unknown, |ms| format!("expected write pause about {}", words::outage(ms)));
    format!("Ready: {from} -> {to}; {pause}.")
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
