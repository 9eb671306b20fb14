//! The leadership marker: one row a term, committed like any other transaction, so that its acknowledgement proves that writes are durable.
//! A commit can also come back *without* that: cancelled while it waits, it reports success and a warning. And a row
//! that waits becomes visible when its backend is ended or the server restarts. So visible is not acknowledged: that is a column.

use std::time::Duration;

use decision::names::{MemberName, Term};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::sql::Session;

/// Always writes, so that its commit always waits: an insert that finds its row would write nothing and prove nothing.
const MARK: &str = "INSERT INTO pgvigil.leadership AS marker (term, leader) VALUES ($1, $2)
    ON CONFLICT (term) DO UPDATE SET proofs = marker.proofs + 1";
const PROBE: &str = "SELECT pg_logical_emit_message(true, 'pgvigil', 'write probe')";
const PROVE: &str = "UPDATE pgvigil.leadership SET proofs = proofs + 1 WHERE term = $1";

/// A commit under way. Given up in the middle, its backend would wait for standbys for ever and hold a connection slot: it is ended. That
/// releases nobody as acknowledged; the outcome is simply unknown.
struct Commit<'a> {
    instance: &'a Instance,
    session: Option<Session>,
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.instance.end_backends(&[session.pid]);
        }
    }
}

impl Instance {
    /// Commits the marker row of a term and waits for its acknowledgement. Safe to repeat. Where somebody has dropped the table, or revoked what
    /// the agent's role may do, that is mended first.
    ///
    /// # Errors
    /// `NotAcknowledged` when the wait was cancelled, `Timeout` when the outcome is unknown; neither proves anything.
    pub async fn mark(&self, term: Term, leader: &MemberName, within: Duration) -> Result<()> {
        let marked = self.commit(term, Some(leader), within).await;
        let Err(error @ (Error::Sql(_) | Error::Refused(_))) = &marked else { return marked };
        if self.is_equipped().await? {
            return marked;
        }
        tracing::warn!(%error, "what is the agent's own in the database was dropped or revoked: putting it back");
        self.equip(term, leader).await?;
        self.commit(term, Some(leader), within).await
    }

    /// Proves with one more commit that the present `synchronous_standby_names` are met. Errors as [`Instance::mark`]; `WrongState` when
    /// this term has no marker.
    pub async fn prove(&self, term: Term, within: Duration) -> Result<()> {
        self.commit(term, None, within).await
    }

    /// Commits a transaction that changes nothing, as a client of this cluster would commit one, and waits for its acknowledgement; how long that
    /// took, the connection left out. A message in the WAL that only whoever decodes it with messages could see: it takes no lock and leaves
    /// nothing behind.
    ///
    /// # Errors
    /// As [`Instance::mark`].
    pub async fn write_probe(&self, within: Duration) -> Result<Duration> {
        let deadline = Instant::now() + within;
        let late = || Error::timeout("committing a probe", within);
        let session = timeout_at(deadline, self.open_session()).await.map_err(|_| late())??;
        session.clear_notices();
        let mut commit = Commit { instance: self, session: Some(session) };
        let Some(session) = &commit.session else { return Err(late()) };
        let began = Instant::now();
        let committed = timeout_at(deadline, session.client.batch_execute(PROBE)).await.map_err(|_| late())?;
        let (took, warning) = (began.elapsed(), session.warning());
        // Nothing waits any more: it takes its leave by itself.
        commit.session = None;
        committed?;
        warning.map_or(Ok(took), |warning| Err(Error::NotAcknowledged(warning)))
    }

    /// Writes a checkpoint.
    pub async fn checkpoint(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let late = || Error::timeout("writing a checkpoint", within);
        // On a connection of its own: it may take long, and probes must not wait behind it.
        let session = timeout_at(deadline, self.open_session()).await.map_err(|_| late())??;
        timeout_at(deadline, session.client.batch_execute("CHECKPOINT")).await.map_err(|_| late())??;
        Ok(())
    }

