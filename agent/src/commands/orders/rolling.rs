//! `pgvigil restart --rolling`: every Postgres of the cluster, one at a time, and writes pause for a switchover alone. It is a sequence of orders
//! that anybody could give; cut off in the middle, nothing is left half done, and it is simply begun again.

use std::time::{Duration, Instant};

use consensus::Snapshot;
use consensus::records::OrderRecord;
use decision::names::MemberName;
use decision::view::{Cluster, MemberRole};

use super::{may_be, obeyed, read};
use crate::cli::{Exit, Expect, Later, OrderArgs, Output, Role, SwitchoverArgs};
use crate::commands::operator::{agrees, must_be_able_to_ask};
use crate::commands::screen::{answer, tell};
use crate::commands::world::Reach;
use crate::commands::{switchover, words};
use crate::operate::orders::waits_for_restart;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Restarts them all, or those alone for which something is `pending`.
pub(super) async fn restart(arguments: &OrderArgs, pending: bool) -> Result<Exit, Exit> {
    must_be_able_to_ask(arguments.yes, "go on?")?;
    let reach = Reach::new(&arguments.config)?;
    let snapshot = read(&reach).await?;
    may_be(&snapshot, arguments)?;
    let concerned = |name: &MemberName| !pending || waits_for_restart(&snapshot, name);
    if !snapshot.cluster.members.keys().any(concerned) {
        answer("nothing waits for a restart");
        return Ok(Exit::Done);
    }
    let (leader, mut standbys) = plan(&snapshot.cluster).map_err(|why| {
        tell(&format!("refused: {why}"));
        Exit::Refused
    })?;
    standbys.retain(concerned);
    let (one_by_one, leader_too) = (words::list(standbys.iter()), concerned(&leader));
    tell(&match (standbys.is_empty(), leader_too) {
        (false, true) => {
            format!(
                "restarts {one_by_one}, one after another, then switches over, which restarts {leader} as a standby"
            )
        }
        (true, _) => format!("switches over, which restarts {leader} as a standby"),
        (false, false) => format!("restarts {one_by_one}, one after another"),
    });
    if !arguments.yes && !agrees("go on?") {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    for standby in &standbys {
        one(&reach, standby, arguments).await?;
    }
    if !leader_too {
        answer("they were restarted");
        return Ok(Exit::Done);
    }
    match switchover::run(&away_from(&leader, arguments)).await {
        Exit::Done => {}
        exit => return Ok(exit),
    }
    // A switchover has stopped it and started it again.
    waits_for(&reach, &leader, arguments).await?;
    answer("all of them were restarted");
    Ok(Exit::Done)
}

/// The leader, and the standbys in the order in which they are restarted; or why that would stop writes.
fn plan(cluster: &Cluster) -> Result<(MemberName, Vec<MemberName>), String> {
    let leader = cluster.leader.clone().ok_or("nobody leads")?;
    let standbys: Vec<MemberName> = cluster
        .members
        .iter()
        .filter(|(name, member)| **name != leader && member.role == MemberRole::Standby)
        .map(|(name, _)| name.clone())
        .collect();
    let waits_for = cluster.sync.as_ref().and_then(|sync| sync.policies.last());
    let short = waits_for.is_some_and(|quorum| quorum.k > 0 && quorum.voters.len() <= quorum.k as usize);
    if standbys.is_empty() {
        return Err(format!(
            "there is no standby to lead meanwhile: pgvigil restart {leader} stops writes for about a second"
        ));
    }
    if short {
        return Err(
            "while one standby is restarted commits would wait for it: restart one by one, if that may be".to_owned()
        );
    }
    Ok((leader, standbys))
}

async fn one(reach: &Reach, name: &MemberName, arguments: &OrderArgs) -> Result<(), Exit> {
    // Whoever has come to lead meanwhile is not restarted where it takes writes.
    let role = Some(Role::Standby.word().to_owned());
    let order = OrderRecord { order: "restart".to_owned(), role, ..OrderRecord::default() };
    match obeyed(reach, name, arguments, order).await? {
        Exit::Done => {}
        exit => return Err(exit),
    }
    waits_for(reach, name, arguments).await
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
            tell(&format!("{name} was restarted and does not stream again: nothing more is restarted before it does"));
            return Err(Exit::StillRunning);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether it streams again, and commits may wait for it where they waited for anybody.
fn is_back(snapshot: &Snapshot, name: &MemberName) -> bool {
    let streams = snapshot
        .member_records
        .get(name)
        .is_some_and(|record| record.replication_state.as_deref() == Some("streaming"));
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
