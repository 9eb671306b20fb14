//! `pgvigil why --path /replica?lag=16MB`: what an agent answers to a health path, and which condition fails. The agent judges and explains in one
//! step; here it is only asked.

use serde_json::{Value, json};

use super::super::screen::{answer, tell};
use super::super::world::{AGENT_WITHIN, Answer, Reach, World};
use crate::cli::{Exit, Output};
use crate::http::health::PATHS;

/// Whether there is such a path; the error says which there are.
pub fn known(path: &str) -> Result<(), String> {
    let bare = path.split('?').next().unwrap_or_default();
    if PATHS.contains(&bare) {
        return Ok(());
    }
    Err(format!("{bare} is no health path; there are: {}", PATHS.join(", ")))
}

/// Asks the agent that has answered already, and prints what it says of the path.
pub async fn run(reach: &Reach, world: &World, says: &Answer, path: &str, output: Output) -> Exit {
    let member = says.why["member"].as_str().unwrap_or("unknown");
    let own_api = reach.own_api();
    let known = world.agents.iter().find(|(name, _)| name.as_str() == member).map(|(_, agent)| agent.api_url.as_str());
    let question = format!("/why?path={}", encoded(path));
    match reach.peers.get(known.unwrap_or(&own_api), &question, AGENT_WITHIN).await {
        Err(error) => {
            tell(&format!("error: the agent of {member} does not answer: {error:#}"));
            reach.silence()
        }
        Ok(told) => match &told["health"] {
            Value::Object(_) => {
                match output {
                    Output::Json => answer(&body(member, &told["health"]).to_string()),
                    Output::Table => answer(&sentence(member, path, &told["health"])),
                };
                Exit::Done
            }
            _ => {
                tell(&format!("error: the agent of {member} is of an older version, and does not explain its answers"));
                Exit::Failed
            }
        },
    }
}

fn body(member: &str, health: &Value) -> Value {
    let mut body = json!({"schema": "pgvigil.health/v1", "member": member});
    if let (Some(body), Some(health)) = (body.as_object_mut(), health.as_object()) {
        body.extend(health.clone());
    }
    body
}

fn sentence(member: &str, path: &str, health: &Value) -> String {
    let status = &health["status"];
    match (health["sentence"].as_str(), health["code"].as_str()) {
        (Some(why), Some(code)) => format!("{member} answers {status} to {path}: {why}   [{code}]"),
        _ => format!("{member} answers {status} to {path}"),
    }
}

/// As it may stand in the query of a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_travels_whole() {
        assert_eq!(encoded("/replica?lag=16MB&tag_a=b c"), "/replica%3Flag%3D16MB%26tag_a%3Db%20c");
        assert!(known("/replica?lag=16MB").is_ok());
        assert!(known("/repica").expect_err("no path").contains("/replica"));
    }

    #[test]
    fn one_sentence_says_which_condition_fails() {
        let lag = json!({"path": "/replica?lag=1", "status": 503, "code": "lag", "sentence": "it is late"});
        assert_eq!(sentence("pg2", "/replica?lag=1", &lag), "pg2 answers 503 to /replica?lag=1: it is late   [lag]");
        let well = json!({"path": "/replica", "status": 200, "code": null, "sentence": null});
        assert_eq!(sentence("pg2", "/replica", &well), "pg2 answers 200 to /replica");
        assert_eq!(body("pg2", &well)["member"], "pg2");
    }
}
