//! One row of `pgvigil status`: a member as etcd has it registered, as its own agent describes it, and as the leader sees it. Members
//! that are gone but were part of the cluster stay visible, for a dead one is what people look for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consensus::Snapshot;
use consensus::records::PendingChange;
use decision::names::{MemberName, parse_application_name};
use decision::reason::bytes;
use decision::slots::SlotName;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::rolling;
use super::super::world::{Answer, World};

/// For how long a former leader without a living agent is still expected back.
const MISSED_FOR: Duration = Duration::from_secs(7 * 86_400);

/// What is known of one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// `leader` holds the lock; `primary` accepts writes without it; `standby`; `none`: Postgres does not run; `unknown`.
    pub role: String,
    /// `writable`, `streaming`, `not streaming`, `from the archive`, `unreachable`, `down`, `leaving`, or Patroni's word for what Postgres does.
    pub state: String,
    /// Its timeline.
    pub timeline: Option<u64>,
    /// How much of the leader's WAL it has not flushed, as the leader sees it.
    pub receive_lag_bytes: Option<u64>,
    /// How much it has not replayed.
    pub replay_lag_bytes: Option<u64>,
    /// For how long it has acknowledged nothing although there is something to acknowledge, as the leader sees it.
    pub acknowledges_nothing_ms: Option<u64>,
    /// `leader`, `voter` or `none`: its part in acknowledging commits.
    pub sync: String,
    /// Whether nothing bars it from leading.
    pub may_lead: Option<bool>,
    /// What does.
    pub bars: Vec<BarStatus>,
    /// From whom it streams.
    pub streams_from: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Parameters of its Postgres that wait for a restart, with their values now and then.
    pub pending_restart: BTreeMap<String, PendingChange>,
    /// The replication slots of its Postgres, as its agent tells them: name, type, active, made_for, retained_bytes, ...
    #[schema(value_type = Vec<Object>)]
    pub slots: Vec<Value>,
    /// Its agent is registered in etcd; unknown where etcd is silent.
    pub registered: Option<bool>,
    /// Its agent answers.
    pub reachable: bool,
    /// Why its agent does not answer.
    pub error: Option<String>,
    /// How old the agent's own picture is.
    pub seen_ms: Option<u64>,
    /// Where Postgres is.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u64>,
    /// Where its agent is.
    pub api_url: Option<String>,
}

/// One thing that bars a member from leading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BarStatus {
    /// The stable code.
    pub code: String,
    /// The sentence, with numbers.
    pub sentence: String,
}

/// Everybody who is there, and everybody who ought to be.
pub fn members(world: &World, now: Timestamp) -> Vec<MemberStatus> {
    let mut names: BTreeSet<MemberName> = world.agents.keys().cloned().collect();
    match &world.etcd {
        Ok(snapshot) => names.extend(expected(snapshot, now)),
        Err(_) => names.extend(world.answers().flat_map(|(_, answer)| answer.members().map(|(name, _)| name))),
    }
    // A standby whose agent has died goes on streaming.
    names.extend(world.leader_answer().into_iter().flat_map(streaming));
    names.iter().map(|name| member(world, name)).collect()
}

/// From whom the Postgres of a member streams on whose agent is gone.
pub fn streams_on(world: &World, name: &MemberName) -> Option<MemberName> {
    let leader = world.leader().filter(|leader| leader != name)?;
    streaming(world.leader_answer()?).any(|other| other == *name).then_some(leader)
}

/// What an operator is told who has taken a member out of the cluster whose Postgres goes on.
pub fn told_of_streaming(name: &str, leader: &str) -> (String, &'static str) {
    (
        format!("{name} is removed, but its Postgres still streams from {leader}"),
        "on that host: pg_ctl -D DATA_DIR stop -m fast",
    )
}

/// Whose Postgres streams from this one.
fn streaming(leader: &Answer) -> impl Iterator<Item = MemberName> {
    let senders = leader.patroni["replication"].as_array().into_iter().flatten();
    let names = senders.filter_map(|sender| parse_application_name(sender["application_name"].as_str()?));
    names.map(|(name, _)| name)
}

