//! `pgvigil restart`, `pgvigil reload` and `pgvigil reinit`: an order to one node, left in etcd, and followed until its record says how it went.

mod planned;
mod rolling;

use std::time::{Duration, Instant};

use consensus::Snapshot;
use consensus::records::{OrderRecord, Transition, order_id};
use decision::names::MemberName;
use decision::rolling::lowered;

use crate::cli::{Exit, OrderArgs, ReinitArgs, ReloadArgs, RestartArgs};
use crate::commands::operator::{agrees, must_be_able_to_ask, who};
use crate::commands::screen::{answer, tell};
use crate::commands::world::Reach;
use crate::commands::{told as unable, words};
use crate::operate::orders::{self, refusal, waits_for_restart};
use crate::operate::proviso::Proviso;
use crate::operate::rolling::{self as facts, WITHOUT};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How soon an agent has told what came of its parameters.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// Restarts the Postgres of one node.
pub async fn restart(arguments: &RestartArgs) -> Exit {
    let Some(member) = &arguments.member else {
        if arguments.later.is_said() {
            tell("error: a restart is scheduled of one member: name it");
            return Exit::Usage;
        }
        return ended(rolling::restart(&arguments.order, arguments.pending).await);
    };
    if arguments.cancel {
        return ended(planned::cancel(member, &arguments.order).await);
    }
    if arguments.later.is_said() {
        return ended(planned::run(member, arguments).await);
    }
    if arguments.pending {
        match nothing_is_pending(member, &arguments.order).await {
            Ok(false) => {}
            Ok(true) => return Exit::Done,
            Err(exit) => return exit,
        }
    }
    let role = arguments.role.map(|role| role.word().to_owned());
    let order = OrderRecord { order: "restart".to_owned(), role, ..OrderRecord::default() };
    ended(give(member, &arguments.order, order).await)
}

/// Lets nodes read their files again, one after another.
pub async fn reload(arguments: &ReloadArgs) -> Exit {
    ended(reload_each(arguments).await)
}

async fn reload_each(arguments: &ReloadArgs) -> Result<Exit, Exit> {
    let reach = Reach::new(&arguments.config)?;
    let snapshot = read(&reach).await?;
    let members: Vec<MemberName> = match &arguments.member {
        Some(member) => vec![named(member)?],
        None => snapshot.cluster.members.keys().cloned().collect(),
    };
    let (config, wait, reason) = (arguments.config.clone(), arguments.wait, arguments.reason.clone());
    let how = OrderArgs { config, wait, reason, yes: true, ignore_hold: false, expect: arguments.expect.clone() };
    proviso(&how).lead(&snapshot).map_err(unable)?;
    let mut worst = Exit::Done;
    for member in &members {
        let order = OrderRecord { order: "reload".to_owned(), ..OrderRecord::default() };
        if let Some(why) = refusal(&snapshot, member, &order) {
            tell(&format!("refused: {why}"));
            return Ok(Exit::Refused);
        }
        match obeyed(&reach, member, &how, order).await? {
            Exit::Done => {}
            exit => worst = exit,
        }
    }
    Ok(worst)
}

fn named(member: &str) -> Result<MemberName, Exit> {
    MemberName::new(member).map_err(|bad| {
        tell(&format!("error: {bad}"));
        Exit::Usage
    })
}

/// Whether the node has nothing that waits for a restart; said then.
async fn nothing_is_pending(member: &str, arguments: &OrderArgs) -> Result<bool, Exit> {
    let snapshot = read(&Reach::new(&arguments.config)?).await?;
    proviso(arguments).lead(&snapshot).map_err(unable)?;
    let name = named(member)?;
    if waits_for_restart(&snapshot, &name) {
        return Ok(false);
    }
    if let Some(later) = facts::after_others(&snapshot, &name) {
        tell(&format!("refused: a restart of {name} would change nothing: {later}"));
        return Err(Exit::Refused);
    }
    answer(&format!("nothing waits for a restart on {member}"));
    Ok(true)
}

/// Copies the data of one node anew.
pub async fn reinit(arguments: &ReinitArgs) -> Exit {
    if arguments.cancel {
        return ended(planned::cancel_copy(&arguments.member, &arguments.order).await);
    }
    let order = OrderRecord { order: "reinit".to_owned(), ..OrderRecord::default() };
    ended(give(&arguments.member, &arguments.order, order).await)
}

