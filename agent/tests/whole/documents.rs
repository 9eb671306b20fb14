//! What the documents say is proven by a test is: every test that one of them names exists, in some file of this repository.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Names of tests are sentences; a shorter word in backticks is something else.
const WORDS_LEAST: usize = 5;

fn files_below(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory of the repository").flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|name| !name.starts_with('.') && name != "target");
        if path.is_dir() && ours {
            files_below(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

fn texts(root: &Path, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    files_below(root, ending, &mut found);
    found.iter().map(|path| std::fs::read_to_string(path).expect("a text")).collect()
}

/// What stands in backticks and looks like a test. Where only its beginning or its end is given, dots stand for the rest.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|word| {
        word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.')
            && word.split('_').filter(|part| !part.trim_matches('.').is_empty()).count() >= WORDS_LEAST
    })
}

#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = texts(&root, "rs");
    let functions: BTreeSet<&str> = sources
        .iter()
        .flat_map(|text| text.split("fn ").skip(1))
        .filter_map(|rest| rest.split(['(', '<']).next())
        .collect();
    let documents = texts(&root.join("docs"), "md");
    let parameter = |word: &str| sources.iter().any(|text| text.contains(&format!("\"{word}\"")));
    let exists = |word: &str| {
        let (begins, ends) = (word.strip_suffix("..."), word.strip_prefix("..."));
        functions.iter().any(|function| match (begins, ends) {
            (Some(begin), _) => function.starts_with(begin),
            (None, Some(end)) => function.ends_with(end),
            (None, None) => *function == word,
        }) || parameter(word)
    };
    let named: BTreeSet<&str> = documents.iter().flat_map(|text| named(text)).collect();
    assert!(named.len() > 100, "this test looks at the wrong place: {} names", named.len());
    let missing: Vec<&&str> = named.iter().filter(|word| !exists(word)).collect();
    assert!(missing.is_empty(), "named in docs/, and nowhere to be found: {missing:#?}");
}
