//! `PATCH /config` and `PUT /config`: the cluster's settings, checked as `pgvigil config set` checks them. `pause` in a patch pauses and resumes.

use axum::http::StatusCode;
use consensus::SettingsFrom;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use crate::config::Role;
use crate::control::Control;
use crate::control::access::Caller;
use crate::control::answer::Answer;
use crate::control::guard::{Asides, Call};
use crate::operate::pause::{USUAL, paused, resumed};
use crate::operate::proviso::Proviso;
use crate::operate::settings::{self, Checked, checked, diff, merged, put as put_at, unchanged, with_the_state_of};
use crate::strike::{STRUCK, Strike};

/// Who reads the settings at the open listener and writes them back would make stars of every password.
const STRUCK_THERE: &str = "a changed value has `***` in it, as GET /config shows secrets where it does not know who asks: send it whole \
                            (pgvigil config edit shows it)";
/// No more names than this go into the audit.
const NAMES_MAX: usize = 20;

/// What is known of the settings by whoever changes them.
struct Change<'a> {
    control: &'a Control,
    caller: &'a Caller,
    reason: Option<&'a str>,
    proviso: Proviso,
}

/// Lays an object over the settings; `null` takes something out.
#[utoipa::path(patch, path = "/config", tag = "patroni", operation_id = "patroni_patch_config",
    params(("expect_leader" = Option<String>, Query, description = "Who must lead now; where another does, nothing is done",
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length = 48)),
    request_body(content = std::collections::BTreeMap<String, Value>, description = "Settings, as GET /config shows them", example = json!({"loop_wait": 10})),
    responses(
        (status = 200, description = "The settings as they are then", body = std::collections::BTreeMap<String, Value>),
        (status = 409, description = "Somebody else has changed them meanwhile", body = crate::openapi::Error),
        (status = 412, description = "Another leads", body = crate::openapi::Error),
        (status = 422, description = "Postgres or pgvigil does not take them", body = crate::openapi::Error),
    ))]
pub async fn patch(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let change = Change::of(&control, &caller, &asides);
    let mut patch = words.settings()?;
    let pause = wanted_pause(patch.remove("pause"))?;
    if !patch.is_empty() && caller.role < Role::Admin {
        let why = format!("{} may pause and resume; any other setting takes admin", caller.name);
        return Err(Answer::error(StatusCode::FORBIDDEN, why));
    }
    change.carry_out(pause, |before| merged(before, &patch)).await
}

/// Replaces the settings. What programs made for Patroni know nothing of, the section `pgvigil` with the durability, stays unless the new ones have
/// it too; and so do a pause, and which site leads.
#[utoipa::path(put, path = "/config", tag = "patroni", operation_id = "patroni_put_config",
    params(("expect_leader" = Option<String>, Query, description = "Who must lead now; where another does, nothing is done",
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length = 48)),
    request_body(content = std::collections::BTreeMap<String, Value>, description = "Settings, as GET /config shows them", example = json!({"loop_wait": 10})),
    responses(
        (status = 200, description = "The settings as they are then", body = std::collections::BTreeMap<String, Value>),
        (status = 409, description = "Somebody else has changed them meanwhile", body = crate::openapi::Error),
        (status = 412, description = "Another leads", body = crate::openapi::Error),
        (status = 422, description = "Postgres or pgvigil does not take them", body = crate::openapi::Error),
    ))]
pub async fn put(Call { control, caller, asides, words }: Call) -> Result<Answer, Answer> {
    let change = Change::of(&control, &caller, &asides);
    let wanted = words.settings()?;
    let pause = wanted_pause(wanted.get("pause").cloned())?;
    change.carry_out(pause, |before| replaced(before, &wanted)).await
}

