//! The JSON that Patroni's users and tools know (`/patroni`, `/cluster`, `/history`), and our own `/why` and `/beat`.
//! Field names and types follow Patroni exactly; what we add stands beside.

use std::time::{Duration, Instant};

use consensus::Problem;
use consensus::records::{COMPAT_VERSION, MemberRecord, PlannedSwitchover};
use decision::names::{Lsn, MemberName};
use decision::reason::Standing;
use pg_control::{Activity, Heartbeat, Overruled, Progress};
use serde_json::{Map, Value, json};

use crate::listening;
use crate::operate::hold::Shown;
use crate::overruled::{code, consequence};
use crate::published::{Picture, SyncKind};

/// Who has acknowledged nothing for less is merely slow.
const RESTS: Duration = Duration::from_secs(1);

/// The body of `/patroni` and of every health path.
pub fn patroni(picture: &Picture) -> Value {
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| {
        body.insert(key.to_owned(), value);
    };
    put("state", json!(picture.state()));
    put("role", json!(picture.role()));
    if let Some(extras) = &picture.extras {
        put("postmaster_start_time", json!(extras.postmaster_start_time));
        put("server_version", json!(extras.server_version));
        put("timeline", json!(picture.timeline()));
        put("xlog", xlog(picture));
        if !extras.replication.is_empty() {
            put("replication", json!(extras.replication));
        }
    }
    if let Some(state) = picture.postgres().and_then(|postgres| super::health::replication_state(&postgres.server)) {
        put("replication_state", json!(state));
    }
    match picture.sync_kind() {
        SyncKind::Sync => put("sync_standby", json!(true)),
        SyncKind::Quorum => put("quorum_standby", json!(true)),
        SyncKind::Async => {}
    }
    if let Some(cluster) = picture.cluster() {
        if cluster.leader.is_none() {
            put("cluster_unlocked", json!(true));
        }
        if let decision::view::Initialize::Done(id) = cluster.initialize {
            put("database_system_identifier", json!(id.to_string()));
        }
    }
    if picture.leads_on_promises() {
        put("failsafe_mode_is_active", json!(true));
    }
    if picture.view.settings.paused {
        put("pause", json!(true));
    }
    let pending = picture.parameters.pending();
    if !pending.is_empty() {
        put("pending_restart", json!(true));
        put("pending_restart_reason", json!(pending));
    }
    if let Some(scheduled) = scheduled_restart(picture, picture.view.me.as_str()) {
        put("scheduled_restart", scheduled);
    }
    put("dcs_last_seen", json!(picture.etcd_seen_epoch_s));
    if let Some(tags) = tags(picture) {
        put("tags", tags);
    }
    let name = picture.view.me.as_str();
    put("patroni", json!({"version": COMPAT_VERSION, "scope": picture.cluster_name, "name": name}));
    put("pgvigil", ours(picture));
    Value::Object(body)
}

/// What Patroni has no word for.
fn ours(picture: &Picture) -> Value {
    let lease_left_ms =
        picture.lock_until.map(|until| u64::try_from(until.remaining().as_millis()).unwrap_or(u64::MAX));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "term": picture.cluster().map(|cluster| cluster.term),
        "leader": picture.leads().is_some(),
        "writable": picture.writable(),
        "lease_left_ms": lease_left_ms,
        "action": picture.decision.action.code(),
        "reason": picture.decision.reason.code(),
        "why": picture.decision.reason.to_string(),
        "replay_lag_bytes": picture.replay_lag_bytes(),
        "copying": picture.copying.as_ref().map(copying),
        "hold": hold(picture),
    })
}

/// For whom planned actions wait.
fn hold(picture: &Picture) -> Option<Shown> {
    Shown::of(picture.snapshot.as_ref()?, jiff::Timestamp::now())
}

