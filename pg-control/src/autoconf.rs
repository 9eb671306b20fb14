//! `postgresql.auto.conf` wins over every other file, and `ALTER SYSTEM` and `pg_basebackup -R` write into it. Whatever the agent owns is
//! therefore struck out of it; the rest is the operator's and stays as it is.

use std::path::Path;

use decision::parameters::is_owned;

use crate::error::Result;
use crate::text;

/// Not owned altogether, but overridden by the agent at times (a candidate has no `restore_command`).
const OVERRIDDEN: [&str; 3] = ["restore_command", "max_standby_streaming_delay", "max_standby_archive_delay"];

/// Strikes out the lines that would override the agent. True when there were any.
pub(crate) fn strip(data_dir: &Path) -> Result<bool> {
    let path = data_dir.join("postgresql.auto.conf");
    let Some(stripped) = without_owned(&text::read_if_there(&path)?) else { return Ok(false) };
    tracing::warn!(file = %path.display(), "struck settings that pgvigil owns out of postgresql.auto.conf");
    text::write(&path, &stripped, 0o600)?;
    Ok(true)
}

/// The text without those lines; `None` when there are none.
fn without_owned(text: &str) -> Option<String> {
    let ours = |line: &&str| {
        let key = line.split(['=', ' ', '\t']).find(|part| !part.is_empty()).unwrap_or_default().to_ascii_lowercase();
        is_owned(&key) || OVERRIDDEN.contains(&key.as_str())
    };
    if !text.lines().any(|line| ours(&line)) {
        return None;
    }
    Some(text.lines().filter(|line| !ours(line)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_settings_go_and_others_stay() {
        let text = "# Do not edit\nwork_mem = '8MB'\nprimary_conninfo = 'host=x'\n  Synchronous_Standby_Names='*'\n";
        assert_eq!(without_owned(text).as_deref(), Some("# Do not edit\nwork_mem = '8MB'\n"));
    }

    #[test]
    fn a_file_without_them_is_left_alone() {
        assert_eq!(without_owned("# primary_conninfo = 'x'\nwork_mem = '8MB'\n"), None);
    }
}
