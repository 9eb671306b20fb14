//! The handle on the local Postgres: where it lives, how the agent reaches it, and the little that is remembered between calls.
//! Cheap to clone; every clone speaks about the same server. The operations are in the other files, one situation each.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use decision::names::{MemberName, Term};
use decision::slots::{Made, SlotName};

use crate::conf;
use crate::controldata::Control;
use crate::durable;
use crate::error::{Error, Result};
use crate::promote::Expected;
use crate::settings::{Kept, kept_in};
use crate::sql::Session;
use crate::walend::EndOfWal;

/// Where the local Postgres lives, and how it is reached.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// Where `postgres`, `pg_ctl`, `pg_rewind` and the others are.
    pub bin_dir: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// A directory of the agent's own, outside the data directory (mode 0700): markers, password file, server log.
    pub state_dir: PathBuf,
    /// Where the unix socket is.
    pub socket_dir: PathBuf,
    /// The port.
    pub port: u16,
    /// A standby here takes WAL from the archive alone, by the `restore_command` of its parameters, and streams from nobody.
    pub nostream: bool,
    /// The standby that it is to stream from rather than from the leader, until [`Instance::cascade_from`] says something else.
    pub cascades_from: Option<MemberName>,
    /// `listen_addresses`.
    pub listen_addresses: String,
    /// Who we are.
    pub member: MemberName,
    /// The name of the cluster (`cluster_name`).
    pub cluster: String,
    /// The operator's own settings from the node file; what is configured until [`Instance::configure`] says something else.
    pub parameters: BTreeMap<String, String>,
    /// Lines for `pg_hba.conf` of a new cluster, before the general ones.
    pub hba: Vec<String>,
    /// More arguments for `initdb`, for instance `--wal-segsize=4`.
    pub initdb_args: Vec<String>,
    /// The encoding of a new cluster.
    pub encoding: String,
    /// The locale of a new cluster.
    pub locale: String,
    /// The role of the agent: no superuser.
    pub control_user: String,
    /// The superuser; used for the first steps of a new cluster, and where all ordinary connection slots are taken.
    pub superuser: String,
    /// The role that standbys stream as.
    pub replication_user: String,
    /// The role that `pg_rewind` reads as.
    pub rewind_user: String,
    /// The database that the agent connects to.
    pub database: String,
    /// How long Postgres may take to answer one probe. Beyond it a probe counts as unanswered.
    pub answer_within: Duration,
}

impl InstanceConfig {
    /// A configuration with the usual roles, for the paths and names that have no usual value.
    pub fn new(member: MemberName, cluster: impl Into<String>, data_dir: PathBuf, state_dir: PathBuf) -> Self {
        Self {
            bin_dir: PathBuf::from("/usr/lib/postgresql/15/bin"),
            socket_dir: PathBuf::from("/var/run/postgresql"),
            port: 5432,
            nostream: false,
            cascades_from: None,
            listen_addresses: "*".to_owned(),
            member,
            cluster: cluster.into(),
            data_dir,
            state_dir,
            parameters: BTreeMap::new(),
            hba: Vec::new(),
            initdb_args: Vec::new(),
            encoding: "UTF8".to_owned(),
            locale: "C.UTF-8".to_owned(),
            control_user: "pgvigil".to_owned(),
            superuser: "postgres".to_owned(),
            replication_user: "pgvigil_replication".to_owned(),
            rewind_user: "pgvigil_rewind".to_owned(),
            database: "postgres".to_owned(),
            answer_within: Duration::from_millis(500),
        }
    }
}

/// The passwords of the two roles that members use among each other.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Of the replication role.
    pub replication_password: String,
    /// Of the rewind role.
    pub rewind_password: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(***)")
    }
}

/// The local Postgres.
#[derive(Clone)]
pub struct Instance(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: InstanceConfig,
    /// The connection that observes: kept open, so that it needs no free slot and no fork when things are bad.
    pub(crate) control: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// The connection that commits markers. It waits for standbys, so the observing one must not be it.
    pub(crate) writer: tokio::sync::Mutex<Option<Session>>,
    /// Held while the configuration file is read, changed and written.
    pub(crate) conf_lock: Mutex<()>,
    /// What the marker of a half-made directory said when it was last written or seen. Held while it is read or written.
    pub(crate) half_made: Mutex<Option<String>>,
    /// Held while the list of what was moved aside is changed.
    pub(crate) aside_turn: Mutex<()>,
    /// Whoever holds it writes the passwords: the first start and the upkeep may come to know them at the same moment.
    passfile_pen: Mutex<()>,
    /// The parameters of the server.
    pub(crate) kept: Mutex<Kept>,
    /// Held while parameters are judged, changed and written.
    pub(crate) tuning: tokio::sync::Mutex<()>,
    /// The slots that this agent has made, once they have been read.
    pub(crate) own_slots: Mutex<Option<BTreeMap<SlotName, Made>>>,
    /// Held while slots are changed.
    pub(crate) slots_turn: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
}

