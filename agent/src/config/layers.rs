//! Where the configuration comes from: the defaults, the file over them, the environment over both. The file is first
//! read alone, because layering forgets lines and columns; then every environment variable alone, so that a bad one is
//! named; then all together.

use std::ops::Range;
use std::path::Path;

use config::builder::DefaultState;
use config::{ConfigBuilder, Environment, File, FileFormat};
use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer};

use super::keys::{self, PARAMETERS};
use super::problem::{ConfigErrors, Origins, Problem};
use super::raw::Raw;

/// What every environment variable of ours begins with.
const PREFIX: &str = "PGVIGIL__";

/// All layers as one, and where each key comes from.
pub struct Layered {
    pub raw: Raw,
    pub origins: Origins,
}

/// Reads all layers; tells every mistake of form.
pub fn read(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Layered, ConfigErrors> {
    let mut origins = Origins::of_file(path);
    origins.text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Err(origins.errors(vec![unreadable(&error)])),
    };
    let text = origins.text.clone();
    let mut problems = read_file(&text, &mut origins);
    let variables = read_variables(env, &mut origins, &mut problems);
    if !problems.is_empty() {
        return Err(origins.errors(problems));
    }
    let layers = ConfigBuilder::<DefaultState>::default()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .add_source(environment(variables))
        .build()
        .and_then(|merged| serde_path_to_error::deserialize(merged).map_err(serde_path_to_error::Error::into_inner));
    match layers {
        Ok(raw) => Ok(Layered { raw, origins }),
        // Each layer was good alone, so this is a variable that contradicts the shape of the file.
        Err(error) => Err(origins.errors(vec![Problem::nowhere("E04", error.to_string())])),
    }
}

fn unreadable(error: &std::io::Error) -> Problem {
    let help = match error.kind() {
        std::io::ErrorKind::NotFound => "docs/configuration.md shows the ten lines that are enough",
        std::io::ErrorKind::PermissionDenied => "the user that runs pgvigil must be able to read it",
        _ => "the path must name a text file",
    };
    Problem::nowhere("E01", format!("cannot read the configuration: {error}")).help(help)
}

/// Reads the file alone: its syntax, its keys, the types of its values.
fn read_file(text: &str, origins: &mut Origins) -> Vec<Problem> {
    let mut table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => return vec![syntax(&error)],
    };
    let mut problems = Vec::new();
    let mut values = Vec::new();
    walk("", table.get_mut(), origins, &mut values, &mut problems);
    // The unknown keys are gone from the table, so what serde refuses now is a value.
    if let Err(error) = Raw::deserialize(Deserializer::from(table)) {
        problems.push(bad_value(&error, &values));
    }
    problems
}

fn syntax(error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(0..0);
    Problem::in_text("E02", span, format!("this is not TOML: {}", error.message()))
}

/// Notes where each key is, and takes the unknown ones out.
fn walk(
    section: &str,
    table: &mut DeTable<'_>,
    origins: &mut Origins,
    values: &mut Vec<(String, Range<usize>)>,
    problems: &mut Vec<Problem>,
) {
    let mut unknown = Vec::new();
    for (key, value) in table.iter_mut() {
        let name = key.get_ref();
        let path = match section {
            "" => name.to_string(),
            // Postgres does not mind the case of its parameters.
            section if section.starts_with(PARAMETERS) => format!("{section}.{}", name.to_lowercase()),
            section => format!("{section}.{name}"),
        };
        if !keys::is_known(&path) {
            problems.push(unknown_key(&path, key.span()));
            unknown.push(name.to_string());
            continue;
        }
        origins.keys.insert(path.clone(), key.span());
        values.push((path.clone(), value.span()));
        if let DeValue::Table(inner) = value.get_mut() {
            walk(&path, inner, origins, values, problems);
        }
    }
    for name in unknown {
        table.remove(name.as_str());
    }
}

fn unknown_key(path: &str, span: Range<usize>) -> Problem {
    let problem = Problem::in_text("E03", span, format!("unknown key `{path}`"));
    problem.help(advice(path))
}

/// What to write instead of an unknown key, and what would hold without it.
fn advice(path: &str) -> String {
    let section = path.rsplit_once('.').map_or("", |(section, _)| section);
    let Some(meant) = keys::suggest(path) else {
        let here = keys::KEYS.iter().map(|key| key.path);
        let here: Vec<_> = here.filter(|path| path.rsplit_once('.').map_or("", |(s, _)| s) == section).collect();
        return match here.as_slice() {
            [] => "docs/configuration.md lists every key".into(),
            here => format!("known here: {}", here.join(", ")),
        };
    };
    match keys::find(meant) {
        Some(key) => {
            let place = match meant.rsplit_once('.') {
                Some((home, _)) if home != section => format!(", in [{home}]"),
                None if !section.is_empty() => ", above the first [section]".into(),
                _ => String::new(),
            };
            format!("did you mean `{meant}`{place}: {}?", key.explain())
        }
        None => format!("did you mean the section [{meant}]?"),
    }
}

fn bad_value(error: &toml::de::Error, values: &[(String, Range<usize>)]) -> Problem {
    let span = error.span().unwrap_or(0..0);
    // The innermost value that holds the place of the error is the one it is about.
    let around = values.iter().filter(|(_, value)| value.start <= span.start && span.end <= value.end);
    let path = around.min_by_key(|(_, value)| value.len()).map(|(path, _)| path.as_str());
    wrong_value(path, error.message(), |message| Problem::in_text("E04", span, message))
}

fn wrong_value(path: Option<&str>, said: &str, problem: impl FnOnce(String) -> Problem) -> Problem {
    let subject = path.map_or(String::new(), |path| format!("`{path}`: "));
    let problem = problem(format!("{subject}{said}"));
    match path.and_then(keys::find) {
        Some(key) => problem.help(format!("it is there for: {}", key.explain())),
        None => problem,
    }
}

/// Picks our variables out of the environment and reads each alone.
fn read_variables(
    env: impl Iterator<Item = (String, String)>,
    origins: &mut Origins,
    problems: &mut Vec<Problem>,
) -> Vec<(String, String)> {
    let mut ours: Vec<_> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    for (name, value) in &ours {
        let path = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        let parameter = path.starts_with(PARAMETERS) && path != PARAMETERS;
        if !(keys::is_known(&path) && (parameter || !keys::is_section(&path)) && path != PARAMETERS) {
            let message = format!("the environment variable {name} names no key: `{path}` is unknown");
            problems.push(Problem::nowhere("E03", message).help(advice(&path)));
            continue;
        }
        let alone = environment(vec![(name.clone(), value.clone())]);
        let read = ConfigBuilder::<DefaultState>::default().add_source(alone).build();
        if let Err(error) = read.and_then(config::Config::try_deserialize::<Raw>) {
            // What `config` adds to its sentence, the key and its source, is said already.
            let said = error.to_string();
            let said = said.split(" for key `").next().unwrap_or_default();
            problems.push(wrong_value(Some(&path), said, |message| Problem::at("E04", &path, message)));
        }
        origins.variables.insert(path, name.clone());
    }
    ours
}

fn environment(variables: Vec<(String, String)>) -> Environment {
    // Nothing is guessed from the look of a value ("15" may be a name): the type of the field decides.
    Environment::with_prefix("PGVIGIL")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(false)
        .source(Some(variables.into_iter().collect()))
}
