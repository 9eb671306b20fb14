//! What `config` says of replication slots, in Patroni's places and shapes: `slots`, `ignore_slots`, `member_slots_ttl`,
//! `postgresql.use_slots`.

use std::time::Duration;

use decision::slots::{Kind, Pattern, Rules, SlotName};
use serde_json::{Map, Value};

use super::config::field;

/// Reads them, with a sentence for each that cannot be understood. Then nothing is dropped that may be meant.
pub(super) fn rules(raw: &Value, wrong: &mut Vec<String>) -> Rules {
    let usual = Rules::default();
    let mut amiss = Vec::new();
    let absent_for = field::<Value>(raw, "/member_slots_ttl", &mut amiss).and_then(|value| match duration(&value) {
        Ok(duration) => Some(duration),
        Err(why) => {
            amiss.push(format!("/member_slots_ttl: {why}"));
            None
        }
    });
    let for_members = field(raw, "/postgresql/use_slots", &mut amiss).unwrap_or(usual.for_members);
    let stored = field::<Map<String, Value>>(raw, "/slots", &mut amiss).unwrap_or_default();
    let set = stored.iter().filter(|(_, slot)| !slot.is_null());
    let permanent = set.filter_map(|(name, slot)| match permanent(name, slot) {
        Ok(found) => Some(found),
        Err(why) => {
            amiss.push(format!("/slots/{name}: {why}"));
            None
        }
    });
    let permanent = permanent.collect();
    let ignored = field::<Vec<Pattern>>(raw, "/ignore_slots", &mut amiss).unwrap_or_default();
    let doubtful = !amiss.is_empty();
    wrong.append(&mut amiss);
    Rules { for_members, absent_for: absent_for.unwrap_or(usual.absent_for), permanent, ignored, doubtful }
}

fn permanent(name: &str, slot: &Value) -> Result<(SlotName, Kind), String> {
    let name = SlotName::new(name).map_err(|bad| bad.to_string())?;
    let text = |key: &str| slot.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = match (text("type").as_deref(), text("database"), text("plugin")) {
        (Some("physical"), _, _) | (None, None, None) => Kind::Physical,
        (Some("logical") | None, Some(database), Some(plugin)) => Kind::Logical { database, plugin },
        (Some("logical") | None, _, _) => return Err("a logical slot needs a `database` and a `plugin`".to_owned()),
        (Some(other), _, _) => return Err(format!("type \"{other}\" is none of physical, logical")),
    };
    Ok((name, kind))
}

/// A number of seconds, or a text with its unit.
fn duration(value: &Value) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 7] =
        [("ms", 1), ("min", 60_000), ("m", 60_000), ("s", 1000), ("h", 3_600_000), ("d", 86_400_000), ("", 1000)];
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let number = |name: &str| text.trim().strip_suffix(name)?.trim().parse::<u64>().ok();
    let read = UNITS.iter().find_map(|(name, unit)| number(name)?.checked_mul(*unit));
    read.map(Duration::from_millis).ok_or_else(|| format!("{value} is no length of time, such as \"30min\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slots_are_set_as_patroni_sets_them() {
        let raw = json!({
            "member_slots_ttl": "2h", "postgresql": {"use_slots": false}, "ignore_slots": [{"name": "x", "type": "logical"}, {}],
            "slots": {"dr": {"type": "physical"}, "plain": {}, "cdc": {"type": "logical", "database": "orders", "plugin": "pgoutput"}, "gone": null},
        });
        let mut wrong = Vec::new();
        let rules = rules(&raw, &mut wrong);
        assert!(wrong.is_empty() && !rules.doubtful, "{wrong:?}");
        assert_eq!((rules.absent_for, rules.for_members), (Duration::from_secs(7200), false));
        let names: Vec<&str> = rules.permanent.keys().map(SlotName::as_str).collect();
        assert_eq!(names, ["cdc", "dr", "plain"]);
        assert_eq!(rules.permanent.values().filter(|kind| **kind == Kind::Physical).count(), 2);
        assert_eq!(rules.ignored[0].kind.as_deref(), Some("logical"));
    }

    #[test]
    fn what_cannot_be_understood_is_told_and_keeps_everything() {
        for (raw, told) in [
            (json!({"member_slots_ttl": "soon"}), "is no length of time"),
            (json!({"slots": {"cdc": {"type": "logical"}}}), "needs a `database`"),
            (json!({"slots": {"Dr": {"type": "physical"}}}), "lower-case"),
            (json!({"slots": {"dr": {"type": "virtual"}}}), "none of physical, logical"),
            (json!({"slots": []}), "/slots"),
            (json!({"ignore_slots": {}}), "/ignore_slots"),
        ] {
            let mut wrong = Vec::new();
            assert!(rules(&raw, &mut wrong).doubtful, "{raw}");
            assert!(wrong.len() == 1 && wrong[0].contains(told), "{raw}: {wrong:?}");
        }
        for (value, seconds) in [(json!(90), 90), (json!("0"), 0), (json!("1d"), 86400), (json!("1500 ms"), 1)] {
            assert_eq!(duration(&value).map(|found| found.as_secs()), Ok(seconds), "{value}");
        }
    }
}
