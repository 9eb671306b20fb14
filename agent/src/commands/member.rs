//! `pgvigil member remove MEMBER`: a word in etcd that a dead member has left for good. The leader heeds it by its ordinary steps, and this
//! command waits until nothing counts on the member any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use consensus::records::DepartureRecord;
use consensus::{Outcome, Snapshot};
use decision::departure::is_counted_on;
use decision::durability::cannot_spare;
use decision::names::MemberName;
use decision::settings::Mode;
use decision::slots::SlotName;

use crate::cli::{Exit, MemberCommand, RemoveArgs};
use crate::commands::operator::{agrees, must_be_able_to_ask, types, who};
use crate::commands::screen::{answer, tell};
use crate::commands::world::Reach;
use crate::commands::{told, words};
use crate::operate::proviso::Proviso;
use crate::operate::status::member::{expected, streams_on, told_of_streaming};
use crate::operate::{Unable, asks, hold};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Carries one out.
pub async fn run(command: &MemberCommand) -> Exit {
    let MemberCommand::Remove(arguments) = command;
    match remove(arguments).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn remove(arguments: &RemoveArgs) -> Result<Exit, Exit> {
    must_be_able_to_ask(arguments.yes, "go on?")?;
    let member = MemberName::new(arguments.member.as_str()).map_err(|bad| {
        tell(&format!("error: {bad}"));
        Exit::Usage
    })?;
    let reach = Reach::new(&arguments.config)?;
    let snapshot = read(&reach).await?;
    let proviso = Proviso { ignore_hold: arguments.ignore_hold, ..arguments.expect.proviso() };
    proviso.lead(&snapshot).map_err(told)?;
    let leader = match may_leave(&snapshot, &member) {
        Err(why) => {
            tell(&format!("refused: {why}"));
            return Ok(Exit::Refused);
        }
        Ok(leader) => leader,
    };
    let streams = streams_on(&reach.look_at(snapshot.clone()).await, &member);
    if !snapshot.cluster.has_departed(&member) {
        let pass = proviso.planned(&snapshot, jiff::Timestamp::now()).map_err(told)?;
        tell(&consequence(&snapshot, &member));
        if !arguments.yes && !means_it(&reach, &snapshot, &member) {
            tell("nothing was changed");
            return Ok(Exit::Aborted);
        }
        let at = jiff::Timestamp::now().to_string();
        let record = DepartureRecord {
            by: who(),
            reason: hold::reason_against(arguments.reason.as_deref(), &pass),
            at,
            ..DepartureRecord::default()
        };
        asks();
        match reach.store.let_leave(&member, &leader, &record, snapshot.hold_revision).await {
            Ok(Outcome::Applied { .. }) => {}
            Ok(Outcome::Refused) => {
                let otherwise = format!("{member} has come back meanwhile, or somebody else leads; look again");
                return Err(told(proviso.overtaken(&reach, &pass, &otherwise).await));
            }
            Err(error) => {
                return Ok(told(Unable::by_etcd(&error, "the word was not given")));
            }
        }
    }
    follow(&reach, &member, streams, arguments.wait).await
}

async fn read(reach: &Reach) -> Result<Snapshot, Exit> {
    reach.store.read().await.map_err(|error| {
        tell(&format!("error: members are kept in etcd, and it does not answer: {error}"));
        reach.silence()
    })
}

/// Under whose lead it may leave; the error says why it may not.
fn may_leave(snapshot: &Snapshot, member: &MemberName) -> Result<MemberName, String> {
    let cluster = &snapshot.cluster;
    if cluster.leader.as_ref() == Some(member) {
        return Err(format!("{member} leads: switch over first, then stop its agent and its Postgres"));
    }
    if cluster.members.contains_key(member) {
        return Err(format!(
            "the agent of {member} is registered: stop it and its Postgres first (a node that has lost power is gone after the time to live)"
        ));
    }
    let Some(leader) = cluster.leader.clone() else {
        return Err(format!(
            "nobody leads, and acknowledged writes may be on {member} alone: pgvigil why says what the cluster waits for"
        ));
    };
    if cluster.has_departed(member) {
        return Ok(leader);
    }
    let away = away(snapshot);
    if !is_away(&away, member) {
        return Err(format!("{member} is not known here; known and away: {}", words::list(&away)));
    }
    if let Some(quorum) = cannot_spare(cluster, member) {
        return Err(format!(
            "commits wait for {quorum} and mode strict never waits for fewer: bring another standby first, or let it wait for \
             nobody by your word: pgvigil config set durability.mode=quorum"
        ));
    }
    Ok(leader)
}

/// Whom `status` expects, and who is away.
fn away(snapshot: &Snapshot) -> BTreeSet<MemberName> {
    let expected = expected(snapshot, jiff::Timestamp::now()).into_iter();
    expected.filter(|name| !snapshot.cluster.members.contains_key(name)).collect()
}

/// One that is known by its slot alone may be called by its own name, which the name of a slot cannot always have.
fn is_away(away: &BTreeSet<MemberName>, member: &MemberName) -> bool {
    let slot = SlotName::of(member);
    away.contains(member) || away.iter().any(|known| known.as_str() == slot.as_str())
}

fn consequence(snapshot: &Snapshot, member: &MemberName) -> String {
    let counted =
        if is_counted_on(&snapshot.cluster, member) { "nothing will count on it any more, then " } else { "" };
    format!(
        "{member} is taken out of the cluster: {counted}what is left of it in etcd goes. Its data stays on its host; an agent that \
         registers under this name is a member again"
    )
}

/// In strict mode somebody has chosen to wait rather than to lose: the word is to be as deliberate as that.
fn means_it(reach: &Reach, snapshot: &Snapshot, member: &MemberName) -> bool {
    let names = |sync: &decision::view::SyncRecord| {
        sync.mode == Mode::Strict && sync.policies.iter().any(|quorum| quorum.voters.contains(member))
    };
    if !snapshot.cluster.sync.as_ref().is_some_and(names) {
        return agrees("go on?");
    }
    let cluster = &reach.config.cluster;
    types(&format!("Commits wait for {member}. Type the name of the cluster to go on ({cluster}): "), cluster)
}

/// Waits until the leader has carried it out.
async fn follow(
    reach: &Reach,
    member: &MemberName,
    streams: Option<MemberName>,
    within: Duration,
) -> Result<Exit, Exit> {
    let begun = Instant::now();
    loop {
        match reach.store.read().await {
            Ok(snapshot) => match snapshot.departure_records.get(member) {
                Some(record) if record.done => {
                    answer(&removed(member, streams));
                    return Ok(Exit::Done);
                }
                Some(_) if begun.elapsed() >= within => {
                    tell(&still_counted(&snapshot, member, within));
                    return Ok(Exit::StillRunning);
                }
                Some(_) => {}
                None => {
                    tell(&format!("{member} has come back meanwhile and is a member again"));
                    return Ok(Exit::DoneOtherwise);
                }
            },
            Err(error) if begun.elapsed() >= within => {
                tell(&format!("how it goes is not known, etcd does not answer: {error}"));
                return Ok(Exit::StillRunning);
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// That it is done; and what is left to do where only its agent was stopped: whatever streamed before does so again in a moment.
fn removed(member: &MemberName, streams: Option<MemberName>) -> String {
    match streams {
        Some(leader) => {
            let (problem, mend) = told_of_streaming(member.as_str(), leader.as_str());
            format!("{problem}: {mend}")
        }
        None => format!("{member} is removed: nothing counts on it any more"),
    }
}

fn still_counted(snapshot: &Snapshot, member: &MemberName, within: Duration) -> String {
    let paused = if snapshot.config.paused_at(jiff::Timestamp::now()) {
        "automatic actions are paused, and it waits for pgvigil resume"
    } else {
        "pgvigil why says what the leader is at"
    };
    format!(
        "{member} is still counted on after {}: {paused}. The word stays, and is heeded when it can be",
        words::length(within)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::Snapshot;
    use decision::departure::Departure;
    use decision::durability::Quorum;
    use decision::names::{Term, Timeline};
    use decision::slots::Published;
    use decision::view::SyncRecord;

    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    fn cluster(mode: Mode, voters: &[&str]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.cluster.leader = Some(name("pg1"));
        snapshot.cluster.sync = Some(SyncRecord::of_reign(
            name("pg1"),
            Term(3),
            mode,
            vec![Quorum::of(1, voters.iter().map(|voter| name(voter)).collect())],
            Timeline(3),
        ));
        snapshot
    }

    #[test]
    fn only_who_is_known_and_away_may_leave_and_only_under_a_leader_that_can_spare_it() {
        let refused = |snapshot: &Snapshot, who: &str, why: &str| {
            let said = may_leave(snapshot, &name(who)).unwrap_err();
            assert!(said.contains(why), "{said}");
        };
        let quorum = cluster(Mode::Quorum, &["pg2", "pg3"]);
        assert_eq!(may_leave(&quorum, &name("pg3")), Ok(name("pg1")));
        refused(&quorum, "pg1", "leads");
        refused(&quorum, "pg9", "known and away: pg1, pg2, pg3");
        // Who never led and is no voter any more is known by its slot, as `status` knows it.
        let mut kept = cluster(Mode::Quorum, &["pg2"]);
        let slots = ["pg_3", "pg4"].map(|slot| SlotName::new(slot).unwrap());
        kept.slots = Some(Published { for_members: slots.into(), ..Published::default() });
        for known in ["pg4", "pg-3", "pg_3"] {
            assert_eq!(may_leave(&kept, &name(known)), Ok(name("pg1")));
        }
        refused(&kept, "pg9", "known and away: pg1, pg2, pg4, pg_3");
        let mut vacant = quorum.clone();
        vacant.cluster.leader = None;
        refused(&vacant, "pg3", "nobody leads");
        let strict = cluster(Mode::Strict, &["pg3"]);
        refused(&strict, "pg3", "never waits for fewer");
        let mut leaving = quorum;
        leaving.cluster.sync = None;
        leaving.cluster.departures.insert(name("pg3"), Departure { done: None, revision: 5 });
        assert_eq!(may_leave(&leaving, &name("pg3")), Ok(name("pg1")));
    }
}