/// Who belongs to the cluster, registered or away: those whom the durability record needs, recent leaders, and whoever has left anything in etcd or a slot
/// on the leader. Whoever was removed does not.
pub fn expected(snapshot: &Snapshot, now: Timestamp) -> BTreeSet<MemberName> {
    let mut names: BTreeSet<MemberName> = snapshot.member_records.keys().cloned().collect();
    // An unreadable record names a leader that nobody is.
    if let Some(sync) = snapshot.cluster.sync.as_ref().filter(|sync| !sync.policies.is_empty()) {
        names.insert(sync.leader.clone());
        names.extend(sync.policies.iter().flat_map(|quorum| quorum.voters.iter().cloned()));
    }
    let cluster = &snapshot.cluster;
    let keys = cluster.ballots.keys().chain(cluster.floors.keys()).chain(cluster.orders.keys());
    names.extend(keys.chain(cluster.failsafe.iter().flatten()).cloned());
    let recent = |timestamp: &Option<String>| {
        let at = timestamp.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        at.is_none_or(|at| now.duration_since(at).unsigned_abs() < MISSED_FOR)
    };
    let leaders = snapshot.history_rows.iter().filter(|row| recent(&row.timestamp));
    names.extend(leaders.filter_map(|row| row.new_leader.clone()));
    names.extend(known_by_slots(snapshot, &names));
    let has_left = |name: &MemberName| {
        let done = snapshot.departure_records.get(name).is_some_and(|record| record.done);
        done && !snapshot.member_records.contains_key(name)
    };
    names.retain(|name| !has_left(name));
    names
}

/// Who has never led and is in no ballot, and has a slot on the leader: by the name of the slot, which is that of the member but for what a slot's name
/// cannot have.
fn known_by_slots(snapshot: &Snapshot, names: &BTreeSet<MemberName>) -> Vec<MemberName> {
    let known: BTreeSet<SlotName> = names.iter().chain(snapshot.departure_records.keys()).map(SlotName::of).collect();
    let kept = snapshot.slots.iter().flat_map(|told| &told.for_members);
    kept.filter(|slot| !known.contains(*slot)).filter_map(|slot| MemberName::new(slot.as_str()).ok()).collect()
}

/// As it and the others have registered themselves; where etcd is silent, as its agent says.
fn pending_restart(world: &World, name: &MemberName) -> BTreeMap<String, PendingChange> {
    if let Ok(snapshot) = &world.etcd {
        return rolling::pending(snapshot, name);
    }
    let told = world.answer(name).map(|answer| answer.patroni["pending_restart_reason"].clone());
    told.and_then(|told| serde_json::from_value(told).ok()).unwrap_or_default()
}

fn member(world: &World, name: &MemberName) -> MemberStatus {
    let registered = world.etcd.as_ref().ok().map(|snapshot| snapshot.member_records.contains_key(name));
    let record = world.etcd.as_ref().ok().and_then(|snapshot| snapshot.member_records.get(name));
    let agent = world.agents.get(name);
    let says = agent.and_then(|agent| agent.says.as_ref().ok());
    let leads = world.leader().as_ref() == Some(name);
    let listed = listing(world, name);
    let bars = bars(world, name);
    let text = |key: &str| listed.as_ref().and_then(|entry| entry[key].as_str()).map(str::to_owned);
    MemberStatus {
        name: name.to_string(),
        role: role(says, leads).to_owned(),
        state: if is_leaving(world, name) {
            "leaving".to_owned()
        } else {
            state(says, leads, agent.is_some(), registered)
        },
        timeline: says.and_then(|says| says.beat["timeline"].as_u64()),
        receive_lag_bytes: lag(world, name, "receive_lag"),
        replay_lag_bytes: lag(world, name, "replay_lag"),
        acknowledges_nothing_ms: lag(world, name, "acknowledges_nothing_ms"),
        streams_from: record.and_then(|record| record.streams_from.as_ref()).map(ToString::to_string),
        zone: record.and_then(|record| record.zone.clone()),
        pending_restart: pending_restart(world, name),
        slots: says.and_then(|says| says.why["slots"].as_array().cloned()).unwrap_or_default(),
        sync: sync(world, name, leads, listed.as_ref()).to_owned(),
        may_lead: bars.as_ref().map(|bars| bars.is_empty() || leads),
        bars: bars.unwrap_or_default(),
        registered,
        reachable: says.is_some(),
        error: agent.and_then(|agent| agent.says.as_ref().err().cloned()),
        seen_ms: says.and_then(Answer::age).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        host: text("host"),
        port: listed.as_ref().and_then(|entry| entry["port"].as_u64()),
        api_url: agent.map(|agent| agent.api_url.clone()),
    }
}

