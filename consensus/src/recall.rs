//! Settings that nobody can read, because somebody has put nonsense in their place: those that stood there before are in force, as this agent knows
//! them, else as etcd remembers them, else by the newest row of their history. Where nobody remembers any, what the durability record promises is kept.
//!
//! **Invariant: nonsense in the place of the settings never makes a promise smaller.** What stood there before is what an operator has asked for.
//! A row of the history may be older than that (another tool writes none), and nothing at all says nothing: so a mode that the record shows to be
//! stricter stays in force, no site begins to follow or ceases to, and no replication slot is dropped for its sake.

use decision::settings::{Durability, Mode};
use decision::site::Site;
use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget};
use serde_json::{Value, json};

use crate::error::Error;
use crate::keys::Keys;
use crate::mending::Before;
use crate::records::{ClusterConfig, ConfigRevision};
use crate::snapshot::Snapshot;
use crate::store::{Store, text_of};

/// So many rows of the history travel in one answer, each of which may be a megabyte of anything.
const ROWS_AT_ONCE: i64 = 8;

/// Which settings are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SettingsFrom {
    /// Those that are stored; or there are none, and none are.
    #[default]
    Stored,
    /// Nobody can read those that are stored: the ones that stood there before.
    Before,
    /// Nor does etcd remember what stood there: the state of this number in their history.
    Row(u64),
    /// Nobody knows: neither is remembered.
    Nowhere,
}

impl SettingsFrom {
    /// What is in force and what mends it, for whoever reads of a key that nobody can read.
    fn in_words(self, key: &str) -> String {
        let rollback = "pgvigil config history, then pgvigil config rollback N";
        match self {
            SettingsFrom::Stored => String::new(),
            SettingsFrom::Before => format!("the settings that stood there before stay in force ({rollback})"),
            SettingsFrom::Row(number) => format!(
                "etcd does not remember what stood there before, and revision {number} of the history is in force ({rollback})"
            ),
            SettingsFrom::Nowhere => format!(
                "neither etcd nor the history remembers any: the durability that `sync` records stays in force, parameters and rules for \
                 connections stay as each server has them, and planned actions wait (etcdctl put {key} '{{}}', with what is to be set)"
            ),
        }
    }
}

impl Snapshot {
    /// Whether it is known without asking which settings are in force: they can be read, or it is the same nonsense as `before`.
    pub(crate) fn settings_are_known(&mut self, before: &Self) -> bool {
        if self.settings_from == SettingsFrom::Stored {
            self.settings_revision = self.config_revision;
            return true;
        }
        let was_asked = before.cluster.revision != 0
            && before.settings_from != SettingsFrom::Stored
            && before.config_revision == self.config_revision;
        if was_asked {
            self.keep_settings_of(before);
        }
        was_asked
    }

    /// Settings that nobody can read leave those in force that were known before: neither parameters nor a pause are forgotten for them.
    fn keep_settings_of(&mut self, before: &Self) {
        let from = match before.settings_from {
            SettingsFrom::Stored => SettingsFrom::Before,
            from => from,
        };
        self.put_in_force(before.config.clone(), from, before.settings_revision);
    }

    /// Whoever has seen settings of this cluster knows some.
    fn knows_settings(&self) -> bool {
        self.cluster.revision != 0 && self.settings_from != SettingsFrom::Nowhere
    }

    /// Puts settings in force in the place of those that nobody can read.
    fn put_in_force(&mut self, mut config: ClusterConfig, from: SettingsFrom, revision: i64) {
        let follows = self.cluster.follows();
        match from {
            SettingsFrom::Stored | SettingsFrom::Before => {}
            SettingsFrom::Row(_) => {
                let remote = config.site.remote.take().filter(|_| follows);
                config.site = Site { remote, promote: None };
                config.durability = no_less(self.promised(), config.durability);
                config.slots.doubtful = true;
                // Whoever changes one of the settings stores all of them.
                config.raw = as_in_force(&config);
            }
            SettingsFrom::Nowhere => {
                config.durability = match (self.promised(), config.durability) {
                    // A voter that is away makes the record smaller for a while, and not what is wanted.
                    (Some(now), Some(before)) if now.mode == before.mode => {
                        Some(Durability { acknowledgers: now.acknowledgers.max(before.acknowledgers), ..now })
                    }
                    (now, before) => now.or(before),
                };
                config.slots.doubtful = true;
            }
        }
        self.cluster.site = config.site.clone();
        self.cluster.prefer_zone.clone_from(&config.prefer_zone);
        (self.config, self.settings_from, self.settings_revision) = (config, from, revision);
    }