    /// Opens the connection for markers ahead of time; a promotion should not wait for it.
    pub(crate) async fn warm_writer(&self) {
        if self.0.writer.lock().await.as_ref().is_some_and(|session| !session.client.is_closed()) {
            return;
        }
        let warm = async {
            let session = self.open_session().await?;
            session.prepared(&session.marker, MARK).await?;
            // Planning loads what a new backend has to know about the table. It is allowed in recovery, where writing is not.
            session.client.batch_execute(&format!("EXPLAIN {}", MARK.replace("$1, $2", "0, ''"))).await?;
            *self.0.writer.lock().await = Some(session);
            Ok::<(), Error>(())
        };
        // Where it fails the marker opens its own.
        let _ = tokio::time::timeout(self.config().answer_within, warm).await;
    }

    async fn commit(&self, term: Term, leader: Option<&MemberName>, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let late = || {
            Error::timeout(format!("committing the marker of term {term}; whether it is durable is unknown"), within)
        };
        let kept = self.0.writer.lock().await.take().filter(|session| !session.client.is_closed());
        let session = match kept {
            Some(session) => session,
            None => timeout_at(deadline, self.open_session()).await.map_err(|_| late())??,
        };
        session.clear_notices();
        let mut commit = Commit { instance: self, session: Some(session) };
        let Some(session) = &commit.session else { return Err(late()) };
        let committed = timeout_at(deadline, write(session, term, leader)).await;
        let outcome = match committed {
            Err(_) => return Err(late()),
            Ok(outcome) => outcome,
        };
        // Nothing waits any more, so the backend may live.
        let warning = session.warning();
        let session = commit.session.take();
        if let Err(Error::Busy(why)) = outcome {
            return Err(Error::Busy(self.with_holders(why).await));
        }
        outcome?;
        if let Some(warning) = warning {
            return Err(Error::NotAcknowledged(warning));
        }
        self.acknowledged(term, session);
        Ok(())
    }

    /// Names who holds a lock on the leadership table, for whoever must mend that.
    async fn with_holders(&self, why: String) -> String {
        let sql = "SELECT string_agg(format('pid %s (user %s, application \"%s\", %s for %s s)', a.pid, a.usename, a.application_name,
                a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::int), '; ')
            FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE l.relation = to_regclass('pgvigil.leadership') AND l.granted AND a.pid <> pg_backend_pid()
              AND a.application_name <> 'pgvigil'";
        let holders =
            self.ask(sql, &[]).await.ok().and_then(|rows| rows.first()?.try_get::<_, Option<String>>(0).ok()?);
        match holders {
            Some(holders) => format!("{why}; a lock on pgvigil.leadership is held by {holders}: end that transaction"),
            None => why,
        }
    }

    /// Writes down that the marker was acknowledged, for an agent that comes after this one; this one knows already, and nobody waits.
    fn acknowledged(&self, term: Term, session: Option<Session>) {
        {
            let mut memory = self.memory();
            memory.acknowledged = memory.acknowledged.max(term);
        }
        let Some(session) = session else { return };
        let me = self.clone();
        let note = async move {
            let sql = format!(
                "BEGIN; SET LOCAL synchronous_commit = local; \
                 UPDATE pgvigil.leadership SET acknowledged = true WHERE term = {term} AND NOT acknowledged; COMMIT"
            );
            let within = me.config().answer_within;
            match tokio::time::timeout(within, session.client.batch_execute(&sql)).await {
                Ok(Ok(())) => *me.0.writer.lock().await = Some(session),
                Ok(Err(error)) => tracing::warn!(%error, "could not write down that the marker was acknowledged"),
                Err(_) => me.end_backends(&[session.pid]),
            }
        };
        tokio::spawn(note);
    }
}

async fn write(session: &Session, term: Term, leader: Option<&MemberName>) -> Result<()> {
    let number =
        i64::try_from(term.0).map_err(|_| Error::WrongState(format!("term {term} is beyond what the table holds")))?;
    let rows = match leader {
        Some(leader) => {
            let statement = session.prepared(&session.marker, MARK).await?;
            session.client.execute(&statement, &[&number, &leader.as_str()]).await?
        }
        None => session.client.execute(PROVE, &[&number]).await?,
    };
    if rows == 0 {
        return Err(Error::WrongState(format!("term {term} has no marker yet")));
    }
    Ok(())
}
