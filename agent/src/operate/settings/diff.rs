//! What differs between two states of the settings, one line a value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Lines like `pgvigil.durability.mode: "quorum" -> "strict"`; `unset` stands for what is not there.
pub fn lines(before: &Value, after: &Value) -> Vec<String> {
    let (before, after) = (leaves(before), leaves(after));
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |leaves: &BTreeMap<String, String>, path: &String| leaves.get(path).cloned().unwrap_or("unset".into());
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| format!("{path}: {} -> {}", shown(&before, path), shown(&after, path)))
        .collect()
}

fn leaves(value: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(value, "", &mut found);
    found
}

fn collect(value: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, inner) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(inner, &path, found);
            }
        }
        Value::Null => {}
        Value::Object(_) if path.is_empty() => {}
        leaf => drop(found.insert(path.to_owned(), leaf.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_value_that_differs_has_a_line() {
        let before = json!({"pause": true, "ttl": 30, "pgvigil": {"durability": {"mode": "quorum"}}});
        let after = json!({"ttl": 30, "pgvigil": {"durability": {"mode": "strict", "acknowledgers": 2}}});
        let expected = [
            "pause: true -> unset",
            "pgvigil.durability.acknowledgers: unset -> 2",
            "pgvigil.durability.mode: \"quorum\" -> \"strict\"",
        ];
        assert_eq!(lines(&before, &after), expected);
        assert!(lines(&Value::Null, &json!({})).is_empty());
    }
}
