//! Ending the server: gently with a shutdown checkpoint, or all processes at once. For a switchover the checkpoint is what counts: once
//! `pg_control` says "shut down" its position is final, and nobody needs to wait for the process to tear down its memory.

use std::time::Duration;

use decision::names::Lsn;
use decision::view::ControlState;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::controldata;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::native::READERS_END_WITHIN;
use crate::process;

impl Instance {
    /// Fast shutdown: ends sessions, writes a checkpoint, and waits until the postmaster is gone. No error when nothing runs.
    ///
    /// # Errors
    /// `Timeout` when it is still there: the shutdown goes on, and may be waited for again or cut short with [`Instance::kill_all`].
    pub async fn stop_fast(&self, within: Duration) -> Result<()> {
        self.note_readers().await;
        let readers_end = async {
            sleep(READERS_END_WITHIN).await;
            self.end_readers();
            std::future::pending().await
        };
        tokio::select! {
            stopped = self.stop(Signal::SIGINT, within) => stopped,
            never = readers_end => never,
        }
    }

    /// Immediate shutdown: sessions are cut, no checkpoint, crash recovery at the next start. As [`Instance::stop_fast`] otherwise.
    pub async fn stop_immediate(&self, within: Duration) -> Result<()> {
        self.stop(Signal::SIGQUIT, within).await
    }

    async fn stop(&self, signal: Signal, within: Duration) -> Result<()> {
        let Some((postmaster, death)) = self.watch_death()? else { return Ok(()) };
        process::send(postmaster.pid, signal);
        timeout(within, death).await.map_err(|_| Error::timeout("waiting for postgres to stop", within))?;
        self.forget_sessions().await;
        Ok(())
    }

    /// Asks for a fast shutdown and returns at once. Follow it with [`Instance::shutdown_checkpoint`]. False when nothing runs.
    pub fn begin_stop(&self) -> bool {
        let running = self.postmaster();
        if let Some(postmaster) = running {
            process::send(postmaster.pid, Signal::SIGINT);
        }
        running.is_some()
    }

    /// Waits until `pg_control` says "shut down" and returns the position of the shutdown checkpoint. It is final: a standby that has
    /// replayed beyond it has everything. The process may still be there for a moment. Looks every half millisecond.
    ///
    /// # Errors
    /// `Timeout`; `WrongState` as soon as the postmaster has ended without that checkpoint, of a full disk for instance.
    pub async fn shutdown_checkpoint(&self, within: Duration) -> Result<Lsn> {
        let death = self.watch_death()?;
        let ended = async {
            if let Some((_, death)) = death {
                death.await;
            }
        };
        tokio::select! {
            found = self.await_shut_down(within) => return found,
            () = ended => {}
        }
        let without = || Error::WrongState("postgres has ended without its shutdown checkpoint".to_owned());
        self.shut_down_at().await?.ok_or_else(without)
    }

    async fn await_shut_down(&self, within: Duration) -> Result<Lsn> {
        let (begin, deadline) = (Instant::now(), Instant::now() + within);
        loop {
            if let Some(checkpoint) = self.shut_down_at().await? {
                return Ok(checkpoint);
            }
            if Instant::now() >= deadline {
                return Err(Error::timeout("waiting for the shutdown checkpoint", within));
            }
            if begin.elapsed() >= READERS_END_WITHIN {
                self.end_readers();
            }
            sleep(Duration::from_micros(500)).await;
        }
    }

    /// Where the shutdown checkpoint is, once `pg_control` says that there is one.
    async fn shut_down_at(&self) -> Result<Option<Lsn>> {
        let control = match controldata::read_direct(self.data_dir())? {
            Some(control) => control,
            None => self.full_control().await?.control,
        };
        Ok((control.state == ControlState::ShutDown).then_some(control.checkpoint))
    }

    /// Gets a server out of the way that is ending and has written its shutdown checkpoint: it may only be waiting for a standby that does
    /// not answer, and needs no recovery when it is killed. One that has not written it is left alone. Says whether it is gone.
    ///
    /// # Errors
    /// As [`Instance::kill_all`].
    pub async fn clear_away_shut_down(&self, by_itself_within: Duration) -> Result<bool> {
        let shut_down =
            controldata::read_direct(self.data_dir())?.is_some_and(|control| control.state == ControlState::ShutDown);
        if shut_down && self.stop_fast(by_itself_within).await.is_err() {
            self.kill_all().await?;
        }
        Ok(shut_down)
    }

    /// Kills every process of the server at once, orphans included, and waits until all are gone; returns how long that took.
    /// See [`process::kill_all`], which a fencer calls directly.
    pub async fn kill_all(&self) -> Result<Duration> {
        let data_dir = self.data_dir().to_path_buf();
        let killed = tokio::task::spawn_blocking(move || process::kill_all(&data_dir)).await;
        self.forget_sessions().await;
        killed.map_err(|error| Error::WrongState(format!("killing was cut off: {error}")))?
    }
}