/// How far a copy is. WAL comes on top of the bytes, so that they may end a little below or above their total.
fn copying(progress: &Progress) -> Value {
    json!({
        "method": progress.method,
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "bytes_per_second": progress.bytes_per_second(),
        "left_s": progress.left().map(|left| left.as_secs()),
        "since_s": progress.began.elapsed().as_secs(),
    })
}

fn xlog(picture: &Picture) -> Value {
    if let Some(primary) = picture.primary() {
        return json!({"location": primary.flushed});
    }
    let Some(standby) = picture.standby() else { return json!({}) };
    json!({
        "received_location": standby.received,
        "replayed_location": standby.replayed,
        "replayed_timestamp": picture.extras.as_ref().and_then(|extras| extras.replayed_timestamp.clone()),
        "paused": picture.extras.as_ref().is_some_and(|extras| extras.replay_paused),
    })
}

fn tags(picture: &Picture) -> Option<Value> {
    let record = picture.snapshot.as_ref()?.member_records.get(&picture.view.me)?;
    let tags = serde_json::to_value(&record.tags).ok()?;
    tags.as_object().is_some_and(|tags| !tags.is_empty()).then_some(tags)
}

/// The body of `/cluster`.
pub fn cluster(picture: &Picture) -> Value {
    let Some(snapshot) = &picture.snapshot else {
        return json!({"members": [], "scope": picture.cluster_name});
    };
    let members: Vec<Value> =
        snapshot.member_records.iter().map(|(name, record)| member(picture, name.as_str(), record)).collect();
    let mut body = json!({"members": members, "scope": picture.cluster_name});
    if let Some(planned) = &snapshot.scheduled.switchover {
        body["scheduled_switchover"] = scheduled_switchover(&planned.record);
    }
    if picture.view.settings.paused {
        body["pause"] = json!(true);
    }
    if let Some(hold) = hold(picture) {
        body["pgvigil"] = json!({"hold": hold});
    }
    body
}

fn scheduled_switchover(planned: &PlannedSwitchover) -> Value {
    let mut body = json!({"at": planned.schedule.at, "from": planned.leader});
    if let Some(to) = &planned.member {
        body["to"] = json!(to);
    }
    body
}

/// What Patroni tells of a restart that is scheduled.
fn scheduled_restart(picture: &Picture, name: &str) -> Option<Value> {
    let restarts = &picture.snapshot.as_ref()?.scheduled.restarts;
    let (_, planned) = restarts.iter().find(|(of, _)| of.as_str() == name)?;
    Some(planned.record.as_patroni_tells())
}

/// One member of `/cluster`. check_patroni wants `lag` on everyone but the leader, and `timeline` wherever there is a lag.
fn member(picture: &Picture, name: &str, record: &MemberRecord) -> Value {
    let cluster = picture.cluster();
    let leads = cluster.and_then(|cluster| cluster.leader.as_ref()).is_some_and(|leader| leader.as_str() == name);
    let role = match leads {
        true if picture.follows_a_site() => "standby_leader",
        true => "leader",
        false => role_of_follower(picture, name),
    };
    let state = match &record.replication_state {
        Some(state) if !leads || picture.follows_a_site() => state.clone(),
        _ => record.state.clone(),
    };
    let found = record.to_member().ok();
    let mut body = json!({
        "name": name,
        "role": role,
        "state": state,
        "api_url": record.api_url,
        "host": found.as_ref().map(|member| member.host.clone()),
        "port": found.as_ref().map(|member| member.port),
    });
    if let Some(timeline) = record.timeline {
        body["timeline"] = json!(timeline);
    }
    if let Ok(Value::Object(tags)) = serde_json::to_value(&record.tags)
        && !tags.is_empty()
    {
        body["tags"] = Value::Object(tags);
    }
    if record.pending_restart == Some(true) {
        body["pending_restart"] = json!(true);
        body["pending_restart_reason"] = json!(record.pending_restart_reason);
    }
    if let Some(scheduled) = scheduled_restart(picture, name) {
        body["scheduled_restart"] = scheduled;
    }
    if !leads || picture.follows_a_site() {
        add_lag(&mut body, picture, name, record);
    }
    body
}