/// Whether an operator has taken it out of the cluster and something still counts on it.
fn is_leaving(world: &World, name: &MemberName) -> bool {
    let Ok(snapshot) = &world.etcd else { return false };
    snapshot.cluster.has_departed(name) && !snapshot.member_records.contains_key(name)
}

/// What is known of a member's addresses and part, wherever it is known.
fn listing(world: &World, name: &MemberName) -> Option<Value> {
    let told = world.leader_answer().and_then(|leader| leader.member(name));
    told.or_else(|| world.answers().find_map(|(_, answer)| answer.member(name))).cloned()
}

fn role(says: Option<&Answer>, leads: bool) -> &'static str {
    match says.map(|says| (says.beat["state"] == "running", says.beat["role"] == "primary")) {
        _ if leads => "leader",
        Some((true, true)) => "primary",
        Some((true, false)) => "standby",
        Some((false, _)) => "none",
        None => "unknown",
    }
}

fn state(says: Option<&Answer>, leads: bool, has_address: bool, registered: Option<bool>) -> String {
    let Some(says) = says else {
        let gone = !has_address || registered == Some(false);
        return if gone { "down" } else { "unreachable" }.to_owned();
    };
    let postgres = says.beat["state"].as_str().unwrap_or("unknown");
    let replication = says.patroni["replication_state"].as_str();
    match (postgres, replication) {
        ("running", _) if says.is_writable() => "writable",
        ("running", Some("streaming")) if leads && says.patroni["role"] == "standby_leader" => "follows another site",
        ("running", _) if leads => "not writable",
        ("running", Some("streaming")) => "streaming",
        ("running", Some(_)) if says.patroni["tags"]["nostream"] == true => "from the archive",
        ("running", Some(_)) => "not streaming",
        _ => return copying(&says.patroni["pgvigil"]["copying"]).unwrap_or_else(|| postgres.to_owned()),
    }
    .to_owned()
}

/// `copying 41 %, 88.0 MB/s, 3m left`; `None`: it does not copy.
fn copying(progress: &Value) -> Option<String> {
    let done = progress["done_bytes"].as_u64()?;
    let mut words = match progress["total_bytes"].as_u64().filter(|total| *total > 0) {
        Some(total) => format!("copying {} %", (done.saturating_mul(100) / total).min(100)),
        None => format!("copying, {}", bytes(done)),
    };
    if let Some(rate) = progress["bytes_per_second"].as_u64().filter(|rate| *rate > 0) {
        words.push_str(&format!(", {}/s", bytes(rate)));
    }
    if let Some(left) = progress["left_s"].as_u64() {
        words.push_str(&format!(", {} left", humantime::format_duration(Duration::from_secs(left))));
    }
    Some(words)
}

/// Only the leader's own view is fresh; what members publish in etcd may be ten seconds old.
fn lag(world: &World, name: &MemberName, key: &str) -> Option<u64> {
    world.leader_answer().filter(|leader| leader.leads())?.member(name)?[key].as_u64()
}

fn sync(world: &World, name: &MemberName, leads: bool, listed: Option<&Value>) -> &'static str {
    let votes = match &world.etcd {
        Ok(snapshot) => {
            snapshot.cluster.sync.iter().flat_map(|sync| &sync.policies).any(|quorum| quorum.voters.contains(name))
        }
        Err(_) => matches!(listed.and_then(|entry| entry["role"].as_str()), Some("sync_standby" | "quorum_standby")),
    };
    match votes {
        _ if leads => "leader",
        true => "voter",
        false => "none",
    }
}

