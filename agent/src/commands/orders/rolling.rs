//! `pgvigil restart --rolling`: every Postgres of the cluster, one at a time, and writes pause for a switchover alone, or, where a capacity becomes
//! less, for a restart of the leader. It is a sequence of orders that anybody could give; cut off in the middle, nothing is left half done, and it is
//! simply begun again. What it says at the end it has looked up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use consensus::Snapshot;
use consensus::records::OrderRecord;
use decision::names::MemberName;
use decision::rolling::{Plan, Step, plan};
use decision::view::{Cluster, Member, MemberRole};

use super::{LOOK_EVERY, may_be, obeyed, read};
use crate::cli::{Exit, Expect, Later, OrderArgs, Output, Role, SwitchoverArgs};
use crate::commands::operator::{agrees, must_be_able_to_ask};
use crate::commands::screen::{answer, tell};
use crate::commands::world::Reach;
use crate::commands::{switchover, words};
use crate::operate::rolling as facts;

/// How soon an agent has taken up other settings, or the parameters of another leader, and says so.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// Restarts them all, or those alone for which something is `pending`.
pub(super) async fn restart(arguments: &OrderArgs, pending: bool) -> Result<Exit, Exit> {
    must_be_able_to_ask(arguments.yes, "go on?")?;
    let reach = Reach::new(&arguments.config)?;
    let before = settled(&reach).await?;
    may_be(&before, arguments)?;
    let leader = before.cluster.leader.clone().ok_or_else(|| refused("nobody leads"))?;
    let Plan { lowered, mut steps } = plan(&leader, &facts::nodes(&before), !pending);
    if steps.is_empty() {
        answer("nothing waits for a restart");
        return Ok(Exit::Done);
    }
    if let Some((name, values)) = facts::would_be_carried_on(&before) {
        let (history, _) = reach.store.config_history().await.unwrap_or_default();
        let mend = facts::mend(&values, &history);
        let values = facts::values(&values);
        return Err(refused(&format!("{name} does not take {values}, which the others are spared. Mend: {mend}")));
    }
    may_be_restarted(&before.cluster, &leader, &steps).map_err(|why| refused(&why))?;
    tell(&in_words(&lowered, &steps));
    if !arguments.yes && !agrees("go on?") {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    let restarted: BTreeSet<MemberName> = steps.iter().map(|step| step.member().clone()).collect();
    carry_out(&reach, &steps, arguments).await?;
    let mut after = came_to_rest(&reach, &before, &restarted).await?;
    // A standby that had not replayed yet that its leader has less keeps what it has until it is restarted again.
    steps = what_is_left(&after);
    if !steps.is_empty() && steps.iter().all(|step| matches!(step, Step::Standby(_))) {
        // Whoever leads by now does so by what was asked for.
        let expect = Expect { expect_leader: after.cluster.leader.clone() };
        carry_out(&reach, &steps, &OrderArgs { expect, ..arguments.clone() }).await?;
        after = came_to_rest(&reach, &before, &restarted).await?;
    }
    Ok(judged(&before, &after, &restarted))
}

fn refused(why: &str) -> Exit {
    tell(&format!("refused: {why}"));
    Exit::Refused
}

/// The cluster, as soon as every agent has taken its settings up: one that has not yet would say that nothing waits.
async fn settled(reach: &Reach) -> Result<Snapshot, Exit> {
    let begun = Instant::now();
    loop {
        let snapshot = read(reach).await?;
        let late = facts::not_settled(&snapshot);
        if late.is_empty() {
            return Ok(snapshot);
        }
        if begun.elapsed() > SETTLES_WITHIN {
            tell(&format!(
                "warning: {} has not taken the settings up yet: what waits there is not known",
                words::list(&late)
            ));
            return Ok(snapshot);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What would stop writes for longer than is said.
fn may_be_restarted(cluster: &Cluster, leader: &MemberName, steps: &[Step]) -> Result<(), String> {
    let standbys =
        cluster.members.iter().filter(|(name, member)| *name != leader && member.role == MemberRole::Standby);
    if standbys.count() == 0 && steps.iter().any(|step| matches!(step, Step::SwitchOver(_))) {
        return Err(format!(
            "there is no standby to lead meanwhile: pgvigil restart {leader} stops writes for about a second"
        ));
    }
    let waits_for = cluster.sync.as_ref().and_then(|sync| sync.policies.last());
    let short = waits_for.is_some_and(|quorum| quorum.k > 0 && quorum.voters.len() <= quorum.k as usize);
    if short && steps.iter().any(|step| matches!(step, Step::Standby(_))) {
        return Err(
            "while one standby is restarted commits would wait for it: restart one by one, if that may be".to_owned()
        );
    }
    Ok(())
}

/// What will be done.
fn in_words(lowered: &[String], steps: &[Step]) -> String {
    let kind = |step: &Step| std::mem::discriminant(step);
    let phrases = steps.chunk_by(|one, other| kind(one) == kind(other)).map(|group| match group {
        [Step::InPlace(leader), ..] => format!("restarts {leader} in place (about a second without writes)"),
        [Step::SwitchOver(leader), ..] => format!("switches over, which restarts {leader} as a standby"),
        [Step::Standby(alone)] => format!("restarts {alone}"),
        group => format!("restarts {}, one after another", words::list(group.iter().map(Step::member))),
    });
    let what = phrases.collect::<Vec<_>>().join(", then ");
    match lowered {
        [] => what,
        [one] => format!("{one} is lowered on the leader first: {what}"),
        several => format!("{} are lowered on the leader first: {what}", words::list(several)),
    }
}

/// One restart after another, for as long as each brings its node back with what is asked for.
async fn carry_out(reach: &Reach, steps: &[Step], arguments: &OrderArgs) -> Result<(), Exit> {
    for (number, step) in steps.iter().enumerate() {
        let done = match step {
            Step::Standby(name) => one(reach, name, Role::Standby, arguments).await,
            Step::InPlace(name) => one(reach, name, Role::Primary, arguments).await,
            Step::SwitchOver(leader) => switched_over(reach, leader, arguments).await,
        };
        if let Err(exit) = done {
            let (begun, left) = steps.split_at(number + 1);
            let is_new = |name: &&MemberName| begun.iter().all(|step| step.member() != *name);
            let mut untouched: Vec<&MemberName> = left.iter().map(Step::member).filter(is_new).collect();
            untouched.dedup();
            if !untouched.is_empty() {
                let verb = if untouched.len() == 1 { "was" } else { "were" };
                tell(&format!("{} {verb} not touched", words::list(&untouched)));
            }
            return Err(exit);
        }
    }
    Ok(())
}

async fn one(reach: &Reach, name: &MemberName, role: Role, arguments: &OrderArgs) -> Result<(), Exit> {
    let before = read(reach).await?;
    // Whoever has come to lead meanwhile is not restarted where it takes writes.
    let only = Some(role.word().to_owned());
    let order = OrderRecord { order: "restart".to_owned(), role: only, ..OrderRecord::default() };
    match obeyed(reach, name, arguments, order).await? {
        Exit::Done => {}
        exit => return Err(exit),
    }
    if role == Role::Standby {
        return waits_for(reach, name, arguments).await;
    }
    let standbys = before.cluster.members.iter().filter(|(_, member)| member.role == MemberRole::Standby);
    // One that had not been back before is not waited for.
    for (standby, _) in standbys.filter(|(standby, _)| is_back(&before, standby)) {
        waits_for(reach, standby, arguments).await?;
    }
    Ok(())
}

/// A switchover has stopped it and started it again.
async fn switched_over(reach: &Reach, leader: &MemberName, arguments: &OrderArgs) -> Result<(), Exit> {
    match switchover::run(&away_from(leader, arguments)).await {
        Exit::Done => waits_for(reach, leader, arguments).await,
        exit => Err(exit),
    }
}

async fn waits_for(reach: &Reach, name: &MemberName, arguments: &OrderArgs) -> Result<(), Exit> {
    let begun = Instant::now();
    loop {
        let snapshot = read(reach).await?;
        if is_back(&snapshot, name) {
            return Ok(());
        }
        if snapshot.cluster.leader.as_ref() == Some(name) {
            tell(&format!(
                "{name} leads by now, for the leader was lost: nothing more is restarted; begin again, if all are to be"
            ));
            return Err(Exit::Failed);
        }
        if begun.elapsed() > arguments.wait {
            tell(&format!("{name} does not stream again: nothing more is restarted before it does"));
            return Err(Exit::StillRunning);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The restarts that would bring what still waits into force.
fn what_is_left(snapshot: &Snapshot) -> Vec<Step> {
    let leader = snapshot.cluster.leader.as_ref();
    leader.map(|leader| plan(leader, &facts::nodes(snapshot), false).steps).unwrap_or_default()
}

/// The cluster, as soon as nothing waits any more, or when that has been looked for long enough.
async fn came_to_rest(reach: &Reach, before: &Snapshot, restarted: &BTreeSet<MemberName>) -> Result<Snapshot, Exit> {
    let begun = Instant::now();
    loop {
        let after = read(reach).await?;
        if complaints(before, &after, restarted).is_empty() || begun.elapsed() > SETTLES_WITHIN {
            return Ok(after);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Who waits for what, does not take what, or has not told.
fn complaints(before: &Snapshot, after: &Snapshot, restarted: &BTreeSet<MemberName>) -> Vec<String> {
    let server = |of: &Snapshot, name: &MemberName| {
        of.member_records.get(name).and_then(|record| record.parameters.as_ref().map(|known| known.postmaster))
    };
    let runs_on = |name: &&MemberName| server(after, name).is_none() || server(after, name) == server(before, name);
    let untold: BTreeSet<MemberName> =
        facts::not_settled(after).into_iter().chain(restarted.iter().filter(runs_on).cloned()).collect();
    let untold = untold.iter().map(|name| format!("{name} has not told yet what its Postgres runs with"));
    let waits = facts::waits(after).into_iter().filter(|(_, pending)| !pending.is_empty());
    let waits = waits.map(|(name, pending)| format!("{name} still waits for a restart: {}", facts::in_words(&pending)));
    let known = facts::refused(before);
    let refused = facts::refused(after).into_iter().filter(|(name, values)| known.get(name) != Some(values));
    let refused = refused
        .map(|(name, values)| format!("{name} runs without {}: pgvigil status says why", facts::values(&values)));
    waits.chain(refused).chain(untold).collect()
}

/// How it went.
fn judged(before: &Snapshot, after: &Snapshot, restarted: &BTreeSet<MemberName>) -> Exit {
    let complaints = complaints(before, after, restarted);
    if complaints.is_empty() {
        let all = facts::nodes(after).keys().all(|name| restarted.contains(name));
        answer(if all { "all of them were restarted" } else { "they were restarted" });
        return Exit::Done;
    }
    complaints.iter().for_each(|one| tell(one));
    Exit::DoneOtherwise
}

/// Whether it streams again, and commits may wait for it where they waited for anybody.
fn is_back(snapshot: &Snapshot, name: &MemberName) -> bool {
    let state = snapshot.member_records.get(name).and_then(|record| record.replication_state.as_deref());
    let comes_by_archive = |member: &Member| member.tags.nostream && member.role == MemberRole::Standby;
    let streams = state == Some("streaming") || snapshot.cluster.members.get(name).is_some_and(comes_by_archive);
    let votes = snapshot.cluster.sync.as_ref().and_then(|sync| sync.policies.last()).is_none_or(|quorum| {
        let never = snapshot.cluster.members.get(name).is_some_and(|member| member.never_leads() || member.tags.nosync);
        quorum.k == 0 || never || quorum.voters.contains(name)
    });
    streams && votes
}

fn away_from(leader: &MemberName, arguments: &OrderArgs) -> SwitchoverArgs {
    SwitchoverArgs {
        config: arguments.config.clone(),
        to: None,
        expect: Expect { expect_leader: Some(leader.clone()) },
        dry_run: false,
        later: Later::default(),
        cancel: false,
        wait: arguments.wait.min(Duration::from_secs(60)),
        reason: arguments.reason.clone().or_else(|| Some("rolling restart".to_owned())),
        yes: true,
        ignore_hold: arguments.ignore_hold,
        output: Output::Table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::testing::name;

    #[test]
    fn what_will_be_done_is_told_in_its_order() {
        let [pg1, pg2, pg3] = ["pg1", "pg2", "pg3"].map(name);
        let lowered = ["max_connections".to_owned()];
        let standbys = [Step::Standby(pg2.clone()), Step::Standby(pg3)];
        let over = [&standbys[..], &[Step::SwitchOver(pg1.clone())]].concat();
        let in_place = [&[Step::InPlace(pg1)], &standbys[..]].concat();
        for (lowered, steps, expected) in [
            (&[][..], &standbys[..1], "restarts pg2"),
            (&[], &over[2..], "switches over, which restarts pg1 as a standby"),
            (&[], &over, "restarts pg2, pg3, one after another, then switches over, which restarts pg1 as a standby"),
            (
                &lowered[..],
                &in_place,
                "max_connections is lowered on the leader first: restarts pg1 in place (about a second without writes), then restarts pg2, pg3, one after another",
            ),
        ] {
            assert_eq!(in_words(lowered, steps), expected);
        }
    }
}