fn role_of_follower(picture: &Picture, name: &str) -> &'static str {
    let quorum = picture.cluster().and_then(|cluster| cluster.sync.as_ref()).and_then(|sync| sync.policies.last());
    match quorum {
        Some(quorum) if quorum.voters.iter().any(|voter| voter.as_str() == name) => {
            if quorum.k as usize == quorum.voters.len() { "sync_standby" } else { "quorum_standby" }
        }
        _ => "replica",
    }
}

/// Positions and lags: fresh from the leader's own replication view where this node is the leader, else as the member last wrote them.
fn add_lag(body: &mut Value, picture: &Picture, name: &str, record: &MemberRecord) {
    let seen = picture.primary().and_then(|primary| {
        let standby = primary.standbys.iter().find(|standby| standby.member.as_str() == name)?;
        Some((standby.flushed, standby.replayed, primary.flushed))
    });
    let (received, replayed, leader) = match seen {
        Some((received, replayed, leader)) => (Some(received), Some(replayed), Some(leader)),
        None => (record.receive_lsn.map(Lsn), record.replay_lsn.map(Lsn), picture.leader_lsn()),
    };
    let text = |lsn: Option<Lsn>| lsn.map_or(json!("unknown"), |lsn| json!(lsn.to_string()));
    let lag = |lsn: Option<Lsn>| match (lsn, leader) {
        (Some(lsn), Some(leader)) => json!(lsn.bytes_behind(leader)),
        _ => json!("unknown"),
    };
    body["receive_lsn"] = text(received);
    body["receive_lag"] = lag(received);
    body["replay_lsn"] = text(replayed);
    body["replay_lag"] = lag(replayed);
    body["lsn"] = text(received.max(replayed));
    body["lag"] = lag(received.max(replayed));
    let rests =
        picture.view.ages.voters_resting.iter().find(|(member, _)| member.as_str() == name).map(|(_, age)| *age);
    if let Some(rests) = rests.filter(|rests| picture.leads().is_some() && *rests >= RESTS) {
        body["acknowledges_nothing_ms"] = json!(milliseconds(rests));
    }
}

/// The body of `/history`.
pub fn history(picture: &Picture) -> Value {
    let rows = picture.snapshot.as_ref().map(|snapshot| snapshot.history_rows.clone()).unwrap_or_default();
    rows.iter()
        .map(|row| {
            let mut entry = vec![json!(row.timeline), json!(row.ended_at), json!(row.reason)];
            if let Some(timestamp) = &row.timestamp {
                entry.push(json!(timestamp));
                entry.extend(row.new_leader.as_ref().map(|leader| json!(leader)));
            }
            Value::Array(entry)
        })
        .collect()
}

