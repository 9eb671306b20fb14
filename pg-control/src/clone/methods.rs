//! How a copy is made: `pg_basebackup` from a server, or a program of the operator's (pgBackRest is one). They are tried in order, and what one
//! leaves behind when it fails is gone before the next begins.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use decision::view::Upstream;
use tokio_util::sync::CancellationToken;

use crate::conf::{Conf, Recovery};
use crate::controldata;
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::tool;

/// One way to fill a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloneMethod {
    /// `pg_basebackup` from this server, the leader or a standby of it.
    BaseBackup(Upstream),
    /// A program that fills the directory.
    Program {
        /// What it is called in logs and in `status`.
        name: String,
        /// The program and its arguments, with `{data_dir}` for where the copy goes and `{cluster}` for the cluster's name.
        command: Vec<String>,
        /// How the server fetches WAL until it streams; a backup needs some of what was written while it was made.
        restore_command: Option<String>,
    },
}

impl CloneMethod {
    /// In a word or two.
    pub fn name(&self) -> String {
        match self {
            Self::BaseBackup(from) => format!("pg_basebackup from {}", from.member),
            Self::Program { name, .. } => name.clone(),
        }
    }
}

/// What a copy is limited to and told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloneOptions {
    /// What `pg_basebackup` may transfer in a second, in bytes; `None`: whatever it can.
    pub max_rate_bytes: Option<u64>,
    /// How long it may stand still once it has begun; `None`: some minutes, and longer where all may be there and is being flushed.
    pub stalls_after: Option<Duration>,
}

impl Instance {
    /// Fills `into`, a directory that is not there or empty, and makes it a standby of `leader`.
    pub(super) async fn copy(
        &self,
        method: &CloneMethod,
        leader: &Upstream,
        into: &Path,
        options: &CloneOptions,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let fetch = match method {
            CloneMethod::BaseBackup(from) => {
                self.base_backup(from, into, options, cancel).await?;
                None
            }
            CloneMethod::Program { command, restore_command, .. } => {
                self.run_program(command, into, cancel).await?;
                self.is_of_this_cluster(leader, into).await?;
                // Slots of another server would keep WAL here for nobody.
                forget_slots(&into.join("pg_replslot"))?;
                restore_command.clone()
            }
        };
        let mut conf = Conf::of_standby(Recovery::Following(leader.clone()));
        // The server runs in the final place, wherever the copy is made.
        conf.fetch = fetch.map(|command| self.with_places(&command, self.data_dir()));
        for file in ["recovery.signal", "postmaster.pid"] {
            durable::remove(&into.join(file))?;
        }
        self.write_conf_into(into, &conf)?;
        durable::touch(&into.join("standby.signal"))
    }

    async fn base_backup(
        &self,
        from: &Upstream,
        into: &Path,
        options: &CloneOptions,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut arguments: Vec<OsString> = vec!["-D".into(), into.into()];
        arguments.extend(["-X", "stream", "-c", "fast", "--no-password", "-d"].map(OsString::from));
        arguments.push(self.source_conninfo(from, &self.config().replication_user).into());
        if let Some(bytes) = options.max_rate_bytes {
            // In kilobytes; the program takes 32 kB to 1 GB.
            arguments.push(format!("--max-rate={}k", (bytes / 1024).clamp(32, 1 << 20)).into());
        }
        let said = self.run("pg_basebackup", &arguments, cancel).await?;
        if said.ok { Ok(()) } else { Err(tool::failed("pg_basebackup", &said)) }
    }

    async fn run_program(&self, command: &[String], into: &Path, cancel: &CancellationToken) -> Result<()> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(into);
        made.map_err(|error| Error::io("create", into, error))?;
        let mut words = command.iter().map(|word| self.with_places(word, into));
        let program = words.next().ok_or_else(|| Error::Setting("no command to copy the data with".to_owned()))?;
        let arguments: Vec<OsString> = words.map(OsString::from).collect();
        let said = self.run_at(Path::new(&program), &arguments, cancel).await?;
        if !said.ok {
            return Err(tool::failed(&program, &said));
        }
        if !into.join("PG_VERSION").exists() {
            return Err(Error::Tool { program, message: format!("it has left no database in {}", into.display()) });
        }
        Ok(())
    }

    /// A backup of another database, for instance of a namesake's stanza, must never replace what was here.
    async fn is_of_this_cluster(&self, leader: &Upstream, into: &Path) -> Result<()> {
        let theirs = self.ask_source(leader, false).await?.system_id;
        match controldata::read_direct(into)? {
            Some(control) if control.system_id != theirs => Err(Error::Setting(format!(
                "the backup is of database system {}, the cluster is {theirs}: is it the right stanza, the right command?",
                control.system_id
            ))),
            Some(_) | None => Ok(()),
        }
    }

    fn with_places(&self, word: &str, data_dir: &Path) -> String {
        word.replace("{data_dir}", &data_dir.to_string_lossy()).replace("{cluster}", &self.config().cluster)
    }
}

fn forget_slots(dir: &Path) -> Result<()> {
    let Ok(slots) = fs::read_dir(dir) else { return Ok(()) };
    for slot in slots.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
        fs::remove_dir_all(&slot).map_err(|error| Error::io("remove", &slot, error))?;
    }
    Ok(())
}
