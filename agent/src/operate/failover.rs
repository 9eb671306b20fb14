//! A failover as it is asked for, where nobody leads: when it is refused and in which words, what is known before somebody accepts a loss, and the
//! request in etcd.

use std::path::Path;

use consensus::records::FailoverRecord;
use consensus::{Lead, Snapshot};
use decision::names::MemberName;
use decision::reason::bytes;
use serde_json::Value;

use super::follow::{Asked, Kind};
use super::preflight::{Check, Grade, Preflight};
use super::proviso::another_leads;
use super::switchover::write_request;
use super::world::{Reach, World};
use super::{Kind as Why, Unable, words};

/// Why a failover is not what is needed, or cannot be had.
pub fn refusal(world: &World, snapshot: &Snapshot, to: &MemberName) -> Option<String> {
    if let Some(leader) = &snapshot.cluster.leader {
        return Some(match world.agents.get(leader).map(|agent| &agent.says) {
            Some(Ok(says)) if says.is_writable() => {
                format!("{leader} leads and takes writes; for a planned change: pgvigil switchover --to {to}")
            }
            Some(Ok(says)) => format!("{leader} holds the leader lock and works on it: {}", says.sentence()),
            Some(Err(_)) | None => format!(
                "{leader} still holds the leader lock and does not answer; if it is dead, the lock ends by itself within its \
                 time to live: ask again then, if nobody has taken over"
            ),
        });
    }
    if let Some(request) = &snapshot.request_record {
        let by = request.requested_by.as_deref().unwrap_or("somebody");
        return Some(format!(
            "another request waits, by {by}; `pgvigil why` says what for, `pgvigil switchover --cancel` takes it back"
        ));
    }
    let Some(member) = snapshot.cluster.members.get(to) else {
        let members = words::list(snapshot.cluster.members.keys());
        return Some(format!("{to} is not registered: is its agent running? Registered: {members}"));
    };
    if let Some(why) = &member.no_fence {
        return Some(format!("the fence of {to} cannot be armed, so it would not be promoted: {why}"));
    }
    if snapshot.config.paused_at(jiff::Timestamp::now()) {
        return Some(
            "automatic actions are paused, and the agents would not carry it out: `pgvigil resume` first".to_owned(),
        );
    }
    match world.agents.get(to).map(|agent| &agent.says) {
        Some(Ok(_)) => None,
        Some(Err(why)) => Some(format!("the agent of {to} does not answer: {why}")),
        None => Some(format!("the agent of {to} is nowhere to be asked")),
    }
}

/// Who must have led last, where somebody must: nobody leads in a failover. What etcd is to compare when the request is written.
///
/// # Errors
/// Another leads, or led last.
pub fn lead(snapshot: &Snapshot, expected: Option<&MemberName>) -> Result<Lead, Unable> {
    let Some(expected) = expected else { return Ok(Lead::Whoever) };
    let unexpected = |why| Err(Unable::new(Why::Unexpected, why));
    if let Some(why) = snapshot.cluster.leader.as_ref().and_then(|leader| another_leads(Some(leader), expected)) {
        return unexpected(why);
    }
    match &snapshot.cluster.sync {
        Some(sync) if sync.leader == *expected => Ok(Lead::VacantSince(snapshot.sync_revision)),
        Some(sync) => {
            unexpected(format!("nobody leads, and {} led last, not {expected}; nothing was changed", sync.leader))
        }
        None => unexpected(format!(
            "nobody leads, and who led last is not known; expected was {expected}; nothing was changed"
        )),
    }
}

/// Why the agents do not promote anybody by themselves, where the operator has not taken that upon themselves.
pub fn unproven(world: &World, to: &MemberName, accepted: bool) -> Option<String> {
    if accepted {
        return None;
    }
    let says = world.answer(to)?;
    let accept = "if what is missing is lost for good, --accept-data-loss lets it lead all the same";
    Some(match says.code() {
        "not_proven" => {
            let missing = missing(&says.why);
            format!("acknowledged writes may be only on {missing}: bring one of them back; {accept}")
        }
        code @ ("too_far_behind" | "no_candidate" | "last_leader_answers") => {
            format!("{} [{code}]; {accept}", says.sentence())
        }
        code => format!(
            "a failover that loses nothing needs no word from you, and the agents are at it; {to} says: {} [{code}]",
            says.sentence()
        ),
    })
}

