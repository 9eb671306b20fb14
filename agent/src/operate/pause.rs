//! The pause in the cluster's settings. It has an end, a name and a reason, so that none is forgotten; everything else is left as it is.

use std::time::Duration;

use consensus::records::{ClusterConfig, PauseRecord};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::settings::put;
use super::words::moment;

/// The longest: as a hold, it must not outlive whoever has forgotten it.
pub const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// How long a pause lasts unless somebody says otherwise.
pub const USUAL: Duration = Duration::from_secs(3600);

/// The settings with a pause in them.
pub fn paused(config: &Map<String, Value>, until: Timestamp, by: &str, reason: Option<&str>) -> Value {
    let mut config = config.clone();
    let mut pause = json!({"until": until.to_string(), "by": by});
    if let Some(reason) = reason {
        pause["reason"] = json!(reason);
    }
    put(&mut config, &["pause"], Some(json!(true)));
    put(&mut config, &["pgvigil", "pause"], Some(pause));
    Value::Object(config)
}

/// The pause that another one would replace.
pub fn standing(config: &Map<String, Value>, now: Timestamp) -> Option<String> {
    let (read, _) = ClusterConfig::from_json(&Value::Object(config.clone()).to_string());
    read.pause.as_ref().filter(|_| read.paused_at(now)).map(in_words)
}

/// `the pause of anna@db1 until 2026-11-22 12:31:43Z (kernel upgrade)`
pub fn in_words(pause: &PauseRecord) -> String {
    let by = pause.by.as_deref().unwrap_or("somebody");
    let until = pause.until.map(|until| format!(" until {}", moment(&until.to_string()))).unwrap_or_default();
    let reason = pause.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("the pause of {by}{until}{reason}")
}

/// The settings without a pause; `None`: there is none.
pub fn resumed(config: &Map<String, Value>) -> Option<Value> {
    let mut config = config.clone();
    let was_paused = config.remove("pause").is_some_and(|pause| pause != json!(false));
    let details = config.get_mut("pgvigil").and_then(Value::as_object_mut).and_then(|ours| ours.remove("pause"));
    if config.get("pgvigil").and_then(Value::as_object).is_some_and(Map::is_empty) {
        config.remove("pgvigil");
    }
    (was_paused || details.is_some()).then_some(Value::Object(config))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::operate::testing::object;

    #[test]
    fn pausing_and_resuming_leaves_everything_else_as_it_was() {
        let before = object(
            json!({"ttl": 30, "postgresql": {"parameters": {"a": 1}}, "pgvigil": {"durability": {"mode": "strict"}}}),
        );
        let until: Timestamp = "2026-11-22T11:00:00Z".parse().unwrap();
        let during = paused(&before, until, "anna@db1", Some("upgrade"));
        assert_eq!(during["pause"], true);
        assert_eq!(
            during["pgvigil"]["pause"],
            json!({"until": "2026-11-22T11:00:00Z", "by": "anna@db1", "reason": "upgrade"})
        );
        assert_eq!(during["pgvigil"]["durability"]["mode"], "strict");
        assert_eq!(resumed(&object(during)), Some(Value::Object(before)));
    }

    #[test]
    fn whose_pause_another_one_replaces_is_known_while_it_lasts() {
        let (now, until): (Timestamp, Timestamp) =
            ("2026-11-22T10:00:00Z".parse().unwrap(), "2026-11-22T12:31:43Z".parse().unwrap());
        let during = object(paused(&Map::new(), until, "anna@db1", Some("kernel upgrade")));
        let told = "the pause of anna@db1 until 2026-11-22 12:31:43Z (kernel upgrade)";
        assert_eq!(standing(&during, now).as_deref(), Some(told));
        assert_eq!(standing(&during, until), None);
        assert_eq!(standing(&object(json!({"pause": true})), now).as_deref(), Some("the pause of somebody"));
        assert_eq!(standing(&Map::new(), now), None);
    }

    #[test]
    fn a_pause_leaves_no_empty_section_behind() {
        let during = paused(&Map::new(), Timestamp::now(), "anna@db1", None);
        assert_eq!(resumed(&object(during)), Some(json!({})));
    }

    #[test]
    fn resuming_what_is_not_paused_changes_nothing() {
        assert_eq!(resumed(&object(json!({"ttl": 30}))), None);
        assert_eq!(resumed(&object(json!({"pause": false}))), None);
        assert_eq!(resumed(&object(json!({"pause": true}))), Some(json!({})));
    }
}
