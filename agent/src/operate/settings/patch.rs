//! A change as Patroni's clients write it: an object that is laid over the settings, in which `null` takes something out.

use serde_json::{Map, Value};

use super::put;

/// The settings with `patch` over them.
pub fn merged(config: &Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
    let mut config = config.clone();
    for (name, value) in patch {
        match (value, config.get(name)) {
            (Value::Null, _) => drop(config.remove(name)),
            (Value::Object(patch), Some(Value::Object(inner))) => {
                let inner = merged(inner, patch);
                config.insert(name.clone(), Value::Object(inner));
            }
            (Value::Object(patch), _) => drop(config.insert(name.clone(), Value::Object(merged(&Map::new(), patch)))),
            (value, _) => drop(config.insert(name.clone(), value.clone())),
        }
    }
    config
}

/// The settings as they were at another time, or as somebody wants all of them: whether the cluster is paused, and which site leads, is no matter of
/// that.
pub fn with_the_state_of(now: &Map<String, Value>, mut earlier: Map<String, Value>) -> Map<String, Value> {
    let ours = |name: &str| now.get("pgvigil").and_then(|ours| ours.get(name)).cloned();
    for name in ["pause", "standby_cluster"] {
        put(&mut earlier, &[name], now.get(name).cloned());
    }
    for name in ["pause", "site"] {
        put(&mut earlier, &["pgvigil", name], ours(name));
    }
    earlier
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operate::testing::object;

    #[test]
    fn a_patch_is_laid_over_and_null_takes_out() {
        let before = object(json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}, "use_slots": true}}));
        for (patch, after) in [
            (json!({}), json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}, "use_slots": true}})),
            (
                json!({"ttl": null, "none": null}),
                json!({"postgresql": {"parameters": {"a": 1, "b": 2}, "use_slots": true}}),
            ),
            (
                json!({"postgresql": {"parameters": {"a": null, "c": "3"}}}),
                json!({"ttl": 30, "postgresql": {"parameters": {"b": 2, "c": "3"}, "use_slots": true}}),
            ),
            (json!({"postgresql": 1, "x": {"y": null}}), json!({"ttl": 30, "postgresql": 1, "x": {}})),
        ] {
            assert_eq!(Value::Object(merged(&before, &object(patch.clone()))), after, "{patch}");
        }
    }

    #[test]
    fn going_back_neither_pauses_nor_resumes() {
        let paused = object(json!({"pause": true, "pgvigil": {"pause": {"by": "anna"}, "x": 1}}));
        let running = object(json!({"ttl": 30, "pgvigil": {"y": 2}}));
        let back = with_the_state_of(&running, paused.clone());
        assert_eq!(Value::Object(back), json!({"pgvigil": {"x": 1}}));
        let back = with_the_state_of(&paused, running);
        assert_eq!(
            Value::Object(back),
            json!({"ttl": 30, "pause": true, "pgvigil": {"pause": {"by": "anna"}, "y": 2}})
        );
        assert_eq!(with_the_state_of(&Map::new(), object(json!({"pgvigil": {"pause": {}}}))), Map::new());
    }
}