/// Every check before a failover, as those of a switchover are told.
pub fn checked(
    world: &World,
    snapshot: &Snapshot,
    to: &MemberName,
    expected: Option<&MemberName>,
    accepted: bool,
) -> Preflight {
    let mut checks = Vec::new();
    checks.extend(expected.map(|expected| match lead(snapshot, Some(expected)) {
        Ok(_) => Check::ok(format!("{expected} led last")),
        Err(unable) => Check::fail(unable.text()),
    }));
    // Whoever named another leader is told that alone.
    if checks.iter().all(|check| check.grade != Grade::Fail) {
        match refusal(world, snapshot, to) {
            Some(why) => checks.push(Check::fail(why)),
            None => {
                checks.push(Check::ok(format!("nobody leads, and the agent of {to} answers")));
                checks.push(match unproven(world, to, accepted) {
                    Some(why) => Check::fail(why),
                    None => Check::warn(at_risk(snapshot, to)),
                });
            }
        }
    }
    let leader = snapshot.cluster.leader.clone();
    Preflight { leader, candidate: Some(to.clone()), checks, instead: None }
}

fn missing(why: &Value) -> String {
    let names = why["reason"]["missing"].as_array().into_iter().flatten().filter_map(Value::as_str);
    words::list(names)
}

/// What there is to know before somebody takes it upon themselves.
pub fn known(world: &World, snapshot: &Snapshot, to: &MemberName) -> Vec<String> {
    let cluster = &snapshot.cluster;
    let mut lines = Vec::new();
    if let Some(sync) = &cluster.sync {
        let policy = words::durability(&sync.mode.to_string(), &sync.policies);
        lines.push(format!("{} led term {} last; its commits waited for {policy}", sync.leader, sync.term));
    }
    for (name, ballot) in cluster.current_ballots() {
        lines.push(format!("{name} has received {} on timeline {}", ballot.received, ballot.timeline));
    }
    if let Some(says) = world.answer(to) {
        lines.push(format!("{to}: {}", says.sentence()));
    }
    lines.push(at_risk(snapshot, to));
    lines
}

/// The last leader published its position only now and then, so this is a lower bound.
fn at_risk(snapshot: &Snapshot, to: &MemberName) -> String {
    let received = snapshot.cluster.current_ballots().get(to).map(|ballot| ballot.received);
    match (received, snapshot.cluster.leader_lsn) {
        (Some(received), Some(leader)) => {
            let behind = received.bytes_behind(leader);
            format!("at risk: {} that the last leader had published, and whatever it wrote after that", bytes(behind))
        }
        _ => format!("at risk: unknown, for {to} or the last leader has not said how far it had come"),
    }
}

/// What there is to know once somebody leads by such a word: where the rest lies, and how long. `None`: nobody else had anything.
pub fn afterwards(snapshot: &Snapshot, to: &MemberName, data_dir: &Path) -> Option<String> {
    let cluster = &snapshot.cluster;
    let last = cluster.sync.as_ref().map(|sync| &sync.leader).filter(|last| *last != to)?;
    let received = cluster.current_ballots().get(to).map(|ballot| ballot.received);
    let behind = received.zip(cluster.leader_lsn).map(|(received, leader)| received.bytes_behind(leader));
    // What was published, and what it wrote after that, which nobody can count here.
    let amount = match behind {
        Some(behind) if behind > 0 => format!("{} or more are there alone", bytes(behind)),
        _ => "writes may be there alone".to_owned(),
    };
    Some(format!(
        "before you start the agent of {last}: {amount}, and its agent rewinds them away; copy its data directory first if you want them \
         (on this host that is {})",
        data_dir.display()
    ))
}

/// Asks for it, by whom and why.
///
/// # Errors
/// As [`write_request`].
pub async fn request(
    reach: &Reach,
    snapshot: &Snapshot,
    to: &MemberName,
    (accept_data_loss, lead): (bool, Lead),
    by: &str,
    reason: Option<&str>,
) -> Result<Asked, Unable> {
    let record = FailoverRecord {
        member: Some(to.to_string()),
        kind: Some("failover".to_owned()),
        accept_data_loss,
        requested_by: Some(by.to_owned()),
        reason: reason.map(str::to_owned),
        ..FailoverRecord::default()
    };
    let revision = write_request(reach, &record, lead).await?;
    Ok(Asked { kind: Kind::Failover, revision, from: None, to: to.clone(), term_before: snapshot.cluster.term })
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
