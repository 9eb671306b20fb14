//! The parameters that this server is to run with, and those that it does run with. The former lie beside the data directory, so that a copy
//! or a rewind, which brings another node's files along, changes nothing of them. What Postgres refuses never gets into its files, and a
//! start that fails with new values is tried again with the last ones that were good: a mistake must not end an outage with a longer one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use decision::catalogue::{Catalogue, Kind, Parameter, Takes, check};
use decision::parameters::{CAPACITIES, Capacities, Parameters};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::conf::{Conf, FILE as OUR_FILE};
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::text;
use crate::tool;

/// How long Postgres may take to judge some values.
const JUDGED_WITHIN: Duration = Duration::from_secs(10);
/// How long a session may take to read its configuration again.
const LOADED_WITHIN: Duration = Duration::from_secs(3);

const CATALOGUE: &str =
    "SELECT lower(name) AS name, vartype, unit, min_val, max_val, enumvals, context FROM pg_settings";
/// When the server was started and when this session last read its configuration.
const STAMP: &str = "SELECT pg_postmaster_start_time()::text || ' ' || pg_conf_load_time()::text";
const RUNNING: &str = "SELECT name, setting, current_setting(name) AS shown, boot_val, pending_restart FROM pg_settings \
                       WHERE pending_restart OR name = ANY($1)";

/// What is remembered of parameters, across lives of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// What is configured.
    applied: Parameters,
    /// What the server has survived a start with.
    good: Option<Parameters>,
    /// What was refused.
    refused: Option<Refused>,
}

/// Values that Postgres refuses, or could not start with. They are left out for as long as they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The values.
    pub values: Parameters,
    /// What is configured in place of each; those that are missing here are left out.
    instead: Parameters,
    /// In the words of Postgres.
    pub why: String,
    /// Those that were refused at once. Nobody knows which of them is to blame, so all of them are tried again as soon as one is asked for otherwise.
    #[serde(default)]
    together: Vec<BTreeSet<String>>,
}

impl Refused {
    /// Forgets what is not asked for any more, and with it what was refused at once with that, and so on: of a group that was broken up nothing would
    /// say what the rest of it waits for.
    fn keep_what_is_asked(&mut self, wanted: &Parameters) {
        let otherwise = |name: &String| wanted.get(name) != self.values.get(name);
        let mut again: BTreeSet<String> =
            self.values.keys().chain(self.together.iter().flatten()).filter(|name| otherwise(name)).cloned().collect();
        loop {
            let before = again.len();
            for names in &self.together {
                if !names.is_disjoint(&again) {
                    again.extend(names.iter().cloned());
                }
            }
            if again.len() == before {
                break;
            }
        }
        self.values.retain(|name, _| !again.contains(name));
        self.instead.retain(|name, _| !again.contains(name));
        self.together.retain(|names| names.is_disjoint(&again));
    }
}

/// What a running server says of its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// What a standby must not have less of than its primary.
    pub capacities: Capacities,
    /// What waits for a restart: the value now, and then.
    pub pending: BTreeMap<String, (String, String)>,
    /// When it was started and when it last read its configuration; another one means that the rest may have changed.
    pub stamp: String,
}

impl Kept {
    /// What is asked for, with what was refused left out.
    fn without_refused(&mut self, wanted: &Parameters) -> Parameters {
        let mut allowed = wanted.clone();
        let Some(refused) = &mut self.refused else { return allowed };
        refused.keep_what_is_asked(wanted);
        if refused.values.is_empty() {
            self.refused = None;
            return allowed;
        }
        for name in refused.values.keys() {
            match refused.instead.get(name) {
                Some(instead) => drop(allowed.insert(name.clone(), instead.clone())),
                None => drop(allowed.remove(name)),
            }
        }
        allowed
    }