    /// What the durability record comes to promise, by its last quorum: those before it cover a change under way. `None`: there is none that can
    /// be read.
    fn promised(&self) -> Option<Durability> {
        let sync = self.cluster.sync.as_ref().filter(|_| self.nonsense.sync == 0)?;
        let last = sync.policies.last().map_or(0, |quorum| quorum.k);
        Some(Durability { mode: sync.mode, acknowledgers: last.max(1), ..Durability::default() })
    }

    /// Adds to the problem of the settings which are in force instead.
    pub(crate) fn tell_settings(&mut self, keys: &Keys) {
        let key = keys.config();
        let (from, known) = (self.settings_from, self.problems.iter_mut().find(|problem| problem.key == key));
        if let Some(problem) = known.filter(|_| from != SettingsFrom::Stored) {
            problem.why = format!("{}; {}", problem.why, from.in_words(&key));
        }
    }
}

/// What old settings ask for, and never less than is promised. `auto` may come to be `quorum`, and no more.
fn no_less(promised: Option<Durability>, asked: Option<Durability>) -> Option<Durability> {
    let strictness = |mode: Mode| match mode {
        Mode::Async => 0,
        Mode::Auto | Mode::Quorum => 1,
        Mode::Strict => 2,
    };
    match (promised.filter(|promised| promised.mode != Mode::Async), asked) {
        (Some(promised), Some(asked)) if strictness(asked.mode) >= strictness(promised.mode) => {
            Some(Durability { acknowledgers: asked.acknowledgers.max(promised.acknowledgers), ..asked })
        }
        (Some(promised), _) => Some(promised),
        (None, asked) => asked,
    }
}

/// The settings as they are stored, with the site and the durability that are in force.
fn as_in_force(config: &ClusterConfig) -> Value {
    let mut raw = config.raw.clone();
    let Value::Object(settings) = &mut raw else { return raw };
    if config.site.remote.is_none() {
        settings.remove("standby_cluster");
    }
    let ours = settings.entry("pgvigil").or_insert_with(|| json!({}));
    if let Value::Object(ours) = ours {
        ours.remove("site");
        if let Some(durability) = config.durability {
            let known = ours.entry("durability").or_insert_with(|| json!({}));
            known["mode"] = json!(durability.mode.to_string());
            known["acknowledgers"] = json!(durability.acknowledgers);
        }
    }
    raw
}

impl Store {
    /// Looks for the settings that were in force before somebody put what nobody can read in their place. Those that are `known` from before stay in
    /// force, unless newer ones were written that this agent has not seen, while etcd did not answer it perhaps.
    ///
    /// # Errors
    /// etcd does not answer.
    pub(crate) async fn recall_settings(&self, seen: &mut Snapshot, known: &Snapshot) -> Result<(), Error> {
        let since = if known.knows_settings() { known.settings_revision } else { i64::MIN };
        let newer = |kv: &KeyValue| match kv.mod_revision() > since {
            true => readable(&text_of(kv)).map(|config| Some((config, kv.mod_revision()))),
            false => Some(None),
        };
        let stood = self.before(&self.keys().config(), seen.config_revision, newer).await?;
        let row = match stood {
            Before::Was(..) => None,
            Before::Nothing | Before::Unknown => self.newest_readable_row().await?.filter(|(_, at)| *at > since),
        };
        match (stood, row) {
            (Before::Was(Some((config, at)), _), _) => seen.put_in_force(config, SettingsFrom::Before, at),
            (_, Some((row, at))) => {
                let config = readable(&row.config.to_string()).unwrap_or_default();
                seen.put_in_force(config, SettingsFrom::Row(row.number), at);
            }
            _ if known.knows_settings() => seen.keep_settings_of(known),
            // Nothing was ever set.
            (Before::Nothing, None) => seen.put_in_force(ClusterConfig::default(), SettingsFrom::Before, 0),
            (_, None) => seen.put_in_force(ClusterConfig::default(), SettingsFrom::Nowhere, 0),
        }
        Ok(())
    }

