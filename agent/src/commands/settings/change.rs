//! One change of the cluster's settings in etcd: read, changed, and written if nobody else has written meanwhile, together with the row of
//! the history that tells who did it. Whatever is not meant stays as it is.

use consensus::records::ConfigRevision;
use consensus::{ConfigChange, Error, Outcome, Snapshot};
use serde_json::{Map, Value};

use crate::cli::Exit;
use crate::commands::operator::who;
use crate::commands::screen::tell;
use crate::commands::world::Reach;

/// How often a change is tried when others write to the settings at the same time.
const TRIES: usize = 5;

/// Changes the settings, whoever else writes to them, and returns the number of the new state in the history. `new` says what they are to
/// be, or ends it, or that there is nothing to change (`None`).
///
/// # Errors
/// Told already; the exit code of the command.
pub async fn change(
    reach: &Reach,
    reason: Option<&str>,
    new: impl Fn(&Map<String, Value>) -> Result<Option<Value>, Exit>,
) -> Result<Option<u64>, Exit> {
    for _ in 0..TRIES {
        let snapshot = read(reach).await?;
        let before = settings(reach, &snapshot)?;
        let Some(after) = new(&before)? else { return Ok(None) };
        let made = ConfigRevision {
            by: Some(who()),
            reason: reason.map(str::to_owned),
            at: jiff::Timestamp::now().to_string(),
            ..ConfigRevision::default()
        };
        let (before, revision) = (snapshot.config.raw, snapshot.config_revision);
        let change = ConfigChange { before, revision, after, made };
        let outcome = reach.store.change_config(&change).await;
        let (outcome, number) = outcome.map_err(|error| failed(&error, "the settings cannot be changed"))?;
        match outcome {
            Outcome::Applied { .. } => return Ok(Some(number)),
            Outcome::Refused => {}
        }
    }
    tell("error: others keep changing the settings at the same time; nothing was changed here, try again");
    Err(Exit::Failed)
}

/// Reads the cluster.
///
/// # Errors
/// Told already.
pub async fn read(reach: &Reach) -> Result<Snapshot, Exit> {
    reach.store.read().await.map_err(|error| failed(&error, "the settings cannot be read"))
}

/// The known states, the oldest first.
///
/// # Errors
/// Told already.
pub async fn history(reach: &Reach) -> Result<Vec<ConfigRevision>, Exit> {
    reach.store.config_history().await.map_err(|error| failed(&error, "the history of the settings cannot be read"))
}

/// The settings as they are; empty where there are none.
///
/// # Errors
/// What is stored is no JSON object; told already.
pub fn settings(reach: &Reach, snapshot: &Snapshot) -> Result<Map<String, Value>, Exit> {
    match &snapshot.config.raw {
        Value::Object(config) => Ok(config.clone()),
        _ if snapshot.config_revision == 0 => Ok(Map::new()),
        _ => {
            let key = reach.store.keys().config();
            tell(&format!(
                "error: the settings in etcd ({key}) are no JSON object; mend them first: etcdctl get {key}"
            ));
            Err(Exit::Failed)
        }
    }
}

fn failed(error: &Error, tried: &str) -> Exit {
    tell(&format!("error: {tried}: {error}"));
    if matches!(error, Error::Unreachable(_) | Error::Unknown(_)) { Exit::Unreachable } else { Exit::Failed }
}
