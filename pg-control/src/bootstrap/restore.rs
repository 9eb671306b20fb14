//! A new cluster from a backup, up to its end or to a point in time. The files are fetched by a program of the operator's; Postgres then recovers
//! behind a private socket, so that no client sees the cluster half restored, and archives nothing, so that the archive of the source stays clean.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Backup;
use crate::conf;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::text;
use crate::tool;

/// How often it is looked whether recovery has ended.
const LOOKS_EVERY: Duration = Duration::from_millis(5);
/// The kernel cuts the path of a socket off behind this.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What came with a backup, and would make the new cluster write into the archive of the old one, or follow it.
const OF_THE_SOURCE: [&str; 5] =
    ["archive_command", "archive_library", "archive_mode", "archive_cleanup_command", "recovery_end_command"];

impl Instance {
    /// Fills the data directory, and takes out what would tie it to its source.
    pub(super) async fn restore(&self, backup: &Backup, cancel: &CancellationToken) -> Result<()> {
        let data_dir = self.data_dir();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(|error| Error::io("create", data_dir, error))?;
        let mut words = backup.command.iter().map(|word| self.filled_in(word));
        let program = words.next().ok_or_else(|| Error::Setting("no command to restore a backup with".to_owned()))?;
        let arguments: Vec<OsString> = words.map(OsString::from).collect();
        let said = self.run_at(Path::new(&program), &arguments, cancel).await?;
        if !said.ok {
            return Err(tool::failed(&program, &said));
        }
        if !data_dir.join("PG_VERSION").exists() {
            let message = format!("it has left no database in {}", data_dir.display());
            return Err(Error::Tool { program, message });
        }
        self.refuse_its_own_name()?;
        for file in ["standby.signal", "recovery.signal", "postmaster.pid", conf::FILE] {
            durable::remove(&data_dir.join(file))?;
        }
        for file in ["postgresql.conf", "postgresql.auto.conf"] {
            strike_out(&data_dir.join(file))?;
        }
        self.put_access_rules_in_front()
    }

    /// The words of an operator's command.
    pub(super) fn filled_in(&self, word: &str) -> String {
        word.replace("{data_dir}", &self.data_dir().to_string_lossy()).replace("{cluster}", &self.config().cluster)
    }

    /// Two clusters of one name and one database system could not be told apart, in etcd or in an archive.
    fn refuse_its_own_name(&self) -> Result<()> {
        let cluster = &self.config().cluster;
        if conf::cluster_of(self.data_dir()).as_ref() != Some(cluster) {
            return Ok(());
        }
        Err(Error::Setting(format!(
            "the backup is of a cluster named \"{cluster}\" as well: a restored cluster is another one; give it another `cluster`"
        )))
    }

    /// The same directory behind a socket that no client knows.
    pub(super) fn behind_a_private_socket(&self) -> Result<Instance> {
        let mut config = self.config().clone();
        config.socket_dir = self.private_socket_dir()?;
        Instance::new(config)
    }

    fn private_socket_dir(&self) -> Result<PathBuf> {
        let dir = self.config().state_dir.join("private");
        let socket = dir.join(format!(".s.PGSQL.{}", self.config().port));
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let problem = format!("{} is too long for a socket", socket.display());
            return Err(Error::host(problem, "choose a shorter `state_dir`"));
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| Error::io("create", &dir, error))?;
        Ok(dir)
    }

    /// Starts the server for nobody but the agent; with a backup, to recover it.
    pub(super) async fn start_privately(&self, backup: Option<&Backup>) -> Result<()> {
        let socket_dir = self.config().socket_dir.to_string_lossy().into_owned();
        let mut settings = vec![
            ("unix_socket_directories", socket_dir),
            ("listen_addresses", String::new()),
            ("archive_mode", "off".to_owned()),
        ];
        if let Some(backup) = backup {
            durable::touch(&self.data_dir().join("recovery.signal"))?;
            settings.extend(recovery(backup).map(|(key, value)| (key, self.filled_in(&value))));
        }
        self.start_with(&settings).await.map(|_| ())
    }

    /// Waits until the server is a primary that lets the superuser in.
    pub(super) async fn recovered(&self, cancel: &CancellationToken) -> Result<()> {
        let mut missing_before = false;
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled("waiting for the end of recovery"));
            }
            match self.open_superuser().await {
                Ok(session) => {
                    let row = session.client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
                    if !row.get::<_, bool>(0) {
                        return Ok(());
                    }
                }
                Err(error @ Error::Refused(_)) => return Err(error),
                Err(_) => {}
            }
            let missing = self.postmaster().is_none();
            if missing && missing_before {
                return Err(self.why_it_did_not_start());
            }
            missing_before = missing;
            tokio::time::sleep(LOOKS_EVERY).await;
        }
    }
}

/// What a recovery is told. No reader is let in meanwhile, so the settings of the source need not be matched.
fn recovery(backup: &Backup) -> impl Iterator<Item = (&str, String)> {
    let fetch = backup.restore_command.clone().unwrap_or_else(|| "false".to_owned());
    let target = backup.target.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let timeline = backup.timeline.clone().unwrap_or_else(|| "latest".to_owned());
    [
        ("restore_command", fetch),
        ("recovery_target_timeline", timeline),
        ("recovery_target_action", "promote".to_owned()),
        ("hot_standby", "off".to_owned()),
    ]
    .into_iter()
    .chain(target)
}

/// Makes comments of the settings that would tie the new cluster to its source. A cluster whose configuration lies elsewhere gets an empty file.
fn strike_out(path: &Path) -> Result<()> {
    let key =
        |line: &str| line.split(['=', ' ', '\t']).find(|part| !part.is_empty()).unwrap_or_default().to_lowercase();
    let kept = |line: &str| {
        if !OF_THE_SOURCE.contains(&key(line).as_str()) {
            return format!("{line}\n");
        }
        tracing::warn!(file = %path.display(), line, "the setting of the backup's cluster is struck out: set it in the node file for this one");
        format!("# struck out by pgvigil: {line}\n")
    };
    let text: String = text::read_if_there(path)?.lines().map(kept).collect();
    text::write(path, &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_ends_where_it_is_told_and_by_becoming_primary() {
        let target = Some(("recovery_target_time".to_owned(), "2026-11-28 08:00:00+00".to_owned()));
        let backup = Backup { target, restore_command: Some("cp /a/%f %p".to_owned()), ..Backup::default() };
        let told: Vec<(&str, String)> = recovery(&backup).collect();
        assert!(told.contains(&("recovery_target_action", "promote".to_owned())), "{told:?}");
        assert!(told.contains(&("recovery_target_time", "2026-11-28 08:00:00+00".to_owned())), "{told:?}");
        assert!(told.contains(&("restore_command", "cp /a/%f %p".to_owned())), "{told:?}");
    }
}