    /// These values are refused at once; what is configured otherwise stays.
    fn refuse(&mut self, values: Parameters, why: String) {
        let instead = values.keys().filter_map(|name| Some((name.clone(), self.applied.get(name)?.clone())));
        let instead = instead.collect();
        let before = self.refused.take().unwrap_or_default();
        let (mut all, mut all_instead, mut together) = (before.values, before.instead, before.together);
        together.push(values.keys().cloned().collect());
        all.extend(values);
        all_instead.extend::<Parameters>(instead);
        self.refused = Some(Refused { values: all, instead: all_instead, why, together });
    }

    /// What was good, if anything else is configured.
    fn good_before(&self) -> Option<&Parameters> {
        self.good.as_ref().filter(|good| **good != self.applied)
    }

    /// Back to it.
    fn fall_back(&mut self, why: &str) -> bool {
        let Some(good) = self.good_before().cloned() else { return false };
        let failed = std::mem::replace(&mut self.applied, good);
        let values = differing(&failed, &self.applied);
        self.refuse(values, why.to_owned());
        true
    }
}

/// What is not the same in `before`.
fn differing(after: &Parameters, before: &Parameters) -> Parameters {
    after.iter().filter(|(name, value)| before.get(*name) != Some(value)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

impl Instance {
    /// What is configured.
    pub fn parameters(&self) -> Parameters {
        self.kept().applied
    }

    /// What is asked for and was refused.
    pub fn refused(&self) -> Option<Refused> {
        self.kept().refused
    }

    /// Configures these parameters, as far as Postgres takes them, and lets a running server read them. Safe to repeat.
    ///
    /// # Errors
    /// Files cannot be written, or the server does not read its configuration again.
    pub async fn configure(&self, wanted: &Parameters) -> Result<()> {
        let _turn = self.0.tuning.lock().await;
        let mut kept = self.kept();
        let mut allowed = kept.without_refused(wanted);
        let new = differing(&allowed, &kept.applied);
        let (refused, why) = self.refusals(&new).await?;
        if !refused.is_empty() {
            tracing::warn!(?refused, why, "Postgres refuses parameters; they stay as they were");
            refused.into_iter().for_each(|values| kept.refuse(values, why.clone()));
            allowed = kept.without_refused(wanted);
        }
        if allowed != kept.applied {
            tracing::info!(changed = ?differing(&allowed, &kept.applied), "other parameters");
        }
        kept.applied = allowed;
        self.keep(kept).await?;
        if self.read_conf().is_none() {
            return Ok(());
        }
        let floors = self.floors_still_needed().await;
        let lower = move |conf: &mut Conf| floors.into_iter().for_each(|floors| conf.floors = floors);
        let written = self.update_conf(lower).await?;
        // An earlier life may have written it and not come to the rest.
        let told = std::mem::replace(&mut self.memory().told_parameters, true);
        if self.postmaster().is_none() || (told && !written) {
            return Ok(());
        }
        self.reload_and_wait().await
    }

    /// Whether anything else is configured than what was survived last.
    pub fn may_fall_back(&self) -> bool {
        self.kept().good_before().is_some()
    }

    /// The server has survived a start with what is configured. A reload proves nothing: what Postgres warns of and goes on without then (`ssl = on`
    /// without a certificate), it dies of at a start.
    ///
    /// # Errors
    /// That cannot be written down.
    pub async fn runs_well(&self) -> Result<()> {
        self.is_good(false).await
    }

    /// The server runs with what is configured, which is better than nothing where no start of it has been seen: a new cluster, one that was adopted.
    ///
    /// # Errors
    /// That cannot be written down.
    pub async fn runs_well_so_far(&self) -> Result<()> {
        self.is_good(true).await
    }

    async fn is_good(&self, only_the_first: bool) -> Result<()> {
        let _turn = self.0.tuning.lock().await;
        let mut kept = self.kept();
        if only_the_first && kept.good.is_some() {
            return Ok(());
        }
        kept.good = Some(kept.applied.clone());
        self.keep(kept).await
    }

    /// After a start that failed: configures what was good before, if that is anything else. What it returns undoes it, should that fail as
    /// well: then the parameters were not to blame.
    ///
    /// # Errors
    /// Files cannot be written.
    pub async fn fall_back(&self, why: &str) -> Result<Option<FellBack>> {
        let _turn = self.0.tuning.lock().await;
        let before = self.kept();
        let mut kept = before.clone();
        if !kept.fall_back(why) {
            return Ok(None);
        }
        let refused = kept.refused.as_ref().map(|refused| refused.values.clone()).unwrap_or_default();
        tracing::warn!(?refused, why, "Postgres does not start with new parameters: back to the last that were good");
        self.keep(kept).await?;
        self.update_conf(|_| {}).await?;
        Ok(Some(FellBack(before)))
    }

    /// The parameters were not to blame.
    ///
    /// # Errors
    /// Files cannot be written.
    pub async fn as_before(&self, before: FellBack) -> Result<()> {
        self.keep(before.0).await?;
        self.update_conf(|_| {}).await.map(drop)
    }

    /// What `postgresql.conf` alone says of what a standby must not have less of than its primary.
    pub fn base_capacities(&self) -> Capacities {
        let text = text::read(&self.data_dir().join("postgresql.conf")).unwrap_or_default();
        let number = |(name, usual): (&str, u64)| {
            (name.to_owned(), value_in(&text, name).and_then(|value| value.parse().ok()).unwrap_or(usual))
        };
        CAPACITIES.into_iter().map(number).collect()
    }

    /// What the primary of this data directory ran with last, as far as that has been replayed here.
    ///
    /// # Errors
    /// `pg_control` cannot be read.
    pub async fn capacities_on_disk(&self) -> Result<Capacities> {
        Ok(self.full_control().await?.standby_floors)
    }

    /// Every parameter that the running server knows.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn catalogue(&self) -> Result<Catalogue> {
        let rows = self.ask(CATALOGUE, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, parameter(row)?))).collect()
    }

    /// What [`Running::stamp`] is now.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn stamp(&self) -> Result<String> {
        let rows = self.ask(STAMP, &[]).await?;
        let row =
            rows.first().ok_or_else(|| Error::WrongState("the server does not say when it was started".to_owned()))?;
        Ok(row.try_get(0)?)
    }

    /// What the running server says of its parameters.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn running(&self, catalogue: &Catalogue) -> Result<Running> {
        let stamp = self.stamp().await?;
        let names: Vec<&str> = CAPACITIES.iter().map(|(name, _)| *name).collect();
        let mut running = Running { stamp, ..Running::default() };
        let read = |file: &str| text::read(&self.data_dir().join(file)).unwrap_or_default();
        let (ours, main) = (read(OUR_FILE), read("postgresql.conf"));
        for row in &self.ask(RUNNING, &[&names]).await? {
            let (name, setting): (String, String) = (row.try_get("name")?, row.try_get("setting")?);
            if let (true, Ok(number)) = (names.contains(&name.as_str()), setting.parse()) {
                running.capacities.insert(name.clone(), number);
            }
            if row.try_get("pending_restart")? {
                let boot: Option<String> = row.try_get("boot_val")?;
                let then = value_in(&ours, &name).or_else(|| value_in(&main, &name)).or(boot).unwrap_or_default();
                let then = check(catalogue, &name, &then).unwrap_or(then);
                running.pending.insert(name, (row.try_get("shown")?, then));
            }
        }
        Ok(running)
    }

    /// Which of these values Postgres would refuse, each by itself or all at once, and its words. It is asked on the real data directory, whose other
    /// settings count as well.
    async fn refusals(&self, new: &Parameters) -> Result<(Vec<Parameters>, String)> {
        let Some(why) = self.judge_parameters(new).await? else { return Ok(Default::default()) };
        let mut refused = Vec::new();
        for (name, value) in new {
            let alone = Parameters::from([(name.clone(), value.clone())]);
            if self.judge_parameters(&alone).await?.is_some() {
                refused.push(alone);
            }
        }
        // Good each by itself, and not together.
        Ok((if refused.is_empty() { vec![new.clone()] } else { refused }, why))
    }

    /// What Postgres says against these values; `None`: nothing.
    async fn judge_parameters(&self, values: &Parameters) -> Result<Option<String>> {
        if values.is_empty() || self.read_conf().is_none() {
            return Ok(None);
        }
        let mut arguments: Vec<OsString> = vec!["-D".into(), self.data_dir().into()];
        for (name, value) in values {
            arguments.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        arguments.extend(["-C", "max_connections"].map(OsString::from));
        let asked = timeout(JUDGED_WITHIN, self.run("postgres", &arguments, &CancellationToken::new())).await;
        let said = asked.map_err(|_| Error::timeout("asking postgres about parameters", JUDGED_WITHIN))??;
        Ok((!said.ok).then(|| tool::last_words(&said.err)))
    }

    /// Lets the server read its configuration, and waits until the kept connection has.
    async fn reload_and_wait(&self) -> Result<()> {
        let deadline = Instant::now() + LOADED_WITHIN;
        let before = self.stamp().await.ok();
        self.reload()?;
        while self.stamp().await.ok().is_none_or(|now| Some(now) == before) {
            if Instant::now() >= deadline {
                return Err(Error::timeout("waiting for the configuration to be read", LOADED_WITHIN));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn kept(&self) -> Kept {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn keep(&self, kept: Kept) -> Result<()> {
        if self.kept() == kept {
            return Ok(());
        }
        let file = kept_file(&self.config().state_dir);
        let text = serde_json::to_string(&kept).unwrap_or_default();
        // Flushing a file may hang with its disk; that must not take a worker of the agent with it.
        let written = tokio::task::spawn_blocking(move || durable::write(&file, text.as_bytes(), 0o600)).await;
        written.map_err(|error| Error::WrongState(format!("writing the parameters was cut off: {error}")))??;
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(())
    }
}

/// What [`Instance::as_before`] undoes.
#[derive(Debug)]
pub struct FellBack(Kept);

fn kept_file(state_dir: &std::path::Path) -> PathBuf {
    state_dir.join("parameters.json")
}

/// What an earlier life has kept; else what the node's file says.
pub(crate) fn kept_in(state_dir: &std::path::Path, node: &Parameters) -> Kept {
    let stored = fs::read_to_string(kept_file(state_dir)).ok().and_then(|text| serde_json::from_str(&text).ok());
    stored.unwrap_or_else(|| Kept { applied: node.clone(), ..Kept::default() })
}

fn parameter(row: &Row) -> Result<Parameter> {
    let text = |name: &str| row.try_get::<_, Option<String>>(name);
    let number = |name: &str| text(name).map(|text| text.and_then(|text| text.parse().ok()));
    Ok(Parameter {
        kind: match text("vartype")?.as_deref() {
            Some("bool") => Kind::Switch,
            Some("integer") => Kind::Whole,
            Some("real") => Kind::Number,
            Some("enum") => Kind::Choice,
            _ => Kind::Text,
        },
        unit: text("unit")?,
        min: number("min_val")?,
        max: number("max_val")?,
        choices: row.try_get::<_, Option<Vec<String>>>("enumvals")?.unwrap_or_default(),
        takes: match text("context")?.as_deref() {
            Some("internal") => Takes::Never,
            Some("postmaster") => Takes::Restart,
            _ => Takes::Reload,
        },
    })
}

/// The last value of a setting in a configuration file.
pub(crate) fn value_in(text: &str, key: &str) -> Option<String> {
    let value = |line: &str| {
        let line = line.trim_start();
        let rest = line.get(..key.len()).filter(|name| name.eq_ignore_ascii_case(key)).map(|_| &line[key.len()..])?;
        let rest = rest.strip_prefix([' ', '\t', '=']).map(|rest| rest.trim_start_matches([' ', '\t', '=']))?;
        let quoted = rest.strip_prefix('\'').map(|inner| inner.split('\'').next().unwrap_or_default());
        let bare = || rest.split([' ', '\t', '#']).next().unwrap_or_default();
        Some(quoted.unwrap_or_else(bare).to_owned())
    };
    text.lines().rev().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_last_setting_counts() {
        let text = "#max_connections = 5\nmax_connections = 100\t\t\t# (change requires restart)\nMax_Connections='200'\nmax_connections_x = 7\nwork_mem 4MB # x\n";
        assert_eq!(value_in(text, "max_connections").as_deref(), Some("200"));
        assert_eq!(value_in(text, "work_mem").as_deref(), Some("4MB"));
        assert_eq!(value_in(text, "max_wal_senders"), None);
    }

    #[test]
    fn what_was_refused_stays_out_for_as_long_as_it_is_asked_for() {
        let mut kept = Kept { applied: of(&[("a", "1"), ("b", "1")]), ..Kept::default() };
        kept.refuse(of(&[("a", "2")]), "no".to_owned());
        kept.refuse(of(&[("c", "2")]), "no".to_owned());
        let allowed = kept.without_refused(&of(&[("a", "2"), ("b", "2"), ("c", "2")]));
        assert_eq!(allowed, of(&[("a", "1"), ("b", "2")]));
        // Another value is another question.
        assert_eq!(kept.without_refused(&of(&[("a", "3"), ("c", "2")])), of(&[("a", "3")]));
        assert!(kept.refused.is_some());
        assert_eq!(kept.without_refused(&of(&[("a", "3")])), of(&[("a", "3")]));
        assert_eq!(kept.refused, None);
    }

    #[test]
    fn of_several_that_were_refused_at_once_the_good_one_is_taken_when_the_bad_one_is_mended() {
        let mut kept = Kept { applied: of(&[("a", "1")]), good: Some(of(&[("a", "1")])), ..Kept::default() };
        kept.refuse(of(&[("d", "2")]), "it is no number".to_owned());
        kept.applied = of(&[("a", "900GB"), ("b", "2")]);
        assert!(kept.fall_back("it does not start"));
        let asked = of(&[("a", "900GB"), ("b", "2"), ("d", "2")]);
        assert_eq!(kept.without_refused(&asked), of(&[("a", "1")]));
        // Asked for again and again, it stays so; what an earlier version has kept is read as well.
        let stored = serde_json::to_string(&kept).unwrap_or_default();
        kept = serde_json::from_str(&stored).unwrap_or_default();
        assert_eq!(kept.without_refused(&asked), of(&[("a", "1")]));
        let mended = of(&[("a", "2GB"), ("b", "2"), ("d", "2")]);
        assert_eq!(kept.without_refused(&mended), of(&[("a", "2GB"), ("b", "2")]));
        assert_eq!(
            kept.refused.map(|refused| refused.values),
            Some(of(&[("d", "2")])),
            "that one was refused by itself"
        );
    }

    #[test]
    fn what_was_refused_at_once_with_what_is_tried_again_is_tried_again_as_well() {
        for groups in [[&["a", "b"], &["b", "c"], &["c", "d"]], [&["c", "d"], &["b", "c"], &["a", "b"]]] {
            let mut kept = Kept::default();
            for group in groups {
                kept.refuse(group.iter().map(|name| ((*name).to_owned(), "2".to_owned())).collect(), "no".to_owned());
            }
            kept.refuse(of(&[("e", "2")]), "no".to_owned());
            let asked = |a: &str| of(&[("a", a), ("b", "2"), ("c", "2"), ("d", "2"), ("e", "2")]);
            assert_eq!(kept.without_refused(&asked("2")), of(&[]));
            let mended = of(&[("a", "1"), ("b", "2"), ("c", "2"), ("d", "2")]);
            assert_eq!(kept.without_refused(&asked("1")), mended, "{groups:?}");
        }
    }

    #[test]
    fn a_start_that_failed_goes_back_to_what_was_good_once() {
        let mut kept = Kept { applied: of(&[("a", "9"), ("b", "1")]), ..Kept::default() };
        assert!(!kept.fall_back("nothing was ever good"));
        kept.good = Some(of(&[("b", "1")]));
        assert!(kept.fall_back("too much"));
        assert_eq!(kept.applied, of(&[("b", "1")]));
        assert!(!kept.fall_back("again"));
        assert_eq!(kept.without_refused(&of(&[("a", "9"), ("b", "1")])), of(&[("b", "1")]));
    }
}
