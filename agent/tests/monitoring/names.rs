//! The rules as values, the metrics that docs/metrics.md lists, and the selectors in an expression. It is no parser of PromQL, which promtool
//! has: a name of ours is a word with the prefix of one, and what stands in braces behind it are its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use config::{Config, File, FileFormat};
use serde_json::Value;

use super::{docs, packaging};

/// One rule.
pub struct Rule {
    /// The name of the alert, or of what is recorded.
    pub name: String,
    /// Whether it is an alert.
    pub alert: bool,
    /// The expression.
    pub expression: String,
    value: Value,
}

impl Rule {
    fn new(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let name = text("alert").or_else(|| text("record")).expect("a rule with a name");
        Self {
            name,
            alert: value["alert"].is_string(),
            expression: text("expr").expect("an expression"),
            value: value.clone(),
        }
    }

    /// What stands under `part`, `key`.
    pub fn text(&self, part: &str, key: &str) -> String {
        let text = self.value[part][key].as_str();
        text.unwrap_or_else(|| panic!("{} has no {part}: {key}", self.name)).to_owned()
    }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All rules that we ship.
pub fn rules() -> Vec<Rule> {
    let text = read(&packaging().join("pgvigil.rules.yml"));
    let built = Config::builder().add_source(File::from_str(&text, FileFormat::Yaml)).build();
    let all: Value = built.and_then(Config::try_deserialize).expect("YAML");
    let groups = all["groups"].as_array().expect("groups");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    rules.map(Rule::new).collect()
}

/// What the rules record.
pub fn recorded() -> BTreeSet<String> {
    rules().into_iter().filter(|rule| !rule.alert).map(|rule| rule.name).collect()
}

/// Every series that an agent exposes, with its labels, as docs/metrics.md has them.
pub fn documented_metrics() -> BTreeMap<String, BTreeSet<String>> {
    let text = read(&docs().join("metrics.md"));
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<&str> = line.split(" | ").collect();
        let name = columns[0].trim_matches(|c| "| `".contains(c)).to_owned();
        let labels: BTreeSet<String> = columns[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let parts: &[&str] = if columns[1] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        for part in parts {
            found.insert(format!("{name}{part}"), labels.clone());
        }
    }
    found
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The series that an expression reads, each with the labels that it asks for.
pub fn selectors(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(is_of_a_name) {
        let end = rest[at..].find(|c| !is_of_a_name(c)).map_or(rest.len(), |length| at + length);
        let word = &rest[at..end];
        rest = &rest[end..];
        let braces = rest.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let ours = ["pgvigil_", "patroni_", "cluster:"].iter().any(|prefix| word.starts_with(prefix));
        if ours || word == "up" {
            let labels = braces.map_or("", |(inside, _)| inside).split(',').filter_map(|pair| {
                Some(pair.split(['=', '!']).next()?.trim().to_owned()).filter(|label| !label.is_empty())
            });
            found.push((word.to_owned(), labels.collect()));
        }
        if let Some((_, after)) = braces {
            rest = after;
        }
    }
    found
}

#[test]
fn selectors_are_found_with_their_labels() {
    let expression = "max by (cluster) (pgvigil_lag{stage=\"replay\", standby!~\"a|b\"}) > 2 and cluster:pgvigil_x:max[1h] == 0 or up{job=\"a\"}";
    let found: Vec<String> =
        selectors(expression).into_iter().map(|(name, labels)| format!("{name} {labels:?}")).collect();
    assert_eq!(found, ["pgvigil_lag {\"stage\", \"standby\"}", "cluster:pgvigil_x:max {}", "up {\"job\"}"]);
}