    /// The newest row of the history of the settings that can be understood, and the revision at which it was written.
    async fn newest_readable_row(&self) -> Result<Option<(ConfigRevision, i64)>, Error> {
        let folder = self.keys().config_history();
        let mut end: Vec<u8> = Keys::end_of(&folder).into();
        loop {
            let newest = GetOptions::new().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(ROWS_AT_ONCE);
            let found = self.read_range(&folder, newest.with_range(end.clone())).await?;
            let understood = |kv: &KeyValue| {
                let row = crate::settings::row(&folder, kv).ok().filter(|row| row.config.is_object())?;
                Some((row, kv.mod_revision()))
            };
            if let Some(row) = found.iter().find_map(understood) {
                return Ok(Some(row));
            }
            match found.last() {
                Some(oldest) => end = oldest.key().to_vec(),
                None => return Ok(None),
            }
        }
    }
}

fn readable(text: &str) -> Option<ClusterConfig> {
    let (config, _) = ClusterConfig::from_json(text);
    Some(config).filter(|config| config.raw.is_object())
}

#[cfg(test)]
mod tests {
    use decision::durability::Quorum;
    use decision::names::{MemberName, Term, Timeline};
    use decision::view::SyncRecord;

    use super::*;

    fn promising(mode: Mode, k: u32) -> Snapshot {
        let name = |text| MemberName::new(text).expect("a good name");
        let quorum = Quorum::of(k, ["pg2", "pg3"].map(name).into());
        let record = SyncRecord::of_reign(name("pg1"), Term(7), mode, vec![quorum], Timeline(1));
        let mut seen = Snapshot { config_revision: 9, settings_from: SettingsFrom::Nowhere, ..Snapshot::default() };
        (seen.cluster.revision, seen.cluster.sync) = (20, Some(record));
        seen
    }

    fn set(text: &str) -> ClusterConfig {
        ClusterConfig::from_json(text).0
    }

