//! From standby to primary, as fast as Postgres goes: the promote file and a signal, then one question a millisecond on the kept connection
//! (`pg_promote()` and `pg_ctl promote` return 70 ms late). The names that commits wait for are in force before the signal, so
//! that the very first commit of the new reign waits for them.

use std::time::Duration;

use decision::durability::Quorum;
use decision::names::Term;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::conf::{Conf, Recovery};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::process;
use crate::status::Status;

/// How a promotion went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// From the call until the names were in force and the signal was sent.
    pub prepared: Duration,
    /// From the signal until the server had left recovery.
    pub promoted: Duration,
}

/// The names of a reign to come, taken by this server's checkpointer while it is still a standby, where they mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    names: String,
    postmaster: i32,
    checkpointer: i32,
}

impl Instance {
    /// Makes ready for a promotion that is likely to come: the names that `quorum` will have under `term` are configured and taken, so that
    /// [`Instance::promote`] need not wait for that. On a standby they have no effect, and whoever is promoted otherwise sets its own.
    /// Nothing is prepared where Postgres would ask a `restore_command` during the promotion: that setting goes in the same step.
    ///
    /// # Errors
    /// `WrongState` on a primary, `Timeout` when the names are not taken in time.
    pub async fn expect_promotion(&self, quorum: &Quorum, term: Term, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let restores = self.ask("SELECT current_setting('restore_command') <> ''", &[]).await?;
        if restores.first().is_none_or(|row| row.get(0)) {
            return Ok(());
        }
        let names = quorum.standby_names(term);
        let wanted = names.clone();
        self.update_conf(move |conf| (conf.sync, conf.term) = (wanted, term)).await?;
        let status = self.reload_commits(deadline).await?;
        if !status.standby {
            return Err(Error::WrongState("the server is a primary".to_owned()));
        }
        let (Some(postmaster), Some(checkpointer)) = (self.postmaster(), status.checkpointer) else { return Ok(()) };
        self.memory().expected = Some(Expected { names, postmaster: postmaster.pid, checkpointer });
        Ok(())
    }

    /// Whether exactly these names were taken by the very processes that run now, and are still what is configured.
    fn expects(&self, names: &str, term: Term, status: &Status) -> bool {
        let now = self.postmaster().zip(status.checkpointer).map(|(postmaster, checkpointer)| Expected {
            names: names.to_owned(),
            postmaster: postmaster.pid,
            checkpointer,
        });
        let configured = self.read_conf().is_some_and(|conf| conf.sync == names && conf.term == term);
        now.is_some() && self.memory().expected == now && configured
    }

    /// Lets the running standby become primary under `term`, waiting for `quorum` from its first commit on. Safe to repeat. Readers that
    /// hold up replay are ended. Returns once the server has left recovery; durable writes are proven by [`Instance::mark`] after that.
    ///
    /// # Errors
    /// `Timeout` when it takes longer; if the signal was sent by then it goes on, and another call waits for it.
    pub async fn promote(&self, quorum: &Quorum, term: Term, within: Duration) -> Result<Promoted> {
        let begin = Instant::now();
        let deadline = begin + within;
        let names = quorum.standby_names(term);
        let mut status = self.status().await?;
        let expected = status.standby && self.expects(&names, term, &status);
        if !expected {
            self.take_names(names.clone(), term).await?;
            status = self.reload_commits(deadline).await?;
        }
        if !status.standby {
            return Ok(Promoted { prepared: begin.elapsed(), promoted: Duration::ZERO });
        }
        self.end_blocking_readers(&status).await?;
        self.end_backends(&Vec::from_iter(status.slot_taker));
        if status.receiver.is_none() {
            self.close_seam()?;
        }
        let file = self.data_dir().join("promote");
        std::fs::write(&file, b"").map_err(|error| Error::io("create", &file, error))?;
        let postmaster = self.postmaster().ok_or_else(|| Error::Down("nothing to promote".to_owned()))?;
        process::send(postmaster.pid, Signal::SIGUSR1);
        let signalled = Instant::now();
        // The file says that it follows nobody any more before the first commit of the reign; as things were expected, only now.
        let told = self.take_names(names, term);
        let (left_recovery, told, ()) = tokio::join!(self.wait_for_primary(deadline, within), told, self.warm_writer());
        told?;
        left_recovery?;
        tracing::debug!(expected, prepared = ?(signalled - begin), promoted = ?signalled.elapsed(), "promoted");
        Ok(Promoted { prepared: signalled - begin, promoted: signalled.elapsed() })
    }

    /// Configures the names of a reign, and that nobody is followed in it.
    async fn take_names(&self, names: String, term: Term) -> Result<bool> {
        let reign = move |conf: &mut Conf| (conf.recovery, conf.sync, conf.term) = (Recovery::Nobody, names, term);
        self.update_conf(reign).await
    }

    async fn wait_for_primary(&self, deadline: Instant, within: Duration) -> Result<()> {
        let session = self.control().await?;
        let late = || Error::timeout("waiting for the promotion to end", within);
        let question = session.client.prepare("SELECT pg_is_in_recovery()").await?;
        for round in 1_u32.. {
            let answer = tokio::time::timeout_at(deadline, session.client.query_one(&question, &[])).await;
            if !answer.map_err(|_| late())??.try_get::<_, bool>(0)? {
                return Ok(());
            }
            if round.is_multiple_of(16) {
                // A reader may have come in the way of what is left to replay, or somebody may have stopped the process that replays.
                let status = self.status().await?;
                self.end_blocking_readers(&status).await?;
                self.end_backends(&Vec::from_iter(status.slot_taker));
                self.wake_replay(&status);
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err(late())
    }

    /// Ends readers that hold up replay here and now: a standby that is about to take over must reach the end of the WAL.
    ///
    /// # Errors
    /// As a look at the server: `Down`, `Busy`, `Timeout`.
    pub async fn clear_the_way_for_replay(&self) -> Result<()> {
        let status = self.status().await?;
        self.end_blocking_readers(&status).await
    }

    /// Ends the sessions inside a transaction while replay is held up by one of them. Replay that does not end cannot be promoted.
    pub(crate) async fn end_blocking_readers(&self, status: &Status) -> Result<()> {
        if !status.replay_blocked() {
            return Ok(());
        }
        let sql = "SELECT pid FROM pg_stat_get_activity(NULL)
            WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
        let rows = self.ask(sql, &[]).await?;
        let pids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i32>, _>>()?;
        tracing::warn!(sessions = pids.len(), "ending readers that hold up replay");
        self.end_backends(&pids);
        Ok(())
    }
}
