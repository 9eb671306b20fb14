//! What a bundle says of the cluster and of this node's Postgres: as etcd has it, as each agent tells it, and as it lies on the disk.

use consensus::dump::Stored;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::status::Status;
use super::bundle::Bundle;
use super::host::output;
use super::read;
use crate::config::Config;
use crate::operate::world::{AGENT_WITHIN, Agent, Reach};

/// How many transitions are taken, the newest.
const TRANSITIONS: usize = 50;
/// What is not as it is by default; of defaults nobody needs a copy.
const SETTINGS: &str = "SELECT coalesce(json_object_agg(name, json_build_object('value', setting, 'unit', unit, 'from', source, \
                        'pending_restart', pending_restart)), '{}') FROM pg_settings WHERE source <> 'default'";
/// In the data directory.
const FILES: [&str; 5] = ["postgresql.conf", "postgresql.auto.conf", "pgvigil.conf", "pg_hba.conf", "pg_ident.conf"];

/// Puts in everything that can be had.
pub async fn of_cluster(bundle: &mut Bundle, reach: &Reach) {
    bundle.text("config/resolved.txt", Ok::<_, String>(format!("{:#?}", reach.config)));
    let world = reach.look().await;
    let status = Status::of(&world, &reach.config, Timestamp::now());
    bundle.json("status.json", serde_json::to_value(&status));
    if world.agents.is_empty() {
        let why = world.etcd.as_ref().err().map_or("nobody is registered", String::as_str);
        bundle.text("members", Err::<String, _>(format!("no agent is known: {why}")));
    }
    for (name, agent) in &world.agents {
        of_member(bundle, reach, name.as_str(), agent).await;
    }
    of_etcd(bundle, reach).await;
    of_postgres(bundle, &reach.config).await;
}

async fn of_member(bundle: &mut Bundle, reach: &Reach, name: &str, agent: &Agent) {
    let says = match &agent.says {
        Ok(says) => says,
        Err(why) => {
            bundle.text(&format!("members/{name}"), Err::<String, _>(format!("{}: {why}", agent.api_url)));
            return;
        }
    };
    let told = [("why", &says.why), ("patroni", &says.patroni), ("beat", &says.beat), ("cluster", &says.cluster)];
    for (piece, value) in told {
        bundle.json(&format!("members/{name}/{piece}.json"), Ok::<_, String>(value.clone()));
    }
    for piece in ["slots", "transitions"] {
        let value = reach.peers.get(&agent.api_url, &format!("/{piece}"), AGENT_WITHIN).await;
        bundle.json(&format!("members/{name}/{piece}.json"), value.map_err(|error| format!("{error:#}")));
    }
}

async fn of_etcd(bundle: &mut Bundle, reach: &Reach) {
    let keys = reach.store.dump().await.map(|stored| Value::from_iter(stored.iter().map(|one| key(bundle, one))));
    bundle.json("etcd/keys.json", keys);
    let transitions = reach.store.transitions().await.map(|(records, _)| {
        let newest: Vec<_> = records.iter().rev().take(TRANSITIONS).collect();
        json!(newest)
    });
    bundle.json("etcd/transitions.json", transitions);
}

fn key(bundle: &Bundle, stored: &Stored) -> Value {
    let value = match &stored.value {
        Some(value) => bundle.value(value),
        None => json!("(a secret, left out)"),
    };
    json!({"at": stored.key, "value": value, "revision": stored.revision, "lease": format!("{:x}", stored.lease)})
}

async fn of_postgres(bundle: &mut Bundle, config: &Config) {
    let postgres = &config.postgres;
    let data = postgres.data_dir.to_string_lossy().into_owned();
    let program = |name: &str| postgres.bin_dir.join(name);
    bundle.text("postgres/version.txt", output(program("postgres"), &["--version"]).await);
    bundle.text("postgres/controldata.txt", output(program("pg_controldata"), &["-D", &data]).await);
    for file in FILES {
        bundle.text(&format!("postgres/{file}"), read(&postgres.data_dir.join(file)));
    }
    bundle.json("postgres/settings.json", settings(config).await);
}

/// The settings as the running server has them, by the agent's own role.
async fn settings(config: &Config) -> Result<Value, String> {
    let postgres = &config.postgres;
    let (port, socket) = (postgres.advertise.port.to_string(), postgres.socket_dir.to_string_lossy().into_owned());
    let arguments = ["-AtXw", "-U", "pgvigil", "-d", "postgres", "-h", &socket, "-p", &port, "-c", SETTINGS];
    let told = output(postgres.bin_dir.join("psql"), &arguments).await;
    let told =
        told.map_err(|why| format!("{why} (the agent's user on this host may ask: sudo -u postgres pgvigil report)"))?;
    let found: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
    Ok(by_name(&found))
}

/// Each value under the name of its setting, by which it is known whether it is secret.
fn by_name(settings: &Value) -> Value {
    let mut named = Map::new();
    for (name, setting) in settings.as_object().into_iter().flatten() {
        let mut told = setting.as_object().cloned().unwrap_or_default();
        if let Some(value) = told.remove("value") {
            told.insert(name.clone(), value);
        }
        named.insert(name.clone(), Value::Object(told));
    }
    Value::Object(named)
}
