//! The cluster-wide settings, by the names that they have in a node's file: where each lies in the stored JSON, and what it may be. What a
//! node's file says holds until the cluster says something else.

use consensus::records::access;
use consensus::records::config::mode_from_text;
use decision::slots::SlotName;
use serde_json::{Map, Value, json};

use crate::config::value::Size;
use crate::config::{is_zone, keys};
use crate::operate::settings::put;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Where it lies.
    place: [&'static str; 3],
    /// Takes its value from the command line.
    read: fn(&str) -> Result<Value, String>,
}

/// All of them.
const SETTINGS: [Setting; 9] = [
    Setting { name: "durability.mode", place: ["pgvigil", "durability", "mode"], read: mode },
    Setting {
        name: "durability.acknowledgers",
        place: ["pgvigil", "durability", "acknowledgers"],
        read: acknowledgers,
    },
    Setting {
        name: "durability.max_lag_on_failover",
        place: ["pgvigil", "max_lag_on_failover_bytes", ""],
        read: bytes,
    },
    Setting { name: "slots.for_members", place: ["postgresql", "use_slots", ""], read: switch },
    Setting { name: "slots.absent_for", place: ["member_slots_ttl", "", ""], read: span },
    Setting { name: "durability.other_zone", place: ["pgvigil", "durability", "other_zone"], read: switch },
    Setting { name: "failover.prefer_zone", place: ["pgvigil", "prefer_zone", ""], read: label },
    Setting { name: "postgres.pg_hba", place: ["postgresql", "pg_hba", ""], read: hba },
    Setting { name: "postgres.pg_ident", place: ["postgresql", "pg_ident", ""], read: ident },
];

/// Before the name of a slot that is to be on whoever leads.
const PERMANENT: &str = "slots.permanent.";

fn mode(text: &str) -> Result<Value, String> {
    match mode_from_text(text) {
        Ok(mode) => Ok(json!(mode.to_string())),
        Err(_) => Err("one of auto, async, quorum, strict".to_owned()),
    }
}

fn acknowledgers(text: &str) -> Result<Value, String> {
    let number = text.parse::<u32>().ok().filter(|number| *number > 0);
    number.map(|number| json!(number)).ok_or_else(|| "a whole number above 0: so many standbys acknowledge".to_owned())
}

fn label(text: &str) -> Result<Value, String> {
    if is_zone(text) { Ok(json!(text)) } else { Err("the zone of some nodes, as their files name it".to_owned()) }
}

fn bytes(text: &str) -> Result<Value, String> {
    let size =
        text.parse::<Size>().map_err(|()| "a whole number with the unit B, kB, MB, GB or TB, such as 1MB".to_owned());
    size.map(|size| json!(size.0))
}

fn switch(text: &str) -> Result<Value, String> {
    text.parse::<bool>().map(Value::Bool).map_err(|_| "true or false".to_owned())
}

fn hba(text: &str) -> Result<Value, String> {
    lines(text, access::objection)
}

fn ident(text: &str) -> Result<Value, String> {
    lines(text, access::ident_objection)
}

/// A list as JSON has it.
fn lines(text: &str, objects: fn(&str) -> Option<String>) -> Result<Value, String> {
    let read: Value = serde_json::from_str(text)
        .map_err(|_| "a list of lines, such as [\"hostssl all all 10.0.0.0/8 scram-sha-256\"]".to_owned())?;
    let lines = access::rules(&read, objects).map_err(|why| format!("other lines: {why}"))?;
    Ok(json!(lines))
}

/// As it is written: whoever looks at the settings sees the unit.
fn span(text: &str) -> Result<Value, String> {
    let read = humantime::parse_duration(text);
    read.map(|_| json!(text)).map_err(|_| "a length of time with its unit, such as 30min".to_owned())
}

/// `physical`, or `logical:DATABASE:PLUGIN`, in Patroni's shape.
fn slot(text: &str) -> Result<Value, String> {
    match text.split(':').collect::<Vec<_>>()[..] {
        ["physical"] => Ok(json!({"type": "physical"})),
        ["logical", database, plugin] if !database.is_empty() && !plugin.is_empty() => {
            Ok(json!({"type": "logical", "database": database, "plugin": plugin}))
        }
        _ => Err("physical, or logical:DATABASE:PLUGIN".to_owned()),
    }
}

impl Setting {
    /// Where it lies, in one word.
    pub fn path(&self) -> String {
        self.place.iter().copied().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
    }

    /// The settings with this one at `value`; `None` takes it out, so that each node's file counts again.
    pub fn put(&self, config: &mut Map<String, Value>, value: Option<Value>) {
        let place: Vec<&str> = self.place.iter().copied().filter(|part| !part.is_empty()).collect();
        put(config, &place, value);
    }
}