fn ended(steps: Result<Exit, Exit>) -> Exit {
    match steps {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn give(member: &str, arguments: &OrderArgs, order: OrderRecord) -> Result<Exit, Exit> {
    must_be_able_to_ask(arguments.yes, "go on?")?;
    let to = named(member)?;
    let reach = Reach::new(&arguments.config)?;
    let snapshot = read(&reach).await?;
    proviso(arguments).lead(&snapshot).map_err(unable)?;
    if let Some(why) = refusal(&snapshot, &to, &order) {
        tell(&format!("refused: {why}"));
        return Ok(Exit::Refused);
    }
    may_be(&snapshot, arguments)?;
    let what = consequence(&snapshot, &to, &order);
    tell(&what);
    if !arguments.yes && !agrees("go on?") {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    obeyed(&reach, &to, arguments, order).await
}

/// Gives the order and follows it.
async fn obeyed(reach: &Reach, to: &MemberName, arguments: &OrderArgs, order: OrderRecord) -> Result<Exit, Exit> {
    let order = OrderRecord { requested_by: who(), reason: arguments.reason.clone(), ..order };
    match orders::give(reach, to, &order, &proviso(arguments)).await {
        Ok(revision) => follow(reach, to, revision, arguments.wait).await,
        Err(why) => Ok(unable(why)),
    }
}

fn proviso(arguments: &OrderArgs) -> Proviso {
    Proviso { ignore_hold: arguments.ignore_hold, ..arguments.expect.proviso() }
}

/// Nobody is asked about what would be refused.
fn may_be(snapshot: &Snapshot, arguments: &OrderArgs) -> Result<(), Exit> {
    proviso(arguments).planned(snapshot, jiff::Timestamp::now()).map(|_| ()).map_err(unable)
}

async fn read(reach: &Reach) -> Result<Snapshot, Exit> {
    orders::read(reach).await.map_err(unable)
}

/// What the order means, before it is given.
fn consequence(snapshot: &Snapshot, to: &MemberName, order: &OrderRecord) -> String {
    if order.order != "restart" {
        return format!(
            "the data of {to} is copied anew from the leader; what is there now is kept aside until the copy streams"
        );
    }
    let pending = facts::nodes(snapshot).remove(to).unwrap_or_default().pending;
    let lowered = lowered(&pending);
    let mut what = match (snapshot.cluster.leader.as_ref() == Some(to), lowered.is_empty()) {
        (true, true) => format!(
            "{to} leads: writes stop until its Postgres is back, about a second; without that pause: pgvigil switchover, then restart it as a standby"
        ),
        (true, false) => format!(
            "{to} leads: writes stop until its Postgres is back, about a second; no switchover spares that, for {} is lowered on the leader first",
            words::list(&lowered)
        ),
        (false, _) => format!("the Postgres of {to} is stopped and started again; readers there are cut off"),
    };
    what.extend(facts::after_others(snapshot, to).map(|later| format!("; {later}")));
    what
}

/// Waits until the node has taken the order up and its record is closed.
async fn follow(reach: &Reach, to: &MemberName, revision: i64, within: Duration) -> Result<Exit, Exit> {
    let warn = |why: &str| tell(&format!("warning: {why}"));
    if let Some(record) = orders::follow(reach, revision, within, |_| false, warn).await {
        let exit = told(&record);
        if record.notes.iter().any(|note| note.contains(WITHOUT)) {
            mend(reach, to).await;
        }
        return Ok(exit);
    }
    if let Some(waits) = has_not_begun(reach, to, revision).await {
        tell(&format!("{to} has not begun after {}: {waits}", words::length(within)));
        return Ok(Exit::StillRunning);
    }
    let id = order_id(revision);
    tell(&format!("{to} is not done after {}; its record: pgvigil transitions {id}", words::length(within)));
    Ok(Exit::StillRunning)
}

/// What an order waits for that is still where it was left, and how it is taken back: it has no record yet.
async fn has_not_begun(reach: &Reach, to: &MemberName, revision: i64) -> Option<String> {
    let snapshot = read(reach).await.ok()?;
    let order = snapshot.order_records.get(to)?;
    // One that is taken up whatever is decided has no revision here.
    let is_it = snapshot.cluster.orders.get(to).is_none_or(|order| order.revision == revision);
    let waits = orders::waits(&snapshot, to, jiff::Timestamp::now()).filter(|_| is_it)?;
    Some(format!("{waits}; {}", orders::way_back(order, to)))
}

/// Says how what a server did not take is taken back, as soon as its agent tells what that is.
async fn mend(reach: &Reach, of: &MemberName) {
    let begun = Instant::now();
    while begun.elapsed() < TOLD_WITHIN {
        let refused = read(reach).await.ok().and_then(|snapshot| facts::refused(&snapshot).remove(of));
        if let Some(refused) = refused {
            let (history, _) = reach.store.config_history().await.unwrap_or_default();
            tell(&format!("Mend: {}", facts::mend(&refused, &history)));
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn told(record: &Transition) -> Exit {
    let node = record.to.as_deref().unwrap_or_default();
    match record.outcome.as_str() {
        "done" => {
            answer(&format!("{} of {node} done ({})", record.kind, record.notes.join("; ")));
            Exit::Done
        }
        "refused" => {
            tell(&format!("refused: {}", record.cause_text));
            Exit::Refused
        }
        _ => {
            tell(&format!("{} of {node} failed: {}", record.kind, record.notes.join("; ")));
            Exit::Failed
        }
    }
}