/// The body of `/why`: the decision, since when, and what bars each member from leading.
/// `unread` are the transition records that cannot be understood.
pub fn why(picture: &Picture, unread: &[Problem]) -> Value {
    let standing = |standing: &Standing| {
        let bars: Vec<Value> =
            standing.bars.iter().map(|bar| json!({"code": bar.code(), "sentence": bar.to_string()})).collect();
        json!({"member": standing.member, "may_lead": bars.is_empty(), "bars": bars})
    };
    json!({
        "schema": "pgvigil.why/v1",
        "member": picture.view.me,
        "action": picture.decision.action.code(),
        "reason": picture.decision.reason,
        "sentence": picture.decision.reason.to_string(),
        "since_ms": milliseconds(picture.reason_age()),
        "etcd_age_ms": picture.etcd_seen_at.map(|seen| milliseconds(seen.elapsed())),
        "lease_renewed_ms": picture.renewed_at.map(|sent| milliseconds(sent.elapsed())),
        "failed": picture.failed.as_ref().map(|failed| {
            json!({"action": failed.action, "error": failed.error, "ago_ms": milliseconds(failed.at.elapsed())})
        }),
        "writable": picture.writable(),
        "standings": picture.decision.standings.iter().map(standing).collect::<Vec<_>>(),
        "refused_promises": picture.refused.iter().map(|(member, why)| json!({"member": member, "why": why})).collect::<Vec<_>>(),
        "state_dir": picture.missing.as_ref().map(|missing| json!({"problem": missing.problem, "hint": missing.hint})),
        "not_listening": picture.not_listening.as_ref().map(|address| {
            json!({"problem": listening::problem(address), "hint": listening::hint(address, picture.view.me.as_str())})
        }),
        "overruled": picture.overruled.iter().map(overruled).collect::<Vec<_>>(),
        "parameters": picture.parameters.problems().into_iter().chain(picture.access.problems()).collect::<Vec<_>>(),
        "certificates": picture.certificates.problems(jiff::Timestamp::now()),
        "slots": picture.slots.to_json(),
        "slot_problems": picture.slots.problems(&picture.view.me),
        "problems": picture.snapshot.as_ref().map(|snapshot| {
            snapshot.problems.iter().chain(unread).map(|problem| json!({"key": problem.key, "why": problem.why})).collect::<Vec<_>>()
        }),
    })
}

fn overruled(one: &Overruled) -> Value {
    let problem = format!("{}: {}", one.what, consequence(one.undoes));
    json!({"code": code(one.undoes), "problem": problem, "hint": one.mend})
}

/// The body of `/parameters`: what the running server knows, and no value of it.
pub fn parameters(picture: &Picture) -> Value {
    json!({
        "schema": "pgvigil.parameters/v1",
        "server_version": picture.extras.as_ref().map(|extras| extras.server_version),
        "parameters": &*picture.parameters.catalogue,
    })
}

/// The body of `/slots`: the replication slots of this server, and, of a leader, what it tells the others of them.
pub fn slots(picture: &Picture) -> Value {
    let told = picture.primary().filter(|_| picture.leads().is_some());
    let published = told.and_then(|primary| picture.slots.to_publish(&picture.view.me, primary.flushed));
    json!({"schema": "pgvigil.slots/v1", "member": picture.view.me, "published": published, "slots": picture.slots.to_json()})
}

/// The body of `/activity`: what goes on in the server, and how long ago that was seen.
pub fn activity(me: &MemberName, activity: &Activity, age: Duration) -> Value {
    let mut body = json!(activity);
    body["schema"] = json!("pgvigil.activity/v1");
    body["member"] = json!(me);
    body["age_ms"] = json!(milliseconds(age));
    body
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The body of `/beat`: the few facts that peers ask for often.
pub fn beat(picture: &Picture, heartbeat: Heartbeat, worked_at: Option<Instant>) -> Value {
    let (received, replayed) = match (picture.primary(), picture.standby()) {
        (Some(primary), _) => (Some(primary.flushed), Some(primary.flushed)),
        (None, Some(standby)) => (Some(standby.received), Some(standby.replayed)),
        (None, None) => (None, None),
    };
    json!({
        "member": picture.view.me,
        "term": picture.cluster().map(|cluster| cluster.term),
        "leader": picture.leads().is_some(),
        "writable": picture.writable(),
        "dead": picture.is_done_for(),
        "silent_for_ms": milliseconds(heartbeat.silent_for),
        "worked_ago_ms": worked_at.map(|at| milliseconds(at.elapsed())),
        "state": picture.state(),
        "role": picture.role(),
        "timeline": picture.timeline(),
        "received": received,
        "replayed": replayed,
        "streams_from": picture.standby().filter(|standby| standby.streaming).and_then(|standby| standby.follows.as_ref())
            .map(|upstream| &upstream.member),
        "lease_left_ms": picture.lock_until.map(|until| u64::try_from(until.remaining().as_millis()).unwrap_or(u64::MAX)),
        "clock_ms": jiff::Timestamp::now().as_millisecond(),
        "age_ms": u64::try_from(picture.made_at.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}
