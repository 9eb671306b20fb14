//! A server that somebody else has made, and that runs: what it is, and the steps by which the agent comes to keep it, without a restart. Rules
//! for its own way in, then its roles, then its configuration file. Each may be repeated, and each leaves the server as it was if it fails.

pub(crate) mod files;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use decision::names::{SystemId, Term, Timeline};
use decision::parameters::Parameters;
use tokio::time::timeout;
use tokio_postgres::Row;

use crate::conf::Conf;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::text::read;

/// How long the server may take to answer a question.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

const SETTINGS: &str = "SELECT lower(name), current_setting(name), source, coalesce(sourcefile, '') FROM pg_settings";
/// Of a primary: its control file has the new number only after its first checkpoint there.
const TIMELINE: &str = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";
const TERM: &str = "SELECT coalesce(max(term), 0) FROM pgvigil.leadership";
const SLOTS: &str =
    "SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary ORDER BY 1";
/// A running server that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its identity.
    pub system_id: SystemId,
    /// The timeline that it is on.
    pub timeline: Timeline,
    /// It follows another.
    pub standby: bool,
    /// Its data pages carry checksums.
    pub data_checksums: bool,
    /// The highest term of any leader of ours that has marked it, from an earlier time under an agent; 0: none has.
    pub newest_term: Term,
    /// Every setting, by its name in small letters.
    pub settings: BTreeMap<String, Given>,
    /// Slots by which standbys stream.
    pub slots: Vec<String>,
}

/// A setting as it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Its value, as people read it.
    pub value: String,
    /// Where that comes from (`pg_settings.source`).
    pub source: String,
    /// The file that says so, if one does.
    pub file: String,
}

impl Stranger {
    /// The value of a setting.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", |given| given.value.as_str())
    }

    /// The first number of its version.
    pub fn major_version(&self) -> Option<u32> {
        self.setting("server_version_num").parse().ok().map(|number: u32| number / 10_000)
    }
}

impl Instance {
    /// Looks at the running server, as the superuser.
    ///
    /// # Errors
    /// It does not run, does not let the superuser in over its socket, or does not answer.
    pub async fn look_at_stranger(&self) -> Result<Stranger> {
        let control = self.full_control().await?;
        let session = self.open_superuser().await?;
        let ask = async |sql: &str| -> Result<Vec<Row>> {
            let answer = timeout(ANSWERS_WITHIN, session.client.query(sql, &[])).await;
            Ok(answer.map_err(|_| Error::timeout("asking postgres", ANSWERS_WITHIN))??)
        };
        let first = |rows: Vec<Row>| rows.into_iter().next().ok_or_else(|| Error::Sql("no row".to_owned()));
        let mut settings = BTreeMap::new();
        for row in ask(SETTINGS).await? {
            let given = Given { value: row.try_get(1)?, source: row.try_get(2)?, file: row.try_get(3)? };
            settings.insert(row.try_get(0)?, given);
        }
        let standby = first(ask("SELECT pg_is_in_recovery()").await?)?.try_get(0)?;
        let timeline = match standby {
            true => control.control.timeline,
            false => Timeline(first(ask(TIMELINE).await?)?.try_get::<_, i32>(0)?.unsigned_abs()),
        };
        let marked = first(ask("SELECT to_regclass('pgvigil.leadership') IS NOT NULL").await?)?.try_get(0)?;
        let newest_term = match marked {
            true => first(ask(TERM).await?)?.try_get::<_, i64>(0)?.unsigned_abs(),
            false => 0,
        };
        let slots = ask(SLOTS).await?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(Stranger {
            system_id: control.control.system_id,
            timeline,
            standby,
            data_checksums: control.data_checksums,
            newest_term: Term(newest_term),
            settings,
            slots,
        })
    }

    /// Puts the agent's own way in, and that of the members among each other, in front of the server's rules for connections. What was there stays
    /// behind them, and beside them as a copy.
    ///
    /// # Errors
    /// Files cannot be written; `Setting` where Postgres finds a mistake in them: then they are as they were.
    pub async fn let_members_in(&self, found: &Stranger) -> Result<()> {
        let files = [("ident_file", "pg_ident.conf"), ("hba_file", "pg_hba.conf")];
        let files = files.map(|(setting, name)| self.own_file(found, setting, name));
        let before = [read(&files[0].read_from)?, read(&files[1].read_from)?];
        let after = self.rules_in_front(&before[0], &before[1])?;
        self.put_rules(&files, &before, &after).await
    }

    /// Makes roles, schema and the leadership table, which wait for no standby.
    ///
    /// # Errors
    /// The superuser is not let in, a lock is in the way, or it takes too long.
    pub async fn become_equipped(&self) -> Result<()> {
        self.add_roles(&self.secrets()?).await
    }

    /// Takes the configuration over. Commits go on waiting for whom they waited until [`Instance::let_commits_go`]. What needs a restart waits for one.
    ///
    /// # Errors
    /// Files cannot be written, or the server does not read them again.
    pub async fn take_configuration(&self, found: &Stranger, parameters: &Parameters) -> Result<()> {
        let main = self.bring_configuration_home(found)?;
        self.configure(parameters).await?;
        let sync = found.setting("synchronous_standby_names").to_owned();
        let written = self.update_conf(|conf| *conf = Conf { term: conf.term, sync, ..Conf::default() }).await?;
        if self.include_in(&main)? || written {
            self.reload()?;
        }
        Ok(())
    }

    /// Commits wait for nobody until the agent says otherwise: the names that they waited for are not those of members.
    ///
    /// # Errors
    /// The file cannot be written, or the server does not read it again.
    pub async fn let_commits_go(&self) -> Result<()> {
        if self.update_conf(|conf| conf.sync.clear()).await? { self.reload().map(drop) } else { Ok(()) }
    }

    /// The same for a standby, which goes on following whom it follows until its agent points it at the leader.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn prepare_to_follow(&self, found: &Stranger) -> Result<()> {
        let main = self.bring_configuration_home(found)?;
        if main.is_at_home() { Ok(()) } else { self.include_in(&main).map(drop) }
    }

    fn bring_configuration_home(&self, found: &Stranger) -> Result<files::OwnFile> {
        let main = self.own_file(found, "config_file", "postgresql.conf");
        self.bring_home(&main).map(|()| main)
    }

    /// Where the server's own files belong, by the settings that name them.
    pub fn own_files(&self) -> [(&'static str, PathBuf); 3] {
        [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
            .map(|(setting, file)| (setting, self.data_dir().join(file)))
    }
}
