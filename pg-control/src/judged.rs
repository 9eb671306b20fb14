//! What Postgres says of parameters before there is a database that could be asked: its program reads them and ends without starting anything.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use decision::catalogue::{Catalogue, Kind, Parameter, Takes, check};
use decision::parameters::Parameters;

use crate::error::{Error, Result};
use crate::tool;

/// What the program in this directory does not take of these, a sentence each that names the parameter. Blocks for some milliseconds.
///
/// # Errors
/// It cannot be run.
pub fn objections(bin_dir: &Path, parameters: &Parameters) -> Result<Vec<(String, String)>> {
    if parameters.is_empty() || accepts(bin_dir, parameters.iter())?.is_none() {
        return Ok(Vec::new());
    }
    let names = names(bin_dir)?;
    let mut found = Vec::new();
    for one in parameters {
        let Some(words) = accepts(bin_dir, [one].into_iter())? else { continue };
        let (name, value) = one;
        let known = names.contains_key(&name.to_ascii_lowercase());
        // Whoever has misspelt a name is told which was probably meant; of a value Postgres knows more.
        let told = check(&names, name, value).err().filter(|_| !known).unwrap_or(words);
        found.push((name.clone(), told));
    }
    Ok(found)
}

/// What it says against these; `None`: nothing. `-C` stands first, or it would refuse to be run by root.
fn accepts<'a>(bin_dir: &Path, some: impl Iterator<Item = (&'a String, &'a String)>) -> Result<Option<String>> {
    let mut arguments: Vec<String> = ["-C", "max_connections", "-D"].map(str::to_owned).into();
    arguments.extend([bin_dir.display().to_string(), "-c".to_owned(), "config_file=/dev/null".to_owned()]);
    for (name, value) in some {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    let said = run(bin_dir, &arguments)?;
    Ok((!said.status.success()).then(|| words(&String::from_utf8_lossy(&said.stderr))))
}

/// Every parameter that it tells of, for their names alone.
fn names(bin_dir: &Path) -> Result<Catalogue> {
    let said = run(bin_dir, &["--describe-config".to_owned()])?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let any =
        Parameter { kind: Kind::Text, unit: None, min: None, max: None, choices: Vec::new(), takes: Takes::Reload };
    let named = text.lines().filter_map(|line| line.split('\t').next());
    Ok(named.map(|name| (name.to_ascii_lowercase(), any.clone())).collect())
}

fn run(bin_dir: &Path, arguments: &[String]) -> Result<Output> {
    let program = bin_dir.join("postgres");
    let mut command = Command::new(&program);
    tool::scrub(&mut command);
    // Its words are read here.
    command.env("LC_ALL", "C").args(arguments).stdin(Stdio::null()).current_dir("/");
    command.output().map_err(|error| Error::io("run", &program, error))
}

/// What stands behind `FATAL:` and `HINT:`, without the time and the process.
fn words(text: &str) -> String {
    let told = |line: &str| {
        let behind = |word: &str| line.split_once(word).map(|(_, rest)| rest.trim().to_owned());
        behind("FATAL:").or_else(|| behind("HINT:"))
    };
    let told: Vec<String> = text.lines().filter_map(told).collect();
    if told.is_empty() { tool::last_words(text) } else { told.join("; ") }
}
