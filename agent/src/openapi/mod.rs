//! The API as an OpenAPI document (`GET /openapi.json`), made from the code: what handlers and types say of themselves, the table of roles, and the
//! list of the health paths. What all of them answer in common is added here, once.

mod reading;

use axum::http::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::control::{described, role};

/// Why something was not done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Error {
    /// What is wrong, and what would do.
    pub error: String,
}

/// The name of a member, as the document tells of it; the code has its own type.
pub struct Name;

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(48));
        text.pattern(Some("^[A-Za-z0-9][A-Za-z0-9._-]*$")).description(Some("The name of a member")).into()
    }
}

impl ToSchema for Name {}

/// The whole document.
pub fn document() -> Value {
    let mut document = json!(described());
    document["info"] = json!({
        "title": "pgvigil", "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0"},
        "description": "What an agent of pgvigil answers: the native API (/v1), the verbs of Patroni, and what both of its listeners show. docs/api.md has the story.",
    });
    document["servers"] = json!([{"url": "/"}]);
    document["tags"] = json!([
        {"name": "cluster", "description": "How the cluster stands, and what happens in it"},
        {"name": "actions", "description": "What it is to do"},
        {"name": "patroni", "description": "The same in Patroni's words"},
        {"name": "reading", "description": "What everybody may read on the health API, and whoever has the role `read` here"},
        {"name": "health", "description": "Whether this node is fit for something: the status says it all"},
    ]);
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "A token of [control] tokens"},
        "basic": {"type": "http", "scheme": "basic", "description": "The name of a token and the token"},
    });
    document["security"] = json!([{"bearer": []}, {"basic": []}]);
    if document["components"]["schemas"].get("Error").is_none() {
        document["components"]["schemas"]["Error"] = json!(<Error as PartialSchema>::schema());
    }
    let optional = all_optional(&document["components"]["schemas"]);
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths.iter_mut() {
            item.as_object_mut()
                .into_iter()
                .flatten()
                .for_each(|(method, operation)| guarded(path, method, operation, &optional));
        }
        reading::add(paths);
    }
    document
}

/// References to objects of which nothing must be said: nothing at all is one of them.
fn all_optional(schemas: &Value) -> Vec<Value> {
    let schemas = schemas.as_object().into_iter().flatten();
    let optional = schemas.filter(|(_, schema)| schema.get("required").is_none());
    optional.map(|(name, _)| json!(format!("#/components/schemas/{name}"))).collect()
}

/// What the door and the reading of a body answer, whatever is behind.
fn guarded(path: &str, method: &str, operation: &mut Value, optional: &[Value]) {
    let takes = method.to_uppercase().parse::<Method>().map(|method| role(&method, path));
    if let Ok(takes) = takes {
        let word = json!(format!("{takes:?}").to_lowercase());
        operation["x-pgvigil-role"] = word;
    }
    let has_body = operation.get("requestBody").is_some();
    let body = operation.pointer("/requestBody/content/application~1json/schema/$ref");
    if body.is_some_and(|body| optional.contains(body)) {
        operation["requestBody"]["required"] = json!(false);
    }
    if let Some(event) = operation.pointer_mut("/responses/200/content/text~1event-stream/schema") {
        let text = json!({"type": "string"});
        *event = json!({"type": "object", "required": ["event", "data"], "description": "One event; `data` is JSON",
            "properties": {"event": text, "data": text, "id": text}});
    }
    let changes = method != "get";
    if changes {
        let reason = json!({"name": "reason", "in": "query", "required": false, "schema": {"type": "string"},
            "description": "Why, for the records"});
        match operation["parameters"].as_array_mut() {
            Some(all) => all.push(reason),
            None => operation["parameters"] = json!([reason]),
        }
    }
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    answers(responses, "401", "It is not known who asks");
    answers(responses, "403", "They may not");
    answers(responses, "503", "etcd does not answer, or this agent has no room for more");
    if changes {
        answers(responses, "400", "The query, the body, or a field of it, will not do");
        answers(responses, "409", "Somebody else was faster");
    }
    if has_body {
        answers(responses, "408", "The body does not come");
        answers(responses, "413", "The body is longer than 256 KiB");
        answers(responses, "415", "The body is no JSON");
        answers(responses, "422", "It cannot be done as asked for");
    }
}

/// Adds an answer that has an error in it, unless something more exact is said.
fn answers(responses: &mut Map<String, Value>, status: &str, description: &str) {
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}});
    let answer = json!({"description": description, "content": content});
    responses.entry(status).or_insert(answer);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::control::verbs;

    fn operations(document: &Value) -> BTreeSet<String> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect()
    }

    #[test]
    fn every_verb_is_in_it_with_its_role_and_no_other() {
        let document = document();
        let known: BTreeSet<String> = verbs().collect();
        let told = operations(&document);
        let told: BTreeSet<String> = told.into_iter().filter(|operation| !operation.starts_with("GET ")).collect();
        assert_eq!(told, known);
        assert_eq!(document["paths"]["/v1/reinitialize"]["post"]["x-pgvigil-role"], "admin");
        assert_eq!(document["paths"]["/v1/events"]["get"]["x-pgvigil-role"], "read");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10, "{found:?}");
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let document = document();
        let items = document["paths"].as_object().unwrap().values();
        let names: Vec<&Value> = items
            .flat_map(|item| item.as_object().unwrap().values())
            .map(|operation| &operation["operationId"])
            .collect();
        let different: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(different.len(), names.len());
        assert!(names.iter().all(|name| name.is_string()));
    }
}
