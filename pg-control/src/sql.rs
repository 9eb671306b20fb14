//! Connections to the local server: unix socket, peer authentication, a bounded time for everything. One connection is kept open for
//! observing, since a new one costs 4 ms, a free slot and a fork. After a timeout a connection is dropped, never reused: the
//! statement goes on running in the server, and the next would queue behind it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, Statement};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::process;

/// What a connection is for. One that only looks commits nothing, and sees what an operator has set about commits for everybody.
#[derive(Clone, Copy)]
enum Purpose {
    Looking,
    Writing,
}

/// One connection, and what the server said beside its answers.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// The statement that observes, prepared once.
    pub(crate) status: Mutex<Option<Statement>>,
    /// The statement about the leadership table: the observing connection reads it, the writing one writes it.
    pub(crate) marker: Mutex<Option<Statement>>,
    /// What that table said last. Its terms only grow while a server runs.
    pub(crate) marker_seen: Mutex<(i64, i64)>,
    /// The process id of its backend.
    pub(crate) pid: i32,
    notices: Arc<Mutex<Vec<DbError>>>,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A frozen server would keep the task waiting for ever.
        self.connection.abort();
    }
}

impl Session {
    async fn open(instance: &Instance, user: &str, purpose: Purpose) -> Result<Session> {
        Self::open_in(&instance.config().database, instance, user, purpose).await
    }

    async fn open_in(database: &str, instance: &Instance, user: &str, purpose: Purpose) -> Result<Session> {
        let config = instance.config();
        let mut options = Config::new();
        options.host_path(&config.socket_dir).port(instance.port()).user(user).dbname(database);
        options.application_name("pgvigil").connect_timeout(config.answer_within);
        // What an operator has set for everybody must not change what a probe or a marker means.
        let fixed = "-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=200ms \
             -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c jit=off";
        match purpose {
            Purpose::Looking => options.options(fixed),
            Purpose::Writing => {
                options.options(format!("{fixed} -c synchronous_commit=on -c default_transaction_read_only=off"))
            }
        };
        let (client, mut connection) = options.connect(NoTls).await?;
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&notices);
        let pump = async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notice(notice) = message {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
                }
            }
        };
        let mut session = Session {
            client,
            status: Mutex::new(None),
            marker: Mutex::new(None),
            marker_seen: Mutex::new((0, 0)),
            pid: 0,
            notices,
            connection: tokio::spawn(pump),
        };
        session.pid = session.client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(session)
    }

    /// Prepares a statement once, and remembers it in its slot.
    pub(crate) async fn prepared(&self, slot: &Mutex<Option<Statement>>, sql: &str) -> Result<Statement> {
        let known = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(statement.clone());
        Ok(statement)
    }

    /// Forgets what the server has said so far.
    pub(crate) fn clear_notices(&self) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first warning since then. The server sends it before the answer that it belongs to.
    pub(crate) fn warning(&self) -> Option<String> {
        let notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let warning = notices.iter().find(|notice| {
            // Only this form of the severity is never translated.
            notice.parsed_severity().is_none_or(|severity| severity == Severity::Warning)
        });
        warning.map(|notice| notice.message().to_owned())
    }
}

impl Instance {
    /// The kept connection, opened anew when it is gone.
    pub(crate) async fn control(&self) -> Result<Arc<Session>> {
        let within = self.config().answer_within;
        let open = async {
            let mut kept = self.0.control.lock().await;
            if let Some(session) = kept.as_ref().filter(|session| !session.client.is_closed()) {
                return Ok(Arc::clone(session));
            }
            *kept = None;
            let session = Arc::new(self.open_for(Purpose::Looking).await?);
            *kept = Some(Arc::clone(&session));
            Ok(session)
        };
        timeout(within, open).await.unwrap_or_else(|_| Err(Error::timeout("connecting to postgres", within)))
    }

    /// A new connection as the agent's role, or as the superuser when only the reserved slots are left, or that role is not let in (somebody may
    /// have taken its right to log in). The caller bounds the time.
    pub(crate) async fn open_session(&self) -> Result<Session> {
        self.open_for(Purpose::Writing).await
    }

