//! `pgvigil config`: the cluster-wide settings, each change with its author and reason, and the way back.

pub mod change;
mod edit;
mod effective;
mod known;
mod shown;

use consensus::SettingsFrom;
use serde_json::{Map, Value};

use super::operator::{agrees, must_be_able_to_ask};
use super::screen::{answer, tell};
use super::world::Reach;
use crate::cli::{ConfigCommand, Exit, RollbackArgs, SetArgs};
use crate::commands::told;
use crate::config::keys;
use crate::operate::proviso::Proviso;
use crate::operate::settings::{Checked, checked, diff, unchanged, with_the_state_of};

pub use crate::operate::settings::put;
pub use change::{change, change_planned};
pub use known::names as names_of_settings;

/// Carries out one of them.
pub async fn run(command: &ConfigCommand) -> Exit {
    let done = match command {
        ConfigCommand::Show(arguments) => shown::show(arguments).await,
        ConfigCommand::History(arguments) => shown::history(arguments).await,
        ConfigCommand::Diff(arguments) => shown::diff(arguments).await,
        ConfigCommand::Set(arguments) => set(arguments).await,
        ConfigCommand::Edit(arguments) => edit::edit(arguments).await,
        ConfigCommand::Rollback(arguments) => rollback(arguments).await,
    };
    done.unwrap_or_else(|exit| exit)
}

async fn set(arguments: &SetArgs) -> Result<Exit, Exit> {
    let mut wanted = Vec::new();
    let mut mistakes = Vec::new();
    let parameters = arguments.parameters.iter().map(|text| format!("{}.{text}", keys::PARAMETERS));
    for text in arguments.assignments.iter().cloned().chain(parameters) {
        match known::assignment(&text) {
            Ok((setting, value)) => wanted.push((setting, Some(value))),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    for name in &arguments.unset {
        match known::find(name) {
            Ok(setting) => wanted.push((setting, None)),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if !mistakes.is_empty() {
        mistakes.iter().for_each(|mistake| tell(&format!("error: {mistake}")));
        return Err(Exit::Usage);
    }
    let reach = Reach::new(&arguments.config)?;
    let plan = Plan {
        reach: &reach,
        reason: arguments.reason.as_deref(),
        dry_run: arguments.dry_run,
        yes: arguments.yes,
        expected: arguments.expect_revision,
        proviso: arguments.expect.proviso(),
    };
    plan.carry_out(|config| {
        let mut config = config.clone();
        wanted.iter().for_each(|(setting, value)| setting.put(&mut config, value.clone()));
        Ok(config)
    })
    .await
}

async fn rollback(arguments: &RollbackArgs) -> Result<Exit, Exit> {
    let reach = Reach::new(&arguments.config)?;
    let proviso = arguments.expect.proviso();
    proviso.lead(&change::read(&reach).await?).map_err(told)?;
    let earlier = shown::revision(&reach, arguments.revision).await?;
    let Value::Object(earlier) = earlier.config else {
        tell(&format!("error: revision {} is no JSON object", arguments.revision));
        return Err(Exit::Failed);
    };
    let reason = arguments.reason.clone().unwrap_or_else(|| format!("back to revision {}", arguments.revision));
    let (dry_run, yes) = (arguments.dry_run, arguments.yes);
    let plan = Plan { reach: &reach, reason: Some(&reason), dry_run, yes, expected: None, proviso };
    plan.carry_out(|config| Ok(with_the_state_of(config, earlier.clone()))).await
}

/// A change that is shown before it is made.
struct Plan<'a> {
    reach: &'a Reach,
    reason: Option<&'a str>,
    dry_run: bool,
    yes: bool,
    /// Only if this is the newest revision.
    expected: Option<u64>,
    /// On what other conditions.
    proviso: Proviso,
}

impl Plan<'_> {
    async fn carry_out(
        &self,
        new: impl Fn(&Map<String, Value>) -> Result<Map<String, Value>, Exit>,
    ) -> Result<Exit, Exit> {
        const QUESTION: &str = "Change that?";
        if !self.dry_run {
            must_be_able_to_ask(self.yes, QUESTION)?;
        }
        self.as_expected().await?;
        let snapshot = change::read(self.reach).await?;
        self.proviso.lead(&snapshot).map_err(told)?;
        let before = change::settings(self.reach, &snapshot)?;
        let Checked { after, notes } = checked(self.reach, &snapshot, &before, new(&before)?).await.map_err(told)?;
        let lines = known::renamed(diff::lines(&Value::Object(before.clone()), &Value::Object(after.clone())));
        match (lines.is_empty(), snapshot.settings_from) {
            (true, SettingsFrom::Stored) => {
                answer("nothing to change");
                return Ok(Exit::Done);
            }
            (true, _) => answer("what nobody can read gives way to the settings in force"),
            (false, _) => answer(&lines.join("\n")),
        };
        notes.iter().for_each(|note| tell(note));
        if self.dry_run {
            tell("nothing was changed (--dry-run)");
            return Ok(Exit::Done);
        }
        if !self.yes && !agrees(QUESTION) {
            tell("nothing was changed");
            return Err(Exit::Aborted);
        }
        // What was agreed to is what is shown: anything else that comes in between ends it.
        let made = change(self.reach, self.reason, &self.proviso, |now| {
            unchanged(now, &before)?;
            Ok(Some(Value::Object(after.clone())))
        });
        if let Some(number) = made.await? {
            tell(&format!("revision {number}: every agent that sees etcd acts accordingly at once"));
        }
        Ok(Exit::Done)
    }

    async fn as_expected(&self) -> Result<(), Exit> {
        let Some(expected) = self.expected else { return Ok(()) };
        let newest = change::history(self.reach).await?.last().map_or(0, |row| row.number);
        if newest == expected {
            return Ok(());
        }
        tell(&format!("error: the newest revision is {newest}, not {expected}; nothing was changed"));
        Err(Exit::Refused)
    }
}