/// Whether a secret was struck from it.
fn is_struck(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(STRUCK),
        Value::Array(values) => values.iter().any(is_struck),
        Value::Object(fields) => fields.values().any(is_struck),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What was read where secrets are struck, and is sent as it was read, stays as it is.
fn with_what_was_struck(before: &Map<String, Value>, wanted: Map<String, Value>) -> Map<String, Value> {
    let before = Value::Object(before.clone());
    match put_back(&before, &Strike::new([]).json(&before), Value::Object(wanted.clone())) {
        Value::Object(whole) => whole,
        _ => wanted,
    }
}

fn put_back(before: &Value, struck: &Value, wanted: Value) -> Value {
    match (before, struck, wanted) {
        (before, struck, wanted) if *struck == wanted => before.clone(),
        (Value::Object(before), Value::Object(struck), Value::Object(wanted)) => {
            let field = |(name, value): (String, Value)| match (before.get(&name), struck.get(&name)) {
                (Some(before), Some(struck)) => (name, put_back(before, struck, value)),
                _ => (name, value),
            };
            Value::Object(wanted.into_iter().map(field).collect())
        }
        // Lines may have been added, taken out and moved.
        (Value::Array(before), Value::Array(struck), Value::Array(wanted)) => {
            let line = |value: Value| match struck.iter().position(|shown| *shown == value) {
                Some(at) => before.get(at).cloned().unwrap_or(value),
                None => value,
            };
            Value::Array(wanted.into_iter().map(line).collect())
        }
        (_, _, wanted) => wanted,
    }
}

fn replaced(before: &Map<String, Value>, wanted: &Map<String, Value>) -> Map<String, Value> {
    let mut new = wanted.clone();
    match (new.get("pgvigil"), before.get("pgvigil")) {
        (None, Some(ours)) => drop(new.insert("pgvigil".to_owned(), ours.clone())),
        (Some(Value::Null), _) => drop(new.remove("pgvigil")),
        _ => {}
    }
    let mut after = with_the_state_of(before, new);
    if let Some(site) = wanted.get("standby_cluster") {
        put_at(&mut after, &["standby_cluster"], Some(site.clone()));
    }
    if let Some(site) = wanted.get("pgvigil").and_then(|ours| ours.get("site")) {
        put_at(&mut after, &["pgvigil", "site"], Some(site.clone()));
    }
    after
}

/// Whether it is to be paused; `None`: as it is.
fn wanted_pause(value: Option<Value>) -> Result<Option<bool>, Answer> {
    match value {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(false)),
        Some(Value::Bool(pause)) => Ok(Some(pause)),
        Some(other) => Err(Answer::error(StatusCode::BAD_REQUEST, format!("`pause`: true or false, not {other}"))),
    }
}

impl<'a> Change<'a> {
    fn of(control: &'a Control, caller: &'a Caller, asides: &'a Asides) -> Self {
        let reason = asides.reason.as_deref().filter(|reason| !reason.is_empty());
        Self { control, caller, reason, proviso: Proviso::expecting(asides.expect_leader.clone()) }
    }

    async fn carry_out(
        &self,
        pause: Option<bool>,
        new: impl Fn(&Map<String, Value>) -> Map<String, Value>,
    ) -> Result<Answer, Answer> {
        let reach = &self.control.reach;
        let snapshot = settings::read(reach).await?;
        self.proviso.lead(&snapshot)?;
        let before = settings::settings(reach, &snapshot)?;
        let wanted = with_what_was_struck(&before, new(&before));
        // What is wrong there already does not keep anybody from a pause.
        let after = if wanted == before { wanted } else { self.checked(&snapshot, &before, wanted).await? };
        let after = Value::Object(self.with_pause(&before, after, pause));
        let what = names(&Value::Object(before.clone()), &after);
        let by = self.caller.who();
        let made = settings::change(reach, &by, self.reason, &self.proviso, |now| {
            unchanged(now, &before)?;
            let changes = after != Value::Object(before.clone()) || snapshot.settings_from != SettingsFrom::Stored;
            Ok(changes.then(|| after.clone()))
        });
        made.await.map_err(|unable| Answer::from(unable).about(what.clone()))?;
        Ok(Answer::object(StatusCode::OK, after).about(what))
    }

    async fn checked(
        &self,
        snapshot: &consensus::Snapshot,
        before: &Map<String, Value>,
        wanted: Map<String, Value>,
    ) -> Result<Map<String, Value>, Answer> {
        let what = names(&Value::Object(before.clone()), &Value::Object(wanted.clone()));
        if is_struck(&Value::Object(wanted.clone())) && !is_struck(&Value::Object(before.clone())) {
            return Err(Answer::error(StatusCode::UNPROCESSABLE_ENTITY, STRUCK_THERE).about(what));
        }
        let Checked { after, .. } = checked(&self.control.reach, snapshot, before, wanted)
            .await
            .map_err(|unable| Answer::from(unable).about(what))?;
        Ok(after)
    }

    fn with_pause(
        &self,
        before: &Map<String, Value>,
        config: Map<String, Value>,
        pause: Option<bool>,
    ) -> Map<String, Value> {
        let changed = match pause {
            Some(true) => until(before, &config, Timestamp::now())
                .map(|until| paused(&config, until, &self.caller.who(), self.reason)),
            Some(false) => resumed(&config),
            None => None,
        };
        match changed {
            Some(Value::Object(changed)) => changed,
            _ => config,
        }
    }
}

/// When a pause that is asked for at `now` ends; `None`: what is there says it. One that is over, or nearly, lasts as long as a new one; an end that
/// came with the change is kept, and so is a pause without one.
fn until(before: &Map<String, Value>, after: &Map<String, Value>, now: Timestamp) -> Option<Timestamp> {
    let end = |settings: &Map<String, Value>| -> Option<Timestamp> {
        settings.get("pgvigil")?.get("pause")?.get("until")?.as_str()?.parse().ok()
    };
    let length = SignedDuration::try_from(USUAL).unwrap_or(SignedDuration::ZERO);
    let usual = now.saturating_add(length).unwrap_or(Timestamp::MAX);
    match (end(before), end(after)) {
        (was, Some(is)) if was != Some(is) && is > now => Some(is),
        (Some(was), _) => Some(was.max(usual)),
        (None, _) if before.get("pause") == Some(&Value::Bool(true)) => None,
        (None, _) => Some(usual),
    }
}

