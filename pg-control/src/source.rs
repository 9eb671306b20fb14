//! The other server, from which a clone or a rewind is made: asked first whether it is fit for that. A rewind from a leader whose control
//! file still shows the timeline before its promotion says "no rewind required" and leaves the divergence in place (measured).

use std::time::Duration;

use decision::names::{Lsn, SystemId, Timeline};
use decision::site::RemoteSeen;
use decision::view::Upstream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, NoTls};

use crate::conf::{addresses, conninfo_of, name_at};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::timeline::parse_history;

/// How long the source may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

const FACTS: &str = "
SELECT role.standby, (SELECT system_identifier FROM pg_control_system()) AS system_id,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS control_timeline,
       CASE WHEN NOT role.standby THEN substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) END AS timeline
FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) AS role";

/// What the source says about itself.
pub(crate) struct Source {
    pub(crate) system_id: SystemId,
    pub(crate) standby: bool,
    pub(crate) control_timeline: Timeline,
    pub(crate) timeline: Option<Timeline>,
    /// The size of its databases in bytes, where it would tell.
    pub(crate) bytes: Option<u64>,
    /// Where it has tablespaces, if that was asked.
    pub(crate) tablespaces: Vec<String>,
}

fn timeline_in(text: Option<String>) -> Option<Timeline> {
    text.and_then(|text| u32::from_str_radix(&text, 16).ok()).map(Timeline)
}

impl Instance {
    /// Whether the upstream still has the WAL that a standby needs next, from `position` on.
    ///
    /// # Errors
    /// As a clone: the source does not answer, or does not let us in.
    pub async fn source_still_has(&self, from: &Upstream, position: Lsn) -> Result<bool> {
        let segment = self.full_control().await?.wal_segment_bytes.max(1);
        let number = position.0 / segment;
        let per_file = (1_u64 << 32) / segment;
        let needed = format!("{:08X}{:08X}", number / per_file, number % per_file);
        let ask = async {
            let (client, pump) = self.connect_to_source(from).await?;
            // The oldest that is left, of whatever timeline: the file that is needed may not have been begun yet.
            let sql =
                "SELECT coalesce(min(substr(name, 9)), '') <= $1::text FROM pg_ls_dir('pg_wal', true, false) AS name
                WHERE length(name) = 24";
            let still: bool = client.query_one(sql, &[&needed]).await?.try_get(0)?;
            pump.abort();
            Ok(still)
        };
        let late = || Err(Error::timeout("asking the source for its WAL", ANSWER_WITHIN));
        timeout(ANSWER_WITHIN, ask).await.unwrap_or_else(|_| late())
    }

    /// Asks the source, as the rewind role.
    ///
    /// # Errors
    /// `SourceNotReady` when it does not answer, `Refused` when it does not let us in.
    pub(crate) async fn ask_source(&self, from: &Upstream, with_size: bool) -> Result<Source> {
        let ask = async {
            let (client, pump) = self.connect_to_source(from).await?;
            let row = client.query_one(FACTS, &[]).await?;
            let size =
                "SELECT sum(pg_database_size(oid))::int8 FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')";
            let bytes = if with_size { client.query_one(size, &[]).await?.try_get::<_, Option<i64>>(0)? } else { None };
            let places =
                "SELECT place FROM pg_tablespace, pg_tablespace_location(oid) AS place WHERE starts_with(place, '/')";
            let rows = if with_size { client.query(places, &[]).await? } else { Vec::new() };
            let tablespaces = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            pump.abort();
            Ok(Source {
                system_id: SystemId(row.try_get::<_, i64>("system_id")?.cast_unsigned()),
                standby: row.try_get("standby")?,
                control_timeline: Timeline(row.try_get::<_, i32>("control_timeline")?.cast_unsigned()),
                timeline: timeline_in(row.try_get("timeline")?),
                tablespaces,
                bytes: bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            })
        };
        let late = || Err(Error::timeout("asking the source", ANSWER_WITHIN));
        let answer = timeout(ANSWER_WITHIN, ask).await.unwrap_or_else(|_| late());
        let at = format!("{}:{}", from.host, from.port);
        answer.map_err(|error| match error {
            Error::Refused(why) => Error::Refused(format!("{} at {at}: {why}", self.config().rewind_user)),
            other => Error::SourceNotReady(format!("{} at {at}: {other}", from.member)),
        })
    }

    /// Asks another site who it is, and what timeline it writes with which ancestors.
    ///
    /// # Errors
    /// As [`Instance::source_still_has`].
    pub async fn ask_remote(&self, from: &Upstream) -> Result<RemoteSeen> {
        let ask = async {
            let (client, pump) = self.connect_to_source(from).await?;
            let row = client.query_one(FACTS, &[]).await?;
            let timeline = timeline_in(row.try_get("timeline")?);
            let control_timeline = Timeline(row.try_get::<_, i32>("control_timeline")?.cast_unsigned());
            let history = match timeline {
                Some(timeline) if timeline.0 > 1 => {
                    let sql = "SELECT convert_from(pg_read_binary_file($1), 'UTF8')";
                    let file = format!("pg_wal/{:08X}.history", timeline.0);
                    let text: String = client.query_one(sql, &[&file]).await?.try_get(0)?;
                    parse_history(&text).into_iter().map(|fork| (fork.timeline, fork.ended_at)).collect()
                }
                Some(_) | None => Vec::new(),
            };
            pump.abort();
            Ok(RemoteSeen {
                system_id: SystemId(row.try_get::<_, i64>("system_id")?.cast_unsigned()),
                timeline,
                history,
                rewind_source_ready: timeline == Some(control_timeline),
            })
        };
        timeout(ANSWER_WITHIN, ask)
            .await
            .unwrap_or_else(|_| Err(Error::timeout("asking the other site", ANSWER_WITHIN)))
    }

    /// A connection to the source as the rewind role, and the task that carries it.
    pub(crate) async fn connect_to_source(&self, from: &Upstream) -> Result<(Client, JoinHandle<()>)> {
        let password = self.secrets()?.rewind_password;
        let config = self.config();
        let mut options = Config::new();
        options.user(&config.rewind_user).password(password).dbname(&config.database);
        options.application_name("pgvigil").connect_timeout(ANSWER_WITHIN).options("-c search_path=pg_catalog");
        let addresses = from.addresses();
        for (host, port) in &addresses {
            options.host(host).port(*port);
        }
        // Of several servers the one that accepts writes; where none does, any of them can say so.
        let mut of_several = options.clone();
        of_several.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let primary = if addresses.len() > 1 { of_several.connect(NoTls).await.ok() } else { None };
        let (client, connection) = match primary {
            Some(connected) => connected,
            None => options.connect(NoTls).await?,
        };
        // Why a connection ends is told by the question that was asked on it.
        Ok((client, tokio::spawn(async move { drop(connection.await) })))
    }

    /// How the programs of Postgres reach the source. The password is in the file that `PGPASSFILE` names.
    pub(crate) fn source_conninfo(&self, from: &Upstream, user: &str) -> String {
        let mut pairs = addresses(from);
        pairs.extend([
            ("user", user.to_owned()),
            ("dbname", self.config().database.clone()),
            ("application_name", format!("{}_copy", name_at(self.config(), from))),
            ("connect_timeout", "5".to_owned()),
            ("keepalives_idle", "10".to_owned()),
            ("keepalives_interval", "5".to_owned()),
            ("keepalives_count", "3".to_owned()),
        ]);
        conninfo_of(&pairs)
    }
}
