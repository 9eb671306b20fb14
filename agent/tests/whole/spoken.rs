//! What the documents say of the command line, of reasons and of faults is held against the program: every command and option has its place in docs/cli.md, every
//! command line in a document can be typed, every reason has its section, every fault names what proves it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agent::cli::Cli;
use anyhow::{Context, Result, ensure};
use clap::{Command, CommandFactory};
use decision::reason::{Bar, Reason};

use crate::stage::Stage;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every document, with its name.
fn documents() -> Vec<(String, String)> {
    let folders = [docs(), docs().join("runbooks"), docs().join("adr"), docs().join("..")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder").flatten());
    let texts = files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    texts.map(|path| (path.display().to_string(), read(&path))).collect()
}

/// Every command without commands below it, by its words.
fn leaves(command: &Command, words: &str, found: &mut Vec<(String, Command)>) {
    let below: Vec<&Command> = command.get_subcommands().filter(|one| !one.is_hide_set()).collect();
    if below.is_empty() {
        found.push((words.to_owned(), command.clone()));
    }
    for one in below.into_iter().filter(|one| one.get_name() != "help") {
        leaves(one, format!("{words} {}", one.get_name()).trim(), found);
    }
}

/// What a command takes: the long name, and the short one where there is one.
fn options(command: &Command) -> BTreeMap<String, Option<String>> {
    let shown = command.get_arguments().filter(|one| !one.is_hide_set());
    let named =
        shown.filter_map(|one| Some((format!("--{}", one.get_long()?), one.get_short().map(|c| format!("-{c}")))));
    named.filter(|(name, _)| !["--help", "--version"].contains(&name.as_str())).collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).any(|one| one == word)
}

#[test]
fn every_command_and_every_option_has_its_place_in_the_document_of_the_command_line() {
    let text = read(&docs().join("cli.md"));
    let sections: Vec<&str> = text.split("\n## ").collect();
    let mut all = Vec::new();
    leaves(&Cli::command(), "", &mut all);
    assert!(all.len() > 30, "the command line is not as it was: {} commands", all.len());
    let mut missing = Vec::new();
    for (words, command) in &all {
        let first = words.split(' ').next().expect("a word");
        let called = format!("pgvigil {words}");
        let is_of_it =
            |section: &&&str| has_word(section.lines().next().expect("a line"), first) || section.contains(&called);
        let of_it = sections.iter().skip(1).filter(is_of_it);
        let told: String = std::iter::once(&sections[0]).chain(of_it).copied().collect();
        if !words.split(' ').all(|word| has_word(&told, word)) {
            missing.push(words.clone());
        }
        let is_told = |long: &String, short: &Option<String>| {
            has_word(&told, long) || short.as_ref().is_some_and(|short| has_word(&told, short))
        };
        let untold = options(command).into_iter().filter(|(long, short)| !is_told(long, short));
        missing.extend(untold.map(|(long, _)| format!("{words} {long}")));
    }
    assert!(missing.is_empty(), "docs/cli.md does not tell of: {missing:#?}");
}

/// What follows `pgvigil ` wherever a document has it as a command: between backticks, or in a line of a block that begins with a prompt.
fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_a_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_a_block = !in_a_block;
        } else if in_a_block {
            let typed = line.split_once("$ ").map_or("", |(_, typed)| typed);
            let typed = typed.split('#').next().unwrap_or_default();
            let parts = typed.split(['|', ';']).flat_map(|part| part.split("&&"));
            found.extend(
                parts
                    .filter_map(|part| Some(part.split_once("pgvigil ")?).filter(|(before, _)| runs(before)))
                    .map(|(_, after)| after.to_owned()),
            );
        }
    }
    let outside: String = text.split("```").step_by(2).collect();
    let quoted = outside.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.strip_prefix("pgvigil "));
    found.extend(quoted.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    found
}

/// What may stand before the program's name where it is run.
fn runs(before: &str) -> bool {
    let before = before.trim();
    before.is_empty() || before.ends_with("sudo -u postgres") || before.ends_with("sudo") || before.ends_with('=')
}