/// What differs, by name: values may be secret (`pg_hba` may hold a password).
fn names(before: &Value, after: &Value) -> String {
    let lines = diff::lines(before, after);
    let names: Vec<&str> = lines.iter().take(NAMES_MAX).filter_map(|line| line.split(": ").next()).collect();
    let more = lines.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if names.is_empty() { "nothing differs".to_owned() } else { format!("{}{more}", names.join(", ")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operate::testing::object;

    #[test]
    fn replacing_everything_leaves_the_pause_and_the_sites_alone_unless_it_speaks_of_them() {
        let before = object(
            json!({"ttl": 30, "pause": true, "standby_cluster": {"host": "a"}, "pgvigil": {"pause": {"by": "anna"}}}),
        );
        let after = replaced(&before, &object(json!({"loop_wait": 5})));
        assert_eq!(
            Value::Object(after),
            json!({"loop_wait": 5, "pause": true, "standby_cluster": {"host": "a"}, "pgvigil": {"pause": {"by": "anna"}}})
        );
        let strict = object(json!({"ttl": 30, "pgvigil": {"durability": {"mode": "strict"}}}));
        let after = |wanted| Value::Object(replaced(&strict, &object(wanted)));
        assert_eq!(after(json!({"ttl": 5})), json!({"ttl": 5, "pgvigil": {"durability": {"mode": "strict"}}}));
        assert_eq!(after(json!({"ttl": 5, "pgvigil": null})), json!({"ttl": 5}));
        assert_eq!(after(json!({"pgvigil": {"slots": {}}})), json!({"pgvigil": {"slots": {}}}));
        let other = replaced(&before, &object(json!({"standby_cluster": {"host": "b"}})));
        assert_eq!(other["standby_cluster"], json!({"host": "b"}), "which is then refused");
        assert_eq!(wanted_pause(Some(json!(null))).unwrap(), Some(false));
        assert!(wanted_pause(Some(json!("yes"))).is_err());
    }

    #[test]
    fn a_pause_that_is_over_is_begun_anew_and_one_that_lasts_is_never_cut_short() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let with = |until: &str| object(json!({"pause": true, "pgvigil": {"pause": {"until": until}}}));
        let end = |before: &Map<String, Value>, after: &Map<String, Value>| {
            until(before, after, now).map(|until| until.to_string())
        };
        let (hour, over, long) = ("2026-11-22T11:00:00Z", with("2026-11-22T09:00:00Z"), with("2026-11-22T18:00:00Z"));
        assert_eq!(end(&Map::new(), &Map::new()).as_deref(), Some(hour));
        assert_eq!(end(&over, &over).as_deref(), Some(hour));
        assert_eq!(end(&long, &long).as_deref(), Some("2026-11-22T18:00:00Z"));
        assert_eq!(end(&over, &with("2026-11-22T10:05:00Z")).as_deref(), Some("2026-11-22T10:05:00Z"));
        let endless = object(json!({"pause": true}));
        assert_eq!(end(&endless, &endless), None);
    }

    #[test]
    fn what_the_open_listener_shows_is_told_from_settings_that_are_whole() {
        let whole = json!({"postgresql": {"pg_hba": ["host all all 0/0 ldap ldapbindpasswd=hunter2"]}, "ttl": 1});
        let shown = crate::strike::Strike::new([]).json(&whole);
        assert_eq!(shown["postgresql"]["pg_hba"][0], "host all all 0/0 ldap ldapbindpasswd=***");
        assert!(is_struck(&shown) && !is_struck(&whole));
        let mut changed = shown.clone();
        changed["ttl"] = json!(7);
        changed["postgresql"]["pg_hba"] = json!(["local all all peer", changed["postgresql"]["pg_hba"][0]]);
        let back = |wanted| Value::Object(with_what_was_struck(&object(whole.clone()), object(wanted)));
        assert_eq!(back(shown), whole);
        let (rule, after) = (&whole["postgresql"]["pg_hba"][0], back(changed));
        assert_eq!(after, json!({"postgresql": {"pg_hba": ["local all all peer", rule]}, "ttl": 7}));
        let other = json!({"postgresql": {"pg_hba": ["host all all 0/0 ldap ldapserver=a ldapbindpasswd=***"]}});
        assert!(is_struck(&back(other)), "a rule that was changed must be whole");
    }

    #[test]
    fn the_audit_has_names_and_no_values() {
        let after = json!({"postgresql": {"pg_hba": ["host all all 0/0 ldap ldapbindpasswd=hunter2"]}, "ttl": 1});
        assert_eq!(names(&json!({}), &after), "postgresql.pg_hba, ttl");
        assert_eq!(names(&after, &after), "nothing differs");
    }
}
