//! `pgvigil why --explain CODE`: what a code means and what to do, from the very document that describes them all, so that it is at hand on a host where
//! nothing but the program is installed.

use clap_complete::engine::CompletionCandidate;

use super::super::screen::{answer, tell};
use crate::cli::Exit;

/// docs/reasons.md, of which each code is a heading.
const REASONS: &str = include_str!("../../../../docs/reasons.md");
/// Before a code.
const HEADING: &str = "### ";

/// Prints what is written under a code.
pub fn run(code: &str) -> Exit {
    match found(code) {
        Some(text) => {
            answer(text);
            Exit::Done
        }
        None => {
            let like: Vec<&str> = all().filter(|other| other.contains(code) || code.contains(other)).collect();
            let known = if like.is_empty() { all().collect() } else { like };
            tell(&format!("error: no reason and no bar has the code {code}; there are: {}", known.join(", ")));
            Exit::Usage
        }
    }
}

/// The codes, for a shell that asks what may come.
pub fn codes() -> Vec<CompletionCandidate> {
    all().map(CompletionCandidate::new).collect()
}

fn all() -> impl Iterator<Item = &'static str> {
    REASONS.lines().filter_map(|line| line.strip_prefix(HEADING))
}

fn found(code: &str) -> Option<&'static str> {
    let section = REASONS.split("\n### ").skip(1).find(|section| section.lines().next() == Some(code))?;
    section.split("\n## ").next().map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_told_with_what_to_do_and_nothing_of_the_next() {
        let text = found("paused").expect("a reason");
        assert!(
            text.starts_with("paused\n") && text.contains("pgvigil resume") && !text.contains("etcd_never_seen"),
            "{text}"
        );
        assert_eq!(found("pause"), None);
        for code in all() {
            assert!(found(code).is_some_and(|text| text.lines().count() > 1), "{code} has nothing under it");
        }
        let last = found("foreign_system").expect("a reason");
        assert!(!last.contains("## "), "{last}");
    }
}
