//! `pgvigil config show --effective`: what this node goes by, and who said so: the cluster, the node's file, or nobody.

use std::collections::BTreeSet;

use decision::durability::mode_in_force;
use decision::parameters::{Capacities, Parameters, Part, effective, is_alike, usable};
use serde_json::{Value, json};

use super::{change, known};
use crate::cli::{Exit, Output};
use crate::commands::screen::{answer, table, tell};
use crate::commands::world::Reach;
use crate::config::{Config, keys, written_keys};

/// Who has said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Cluster,
    Node,
    Default,
}

/// A value that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counts {
    name: String,
    value: String,
    from: Said,
}

/// Prints all of it.
pub async fn show(reach: &Reach, output: Output) -> Result<Exit, Exit> {
    let snapshot = change::read(reach).await?;
    let stored = Value::Object(change::settings(reach, &snapshot)?);
    let written = written_keys(&reach.config.path, std::env::vars());
    let mut all: Vec<Counts> = known::names().map(|name| of_setting(name, &stored, &reach.config, &written)).collect();
    let slots = stored["slots"].as_object().into_iter().flatten();
    all.extend(slots.map(|(name, slot)| Counts {
        name: known::name_at(&format!("slots.{name}")),
        value: slot.to_string(),
        from: Said::Cluster,
    }));
    let mode = mode_in_force(&reach.config.settings(), &snapshot.cluster);
    let (shared, ignored) = usable(&snapshot.config.parameters, mode);
    all.extend(of_parameters(&shared, &reach.config.postgres.parameters));
    ignored.iter().for_each(|bad| tell(&format!("warning: not heeded: {}", bad.what)));
    if output == Output::Json {
        let each = |one: &Counts| json!({"name": one.name, "value": one.value, "from": one.from.word()});
        let all: Vec<Value> = all.iter().map(each).collect();
        answer(
            &json!({"schema": "pgvigil.config_effective/v1", "member": reach.config.name, "values": all}).to_string(),
        );
        return Ok(Exit::Done);
    }
    let file = reach.config.path.display().to_string();
    let line = |one: &Counts| vec![one.name.clone(), one.value.clone(), one.from.in_words(&file)];
    answer(&table(&["NAME", "VALUE", "FROM"], &all.iter().map(line).collect::<Vec<_>>()));
    Ok(Exit::Done)
}

impl Said {
    fn word(self) -> &'static str {
        match self {
            Said::Cluster => "cluster",
            Said::Node => "node",
            Said::Default => "default",
        }
    }

    fn in_words(self, file: &str) -> String {
        match self {
            Said::Cluster => "the cluster (pgvigil config set)".to_owned(),
            Said::Node => file.to_owned(),
            Said::Default => "nobody: the default".to_owned(),
        }
    }
}

/// What the cluster says goes over what the node's file says.
fn of_setting(name: &str, stored: &Value, config: &Config, written: &BTreeSet<String>) -> Counts {
    let place = known::place_of(name).map(|place| format!("/{}", place.replace('.', "/")));
    let of_cluster = place.and_then(|place| stored.pointer(&place)).filter(|value| !value.is_null());
    let (value, from) = match of_cluster {
        Some(value) => (value.to_string(), Said::Cluster),
        None if written.contains(name) => (of_node(name, config), Said::Node),
        None => (of_node(name, config), Said::Default),
    };
    let unit = if name == "durability.max_lag_on_failover" { "B" } else { "" };
    Counts { name: name.to_owned(), value: format!("{value}{unit}"), from }
}

/// What the node's file says, or what holds where it says nothing.
fn of_node(name: &str, config: &Config) -> String {
    let durability = config.durability;
    match name {
        "durability.mode" => format!("\"{}\"", durability.mode),
        "durability.acknowledgers" => durability.acknowledgers.to_string(),
        "durability.other_zone" => durability.other_zone.to_string(),
        "durability.max_lag_on_failover" => config.max_lag_on_failover_bytes.to_string(),
        "slots.for_members" => "true".to_owned(),
        "slots.absent_for" => "\"30min\"".to_owned(),
        _ => "none".to_owned(),
    }
}

/// What the node's file says goes over what the cluster says, save for what must be alike everywhere.
fn of_parameters(cluster: &Parameters, node: &Parameters) -> Vec<Counts> {
    let wanted = effective(cluster, node, &Capacities::new(), Part::Follows { leader: None });
    let counts = |(name, value): (String, String)| {
        let by_node = node.contains_key(&name) && !(is_alike(&name) && cluster.contains_key(&name));
        let from = if by_node { Said::Node } else { Said::Cluster };
        Counts { name: format!("{}.{name}", keys::PARAMETERS), value, from }
    };
    wanted.into_iter().map(counts).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_value_says_where_it_comes_from() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgvigil.toml");
        let file = "cluster = 'orders'\netcd.endpoints = ['127.0.0.1:2379']\ndurability.acknowledgers = 2\n\
                    [postgres]\nversion = 15\nadvertise = '127.0.0.1:5432'\n";
        std::fs::write(&path, file).unwrap();
        let config = crate::config::load(&path, std::iter::empty()).unwrap();
        let written = written_keys(&path, std::iter::empty());
        let stored = json!({"pgvigil": {"durability": {"mode": "strict"}}});
        let told = |name: &str| {
            let one = of_setting(name, &stored, &config, &written);
            (one.value, one.from)
        };
        assert_eq!(told("durability.mode"), ("\"strict\"".to_owned(), Said::Cluster));
        assert_eq!(told("durability.acknowledgers"), ("2".to_owned(), Said::Node));
        assert_eq!(told("durability.max_lag_on_failover"), ("1048576B".to_owned(), Said::Default));
        assert_eq!(told("slots.absent_for"), ("\"30min\"".to_owned(), Said::Default));
    }

    #[test]
    fn a_parameter_of_the_node_goes_over_that_of_the_cluster_unless_it_must_be_alike() {
        let of = |pairs: &[(&str, &str)]| -> Parameters {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let cluster = of(&[("work_mem", "8MB"), ("max_connections", "200"), ("jit", "off")]);
        let node = of(&[("work_mem", "4MB"), ("max_connections", "100"), ("log_lock_waits", "on")]);
        let told: Vec<(String, String, Said)> =
            of_parameters(&cluster, &node).into_iter().map(|one| (one.name, one.value, one.from)).collect();
        let row = |name: &str, value: &str, from| (format!("postgres.parameters.{name}"), value.to_owned(), from);
        assert_eq!(
            told,
            [
                row("jit", "off", Said::Cluster),
                row("log_lock_waits", "on", Said::Node),
                row("max_connections", "200", Said::Cluster),
                row("work_mem", "4MB", Said::Node),
            ]
        );
    }
}
