//! `pgvigil pause` and `pgvigil resume`: one field of the cluster's `config` in etcd, changed by compare-and-swap with everything else
//! left as it is. A pause has an end, a name and a reason, so that none is forgotten.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use decision::names::MemberName;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::operator::who;
use super::screen::{answer, tell};
use super::settings::{change, put};
use super::words;
use super::world::{AGENT_WITHIN, Reach};
use crate::cli::{ConfigArg, Exit, PauseArgs};

/// How long the agents may take to notice.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
/// How often they are asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Stops automatic actions for a while.
pub async fn pause(arguments: &PauseArgs) -> Exit {
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    let length = SignedDuration::try_from(arguments.duration).ok().filter(|length| length.is_positive());
    let Some(until) = length.and_then(|length| Timestamp::now().checked_add(length).ok()) else {
        tell("error: --for must be a time above zero, such as 30m or 2h");
        return Exit::Usage;
    };
    let by = who();
    let paused = |config: &_| Ok(Some(paused(config, until, &by, arguments.reason.as_deref())));
    let changed = change(&reach, arguments.reason.as_deref(), paused).await;
    if let Err(exit) = changed {
        return exit;
    }
    let reason = arguments.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    answer(&format!(
        "paused until {} ({}) by {by}{reason}",
        words::moment(&until.to_string()),
        words::length(arguments.duration)
    ));
    tell("no failover, no restart and no switchover happens meanwhile; `pgvigil resume` ends it early");
    noticed(&reach, true).await
}

/// Allows automatic actions again.
pub async fn resume(argument: &ConfigArg) -> Exit {
    let reach = match Reach::new(argument) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    match change(&reach, Some("resumed"), |config| Ok(resumed(config))).await {
        Ok(Some(_)) => {
            answer("resumed: automatic actions are allowed again");
            noticed(&reach, false).await
        }
        Ok(None) => {
            answer("not paused: nothing to resume");
            Exit::Done
        }
        Err(exit) => exit,
    }
}

/// The settings with a pause in them.
fn paused(config: &Map<String, Value>, until: Timestamp, by: &str, reason: Option<&str>) -> Value {
    let mut config = config.clone();
    let mut pause = json!({"until": until.to_string(), "by": by});
    if let Some(reason) = reason {
        pause["reason"] = json!(reason);
    }
    put(&mut config, &["pause"], Some(json!(true)));
    put(&mut config, &["pgvigil", "pause"], Some(pause));
    Value::Object(config)
}

/// The settings without a pause; `None`: there is none.
fn resumed(config: &Map<String, Value>) -> Option<Value> {
    let mut config = config.clone();
    let was_paused = config.remove("pause").is_some_and(|pause| pause != json!(false));
    let details = config.get_mut("pgvigil").and_then(Value::as_object_mut).and_then(|ours| ours.remove("pause"));
    if config.get("pgvigil").and_then(Value::as_object).is_some_and(Map::is_empty) {
        config.remove("pgvigil");
    }
    (was_paused || details.is_some()).then_some(Value::Object(config))
}

/// Waits until every agent that answers acts accordingly.
async fn noticed(reach: &Reach, wanted: bool) -> Exit {
    let began = Instant::now();
    let members = match reach.store.read().await {
        Ok(snapshot) => snapshot.cluster.members,
        Err(error) => {
            tell(&format!("warning: whether the agents have noticed is not known: {error}"));
            return Exit::StillRunning;
        }
    };
    let word = if wanted { "paused" } else { "resumed" };
    loop {
        let asked = members.iter().map(|(name, member)| {
            let (peers, url, name) = (reach.peers.clone(), member.api_url.clone(), name.clone());
            tokio::spawn(async move { (name, peers.get(&url, "/patroni", AGENT_WITHIN).await) })
        });
        let (mut noticed, mut silent, mut waiting) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::<MemberName>::new());
        for answered in asked.collect::<Vec<_>>() {
            match answered.await {
                Ok((name, Ok(says))) if (says["pause"] == true) == wanted => noticed.insert(name),
                Ok((name, Ok(_))) => waiting.insert(name),
                Ok((name, Err(_))) => silent.insert(name),
                Err(_) => false,
            };
        }
        if waiting.is_empty() || began.elapsed() > NOTICED_WITHIN {
            if !silent.is_empty() {
                tell(&format!(
                    "warning: no answer from {}: it acts accordingly once it sees etcd",
                    words::list(&silent)
                ));
            }
            if waiting.is_empty() {
                tell(&format!("{word}, as {} of {} members say", noticed.len(), members.len()));
                return Exit::Done;
            }
            tell(&format!("warning: not yet {word} after {NOTICED_WITHIN:?}: {}", words::list(&waiting)));
            return Exit::StillRunning;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

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
