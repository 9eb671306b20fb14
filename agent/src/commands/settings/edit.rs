//! `pgvigil config edit`: the settings in an editor. What comes out of it is checked, shown and agreed to like any other change.

use std::io::Write;
use std::process::Command;

use serde_json::{Map, Value};

use super::{Plan, change, shown};
use crate::cli::{EditArgs, Exit};
use crate::commands::operator::must_be_able_to_ask;
use crate::commands::screen::tell;
use crate::commands::told;
use crate::commands::world::Reach;
use crate::operate::settings::unchanged;

/// Opens the editor, and changes what was changed there.
pub async fn edit(arguments: &EditArgs) -> Result<Exit, Exit> {
    must_be_able_to_ask(false, "Change that?")?;
    let reach = Reach::new(&arguments.config)?;
    let proviso = arguments.expect.proviso();
    let snapshot = change::read(&reach).await?;
    proviso.lead(&snapshot).map_err(told)?;
    let before = change::settings(&reach, &snapshot)?;
    let after = edited(&before).map_err(|why| {
        tell(&format!("error: {why}; nothing was changed"));
        Exit::Failed
    })?;
    let reason = arguments.reason.as_deref();
    let plan = Plan { reach: &reach, reason, dry_run: false, yes: false, expected: None, proviso };
    plan.carry_out(|now| unchanged(now, &before).map(|()| after.clone()).map_err(told)).await
}

fn edited(before: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let say = |error: std::io::Error| error.to_string();
    let mut file = tempfile::Builder::new().prefix("pgvigil-config-").suffix(".json").tempfile().map_err(say)?;
    writeln!(file, "{}", shown::pretty(&Value::Object(before.clone()))).map_err(say)?;
    let variable = |name: &str| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = variable("VISUAL").or_else(|| variable("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = Command::new(program).args(words).arg(file.path()).status();
    let status = status.map_err(|error| format!("{editor} cannot be run ($EDITOR): {error}"))?;
    if !status.success() {
        return Err(format!("{editor} ended with {status}"));
    }
    let text = std::fs::read_to_string(file.path()).map_err(say)?;
    serde_json::from_str(&text).map_err(|error| format!("that is no JSON object: {error}"))
}
