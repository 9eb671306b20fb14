//! WAL that only this node owes the archive. A standby does not archive what it received, so what a dead primary had not archived yet is
//! missing there, and with it every point in time beyond. Before a rewind or a copy makes an end of it, it goes there by the operator's command.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::instance::Instance;
use crate::tool;

/// How long the node stays away for the archive's sake, all segments together.
const WITHIN: Duration = Duration::from_secs(30);

impl Instance {
    /// Archives what the stopped server had still to archive, oldest first. What cannot be archived holds up nothing: the node is needed more,
    /// and the log says what is missing.
    pub(crate) async fn archive_the_rest(&self, cancel: &CancellationToken) {
        let wal_dir = self.data_dir().join("pg_wal");
        let owed = owed(&wal_dir.join("archive_status"));
        if owed.is_empty() || self.refuse_half_made().is_err() {
            return;
        }
        let (mode, command) =
            tokio::join!(self.configured_value("archive_mode"), self.configured_value("archive_command"));
        let command = match (mode, command) {
            (Ok(mode), Ok(command)) if mode != "off" && !["", "(disabled)"].contains(&command.as_str()) => command,
            _ => return,
        };
        let deadline = Instant::now() + WITHIN;
        for (segment, status) in &owed {
            if let Err(why) = self.archive(&command, segment, deadline, cancel).await {
                tracing::warn!(
                    segment,
                    why,
                    "WAL of the old timeline is not in the archive: a restore cannot pass through it"
                );
                return;
            }
            if let Err(error) = fs::rename(status, status.with_extension("done")) {
                tracing::warn!(%error, segment, "archived, but that cannot be noted");
            }
        }
        tracing::info!(segments = owed.len(), "what had still to be archived is");
    }

    async fn archive(
        &self,
        command: &str,
        segment: &str,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<(), String> {
        let line = expand(command, segment);
        let arguments: [OsString; 4] =
            ["-c".into(), "cd \"$0\" && exec /bin/sh -c \"$1\"".into(), self.data_dir().into(), line.into()];
        let ended = timeout_at(deadline, self.run_at(Path::new("/bin/sh"), &arguments, cancel)).await;
        let said = ended.map_err(|_| format!("not done within {WITHIN:?}"))?.map_err(|error| error.to_string())?;
        if said.ok { Ok(()) } else { Err(tool::last_words(&said.err)) }
    }
}

/// The segments that wait for the archive, oldest first, and the file that says so of each.
fn owed(status_dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(status_dir).into_iter().flatten().flatten();
    let ready = entries.filter_map(|entry| {
        let path = entry.path();
        let segment = path.file_name()?.to_str()?.strip_suffix(".ready")?.to_owned();
        Some((segment, path))
    });
    let mut owed: Vec<_> = ready.collect();
    owed.sort();
    owed
}

/// As Postgres does it: `%p` is the path below the data directory, `%f` the name, `%%` a percent sign.
fn expand(command: &str, segment: &str) -> String {
    let filled = |part: &str| part.replace("%p", &format!("pg_wal/{segment}")).replace("%f", segment);
    command.split("%%").map(filled).collect::<Vec<_>>().join("%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_expanded_as_postgres_does_it() {
        let line = expand("cp %p /archive/%f && date +%%s %d 100%", "000000010000000000000003");
        let wanted = "cp pg_wal/000000010000000000000003 /archive/000000010000000000000003 && date +%s %d 100%";
        assert_eq!(line, wanted);
        assert_eq!(expand("%%%p %%f", "3"), "%pg_wal/3 %f");
    }
}
