//! The cluster's settings in etcd, changed by whoever may: checked against what the running Postgres knows, written if nobody else has written
//! meanwhile, together with the row of the history that tells who did it. Whatever is not meant stays as it is.

pub mod diff;
mod parameters;
mod patch;

use consensus::records::{ClusterConfig, ConfigRevision};
use consensus::{ConfigChange, Outcome, SettingsFrom, Snapshot};
use serde_json::{Map, Value};

use super::hold;
use super::proviso::Proviso;
use super::world::Reach;
use super::{Kind, Unable, asks};

pub use patch::{merged, with_the_state_of};

/// How often a change is tried when others write to the settings at the same time.
const TRIES: usize = 5;

/// Changes the settings, whoever else writes to them, and returns the number of the new state in the history. `new` says what they are to
/// be, or ends it, or that there is nothing to change (`None`).
///
/// # Errors
/// What `new` says, or etcd; or another leads than the one who must.
pub async fn change(
    reach: &Reach,
    by: &str,
    reason: Option<&str>,
    proviso: &Proviso,
    new: impl Fn(&Map<String, Value>) -> Result<Option<Value>, Unable>,
) -> Result<Option<u64>, Unable> {
    change_where(reach, by, reason, (proviso, false), new).await
}

/// The same for a change that moves the lead, and so waits for a hold, or else its reason says so.
///
/// # Errors
/// As [`change`], or it is held.
pub async fn change_planned(
    reach: &Reach,
    by: &str,
    reason: Option<&str>,
    proviso: &Proviso,
    new: impl Fn(&Map<String, Value>) -> Result<Option<Value>, Unable>,
) -> Result<Option<u64>, Unable> {
    change_where(reach, by, reason, (proviso, true), new).await
}

async fn change_where(
    reach: &Reach,
    by: &str,
    reason: Option<&str>,
    (proviso, planned): (&Proviso, bool),
    new: impl Fn(&Map<String, Value>) -> Result<Option<Value>, Unable>,
) -> Result<Option<u64>, Unable> {
    for _ in 0..TRIES {
        let snapshot = read(reach).await?;
        proviso.lead(&snapshot)?;
        let before = settings(reach, &snapshot)?;
        let Some(after) = new(&before)? else { return Ok(None) };
        let pass = match planned {
            true => proviso.planned(&snapshot, jiff::Timestamp::now())?,
            false => proviso.unheld(&snapshot)?,
        };
        let made = ConfigRevision {
            by: Some(by.to_owned()),
            reason: hold::reason_against(reason, &pass),
            at: jiff::Timestamp::now().to_string(),
            ..ConfigRevision::default()
        };
        let (before, revision) = (snapshot.config.raw, snapshot.config_revision);
        let change = ConfigChange { before, revision, after, condition: pass.condition, made };
        asks();
        let outcome = reach.store.change_config(&change).await;
        let (outcome, number) = outcome.map_err(|error| Unable::by_etcd(&error, "the settings cannot be changed"))?;
        match outcome {
            Outcome::Applied { .. } => return Ok(Some(number)),
            Outcome::Refused => {}
        }
    }
    let why = "others keep changing the settings at the same time; nothing was changed here, try again";
    Err(Unable::new(Kind::Failed, why))
}

/// Reads the cluster.
///
/// # Errors
/// etcd does not answer.
pub async fn read(reach: &Reach) -> Result<Snapshot, Unable> {
    reach.store.read().await.map_err(|error| Unable::by_etcd(&error, "the settings cannot be read"))
}

/// The settings that are in force; empty where there are none. Where nobody can read what is stored, a change begins from what stood there before.
///
/// # Errors
/// Nobody can read what is stored, or remembers what stood there before.
pub fn settings(reach: &Reach, snapshot: &Snapshot) -> Result<Map<String, Value>, Unable> {
    match (&snapshot.config.raw, snapshot.settings_from) {
        (Value::Object(config), _) => Ok(config.clone()),
        (_, SettingsFrom::Nowhere) => {
            let key = reach.store.keys().config();
            let why = format!(
                "nobody can read the settings in etcd ({key}), nor remembers any: parameters stay as each server has them, and durability as \
                 it is recorded. Put there what is to be set: etcdctl put {key} '{{...}}'"
            );
            Err(Unable::new(Kind::Failed, why))
        }
        _ => Ok(Map::new()),
    }
}

/// A change that may be made.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The settings as they are to be, in one form.
    pub after: Map<String, Value>,
    /// What is to be told of it.
    pub notes: Vec<String>,
}

/// Checks a change: parameters by what the running Postgres knows, the rest by what an agent understands.
///
/// # Errors
/// Every mistake that was found, or that it is changed by other means.
pub async fn checked(
    reach: &Reach,
    snapshot: &Snapshot,
    before: &Map<String, Value>,
    after: Map<String, Value>,
) -> Result<Checked, Unable> {
    let (after, notes) = parameters::checked(reach, snapshot, before, after).await?;
    if !leaves_the_sites_alone(before, &after) {
        let why = "which site leads is changed by pgvigil site promote and pgvigil site demote";
        return Err(Unable::new(Kind::Refused, why));
    }
    let (_, wrong) = ClusterConfig::from_json(&Value::Object(after.clone()).to_string());
    if wrong.is_empty() { Ok(Checked { after, notes }) } else { Err(Unable { kind: Kind::Misused, why: wrong }) }
}

/// For a change that was made from what was seen: anything else that comes in between ends it.
///
/// # Errors
/// Something did.
pub fn unchanged(now: &Map<String, Value>, before: &Map<String, Value>) -> Result<(), Unable> {
    if now == before {
        return Ok(());
    }
    let why = "somebody else has changed the settings meanwhile; nothing was changed here, look again";
    Err(Unable::new(Kind::Overtaken, why))
}

/// Which site leads is decided by commands that see it through.
fn leaves_the_sites_alone(before: &Map<String, Value>, after: &Map<String, Value>) -> bool {
    let site = |config: &Map<String, Value>| config.get("pgvigil").and_then(|ours| ours.get("site")).cloned();
    before.get("standby_cluster") == after.get("standby_cluster") && site(before) == site(after)
}

/// Sections come and go with what is in them. What is no section gives way: nobody could have read it.
pub fn put(object: &mut Map<String, Value>, place: &[&str], value: Option<Value>) {
    match (place, value) {
        ([leaf], Some(value)) => drop(object.insert((*leaf).to_owned(), value)),
        ([leaf], None) => drop(object.remove(*leaf)),
        ([section, rest @ ..], value) => {
            let mut inner = object.get(*section).and_then(Value::as_object).cloned().unwrap_or_default();
            put(&mut inner, rest, value);
            if inner.is_empty() {
                object.remove(*section);
            } else {
                object.insert((*section).to_owned(), Value::Object(inner));
            }
        }
        ([], _) => {}
    }
}
