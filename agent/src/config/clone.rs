//! `[clone]`: how this node gets a copy of the data when it needs one, the ways in the order in which they are tried.

use super::pgbackrest::PgBackRest;
use super::problem::Problem;
use super::raw::{CloneWay, RawClone};

/// How copies are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloning {
    /// In the order in which they are tried; never empty.
    pub ways: Vec<Way>,
    /// What `pg_basebackup` may transfer in a second.
    pub max_rate_bytes: Option<u64>,
}

/// One way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// `pg_basebackup` from the leader.
    Leader,
    /// `pg_basebackup` from a standby that offers itself (`tags.clonefrom`); passed over where there is none.
    Replica,
    /// A program that fills the directory.
    Program {
        /// What it is called.
        name: String,
        /// Its words.
        command: Vec<String>,
        /// How WAL is fetched until the standby streams.
        restore_command: Option<String>,
    },
}

/// The finished section.
pub fn resolve(raw: RawClone, found: &mut Vec<Problem>) -> Cloning {
    check(&raw, found);
    // What the server needs to recover is written by the agent, so pgBackRest need not (`--type=none`).
    let backup = PgBackRest { stanza: raw.stanza.clone().unwrap_or_default(), config: raw.config.clone() };
    let program = |name: &str, command, fetch: Option<String>| Way::Program {
        name: name.to_owned(),
        command,
        restore_command: raw.restore_command.clone().or(fetch),
    };
    let way = |way: &CloneWay| match way {
        CloneWay::Leader => Way::Leader,
        CloneWay::Replica => Way::Replica,
        CloneWay::Command => program("command", raw.command.0.clone(), None),
        CloneWay::PgBackRest => {
            program("pgbackrest", backup.restore(&["--type=none".to_owned()]), Some(backup.fetch()))
        }
    };
    let usual = [CloneWay::Replica, CloneWay::Leader];
    let ways = raw.methods.as_deref().unwrap_or(&usual).iter().map(way).collect();
    Cloning { ways, max_rate_bytes: raw.max_rate.map(|size| size.0) }
}

fn check(raw: &RawClone, found: &mut Vec<Problem>) {
    let uses = |way: CloneWay| raw.methods.as_deref().unwrap_or_default().contains(&way);
    if raw.methods.as_ref().is_some_and(Vec::is_empty) {
        let message = "`clone.methods` is empty: a node without data could never join".to_owned();
        found.push(Problem::at("E11", "clone.methods", message).help("write methods = [\"replica\", \"leader\"]"));
    }
    let pairs = [
        (CloneWay::Command, "command", !raw.command.0.is_empty(), "[\"/usr/local/bin/restore\", \"{data_dir}\"]"),
        (CloneWay::PgBackRest, "stanza", raw.stanza.is_some(), "\"main\""),
    ];
    for (way, key, is_given, example) in pairs {
        let path = format!("clone.{key}");
        if uses(way) && !is_given {
            let message = format!("`clone.methods` needs `{path}`");
            found.push(
                Problem::at("E11", "clone.methods", message).help(format!("write {key} = {example} under [clone]")),
            );
        }
        if !uses(way) && is_given {
            let message = format!("`{path}` is used by no method");
            found.push(Problem::at("E11", &path, message).help("name its method in `clone.methods`, or remove it"));
        }
    }
    if raw.config.is_some() && !uses(CloneWay::PgBackRest) {
        let message = "`clone.config` is used by no method".to_owned();
        let help = "name \"pgbackrest\" in `clone.methods`, or remove it";
        found.push(Problem::at("E11", "clone.config", message).help(help));
    }
    if raw.restore_command.is_some() && !uses(CloneWay::Command) && !uses(CloneWay::PgBackRest) {
        let message = "`clone.restore_command` is used by no method".to_owned();
        let help = "name \"command\" or \"pgbackrest\" in `clone.methods`, or remove it";
        found.push(Problem::at("E11", "clone.restore_command", message).help(help));
    }
}