/// Why a line cannot be typed.
fn unknown(line: &str) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    let words = line.split_whitespace().take_while(|word| !matches!(*word, "--" | ">" | "..." | "2>&1"));
    let mut here = &command;
    let mut passed = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
    for word in words {
        // `[--cancel]` and `--a|--b`: what may be said.
        for part in word.split(['|', '[', ']']).filter(|part| !part.is_empty()) {
            if let Some(option) = part.strip_prefix("--") {
                let option = option.split('=').next().unwrap_or_default();
                let known =
                    options(here).contains_key(&format!("--{option}")) || passed.contains(&format!("--{option}"));
                if !known {
                    return Some(format!("{} has no --{option}", here.get_name()));
                }
            } else if here.has_subcommands()
                && part.chars().all(|c| c.is_ascii_lowercase() || c == '-')
                && !part.starts_with('-')
            {
                match here.find_subcommand(part) {
                    Some(found) => here = found,
                    None => return Some(format!("{} has no command {part}", here.get_name())),
                }
                passed.extend(options(here).into_keys());
            }
        }
    }
    None
}

#[test]
fn every_command_line_in_a_document_can_be_typed() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for (name, text) in documents() {
        for line in command_lines(&text) {
            count += 1;
            wrong.extend(unknown(&line).map(|why| format!("{name}: pgvigil {line}: {why}")));
        }
    }
    assert!(count > 200, "the documents are not read as they were: {count} command lines");
    assert!(wrong.is_empty(), "{wrong:#?}");
    for line in ["switchover --too pg2", "switchower", "fleet statsu", "config set --exspect-revision 3"] {
        assert!(unknown(line).is_some(), "{line} would be let through");
    }
}

/// The words of the first heading of a table in an output.
fn heading(output: &str) -> Option<Vec<&str>> {
    let is_heading = |words: &Vec<&str>| {
        words.len() > 2 && words.iter().all(|word| *word == "->" || word.chars().all(|c| c.is_ascii_uppercase()))
    };
    output.lines().map(|line| line.split_whitespace().collect()).find(is_heading)
}

/// The tables of a cluster with a transition and a change of its settings have the columns that docs/cli.md shows.
pub async fn tables_have_the_columns_that_the_document_shows(stage: &Stage, node: &str) -> Result<()> {
    let text = read(&docs().join("cli.md"));
    for command in ["status", "why", "fleet status", "config history", "transitions", "slo"] {
        let (_, shown) = text.split_once(&format!("$ pgvigil {command}\n")).with_context(|| format!("no {command}"))?;
        let shown = shown.split("```").next().unwrap_or_default();
        let told = stage.pgvigil(node, &command.split(' ').collect::<Vec<_>>()).await?;
        let (documented, real) = (heading(shown), heading(&told));
        ensure!(documented.is_some() && documented == real, "{command}: {documented:?} in docs/cli.md, and {real:?}");
    }
    Ok(())
}

#[test]
fn every_reason_and_every_bar_has_its_section_and_no_section_is_left_over() {
    let text = read(&docs().join("reasons.md"));
    let sections: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let codes: BTreeSet<&str> = Reason::CODES.iter().chain(Bar::CODES).copied().collect();
    assert_eq!(sections, codes);
    for section in text.split("\n### ").skip(1) {
        let code = section.lines().next().expect("a line");
        assert!(section.contains("**Do:**"), "docs/reasons.md does not say what to do about {code}");
    }
}

#[test]
fn every_row_of_the_failure_modes_names_what_proves_it() {
    let text = read(&docs().join("failure-modes.md"));
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| fault |") && !line.starts_with("| what |"))
        .collect();
    assert!(rows.len() > 60, "the tables are not read as they were: {} rows", rows.len());
    for row in rows {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(columns.len(), 5, "{row}");
        let proof = columns[4].trim();
        let told = proof.contains('`') || proof == "the same" || proof == "as above";
        assert!(told, "no test is named: {row}");
    }
}
