//! `pgvigil restart M --at` and `--in`, and its withdrawal: left in etcd for whoever leads when it is due.

use consensus::records::Transition;
use decision::schedule::Turn;
use jiff::Timestamp;

use super::{named, proviso, read};
use crate::cli::{Exit, OrderArgs, RestartArgs};
use crate::commands::later::{plan, scheduled};
use crate::commands::operator::{agrees, must_be_able_to_ask, who};
use crate::commands::screen::{answer, tell};
use crate::commands::told;
use crate::commands::world::Reach;
use crate::operate::orders;
use crate::operate::schedule::clocks::differing;
use crate::operate::schedule::shown::Shown;
use crate::operate::schedule::{restart, unless_begun};
use crate::operate::words;

/// Schedules it, or says why not.
pub(super) async fn run(member: &str, arguments: &RestartArgs) -> Result<Exit, Exit> {
    let order = &arguments.order;
    must_be_able_to_ask(order.yes, "go on?")?;
    let plan = plan(&arguments.later, order.ignore_hold, order.reason.as_deref(), Timestamp::now())?;
    let of = named(member)?;
    let reach = Reach::new(&order.config)?;
    let snapshot = read(&reach).await?;
    let proviso = proviso(order);
    proviso.lead(&snapshot).map_err(told)?;
    if let Some(why) = restart::refusal(&snapshot, &of, Timestamp::now()) {
        tell(&format!("refused: {why}"));
        return Ok(Exit::Refused);
    }
    differing(&reach.look().await).iter().for_each(|clock| tell(&format!("warning: {clock}")));
    let at = words::moment(&plan.at.to_string());
    tell(&format!("the Postgres of {of} is stopped and started again, not before {at}, whatever it is by then"));
    if !order.yes && !agrees("go on?") {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    let wanted = (arguments.role.map(|role| role.word().to_owned()), arguments.pending);
    let planned = restart::request(&reach, &snapshot, &of, wanted, &plan, &proviso).await.map_err(told)?;
    let shown = Shown::of_restart(&of, &planned, Turn::Ahead, Timestamp::now());
    Ok(scheduled(&shown, &format!("restart {of} --cancel")))
}

/// Takes back the order of a copy that the node has not begun.
pub(super) async fn cancel_copy(member: &str, order: &OrderArgs) -> Result<Exit, Exit> {
    let of = named(member)?;
    let reach = Reach::new(&order.config)?;
    let snapshot = read(&reach).await?;
    if let Some(what) = orders::take_back(&reach, &snapshot, (&of, "reinit"), &who()).await.map_err(told)? {
        answer(&format!("taken back: {what}"));
        return Ok(Exit::Done);
    }
    let of_it = |record: &Transition| record.kind == "reinit" && record.from.as_deref() == Some(of.as_str());
    unless_begun(&reach, &snapshot, None, of_it).await.map_err(told)?;
    answer(&format!("no order to copy {of} anew waits: nothing to take back"));
    Ok(Exit::Done)
}

/// Takes it back.
pub(super) async fn cancel(member: &str, order: &OrderArgs) -> Result<Exit, Exit> {
    let of = named(member)?;
    let taken = restart::cancel(&Reach::new(&order.config)?, &of, &who()).await.map_err(told)?;
    if taken.is_empty() {
        answer(&format!("no restart of {of} is scheduled, and none waits: nothing to take back"));
    }
    for what in taken {
        answer(&format!("taken back: {what}"));
    }
    Ok(Exit::Done)
}
