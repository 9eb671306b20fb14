//! What the gate's rules judge, gathered: etcd by one read, every agent at once, and what goes on in the leader's Postgres as its agent tells. How far
//! standbys are behind in time is measured by waiting until they have what the leader had, so that no two clocks are compared.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use consensus::Snapshot;
use decision::durability::proven;
use decision::names::{Lsn, MemberName};
use decision::settings::Mode;
use jiff::Timestamp;
use pg_control::Activity;

use super::rules::{Durability, Facts, Failover, Replica, Seconds, Server, Sight};
use super::{Lag, Limits};
use crate::operate::hold::{Shown, told, under_way, what_waits};
use crate::operate::status::member::expected;
use crate::operate::words;
use crate::operate::world::{AGENT_WITHIN, Answer, Reach, World};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks at everything.
pub async fn gather(reach: &Reach, limits: &Limits) -> Facts {
    let world = reach.look().await;
    let snapshot = match &world.etcd {
        Ok(snapshot) => snapshot,
        Err(why) => return Facts::Blind(why.clone()),
    };
    let (now, leader) = (Timestamp::now(), snapshot.cluster.leader.clone());
    let asked_at = Instant::now();
    let activity = match leader.as_ref().and_then(|leader| snapshot.cluster.members.get(leader)) {
        Some(member) => Some(activity(reach, &member.api_url).await),
        None => None,
    };
    let known = activity.as_ref().and_then(|told| told.as_ref().ok());
    let mut replicas = replicas(&world, snapshot, known, now);
    if let (Lag::Time(most), Some(first)) = (limits.lag, known) {
        measure(reach, &world, snapshot, first, (asked_at, most), &mut replicas).await;
    }
    let records = reach.store.transitions().await;
    let going_on = match &records {
        Ok((records, _)) => under_way(records, snapshot, now).map(|record| Ok(told(record))),
        Err(error) => Some(Err(error.to_string())),
    };
    let says = world.leader_answer();
    let of_leader = |key: &str| says.and_then(|says| says.why[key].as_u64()).map(|ms| ms as f64 / 1000.0);
    Facts::Seen(Box::new(Sight {
        writes: leader.as_ref().and_then(|leader| world.agents.get(leader)).map(|agent| match &agent.says {
            Ok(says) => Ok(says.is_writable()),
            Err(why) => Err(why.clone()),
        }),
        others_writing: others_writing(&world, leader.as_ref()),
        follows: snapshot.cluster.follows(),
        renewed_s: of_leader("lease_renewed_ms"),
        ttl_s: reach.config.timing.ttl.as_secs_f64(),
        under_way: going_on,
        waits: what_waits(snapshot).map(|what| format!("{what} waits to be carried out")),
        paused: paused(snapshot, now),
        held: held(snapshot, limits, now),
        durability: durability(snapshot, says),
        failover: failover(&world, snapshot, known),
        pending_restart: registered(snapshot, |name| {
            snapshot.member_records.get(name).is_some_and(|record| record.pending_restart == Some(true))
        }),
        disk_low: registered(snapshot, |name| snapshot.cluster.members.get(name).is_some_and(|member| member.disk_low)),
        server: activity.map(|told| told.map(server)),
        replicas,
        leader,
    }))
}