/// What is remembered between calls, and lost with the agent without harm.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) secrets: Option<Secrets>,
    /// Since when probes go unanswered.
    pub(crate) hung_since: Option<Instant>,
    /// Since when the server says that it does not take connections.
    pub(crate) starting_since: Option<Instant>,
    /// The highest term whose marker commit this agent has seen acknowledged.
    pub(crate) acknowledged: Term,
    /// The names of a promotion that is likely to come.
    pub(crate) expected: Option<Expected>,
    /// The end of the WAL, as long as `pg_control` is as it was when it was looked for.
    pub(crate) end_of_wal: Option<(Control, EndOfWal)>,
    /// How long the server log was when Postgres was last started.
    pub(crate) log_length_at_start: u64,
    /// The running server has been told to read its parameters in this life.
    pub(crate) told_parameters: bool,
    /// The port of the running server.
    pub(crate) port: Option<u16>,
    /// Who read changes when a shutdown was near.
    pub(crate) readers: Vec<i32>,
    /// The standby that it is to stream from rather than from the leader.
    pub(crate) cascades_from: Option<MemberName>,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Instance").field(&self.0.config.data_dir).finish()
    }
}

impl Instance {
    /// Checks the configuration and creates the agent's own directory. Touches nothing of Postgres; a running server is simply found.
    ///
    /// # Errors
    /// `Setting` for parameters that the agent owns, `Host` for missing programs or permissions.
    pub fn new(mut config: InstanceConfig) -> Result<Self> {
        conf::check_parameters(&config.parameters)?;
        let postgres = config.bin_dir.join("postgres");
        if !postgres.exists() {
            return Err(Error::host(
                format!("{} is not there", postgres.display()),
                "install the PostgreSQL server, or set bin_dir to the directory of its programs",
            ));
        }
        if config.state_dir.starts_with(&config.data_dir) {
            return Err(Error::Setting(format!(
                "state_dir {} is inside the data directory: a clone would replace it; move it elsewhere",
                config.state_dir.display()
            )));
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir);
        made.map_err(|error| Error::io("create", &config.state_dir, error))?;
        // Postgres changes to its data directory: relative paths would mean something else there.
        for path in [&mut config.data_dir, &mut config.state_dir, &mut config.socket_dir, &mut config.bin_dir] {
            *path = std::path::absolute(&*path).map_err(|error| Error::io("resolve", path, error))?;
        }
        let memory = Memory { cascades_from: config.cascades_from.clone(), ..Memory::default() };
        let kept = kept_in(&config.state_dir, &config.parameters);
        Ok(Self(Arc::new(Inner {
            config,
            kept: Mutex::new(kept),
            tuning: tokio::sync::Mutex::new(()),
            control: tokio::sync::Mutex::new(None),
            writer: tokio::sync::Mutex::new(None),
            conf_lock: Mutex::new(()),
            half_made: Mutex::default(),
            aside_turn: Mutex::default(),
            passfile_pen: Mutex::default(),
            own_slots: Mutex::default(),
            slots_turn: tokio::sync::Mutex::new(()),
            memory: Mutex::new(memory),
        })))
    }

    /// The configuration.
    pub fn config(&self) -> &InstanceConfig {
        &self.0.config
    }

    /// From now on it is to stream from this standby rather than from the leader; `None`: from the leader. Counts when it is next told whom to follow.
    pub fn cascade_from(&self, member: Option<MemberName>) {
        self.memory().cascades_from = member;
    }

    /// Takes the passwords, and writes them where `libpq` looks for them (`<state_dir>/pgpass`, mode 0600).
    pub fn set_secrets(&self, secrets: Secrets) -> Result<()> {
        let _pen = self.passfile_pen();
        self.write_passfile(&secrets)?;
        self.memory().secrets = Some(secrets);
        Ok(())
    }

    fn passfile_pen(&self) -> MutexGuard<'_, ()> {
        self.0.passfile_pen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_passfile(&self, secrets: &Secrets) -> Result<()> {
        let config = self.config();
        let line = |user: &str, password: &str| format!("*:*:*:{}:{}\n", pgpass(user), pgpass(password));
        let content = line(&config.replication_user, &secrets.replication_password)
            + &line(&config.rewind_user, &secrets.rewind_password);
        durable::write(&self.passfile(), content.as_bytes(), 0o600)
    }

