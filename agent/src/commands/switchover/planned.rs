//! `pgvigil switchover --at` and `--in`: checked as far as it can be beforehand, and left in etcd for whoever leads when it is due.

use decision::schedule::Turn;
use jiff::Timestamp;

use super::{SwitchoverArgs, wish};
use crate::cli::{Exit, Output};
use crate::commands::checks::report;
use crate::commands::later::{plan, scheduled};
use crate::commands::operator::agrees;
use crate::commands::screen::{answer, tell};
use crate::commands::told;
use crate::commands::transitions::exit_word;
use crate::commands::world::Reach;
use crate::operate::actions::Action;
use crate::operate::schedule::shown::Shown;
use crate::operate::schedule::switchover::{checked, request};
use crate::operate::words;

/// Schedules it, or says why not.
pub async fn run(arguments: &SwitchoverArgs) -> Result<Exit, Exit> {
    let plan = plan(&arguments.later, arguments.ignore_hold, arguments.reason.as_deref(), Timestamp::now())?;
    let wish = wish(arguments)?;
    let reach = Reach::new(&arguments.config)?;
    let world = reach.look().await;
    let snapshot = world.etcd.as_ref().map_err(|why| {
        tell(&format!("error: a switchover is scheduled in etcd, and it does not answer: {why}"));
        reach.silence()
    })?;
    let preflight = checked(&world, snapshot, &wish, Timestamp::now());
    let how = (arguments.output, arguments.dry_run);
    let (Some(from), true) = (&preflight.leader, preflight.passed()) else {
        report(&preflight, how, None, None);
        return Ok(Exit::Refused);
    };
    let to = wish.to.as_ref().map_or_else(|| "the best standby then".to_owned(), ToString::to_string);
    let at = words::moment(&plan.at.to_string());
    report(&preflight, how, Some(&format!("Ready: {from} -> {to}, not before {at}.")), None);
    if arguments.dry_run {
        return Ok(Exit::Done);
    }
    let question = format!("Hand over from {from} to {to} in cluster {}, at {at}?", reach.config.cluster);
    if !arguments.yes && !agrees(&question) {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    let planned = request(&reach, from, wish.to.as_ref(), &plan).await.map_err(told)?;
    let shown = Shown::of_switchover(&planned, Turn::Ahead, Timestamp::now());
    if arguments.output == Output::Json {
        let mut body = serde_json::json!(Action::of_planned(&shown));
        body["exit"] = exit_word(Exit::Done).into();
        answer(&body.to_string());
        return Ok(Exit::Done);
    }
    Ok(scheduled(&shown, "switchover --cancel"))
}
