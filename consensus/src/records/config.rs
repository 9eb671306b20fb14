//! `config`: cluster-wide settings. The whole JSON is kept as it is, whoever wrote it; a few fields of it are read here, each on its
//! own, so that one bad field does not silence the others.

use decision::parameters::Parameters;
use decision::settings::{Durability, Mode};
use decision::site::{Promotion, Remote, Site};
use decision::slots::{Rules, SlotName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::access::Access;

/// What is read from `config`, and all of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterConfig {
    /// The JSON as it is stored; `Null` when there is none.
    pub raw: Value,
    /// The pause as it was asked for; whether it has ended is for [`ClusterConfig::paused_at`] to say.
    pub pause: Option<PauseRecord>,
    /// What an acknowledged commit is promised; `None`: not set.
    pub durability: Option<Durability>,
    /// How far a candidate may be behind in `async` mode, in bytes; `None`: not set.
    pub max_lag_on_failover_bytes: Option<u64>,
    /// Among equal candidates those of this zone come first.
    pub prefer_zone: Option<String>,
    /// The parameters of Postgres on every node, their names in lower case, as they are written into `postgresql.conf`.
    pub parameters: Parameters,
    /// Who may connect to Postgres; `None`: nothing is said.
    pub access: Option<Access>,
    /// What is said of replication slots.
    pub slots: Rules,
    /// Another site that this one is to follow, and an operator's word that it is to lead instead.
    pub site: Site,
}

/// Who paused the cluster, why, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PauseRecord {
    /// When it ends (RFC 3339); `None`: when somebody ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Deserialize)]
struct StoredDurability {
    mode: Option<String>,
    acknowledgers: Option<u32>,
    other_zone: Option<bool>,
}

impl ClusterConfig {
    /// Reads the stored text as far as it can be understood, with a sentence for each field that cannot.
    pub fn from_json(text: &str) -> (Self, Vec<String>) {
        match serde_json::from_str(text) {
            Ok(raw @ Value::Object(_)) => Self::from_value(raw),
            Ok(_) => (Self::unreadable(), vec!["it is no JSON object".to_owned()]),
            Err(error) => (Self::unreadable(), vec![error.to_string()]),
        }
    }

    /// Nothing is dropped that it may ask for.
    fn unreadable() -> Self {
        Self { slots: Rules { doubtful: true, ..Rules::default() }, ..Self::default() }
    }

    fn from_value(raw: Value) -> (Self, Vec<String>) {
        let mut wrong = Vec::new();
        let paused = field::<bool>(&raw, "/pause", &mut wrong).unwrap_or(false);
        // A pause whose end cannot be read has none: it is safer to stay paused than to act against an operator's word.
        let details = field::<PauseRecord>(&raw, "/pgvigil/pause", &mut wrong).unwrap_or_default();
        let durability = field::<StoredDurability>(&raw, "/pgvigil/durability", &mut wrong);
        let ours = field(&raw, "/pgvigil/max_lag_on_failover_bytes", &mut wrong);
        let patronis = field(&raw, "/maximum_lag_on_failover", &mut wrong);
        let config = Self {
            pause: paused.then_some(details),
            durability: durability.and_then(|stored| stored.read(&mut wrong)),
            max_lag_on_failover_bytes: ours.or(patronis),
            prefer_zone: field(&raw, "/pgvigil/prefer_zone", &mut wrong),
            parameters: parameters(&raw, &mut wrong),
            access: super::access::access(&raw, &mut wrong),
            slots: super::slots::rules(&raw, &mut wrong),
            site: site(&raw, &mut wrong),
            raw,
        };
        (config, wrong)
    }

    /// Whether the cluster is paused at `now`, by the caller's wall clock.
    pub fn paused_at(&self, now: jiff::Timestamp) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.until.is_none_or(|until| now < until))
    }
}

impl StoredDurability {
    fn read(self, wrong: &mut Vec<String>) -> Option<Durability> {
        let usual = Durability::default();
        let mode = match self.mode.as_deref().map(mode_from_text) {
            None => usual.mode,
            Some(Ok(mode)) => mode,
            Some(Err(why)) => {
                wrong.push(format!("/pgvigil/durability/mode: {why}"));
                return None;
            }
        };
        Some(Durability {
            mode,
            acknowledgers: self.acknowledgers.unwrap_or(usual.acknowledgers),
            other_zone: self.other_zone.unwrap_or(usual.other_zone),
        })
    }
}

