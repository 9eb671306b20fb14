//! A new cluster, made by initdb or from a backup: files, rules for who may connect, roles, the leadership table. The agent's role is no
//! superuser; the superuser is used for these steps, and where something of ours must be put back (`equip`). Until the last line is done a marker
//! says that the directory is half-made. What is not ready for clients is started behind a socket that none of them knows.

mod access;
mod initdb;
mod post;
mod restore;
mod roles;

pub use roles::shown_roles;

use std::path::PathBuf;
use std::time::Duration;

use decision::names::{SystemId, Timeline};
use tokio_util::sync::CancellationToken;

use crate::conf::{Conf, Recovery};
use crate::error::{Error, Result};
use crate::instance::Instance;

/// How long a new server may take to let the agent in.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long the private server may take to write its last checkpoint.
const STOPS_WITHIN: Duration = Duration::from_secs(600);

/// Where a new cluster comes from, and what is done to it before anybody else sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// A backup; `None`: initdb makes an empty database.
    pub backup: Option<Backup>,
    /// A file of SQL that the superuser runs once.
    pub post_sql: Option<PathBuf>,
    /// A program that is run once, with a connection string as its last argument.
    pub post_command: Vec<String>,
    /// How long all of it may take; zero: for ever.
    pub within: Duration,
}

/// How to restore a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// The program that fills the data directory, with its arguments; `{data_dir}` and `{cluster}` stand for what they say.
    pub command: Vec<String>,
    /// How Postgres fetches WAL meanwhile; `None`: all that is needed is in the backup.
    pub restore_command: Option<String>,
    /// Where recovery ends: a setting (`recovery_target_time`, ...) and its value; `None`: at the end of the archive.
    pub target: Option<(String, String)>,
    /// `recovery_target_timeline`; `None`: the latest.
    pub timeline: Option<String>,
}

impl Origin {
    /// Whether there is nothing in it that clients must not see before it is ready: an empty database, and no roles yet.
    fn hides_nothing(&self) -> bool {
        self.backup.is_none() && self.post_sql.is_none() && self.post_command.is_empty()
    }
}

/// What a cluster begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Born {
    /// Its database system; that of the source, where it was restored.
    pub system_id: SystemId,
    /// The timeline that its primary writes.
    pub timeline: Timeline,
}

impl Instance {
    /// Creates a new database system and leaves it running as a primary that waits for nobody. What an earlier attempt has left is kept as
    /// `<data>.failed`, the newest alone, or deleted where it cannot be moved (a mount point); what else was half-made is moved aside.
    ///
    /// # Errors
    /// `WrongState` when there is a database already, `Host` where this host lacks something, `Setting` for a backup of a cluster of this very
    /// name, `Tool` and `StartFailed` with the last words of what has failed.
    pub async fn bootstrap(&self, origin: &Origin, cancel: &CancellationToken) -> Result<Born> {
        if self.postmaster().is_some() {
            return Err(Error::WrongState("a server runs in the data directory".to_owned()));
        }
        self.make_room()?;
        let made = self.make(origin, cancel);
        let made = match origin.within {
            Duration::ZERO => made.await,
            within => {
                let timed = tokio::time::timeout(within, made).await;
                timed.unwrap_or_else(|_| Err(Error::timeout("creating the cluster", within)))
            }
        };
        if let Err(error) = made {
            self.kill_all().await?;
            return Err(error);
        }
        self.mark_whole()?;
        self.born().await
    }

    /// What the database here is, whoever made it.
    ///
    /// # Errors
    /// There is none that can be read.
    pub async fn born(&self) -> Result<Born> {
        let control = self.control_facts().await?;
        Ok(Born { system_id: control.system_id, timeline: control.timeline })
    }

    fn make_room(&self) -> Result<()> {
        self.refuse_link_to_nowhere()?;
        let empty = crate::datadir::is_empty(self.data_dir())?;
        let by = self.half_made_by();
        if !empty && by.is_none() {
            return Err(Error::WrongState(format!("{} is not empty", self.data_dir().display())));
        }
        self.kill_stray_tools();
        match by.as_deref() {
            Some("bootstrap") if !empty && self.is_movable() => self.keep_as_failed()?,
            Some("bootstrap") if !empty => self.clear_in_place()?,
            // Before the marker says that it is a failed attempt of ours: it may be somebody's data.
            _ if !empty => self.set_aside()?,
            _ => {}
        }
        self.mark_half_made("bootstrap")
    }

    async fn make(&self, origin: &Origin, cancel: &CancellationToken) -> Result<()> {
        let secrets = self.secrets()?;
        match &origin.backup {
            None => {
                self.initdb(cancel).await?;
                self.write_access_rules()?;
            }
            Some(backup) => self.restore(backup, cancel).await?,
        }
        let configure = |recovery| {
            let conf = Conf { recovery, syncs_slots: self.will_sync_slots(), ..Conf::default() };
            self.write_conf_into(self.data_dir(), &conf)
        };
        configure(if origin.backup.is_some() { Recovery::Backup } else { Recovery::Nobody })?;
        if origin.hides_nothing() {
            self.start().await?;
            self.recovered(cancel).await?;
            self.create_roles(&secrets).await?;
            return self.wait_ready(READY_WITHIN).await;
        }
        let private = self.behind_a_private_socket()?;
        private.start_privately(origin.backup.as_ref()).await?;
        private.recovered(cancel).await?;
        private.create_roles(&secrets).await?;
        private.run_post_steps(origin, cancel).await?;
        private.stop_fast(STOPS_WITHIN).await?;
        configure(Recovery::Nobody)?;
        self.start().await?;
        self.wait_ready(READY_WITHIN).await
    }

    /// Ends programs that an earlier agent left working on this data directory.
    pub(crate) fn kill_stray_tools(&self) {
        let names = ["initdb", "pg_basebackup", "pg_rewind", "pg_waldump", "pgbackrest"];
        let data_dir = self.data_dir().to_string_lossy().into_owned();
        let Ok(all) = procfs::process::all_processes() else { return };
        for process in all.filter_map(|process| process.ok()) {
            let named = process.stat().is_ok_and(|stat| names.contains(&stat.comm.as_str()));
            let here = named && process.cmdline().is_ok_and(|line| line.iter().any(|word| word.contains(&data_dir)));
            if here {
                tracing::warn!(pid = process.pid, "ending a program that an earlier agent left behind");
                crate::process::send(process.pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}
