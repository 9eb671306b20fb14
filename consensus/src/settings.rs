//! Cluster-wide settings and their history. A change and the row that tells who made it are one transaction, so that neither is there
//! without the other; a state that somebody else has put there (`etcdctl`, `patronictl`) gets its row with the next change.

use etcd_client::{GetOptions, KeyValue};
use serde_json::{Value, json};

use crate::condition::Condition;
use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::{ConfigRevision, Problem};
use crate::store::{Store, text_of};
use crate::transitions::left_out;

/// So many states are kept.
const KEPT: u64 = 100;
/// Numbers in keys have ten digits.
const NUMBERS: u64 = 10_000_000_000;

/// A change of the settings.
#[derive(Clone, Debug)]
pub struct ConfigChange {
    /// The settings as they were read; `Null` where there were none.
    pub before: Value,
    /// The etcd revision that they were written at; 0: there were none.
    pub revision: i64,
    /// The settings as they are to be.
    pub after: Value,
    /// What it depends on beside that.
    pub condition: Condition,
    /// Who changes them, why and when.
    pub made: ConfigRevision,
}

impl Store {
    /// The known states of the settings, the oldest first, and the rows that cannot be understood.
    ///
    /// # Errors
    /// etcd cannot be asked.
    pub async fn config_history(&self) -> Result<(Vec<ConfigRevision>, Vec<Problem>), Error> {
        let folder = &self.keys().config_history();
        let found = self.read_folder(folder, GetOptions::new()).await?;
        // Numbers are as long as each other, so the order of the keys is theirs.
        let (mut rows, mut problems) = (Vec::new(), Vec::new());
        for kv in found {
            match row(folder, &kv) {
                Ok(row) => rows.push(row),
                Err(why) => problems.push(left_out(&kv, &why)),
            }
        }
        Ok((rows, problems))
    }

    /// Changes the settings, if they are still as they were read, and writes down who did. `Refused`: they have changed meanwhile, or the
    /// condition is not met any more.
    ///
    /// # Errors
    /// As [`Store::config_history`] and [`Store::commit`].
    pub async fn change_config(&self, change: &ConfigChange) -> Result<(Outcome, u64), Error> {
        let (mut rows, problems) = self.config_history().await?;
        let newest = rows.pop();
        // A row that nobody can read has taken its number all the same.
        let taken = problems.iter().filter_map(|problem| number(&self.keys().config_history(), &problem.key)).max();
        let mut number = newest.as_ref().map_or(0, |row| row.number).max(taken.unwrap_or_default());
        // A cluster begins with nothing set.
        let known = newest.map_or(json!({}), |row| row.config);
        let mut rows = Vec::new();
        if known != change.before && !change.before.is_null() {
            let found =
                ConfigRevision { at: change.made.at.clone(), config: change.before.clone(), ..Default::default() };
            rows.push(found);
        }
        rows.push(ConfigRevision { config: change.after.clone(), ..change.made.clone() });
        let key = self.keys().config();
        let mut guards = change.condition.guards(self.keys());
        guards.push(Guard::unchanged(&key, change.revision));
        let mut writes = vec![Write::put(key, change.after.to_string())];
        for row in rows {
            number += 1;
            let key = self.keys().config_revision(number);
            guards.push(Guard::absent(&key));
            writes.push(Write::put(key, row.to_json()));
            if let Some(old) = number.checked_sub(KEPT).filter(|old| *old > 0) {
                writes.push(Write::delete(self.keys().config_revision(old)));
            }
        }
        Ok((self.commit(&guards, &writes).await?, number))
    }
}

/// The number of a row by its key.
fn number(folder: &str, key: &str) -> Option<u64> {
    key.strip_prefix(folder)?.parse().ok().filter(|number| *number < NUMBERS)
}

pub(crate) fn row(folder: &str, kv: &KeyValue) -> Result<ConfigRevision, String> {
    let number = number(folder, &String::from_utf8_lossy(kv.key()));
    let number = number.ok_or_else(|| "its name is no number of a state".to_owned())?;
    ConfigRevision::from_json(number, &text_of(kv))
}
