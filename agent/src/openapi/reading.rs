//! What the OpenAPI document says of the paths that only look and of the health paths, from the lists that the listener itself goes by.

use serde_json::{Map, Value, json};

use crate::http::health::{PATHS, STATUS_ONLY};

/// What a path answers with.
enum Answers {
    Object,
    List,
    Text(&'static str),
}

/// The paths that only look, and what they show.
const READING: &[(&str, Answers, &str)] = &[
    ("/patroni", Answers::Object, "This node, as Patroni describes it"),
    ("/cluster", Answers::Object, "The members, as Patroni describes them"),
    ("/history", Answers::List, "Where each timeline ended"),
    ("/config", Answers::Object, "The settings of the cluster"),
    ("/why", Answers::Object, "What this agent does and why, and what bars each member from leading"),
    ("/parameters", Answers::Object, "What the running Postgres knows of parameters"),
    ("/slots", Answers::Object, "The replication slots of this server"),
    (
        "/activity",
        Answers::Object,
        "What goes on in this server: its oldest transaction, who waits for locks, its standbys",
    ),
    ("/transitions", Answers::Object, "The records that this agent remembers"),
    ("/slo", Answers::Object, "What the last 30 days have cost of the objective, by the records"),
    ("/beat", Answers::Object, "The few facts that agents tell each other often"),
    ("/metrics", Answers::Text("application/openmetrics-text"), "Metrics"),
    ("/openapi.json", Answers::Object, "This document"),
];

/// Adds them.
pub fn add(paths: &mut Map<String, Value>) {
    for (path, answers, description) in READING {
        let (kind, schema) = match answers {
            Answers::Object => ("application/json", json!({"type": "object"})),
            Answers::List => ("application/json", json!({"type": "array"})),
            Answers::Text(kind) => (*kind, json!({"type": "string"})),
        };
        let mut operation = look(path, "reading", description);
        operation["responses"]["200"] = json!({"description": description, "content": {kind: {"schema": schema}}});
        if *path == "/config" {
            operation["responses"]["502"] = json!({"description": "There are none yet", "content": error()});
        }
        put(paths, path, operation);
    }
    for path in PATHS {
        let mut operation = look(path, "health", "The status says whether it is so; the body is that of `/patroni`");
        for (status, description) in [("200", "It is so"), ("503", "It is not")] {
            operation["responses"][status] = json!({"description": description});
            if !STATUS_ONLY.contains(path) {
                operation["responses"][status]["content"] = json!({"application/json": {"schema": {"type": "object"}}});
            }
        }
        operation["parameters"] = json!(PARAMETERS
            .iter()
            .map(|(name, description)| {
                json!({"name": name, "in": "query", "required": false, "schema": {"type": "string"}, "description": description})
            })
            .collect::<Vec<_>>());
        put(paths, path, operation);
    }
}

const PARAMETERS: [(&str, &str); 4] = [
    ("lag", "The most that replay may be behind the leader, such as 16MB"),
    ("replication_state", "The state that replication must have"),
    ("mode", "`write` counts what was received, not what was replayed"),
    ("wait", "How long the answer may be held back while it is no news, such as 250ms"),
];

fn look(path: &str, tag: &str, description: &str) -> Value {
    let name: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let kept_out = |description: &str| json!({"description": description, "content": error()});
    // Two spellings of one path would have one name.
    let spelling = if path.contains('_') { "_too" } else { "" };
    json!({
        "tags": [tag], "operationId": format!("look{name}{spelling}"), "summary": description, "x-pgvigil-role": "read",
        "security": [{}, {"bearer": []}, {"basic": []}],
        "responses": {"401": kept_out("It is not known who asks (not on the health API)"), "403": kept_out("They may not (not on the health API)")},
    })
}

fn error() -> Value {
    json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}})
}

fn put(paths: &mut Map<String, Value>, path: &str, operation: Value) {
    let item = paths.entry(path).or_insert_with(|| json!({}));
    item["get"] = operation;
}