    /// A new connection that only looks. The caller bounds the time.
    pub(crate) async fn open_to_look(&self) -> Result<Session> {
        self.open_for(Purpose::Looking).await
    }

    /// The same in another database.
    pub(crate) async fn open_session_in(&self, database: &str) -> Result<Session> {
        Session::open_in(database, self, &self.config().control_user, Purpose::Writing).await
    }

    async fn open_for(&self, purpose: Purpose) -> Result<Session> {
        let config = self.config();
        let deadline = Instant::now() + config.answer_within;
        loop {
            match Session::open(self, &config.control_user, purpose).await {
                Err(Error::Busy(why)) if why.contains("os error") && Instant::now() < deadline => {
                    // The backlog of the socket is full. If it stays so the server does not accept at all, and that is no answer.
                    sleep(Duration::from_millis(5)).await;
                }
                Err(Error::Busy(why)) if why.contains("os error") => {
                    return Err(Error::timeout("connecting to postgres", config.answer_within));
                }
                Err(Error::Busy(_)) => return Session::open(self, &config.superuser, purpose).await,
                Err(refused @ Error::Refused(_)) => {
                    return Session::open(self, &config.superuser, purpose).await.map_err(|_| refused);
                }
                other => return other,
            }
        }
    }

    /// A new connection as the superuser, for the first steps of a cluster.
    pub(crate) async fn open_superuser(&self) -> Result<Session> {
        let config = self.config();
        let open = Session::open(self, &config.superuser, Purpose::Writing);
        let timed = timeout(config.answer_within, open).await;
        timed.unwrap_or_else(|_| Err(Error::timeout("connecting to postgres", config.answer_within)))
    }

    /// One row from the kept connection, by a deadline. A connection that does not answer is dropped.
    pub(crate) async fn ask(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.ask_within(sql, parameters, self.config().answer_within).await
    }

    pub(crate) async fn ask_within(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        within: Duration,
    ) -> Result<Vec<Row>> {
        let deadline = Instant::now() + within;
        let session = self.control().await?;
        match timeout_at(deadline, session.client.query(sql, parameters)).await {
            Ok(rows) => Ok(rows?),
            Err(_) => {
                self.drop_control(&session).await;
                Err(Error::timeout("asking postgres", within))
            }
        }
    }

    /// Drops the kept connection if it is still this one.
    pub(crate) async fn drop_control(&self, session: &Arc<Session>) {
        let mut kept = self.0.control.lock().await;
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, session)) {
            *kept = None;
        }
    }

    /// Drops every connection: the server that they belonged to is gone.
    pub(crate) async fn forget_sessions(&self) {
        *self.0.control.lock().await = None;
        *self.0.writer.lock().await = None;
    }

    /// Ends backends by signal. The agent runs as the user that owns the server, so this needs no right inside the database. One that is
    /// stopped ends only once it is let go on: the signal to end is pending by then, and comes first.
    pub(crate) fn end_backends(&self, pids: &[i32]) {
        if let Some(postmaster) = self.postmaster() {
            process::send_to_children(postmaster.pid, pids, Signal::SIGTERM);
            process::send_to_children(postmaster.pid, pids, Signal::SIGCONT);
        }
    }

    /// Ends a WAL sender or a walreceiver that somebody has stopped, and says whether it is one; another takes its place. `SIGKILL` would end
    /// every session.
    pub fn end_stopped(&self, pid: i32) -> bool {
        let stopped = process::is_stopped(pid);
        if stopped {
            self.end_backends(&[pid]);
        }
        stopped
    }

    /// Lets the server read its configuration again.
    pub(crate) fn reload(&self) -> Result<i32> {
        let postmaster = self.postmaster().ok_or_else(|| Error::Down("nothing to reload".to_owned()))?;
        process::send(postmaster.pid, Signal::SIGHUP);
        Ok(postmaster.pid)
    }
}