    /// Puts back what somebody has deleted of the agent's own directory, as far as it is known here: the directory, the passwords, the
    /// marker of a half-made data directory. Says whether anything was missing. Its parent is not made: where that is gone as well, a file
    /// system may be unmounted, and notes written below it would be lost when it comes back.
    ///
    /// # Errors
    /// `Host` where it cannot be put back.
    pub fn keep_state_dir(&self) -> Result<bool> {
        let dir = &self.config().state_dir;
        let mut was_missing = false;
        if !dir.exists() {
            make_again(dir)?;
            was_missing = true;
        }
        let pen = self.passfile_pen();
        let secrets = self.memory().secrets.clone();
        if let Some(secrets) = secrets.filter(|_| !self.passfile().exists()) {
            self.write_passfile(&secrets)?;
            was_missing = true;
        }
        drop(pen);
        Ok(self.keep_half_made_marker()? || was_missing)
    }

    /// The passwords between members.
    ///
    /// # Errors
    /// They are not known here yet.
    pub fn secrets(&self) -> Result<Secrets> {
        let missing = || Error::WrongState("the passwords of the replication roles are not known yet".to_owned());
        self.memory().secrets.clone().ok_or_else(missing)
    }

    pub(crate) fn passfile(&self) -> PathBuf {
        self.config().state_dir.join("pgpass")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.config().state_dir.join("postgres.log")
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.config().data_dir
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.config().bin_dir.join(name)
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing that holds this lock can leave it half changed, so a panic elsewhere is no reason to stop.
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the agent's own directory, which somebody has deleted, but not its parent.
///
/// # Errors
/// `Host` where that is not allowed, with what to do about it.
pub fn make_again(dir: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::host(
            format!("the agent's own directory {} is gone and cannot be made again: {error}", dir.display()),
            format!(
                "install -d -m 700 -o {} {} (what was in it is written anew then; a restart of the agent before that forgets it)",
                nix::unistd::geteuid(),
                dir.display()
            ),
        )),
        _ => durable::sync_parent(dir),
    }
}

/// `pgpass` wants `:` and `\` escaped.
fn pgpass(text: &str) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_printed() {
        let secrets = Secrets { replication_password: "hunter2".to_owned(), rewind_password: "hunter3".to_owned() };
        assert!(!format!("{secrets:?}").contains("hunter"));
    }

    #[test]
    fn what_was_deleted_of_the_agents_directory_is_put_back() {
        let home = tempfile::tempdir().expect("a directory");
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir(at("bin")).and_then(|()| std::fs::write(at("bin/postgres"), "")).expect("writable");
        let member = MemberName::new("pg1").expect("a good name");
        let config = InstanceConfig::new(member, "demo", at("data"), at("state"));
        let instance = Instance::new(InstanceConfig { bin_dir: at("bin"), ..config }).expect("a good configuration");
        let secrets = Secrets { replication_password: "one".to_owned(), rewind_password: "two".to_owned() };
        instance.set_secrets(secrets).expect("writable");
        instance.mark_half_made("clone").expect("writable");
        assert!(!instance.keep_state_dir().expect("nothing is amiss"));
        std::fs::remove_dir_all(at("state")).expect("it is there");
        assert_eq!(instance.half_made_by().as_deref(), Some("clone"), "a copy that was cut off stays one");
        assert!(instance.keep_state_dir().expect("writable"));
        assert!(std::fs::read_to_string(at("state/pgpass")).is_ok_and(|text| text.contains("one")));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(at("state")).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o700);
        assert!(at("state/half-made").exists());
        instance.mark_whole().expect("writable");
        assert!(!instance.keep_state_dir().expect("nothing is amiss") && !at("state/half-made").exists());
    }

    /// The agent runs every operation as a task that may move between threads; this need only compile.
    #[allow(dead_code)]
    fn every_operation_may_be_spawned(pg: Instance, upstream: &decision::view::Upstream, within: Duration) {
        fn spawnable(_: impl Send) {}
        let (quorum, cancel) = (decision::durability::Quorum::none(), tokio_util::sync::CancellationToken::new());
        spawnable(pg.observe());
        let origin = crate::Origin::default();
        spawnable(pg.bootstrap(&origin, &cancel));
        spawnable(pg.clone_from(upstream, &cancel));
        spawnable(pg.rewind(upstream, None, &cancel));
        spawnable(pg.find_end_of_wal(&cancel));
        spawnable(pg.start_as_standby(Some(upstream)));
        spawnable(pg.start_as_primary(&quorum, Term(1), || true));
        spawnable(pg.wait_ready(within));
        spawnable(pg.stop_fast(within));
        spawnable(pg.kill_all());
        spawnable(pg.follow(upstream, within));
        spawnable(pg.pledge(within));
        spawnable(pg.promote(&quorum, Term(1), within));
        spawnable(pg.apply_sync(&quorum, Term(1), within));
        spawnable(pg.mark(Term(1), &upstream.member, within));
        spawnable(pg.prove(Term(1), within));
    }

    #[test]
    fn a_password_with_a_colon_survives_the_password_file() {
        assert_eq!(pgpass("a:b\\c"), "a\\:b\\\\c");
    }
}
