//! Changes of the cluster's settings, for commands: what does not work is told, and ends the command.

use consensus::Snapshot;
use consensus::records::ConfigRevision;
use serde_json::{Map, Value};

use crate::cli::Exit;
use crate::commands::operator::who;
use crate::commands::screen::tell;
use crate::commands::told;
use crate::commands::world::Reach;
use crate::operate::proviso::Proviso;
use crate::operate::{Unable, settings};

/// Changes the settings in the name of whoever runs the command; see [`settings::change`].
///
/// # Errors
/// Told already; the exit code of the command.
pub async fn change(
    reach: &Reach,
    reason: Option<&str>,
    proviso: &Proviso,
    new: impl Fn(&Map<String, Value>) -> Result<Option<Value>, Unable>,
) -> Result<Option<u64>, Exit> {
    settings::change(reach, &who(), reason, proviso, new).await.map_err(told)
}

/// The same for a change that waits for a hold; see [`settings::change_planned`].
///
/// # Errors
/// Told already; the exit code of the command.
pub async fn change_planned(
    reach: &Reach,
    reason: Option<&str>,
    proviso: &Proviso,
    new: impl Fn(&Map<String, Value>) -> Result<Option<Value>, Unable>,
) -> Result<Option<u64>, Exit> {
    settings::change_planned(reach, &who(), reason, proviso, new).await.map_err(told)
}

/// Reads the cluster.
///
/// # Errors
/// Told already.
pub async fn read(reach: &Reach) -> Result<Snapshot, Exit> {
    settings::read(reach).await.map_err(told)
}

/// The known states, the oldest first.
///
/// # Errors
/// Told already.
pub async fn history(reach: &Reach) -> Result<Vec<ConfigRevision>, Exit> {
    let failed = |error| told(Unable::by_etcd(&error, "the history of the settings cannot be read"));
    let (rows, problems) = reach.store.config_history().await.map_err(failed)?;
    for problem in problems {
        tell(&format!("warning: {} cannot be understood: {}", problem.key, problem.why));
    }
    Ok(rows)
}

/// The settings as they are; empty where there are none.
///
/// # Errors
/// What is stored is no JSON object; told already.
pub fn settings(reach: &Reach, snapshot: &Snapshot) -> Result<Map<String, Value>, Exit> {
    settings::settings(reach, snapshot).map_err(told)
}