    #[test]
    fn a_row_of_the_history_makes_no_promise_smaller() {
        let in_force = |mode, k, text: &str| {
            let mut seen = promising(mode, k);
            seen.put_in_force(set(text), SettingsFrom::Row(3), 4);
            seen.config.durability.map(|durability| (durability.mode, durability.acknowledgers))
        };
        let asked = |mode: &str| format!(r#"{{"pgvigil":{{"durability":{{"mode":"{mode}","acknowledgers":1}}}}}}"#);
        assert_eq!(in_force(Mode::Quorum, 2, &asked("async")), Some((Mode::Quorum, 2)));
        assert_eq!(in_force(Mode::Strict, 1, &asked("quorum")), Some((Mode::Strict, 1)));
        assert_eq!(in_force(Mode::Quorum, 1, &asked("strict")), Some((Mode::Strict, 1)));
        assert_eq!(in_force(Mode::Async, 0, &asked("async")), Some((Mode::Async, 1)));
        assert_eq!(in_force(Mode::Strict, 2, &asked("auto")), Some((Mode::Strict, 2)), "auto may come to be quorum");
        assert_eq!(in_force(Mode::Quorum, 2, &asked("quorum")), Some((Mode::Quorum, 2)));
        assert_eq!(in_force(Mode::Strict, 1, r#"{"ttl":30}"#), Some((Mode::Strict, 1)), "the usual row");
        assert_eq!(in_force(Mode::Async, 0, r#"{"ttl":30}"#), None, "the node's own file says it");
    }

    #[test]
    fn whoever_changes_one_setting_of_a_row_stores_what_is_in_force() {
        let mut seen = promising(Mode::Strict, 2);
        let row = r#"{"ttl":30,"standby_cluster":{"host":"west"},"pgvigil":{"site":{"promote":{}}}}"#;
        seen.put_in_force(set(row), SettingsFrom::Row(3), 4);
        let stored = json!({"ttl": 30, "pgvigil": {"durability": {"mode": "strict", "acknowledgers": 2}}});
        assert_eq!(seen.config.raw, stored);
        let again = set(&seen.config.raw.to_string());
        assert_eq!(again.durability.map(|it| (it.mode, it.acknowledgers)), Some((Mode::Strict, 2)));
        assert_eq!(again.site, Site::default());
    }

    #[test]
    fn where_nothing_is_remembered_a_change_under_way_does_not_count_and_no_number_falls() {
        let name = |text| MemberName::new(text).expect("a good name");
        let mut seen = promising(Mode::Strict, 1);
        let quorums =
            vec![Quorum::of(2, ["pg1", "pg2", "pg3"].map(name).into()), Quorum::of(1, ["pg1", "pg3"].map(name).into())];
        seen.cluster.sync.as_mut().expect("a record").policies = quorums;
        seen.put_in_force(ClusterConfig::default(), SettingsFrom::Nowhere, 0);
        let known = |seen: &Snapshot| seen.config.durability.map(|it| (it.mode, it.acknowledgers));
        assert_eq!(known(&seen), Some((Mode::Strict, 1)));
        let mut two = promising(Mode::Quorum, 2);
        two.put_in_force(ClusterConfig::default(), SettingsFrom::Nowhere, 0);
        let mut one = promising(Mode::Quorum, 1);
        assert!(one.settings_are_known(&two));
        assert_eq!(known(&one), Some((Mode::Quorum, 2)), "a voter is away for a while");
    }

    #[test]
    fn a_row_of_the_history_makes_no_site_follow_and_ends_nothing() {
        let row = r#"{"standby_cluster":{"host":"west"},"pgvigil":{"site":{"promote":{}}}}"#;
        let mut leads = promising(Mode::Quorum, 1);
        leads.put_in_force(set(row), SettingsFrom::Row(3), 4);
        assert_eq!(leads.cluster.site, Site::default());
        let mut follows = promising(Mode::Async, 0);
        follows.cluster.sync.as_mut().expect("a record").follows = true;
        follows.put_in_force(set(row), SettingsFrom::Row(3), 4);
        assert!(follows.cluster.site.remote.is_some() && follows.cluster.site.promote.is_none());
        assert!(follows.config.slots.doubtful);
    }

    #[test]
    fn what_was_known_before_stays_in_force_and_what_was_not_is_asked_for_once() {
        let stored = Snapshot { config: set(r#"{"pause":true}"#), config_revision: 5, ..promising(Mode::Quorum, 1) };
        let stored = Snapshot { settings_from: SettingsFrom::Stored, ..stored };
        let mut seen = promising(Mode::Quorum, 1);
        assert!(!seen.settings_are_known(&Snapshot::default()), "nothing was seen before");
        assert!(!seen.settings_are_known(&stored), "there may be newer ones");
        seen.keep_settings_of(&stored);
        assert!(seen.config.pause.is_some() && seen.settings_from == SettingsFrom::Before);
        let mut again = promising(Mode::Quorum, 1);
        assert!(again.settings_are_known(&seen) && again.config.pause.is_some(), "it is asked for once");

        let mut unknown = promising(Mode::Strict, 2);
        unknown.put_in_force(ClusterConfig::default(), SettingsFrom::Nowhere, 0);
        let mut next = promising(Mode::Quorum, 1);
        assert!(next.settings_are_known(&unknown));
        assert_eq!(next.config.durability.map(|it| (it.mode, it.acknowledgers)), Some((Mode::Quorum, 1)));
        next.nonsense.sync = 11;
        let mut unreadable = Snapshot { nonsense: next.nonsense, ..promising(Mode::Strict, 2) };
        assert!(unreadable.settings_are_known(&next));
        assert_eq!(unreadable.config.durability.map(|it| it.mode), Some(Mode::Quorum), "as it was known");
        let mut further = Snapshot { config_revision: 12, ..promising(Mode::Quorum, 1) };
        assert!(!further.settings_are_known(&unknown), "other nonsense");
    }
}