/// What goes on in the Postgres of that agent.
async fn activity(reach: &Reach, api_url: &str) -> Result<Activity, String> {
    let answer = reach.peers.get(api_url, "/activity", AGENT_WITHIN).await.map_err(|error| format!("{error:#}"))?;
    if answer["schema"] != "pgvigil.activity/v1" {
        return Err(answer["error"].as_str().unwrap_or("its agent does not know that question").to_owned());
    }
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

fn server(activity: Activity) -> Server {
    Server {
        oldest: activity.longest_transaction_s.map(|age| (age, activity.longest_transaction_pid.unwrap_or_default())),
        prepared_s: activity.oldest_prepared_s,
        lock_waiters: activity.lock_waiters,
    }
}

fn registered(snapshot: &Snapshot, so: impl Fn(&MemberName) -> bool) -> Vec<MemberName> {
    snapshot.cluster.members.keys().filter(|name| so(name)).cloned().collect()
}

/// Whose Postgres is a primary that the lock does not make one.
fn others_writing(world: &World, leader: Option<&MemberName>) -> Vec<MemberName> {
    let is_primary = |answer: &Answer| answer.beat["role"] == "primary";
    world
        .answers()
        .filter(|(name, answer)| Some(*name) != leader && is_primary(answer))
        .map(|(name, _)| name.clone())
        .collect()
}

fn paused(snapshot: &Snapshot, now: Timestamp) -> Option<String> {
    if !snapshot.config.paused_at(now) {
        return None;
    }
    let pause = snapshot.config.pause.clone().unwrap_or_default();
    let until = pause.until.map(|until| format!(" until {}", words::moment(&until.to_string()))).unwrap_or_default();
    let by = pause.by.map(|by| format!(" by {by}")).unwrap_or_default();
    Some(format!("automatic actions are paused{until}{by}: no failover would happen"))
}

fn held(snapshot: &Snapshot, limits: &Limits, now: Timestamp) -> Option<String> {
    let shown = Shown::of(snapshot, now)?;
    let mine = limits.hold.is_some() && shown.id == limits.hold;
    (!mine).then(|| format!("planned actions are held {}", shown.in_words()))
}

/// Everybody who belongs to the cluster and is to stream, registered or away.
fn replicas(world: &World, snapshot: &Snapshot, activity: Option<&Activity>, now: Timestamp) -> Vec<Replica> {
    let cluster = &snapshot.cluster;
    let mut names = expected(snapshot, now);
    names.retain(|name| {
        let archive_alone = cluster.members.get(name).is_some_and(|member| member.tags.nostream);
        cluster.leader.as_ref() != Some(name) && !archive_alone && !cluster.has_departed(name)
    });
    let replica = |name: &MemberName| {
        let replayed = position(world, activity, name);
        let flushed = activity.and_then(|activity| activity.flushed);
        Replica {
            member: name.clone(),
            streams: streams(world, snapshot, activity, name),
            behind_bytes: replayed.zip(flushed).map(|(replayed, flushed)| replayed.bytes_behind(flushed)),
            behind_s: None,
        }
    };
    names.iter().map(replica).collect()
}

fn streams(world: &World, snapshot: &Snapshot, activity: Option<&Activity>, name: &MemberName) -> Option<bool> {
    let sent = activity.and_then(|activity| activity.standbys.iter().find(|standby| standby.member == *name));
    if let Some(standby) = sent {
        return Some(standby.streaming);
    }
    match world.answer(name) {
        // From another standby, perhaps.
        Some(says) => Some(!says.beat["streams_from"].is_null()),
        None if !snapshot.cluster.members.contains_key(name) => Some(false),
        None => None,
    }
}

/// How far a standby has replayed, as the leader's server says, or else its own agent.
fn position(world: &World, activity: Option<&Activity>, name: &MemberName) -> Option<Lsn> {
    let sent = activity.and_then(|activity| activity.standbys.iter().find(|standby| standby.member == *name));
    match sent {
        Some(standby) => standby.replayed,
        None => serde_json::from_value(world.answer(name)?.beat["replayed"].clone()).ok(),
    }
}

/// Waits until every standby that streams has replayed what the leader had on disk when it was first asked, or for as long as that may take.
async fn measure(
    reach: &Reach,
    world: &World,
    snapshot: &Snapshot,
    first: &Activity,
    (asked_at, most): (Instant, Duration),
    replicas: &mut [Replica],
) {
    let Some(target) = first.flushed else { return };
    let leader_url = world.leader().and_then(|leader| Some(snapshot.cluster.members.get(&leader)?.api_url.clone()));
    let mut latest = first.clone();
    loop {
        let elapsed = asked_at.elapsed();
        let mut waits = false;
        for replica in replicas.iter_mut().filter(|replica| replica.streams == Some(true)) {
            if matches!(replica.behind_s, Some(Seconds::Within(_))) {
                continue;
            }
            let there = match latest.standbys.iter().find(|standby| standby.member == replica.member) {
                Some(standby) => standby.replayed,
                None => told_by_itself(reach, snapshot, &replica.member).await,
            };
            let has_it = there.is_some_and(|there| there >= target);
            let took = elapsed.as_secs_f64();
            replica.behind_s = Some(if has_it { Seconds::Within(took) } else { Seconds::MoreThan(took) });
            waits |= !has_it;
        }
        if !waits || elapsed > most {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(url) = &leader_url
            && let Ok(now) = activity(reach, url).await
        {
            latest = now;
        }
    }
}

async fn told_by_itself(reach: &Reach, snapshot: &Snapshot, name: &MemberName) -> Option<Lsn> {
    let url = &snapshot.cluster.members.get(name)?.api_url;
    let beat = reach.peers.get(url, "/beat", AGENT_WITHIN).await.ok()?;
    serde_json::from_value(beat["replayed"].clone()).ok()
}

fn durability(snapshot: &Snapshot, says: Option<&Answer>) -> Durability {
    let told = says.map(|says| says.why["overruled"].as_array().cloned().unwrap_or_default()).unwrap_or_default();
    let overruled = told.iter().filter_map(|one| one["problem"].as_str().map(str::to_owned)).collect();
    let Some(sync) = &snapshot.cluster.sync else {
        return Durability { promised: true, in_force: false, text: "not recorded".to_owned(), overruled };
    };
    Durability {
        promised: sync.mode != Mode::Async,
        in_force: !sync.policies.is_empty() && sync.policies.iter().all(|quorum| quorum.k > 0),
        text: words::durability(&sync.mode.to_string(), &sync.policies),
        overruled,
    }
}

/// Whether somebody could take over now, and at what cost, in the eyes of the leader.
fn failover(world: &World, snapshot: &Snapshot, activity: Option<&Activity>) -> Failover {
    let (Some(says), Some(sync)) = (world.leader_answer(), &snapshot.cluster.sync) else { return Failover::Unknown };
    let is_async = sync.mode == Mode::Async;
    // How far it is behind matters only where nothing can be proven.
    let counts = |code: &str| is_async || code != "too_far_behind";
    let able = |name: &MemberName| {
        let bars = says.bars(name);
        let free = bars.is_some_and(|bars| !bars.iter().any(|(code, _)| counts(code)));
        free && world.leader().as_ref() != Some(name) && world.answer(name).is_some()
    };
    let able: BTreeSet<MemberName> = registered(snapshot, able).into_iter().collect();
    if able.is_empty() {
        return Failover::Impossible("no standby may lead".to_owned());
    }
    if !is_async {
        return match proven(&sync.policies, &able) {
            true => Failover::Nothing,
            false => {
                Failover::Impossible("acknowledged writes may be only on members that cannot take part".to_owned())
            }
        };
    }
    let behind = |name: &MemberName| {
        let activity = activity?;
        let standby = activity.standbys.iter().find(|standby| standby.member == *name)?;
        Some(standby.received?.bytes_behind(activity.flushed?))
    };
    let best = able.iter().min_by_key(|name| behind(name).unwrap_or(u64::MAX));
    best.map_or(Failover::Unknown, |best| Failover::UpTo(best.clone(), behind(best)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use consensus::records::DepartureRecord;
    use decision::departure::Departure;
    use decision::slots::{Published, SlotName};

    use super::*;
    use crate::operate::testing::{name, standby};

    #[test]
    fn a_dead_standby_that_nothing_but_its_slot_tells_of_is_still_to_stream_and_one_that_was_removed_is_not() {
        let mut snapshot = Snapshot::default();
        snapshot.cluster.leader = Some(name("pg1"));
        for member in ["pg1", "pg2"] {
            snapshot.cluster.members.insert(name(member), standby(member));
            snapshot.member_records.insert(name(member), Default::default());
        }
        let slots = ["pg2", "pg3", "pg4", "pg5"].map(|slot| SlotName::new(slot).unwrap());
        snapshot.slots = Some(Published { for_members: slots.into(), ..Published::default() });
        for (gone, done) in [("pg4", true), ("pg5", false)] {
            snapshot.departure_records.insert(name(gone), DepartureRecord { done, ..DepartureRecord::default() });
            snapshot.cluster.departures.insert(name(gone), Departure { done: None, revision: 5 });
        }
        let world = World { etcd: Ok(snapshot), agents: BTreeMap::new(), me: name("pg1"), under_way: None };
        let found = replicas(&world, world.etcd.as_ref().unwrap(), None, Timestamp::now());
        let found: Vec<_> = found.iter().map(|replica| (replica.member.as_str(), replica.streams)).collect();
        assert_eq!(found, [("pg2", None), ("pg3", Some(false))]);
    }
}