/// What a name stands for.
#[derive(Debug)]
pub enum Named {
    /// A setting of ours.
    Setting(&'static Setting),
    /// A parameter of Postgres.
    Parameter(String),
    /// A permanent replication slot.
    Slot(SlotName),
}

impl Named {
    /// The settings with this one at `value`; `None` takes it out.
    pub fn put(&self, config: &mut Map<String, Value>, value: Option<Value>) {
        match self {
            Named::Setting(setting) => setting.put(config, value),
            Named::Parameter(name) => put(config, &["postgresql", "parameters", name], value),
            Named::Slot(name) => put(config, &["slots", name.as_str()], value),
        }
    }

    fn read(&self, text: &str) -> Result<Value, String> {
        match self {
            Named::Setting(setting) => (setting.read)(text),
            // The running Postgres knows what it may be.
            Named::Parameter(_) => Ok(json!(text)),
            Named::Slot(_) => slot(text),
        }
    }
}

/// The names of all that have one of ours.
pub fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.name)
}

/// Where the setting of this name lies, in one word.
pub fn place_of(name: &str) -> Option<String> {
    SETTINGS.iter().find(|setting| setting.name == name).map(Setting::path)
}

/// What lies at this place of the stored settings, by the name that `config set` takes: `postgresql.parameters.work_mem` is `postgres.parameters.work_mem`.
pub fn name_at(path: &str) -> String {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.path() == path) {
        return setting.name.to_owned();
    }
    match path.split_once("postgresql.parameters.") {
        Some(("", parameter)) => format!("{}.{parameter}", keys::PARAMETERS),
        _ => match path.strip_prefix("slots.") {
            Some(slot) => format!("{PERMANENT}{slot}"),
            None => path.to_owned(),
        },
    }
}

/// Lines of a difference, by the names that `config set` takes.
pub fn renamed(lines: Vec<String>) -> Vec<String> {
    let rename = |line: String| match line.split_once(": ") {
        Some((path, change)) => format!("{}: {change}", name_at(path)),
        None => line,
    };
    lines.into_iter().map(rename).collect()
}

/// The setting of this name, or what is wrong with the name. The place in the stored settings is a name as well.
pub fn find(name: &str) -> Result<Named, String> {
    let ours = name_at(name);
    let name = if name.starts_with("slots.") { name } else { ours.as_str() };
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
        return Ok(Named::Setting(setting));
    }
    let parameter = name.strip_prefix(keys::PARAMETERS).and_then(|rest| rest.strip_prefix('.'));
    if let Some(parameter) = parameter.filter(|parameter| !parameter.is_empty()) {
        return Ok(Named::Parameter(parameter.to_lowercase()));
    }
    if let Some(name) = name.strip_prefix(PERMANENT) {
        return SlotName::new(name).map(Named::Slot).map_err(|bad| bad.to_string());
    }
    if name == "pause" {
        return Err("`pause` has commands of its own: pgvigil pause, pgvigil resume".to_owned());
    }
    if name.starts_with("standby_cluster") {
        return Err("which site leads has commands of its own: pgvigil site promote, pgvigil site demote".to_owned());
    }
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    let below: Vec<&str> = names.iter().copied().filter(|full| full.starts_with(&format!("{name}."))).collect();
    let advice = match keys::suggest(name).filter(|_| !keys::is_known(name)) {
        Some(meant) if names.contains(&meant) => format!("did you mean `{meant}`?"),
        Some(meant) if meant.ends_with(&format!(".{name}")) => {
            format!("it is `{meant}`, which each node's own file sets")
        }
        _ if !below.is_empty() => format!("it is a section; the cluster has: {}", below.join(", ")),
        _ if keys::is_known(name) => "each node's own file sets it, not the cluster".to_owned(),
        None if !name.contains('.') => format!("what is Postgres' own is set with -p: -p {name}=VALUE"),
        _ => format!("the cluster has: {}, {PERMANENT}NAME, and Postgres' own (-p work_mem=8MB)", names.join(", ")),
    };
    Err(format!("`{name}` is no setting of the cluster; {advice}"))
}

