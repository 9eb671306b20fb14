//! What somebody meant who typed something else: one tip, and never a command that does more than the one that was meant.

use clap::Error;
use clap::error::{ContextKind, ContextValue};

/// Adds what was probably meant to what clap says of a mistake.
pub fn with_tip(mut error: Error, words: &[String]) -> Error {
    if let Some(ContextValue::Strings(similar)) = error.get(ContextKind::SuggestedSubcommand)
        && let Some(nearest) = nearest(similar, words)
    {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![nearest]));
    }
    if let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) {
        // What is set in the environment is shown as if it had to be said.
        let usage = usage.to_string();
        let without = usage.replace(" --config <FILE>", " [OPTIONS]");
        if without != usage {
            error.insert(ContextKind::Usage, ContextValue::StyledStr(without.into()));
        }
    }
    if let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && let Some(tip) = tip(argument, words)
    {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The last is the most similar. A failover, which may lose data, is nothing to be led to.
fn nearest(similar: &[String], words: &[String]) -> Option<String> {
    let is_meant = |name: &&String| *name != "failover" || words.iter().any(|word| word.starts_with("fail"));
    similar.iter().rev().find(is_meant).cloned()
}

/// For an argument that a command does not take.
fn tip(argument: &str, words: &[String]) -> Option<String> {
    let command = words.get(1).map_or("", String::as_str);
    let is_word = !argument.starts_with('-');
    match (command, argument) {
        ("switchover" | "failover", _) if is_word => {
            Some(format!("who is to lead is named with --to: --to {argument}"))
        }
        ("status", _) if is_word => Some(format!("of one member: pgvigil why {argument}")),
        (_, "--json" | "--format") => Some("for programs: -o json".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn told(line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let error = Cli::try_parse_from(&words).expect_err("a mistake");
        with_tip(error, &words).to_string()
    }

    #[test]
    fn a_mistake_is_told_with_what_was_meant() {
        for (line, tip) in [
            ("pgvigil swithcover", "'switchover'"),
            ("pgvigil failovr", "'failover'"),
            ("pgvigil switchover pg2", "--to pg2"),
            ("pgvigil failover pg2", "--to pg2"),
            ("pgvigil status --json", "-o json"),
            ("pgvigil status n2", "pgvigil why n2"),
            ("pgvigil status --format json", "-o json"),
        ] {
            let told = told(line);
            assert!(told.contains("tip:") && told.contains(tip), "{line}: {told}");
        }
        let usage = told("pgvigil reinit --config a.toml");
        assert!(usage.contains("pgvigil reinit [OPTIONS] <MEMBER>") && !usage.contains("--config"), "{usage}");
        assert!(!told("pgvigil swithcover").contains("failover"), "{}", told("pgvigil swithcover"));
    }
}