/// Patroni's place and shape. A value that is no text, number or switch is left out, and `null` says nothing.
fn parameters(raw: &Value, wrong: &mut Vec<String>) -> Parameters {
    const PLACE: &str = "/postgresql/parameters";
    let mut found = Parameters::new();
    let Some(stored) = raw.pointer(PLACE).filter(|value| !value.is_null()) else { return found };
    let Some(stored) = stored.as_object() else {
        wrong.push(format!("{PLACE}: it is no JSON object"));
        return found;
    };
    for (name, value) in stored {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                wrong.push(format!("{PLACE}/{name}: it is no text, number or switch"));
                continue;
            }
        };
        found.insert(name.to_lowercase(), value);
    }
    found
}

#[derive(Deserialize)]
struct StoredRemote {
    host: String,
    port: Option<u16>,
    primary_slot_name: Option<String>,
}

#[derive(Deserialize)]
struct StoredPromotion {
    after: Option<String>,
}

/// Patroni's section for the other site, and beside it our own for the word that ends it. What cannot be read says nothing: then nobody is
/// promoted, and nobody demoted.
fn site(raw: &Value, wrong: &mut Vec<String>) -> Site {
    const PLACE: &str = "/standby_cluster";
    const COMMANDS: [&str; 2] = ["restore_command", "archive_cleanup_command"];
    for command in COMMANDS.iter().filter(|name| raw.pointer(&format!("{PLACE}/{name}")).is_some()) {
        wrong.push(format!("{PLACE}/{command}: commands are taken from each node's own file only"));
    }
    let remote = field::<StoredRemote>(raw, PLACE, wrong).map(|stored| {
        let slot = stored.primary_slot_name.filter(|name| !name.is_empty()).map(SlotName::new).transpose();
        let slot = slot.map_err(|why| format!("{PLACE}/primary_slot_name: {why}"))?;
        let read = Remote::parse(&stored.host, stored.port.unwrap_or(5432));
        read.map(|remote| Remote { slot, ..remote }).map_err(|why| format!("{PLACE}/host: {why}"))
    });
    let word = field::<StoredPromotion>(raw, "/pgvigil/site/promote", wrong).map(|stored| {
        let after = stored.after.map(|token| token.parse()).transpose();
        after.map(|after| Promotion { after }).map_err(|why| format!("/pgvigil/site/promote/after: {why}"))
    });
    let mut good = Site::default();
    match remote {
        Some(Ok(remote)) => good.remote = Some(remote),
        Some(Err(why)) => wrong.push(why),
        None => {}
    }
    match word {
        Some(Ok(word)) => good.promote = Some(word),
        // Somebody has said that this site is to lead, though not when: it does not begin to follow either.
        Some(Err(why)) => {
            good.remote = None;
            wrong.push(why);
        }
        None => {}
    }
    good
}

/// One field, if it is there and can be understood.
pub(super) fn field<T: DeserializeOwned>(raw: &Value, pointer: &str, wrong: &mut Vec<String>) -> Option<T> {
    let value = raw.pointer(pointer).filter(|value| !value.is_null())?;
    match T::deserialize(value) {
        Ok(read) => Some(read),
        Err(error) => {
            wrong.push(format!("{pointer}: {error}"));
            None
        }
    }
}

/// The stored word of a mode.
pub(crate) fn mode_to_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Async => "async",
        Mode::Quorum => "quorum",
        Mode::Strict => "strict",
    }
}