/// `NAME=VALUE`, or what is wrong with it.
pub fn assignment(text: &str) -> Result<(Named, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is no NAME=VALUE"))?;
    let setting = find(name.trim())?;
    let value = value.trim();
    let read = setting.read(value).map_err(|expected| format!("{name} = \"{value}\": expected {expected}"))?;
    Ok((setting, read))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use decision::settings::Mode;

    #[test]
    fn what_is_set_lies_where_the_agents_read_it_and_leaves_nothing_behind() {
        let mut config = json!({"ttl": 30}).as_object().unwrap().clone();
        for text in [
            "durability.mode=strict",
            "durability.acknowledgers = 2",
            "durability.max_lag_on_failover=2MB",
            "durability.other_zone=true",
            "failover.prefer_zone=a",
            "postgres.pg_hba=[\"hostssl app app 10.0.0.0/8 scram-sha-256\"]",
        ] {
            let (setting, value) = assignment(text).unwrap();
            setting.put(&mut config, Some(value));
        }
        let stored = Value::Object(config.clone()).to_string();
        let (read, wrong) = consensus::records::ClusterConfig::from_json(&stored);
        assert!(wrong.is_empty(), "{wrong:?}");
        let durability = read.durability.unwrap();
        assert_eq!((durability.mode, durability.acknowledgers, durability.other_zone), (Mode::Strict, 2, true));
        assert_eq!(read.prefer_zone.as_deref(), Some("a"));
        assert_eq!(read.max_lag_on_failover_bytes, Some(2 << 20));
        assert_eq!(read.access.unwrap().hba, ["hostssl app app 10.0.0.0/8 scram-sha-256"]);
        SETTINGS.iter().filter(|it| it.name == "postgres.pg_hba").for_each(|it| it.put(&mut config, None));
        let (parameter, value) = assignment("postgres.parameters.Work_Mem = 8MB").unwrap();
        parameter.put(&mut config, Some(value));
        assert_eq!(config["postgresql"], json!({"parameters": {"work_mem": "8MB"}}));
        parameter.put(&mut config, None);
        let slots = [
            "slots.for_members=false",
            "slots.absent_for=2h",
            "slots.permanent.dr=physical",
            "slots.permanent.cdc=logical:orders:pgoutput",
        ];
        let slots = slots.map(|text| assignment(text).unwrap());
        slots.iter().for_each(|(setting, value)| setting.put(&mut config, Some(value.clone())));
        let (read, wrong) = consensus::records::ClusterConfig::from_json(&Value::Object(config.clone()).to_string());
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(
            (read.slots.for_members, read.slots.absent_for.as_secs(), read.slots.permanent.len()),
            (false, 7200, 2)
        );
        slots.iter().for_each(|(setting, _)| setting.put(&mut config, None));
        SETTINGS.iter().for_each(|setting| setting.put(&mut config, None));
        assert_eq!(Value::Object(config), json!({"ttl": 30}));
    }

    #[test]
    fn what_is_shown_can_be_set_by_the_same_name_and_the_stored_one_is_taken_as_well() {
        for (path, name) in [
            ("postgresql.parameters.work_mem", "postgres.parameters.work_mem"),
            ("pgvigil.durability.mode", "durability.mode"),
            ("postgresql.use_slots", "slots.for_members"),
            ("member_slots_ttl", "slots.absent_for"),
            ("pause", "pause"),
        ] {
            assert_eq!(name_at(path), name);
            if name != "pause" {
                find(path).unwrap();
            }
            find(name).map(|_| ()).unwrap_or_else(|why| assert_eq!(name, "pause", "{why}"));
        }
        assert_eq!(name_at("slots.dr.type"), "slots.permanent.dr.type");
        assert_eq!(
            renamed(vec!["pgvigil.prefer_zone: unset -> \"a\"".to_owned()]),
            ["failover.prefer_zone: unset -> \"a\""]
        );
    }

    #[test]
    fn mistakes_name_what_was_meant() {
        for (text, expected) in [
            ("durability.mode=sometimes", "expected one of auto, async, quorum, strict"),
            ("durability.acknowledgers=0", "expected a whole number above 0"),
            ("durability.max_lag_on_failover=1", "such as 1MB"),
            ("durability.mod=strict", "did you mean `durability.mode`?"),
            ("maximum_lag_on_failover=1MB", "did you mean `durability.max_lag_on_failover`?"),
            ("timing.ttl=9s", "each node's own file sets it"),
            ("ttl=3s", "it is `timing.ttl`, which each node's own file sets"),
            ("durability=strict", "it is a section; the cluster has: durability.mode, durability.acknowledgers"),
            ("pause=true", "pgvigil pause"),
            ("slots.absent_for=soon", "such as 30min"),
            ("slots.permanent.Dr=physical", "lower-case"),
            ("slots.permanent.cdc=logical", "logical:DATABASE:PLUGIN"),
            ("postgres.pg_hba=host all", "a list of lines"),
            ("postgres.pg_hba=[\"host all all 0.0.0.0/0 trust\"]", "without a password"),
            ("standby_cluster.host=a", "pgvigil site demote"),
            ("shoe.size=43", "the cluster has: durability.mode"),
            ("durability.mode", "is no NAME=VALUE"),
        ] {
            let told = assignment(text).unwrap_err();
            assert!(told.contains(expected), "{text}: {told}");
        }
    }
}