/// The leader knows best who follows it; in a vacancy any agent will do, this host's first.
fn bars(world: &World, name: &MemberName) -> Option<Vec<BarStatus>> {
    let told = world.leader_answer().and_then(|leader| leader.bars(name));
    let told = told.or_else(|| world.answers().find_map(|(_, answer)| answer.bars(name)))?;
    Some(told.into_iter().map(|(code, sentence)| BarStatus { code, sentence }).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::records::{DepartureRecord, HistoryRow};
    use decision::durability::Quorum;
    use decision::names::{Lsn, Timeline};
    use decision::slots::Published;
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    #[test]
    fn a_dead_voter_and_a_recent_leader_stay_visible_and_an_ancient_one_and_one_that_was_removed_do_not() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let row = |leader: &str, at: &str| HistoryRow {
            timeline: Timeline(1),
            ended_at: Lsn(1),
            reason: String::new(),
            timestamp: Some(at.to_owned()),
            new_leader: Some(name(leader)),
        };
        let mut snapshot = Snapshot::default();
        snapshot.history_rows = vec![row("pg4", "2026-11-20T10:00:00Z"), row("pg5", "2026-10-20T10:00:00Z")];
        let voters = BTreeSet::from([name("pg2")]);
        let left = DepartureRecord { done: true, ..DepartureRecord::default() };
        snapshot.history_rows.push(row("pg6", "2026-11-20T10:00:00Z"));
        snapshot.departure_records.insert(name("pg6"), left);
        snapshot.cluster.sync = Some(decision::view::SyncRecord::of_reign(
            name("pg1"),
            decision::names::Term(3),
            decision::settings::Mode::Quorum,
            vec![Quorum { k: 1, voters }],
            Timeline(3),
        ));
        assert_eq!(expected(&snapshot, now), BTreeSet::from([name("pg1"), name("pg2"), name("pg4")]));

        // Their slots are kept: of a voter, of one that was removed, and of one that is known by nothing else.
        snapshot.slots = Some(Published {
            for_members: ["pg2", "pg6", "pg7"].map(|slot| SlotName::new(slot).unwrap()).into(),
            ..Published::default()
        });
        assert_eq!(expected(&snapshot, now), BTreeSet::from([name("pg1"), name("pg2"), name("pg4"), name("pg7")]));
    }

    #[test]
    fn a_state_says_what_matters() {
        let says = |beat, patroni| Answer { beat, patroni, ..Answer::default() };
        let writer = says(json!({"state": "running", "role": "primary", "writable": true}), json!({}));
        let standby = says(json!({"state": "running", "role": "replica"}), json!({"replication_state": "streaming"}));
        let cut_off = says(json!({"state": "running"}), json!({"replication_state": "in archive recovery"}));
        assert_eq!(state(Some(&writer), true, true, Some(true)), "writable");
        assert_eq!(state(Some(&standby), false, true, Some(true)), "streaming");
        assert_eq!(state(Some(&cut_off), false, true, Some(true)), "not streaming");
        assert_eq!(state(Some(&standby), true, true, Some(true)), "not writable");
        let copies = json!({"pgvigil": {"copying": {"done_bytes": 41_u64 << 20, "total_bytes": 100_u64 << 20,
            "bytes_per_second": 1 << 20, "left_s": 59}}});
        let copies = says(json!({"state": "creating replica"}), copies);
        assert_eq!(state(Some(&copies), false, true, Some(true)), "copying 41 %, 1.0 MB/s, 59s left");
        assert_eq!(state(None, false, true, Some(true)), "unreachable");
        assert_eq!(state(None, false, true, None), "unreachable");
        assert_eq!(state(None, false, false, Some(false)), "down");
        assert_eq!(
            (role(Some(&writer), false), role(Some(&standby), true), role(None, false)),
            ("primary", "leader", "unknown")
        );
    }
}