/// Reads the stored word of a mode.
///
/// # Errors
/// It is none; the sentence says which there are.
pub fn mode_from_text(text: &str) -> Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::Auto),
        "async" => Ok(Mode::Async),
        "quorum" => Ok(Mode::Quorum),
        "strict" => Ok(Mode::Strict),
        other => Err(format!("\"{other}\" is none of auto, async, quorum, strict")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_itself() {
        let text = r#"{"ttl":30,"pause":true,"pgvigil":{"pause":{"until":"2026-11-22T10:00:00Z","by":"anna","reason":"upgrade"}}}"#;
        let (config, wrong) = ClusterConfig::from_json(text);
        assert!(wrong.is_empty(), "{wrong:?}");
        let at = |text: &str| text.parse::<jiff::Timestamp>().expect("a time");
        assert!(config.paused_at(at("2026-11-22T09:59:59Z")));
        assert!(!config.paused_at(at("2026-11-22T10:00:00Z")));
        assert_eq!(config.raw["ttl"], 30);
    }

    #[test]
    fn a_pause_with_an_unreadable_end_stays() {
        let (config, wrong) = ClusterConfig::from_json(r#"{"pause":true,"pgvigil":{"pause":{"until":"tomorrow"}}}"#);
        assert!(config.paused_at(jiff::Timestamp::now()));
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn one_bad_field_does_not_silence_the_others() {
        let text = r#"{"pause":"yes","maximum_lag_on_failover":1048576,"pgvigil":{"durability":{"mode":"sometimes"}}}"#;
        let (config, wrong) = ClusterConfig::from_json(text);
        assert_eq!(config.max_lag_on_failover_bytes, Some(1_048_576));
        assert_eq!((config.durability, config.pause), (None, None));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn parameters_are_read_as_patroni_writes_them() {
        let text = r#"{"postgresql":{"use_slots":true,"parameters":{"Work_Mem":"8MB","max_connections":200,"jit":false,"x":null,"y":[1]}}}"#;
        let (config, wrong) = ClusterConfig::from_json(text);
        let expected = [("jit", "off"), ("max_connections", "200"), ("work_mem", "8MB")];
        let expected: Parameters = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(config.parameters, expected);
        assert_eq!(wrong, ["/postgresql/parameters/y: it is no text, number or switch"]);
        let (_, wrong) = ClusterConfig::from_json(r#"{"postgresql":{"parameters":[]}}"#);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn another_site_is_read_as_patroni_writes_it() {
        let read = |text: &str| {
            let (config, wrong) = ClusterConfig::from_json(text);
            let remote = config.site.remote.map(|remote| remote.to_string());
            let after = config.site.promote.map(|word| word.after.map(|token| token.to_string()));
            (remote, after, wrong.len())
        };
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(read(r#"{"standby_cluster":{"host":"a,b:1"}}"#), (at("a:5432,b:1"), None, 0));
        assert_eq!(read(r#"{"standby_cluster":{"host":"a","port":7}}"#), (at("a:7"), None, 0));
        assert_eq!(read(r#"{"standby_cluster":null}"#), (None, None, 0));
        assert_eq!(read(r#"{"standby_cluster":{"host":"a","restore_command":"rm"}}"#), (at("a:5432"), None, 1));
        assert_eq!(read(r#"{"standby_cluster":{"host":"a b"}}"#), (None, None, 1));
        assert_eq!(read(r#"{"standby_cluster":{"host":"a","primary_slot_name":"A-1"}}"#), (None, None, 1));
        let (config, _) = ClusterConfig::from_json(r#"{"standby_cluster":{"host":"a","primary_slot_name":"west"}}"#);
        assert_eq!(config.site.remote.and_then(|remote| remote.slot), SlotName::new("west").ok());
        let asked =
            r#"{"standby_cluster":{"host":"a"},"pgvigil":{"site":{"promote":{"by":"anna","after":"42:4:0/28"}}}}"#;
        assert_eq!(read(asked), (at("a:5432"), Some(at("42:4:0/28")), 0));
        let wrong = r#"{"standby_cluster":{"host":"a"},"pgvigil":{"site":{"promote":{"after":"42"}}}}"#;
        assert_eq!(read(wrong), (None, None, 1), "neither is done");
    }

    #[test]
    fn our_own_durability_is_read() {
        let text = r#"{"maximum_lag_on_failover":1,"pgvigil":{"durability":{"mode":"strict","acknowledgers":2},"max_lag_on_failover_bytes":2}}"#;
        let (config, wrong) = ClusterConfig::from_json(text);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(config.durability, Some(Durability { mode: Mode::Strict, acknowledgers: 2, other_zone: false }));
        assert_eq!(config.max_lag_on_failover_bytes, Some(2));
    }
}
