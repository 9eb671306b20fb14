//! What is said of Postgres' parameters in the cluster's settings: each is checked against what the running version knows, as an agent tells
//! it, and brought into one form before it is shown and agreed to. Nothing that only a node's own file may say gets through.

use consensus::Snapshot;
use consensus::records::{ClusterConfig, api_base};
use decision::catalogue::{Catalogue, Takes, check};
use decision::parameters::cluster_objection;
use decision::settings::Mode;
use serde_json::{Map, Value};

use super::put;
use crate::operate::world::{AGENT_WITHIN, Reach};
use crate::operate::{Kind, Unable};

/// Where they lie.
const PLACE: [&str; 2] = ["postgresql", "parameters"];

/// The settings as they are to be, in one form, and what is to be told of the change.
///
/// # Errors
/// What will not do.
pub async fn checked(
    reach: &Reach,
    snapshot: &Snapshot,
    before: &Map<String, Value>,
    after: Map<String, Value>,
) -> Result<(Map<String, Value>, Vec<String>), Unable> {
    let (old, new) = (stored(before), stored(&after));
    let changed: Vec<(&String, String)> = new
        .iter()
        .filter(|(name, value)| old.get(*name) != Some(value))
        .filter_map(|(n, v)| Some((n, text(v)?)))
        .collect();
    let removed: Vec<&String> = old.keys().filter(|name| !new.contains_key(*name)).collect();
    if changed.is_empty() && removed.is_empty() {
        return Ok((after, Vec::new()));
    }
    let allowed = refuse(&changed, mode(reach, &after));
    let catalogue = match catalogue(reach, snapshot).await {
        Some(catalogue) => catalogue,
        None if allowed.is_err() => return allowed.map(|()| (after, Vec::new())),
        // What is taken out needs no check.
        None if changed.is_empty() => Catalogue::new(),
        None => {
            let why = "no agent answers that knows the parameters of its Postgres, so nothing can be checked";
            return Err(Unable::new(Kind::Unreachable, why));
        }
    };
    let mut after = after;
    let mut mistakes = Vec::new();
    for (name, value) in &changed {
        match check(&catalogue, name, value) {
            Ok(good) => {
                put(&mut after, &[PLACE[0], PLACE[1], name], None);
                put(&mut after, &[PLACE[0], PLACE[1], &name.to_lowercase()], Some(Value::String(good)));
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if !mistakes.is_empty() {
        return Err(Unable { kind: Kind::Misused, why: mistakes });
    }
    allowed?;
    let names = changed.iter().map(|(name, _)| *name).chain(removed);
    let restart =
        names.filter(|name| catalogue.get(&name.to_lowercase()).is_some_and(|one| one.takes == Takes::Restart));
    let notes = restart.map(|name| {
        let new = new.get(name).and_then(text);
        format!("{name} takes a restart: {}", how_it_comes(snapshot, &name.to_lowercase(), new.as_deref()))
    });
    let notes = notes.collect();
    Ok((after, notes))
}

/// In which order a parameter that takes a restart comes to the nodes.
fn how_it_comes(snapshot: &Snapshot, name: &str, new: Option<&str>) -> String {
    const TOLD: &str = "each node tells that it waits for one until it has had it (pgvigil restart --pending)";
    let leader = snapshot.cluster.leader.as_ref().and_then(|leader| snapshot.cluster.members.get(leader));
    let now = leader.and_then(|leader| leader.capacities.get(name)).copied();
    let new = new.and_then(|new| new.trim().parse::<u64>().ok());
    let how = match (now, new) {
        (Some(now), Some(new)) if new > now => "; the standbys come first, then the leader, by a switchover",
        (Some(now), Some(new)) if new < now => {
            "; the leader comes first, in place (about a second without writes), then the standbys"
        }
        (Some(_), None) => "; it is raised on the standbys first, and lowered on the leader first, in place",
        _ => "",
    };
    format!("{TOLD}{how}")
}

/// What may not be said for the whole cluster.
fn refuse(changed: &[(&String, String)], mode: Mode) -> Result<(), Unable> {
    let objections = changed.iter().filter_map(|(name, value)| cluster_objection(name, value, mode));
    let why: Vec<String> = objections.map(|one| format!("{}\n  help: {}", one.what, one.mend)).collect();
    if why.is_empty() { Ok(()) } else { Err(Unable { kind: Kind::Refused, why }) }
}

/// The mode that will be in force, or may come to be.
fn mode(reach: &Reach, after: &Map<String, Value>) -> Mode {
    let (read, _) = ClusterConfig::from_json(&Value::Object(after.clone()).to_string());
    match read.durability.map_or(reach.config.durability.mode, |durability| durability.mode) {
        Mode::Auto => Mode::Quorum,
        mode => mode,
    }
}

fn stored(config: &Map<String, Value>) -> Map<String, Value> {
    let section = config.get(PLACE[0]).and_then(|section| section.get(PLACE[1])).and_then(Value::as_object);
    section.cloned().unwrap_or_default()
}

/// A value as it would be written; `None` where it is none at all.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What the running Postgres knows: the leader's, or else anybody's.
async fn catalogue(reach: &Reach, snapshot: &Snapshot) -> Option<Catalogue> {
    let cluster = &snapshot.cluster;
    let leader = cluster.leader.as_ref().and_then(|leader| cluster.members.get(leader));
    let urls = leader.into_iter().chain(cluster.members.values()).map(|member| api_base(&member.api_url).to_owned());
    for url in urls.chain([reach.own_api()]) {
        let Ok(mut body) = reach.peers.get(&url, "/parameters", AGENT_WITHIN).await else { continue };
        let read: Option<Catalogue> = serde_json::from_value(body["parameters"].take()).ok();
        if let Some(catalogue) = read.filter(|catalogue| !catalogue.is_empty()) {
            return Some(catalogue);
        }
    }
    None
}
