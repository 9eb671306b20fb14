//! Following somebody, or nobody. Whom a standby follows is in the file first, then in the server; an old connection to the
//! former upstream is ended by signal as well, since a replay that is held up by a reader never takes the reload, and its walreceiver
//! would go on acknowledging to a leader that was given up.

use std::time::Duration;

use decision::durability::Quorum;
use decision::names::Term;
use decision::parameters::Capacities;
use decision::view::{Standby, Upstream};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::conf::{Conf, HELD_BACK, Recovery, addresses, name_at};
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::loaded::asleep;
use crate::process::{self, Postmaster};
use crate::status::Status;

/// How long an old walreceiver may take to go by itself after a reload.
const GO_BY_ITSELF: Duration = Duration::from_millis(20);

impl Instance {
    /// Starts the server as a standby of `upstream`, or of nobody yet. Returns as soon as its process is there.
    ///
    /// # Errors
    /// `NeedsClone` for a half-made directory, `StartFailed` and `Host` when the server ends again, and what writing files may bring.
    pub async fn start_as_standby(&self, upstream: Option<&Upstream>) -> Result<Postmaster> {
        self.refuse_half_made()?;
        if let Some(running) = self.postmaster() {
            return Ok(running);
        }
        let recovery = upstream.map_or(Recovery::Nobody, |upstream| Recovery::Following(upstream.clone()));
        let control = self.full_control().await?;
        self.drop_unused_reservations(control.control.timeline)?;
        let floors = self.floors_above_conf(control.standby_floors);
        let syncs_slots = self.will_sync_slots();
        self.update_conf(move |conf| {
            conf.syncs_slots = syncs_slots;
            conf.recovery = recovery;
            HELD_BACK.clone_into(&mut conf.sync);
            conf.floors = floors;
        })
        .await?;
        durable::touch(&self.data_dir().join("standby.signal"))?;
        durable::remove(&self.data_dir().join("recovery.signal"))?;
        self.start().await
    }

    /// Starts the server as the primary of `term` on its old timeline, commits waiting for `quorum` from the first one on. Whether it
    /// `may_still` is asked last, when everything has been written.
    ///
    /// # Errors
    /// As [`Instance::start_as_standby`]; `WrongState` when it may not any more.
    pub async fn start_as_primary(
        &self,
        quorum: &Quorum,
        term: Term,
        may_still: impl Fn() -> bool + Send,
    ) -> Result<Postmaster> {
        self.refuse_half_made()?;
        if let Some(running) = self.postmaster() {
            return Ok(running);
        }
        let names = quorum.standby_names(term);
        let syncs_slots = self.will_sync_slots();
        self.update_conf(move |conf| {
            conf.syncs_slots = syncs_slots;
            conf.recovery = Recovery::Nobody;
            conf.sync = names;
            conf.term = term;
            conf.floors.clear();
        })
        .await?;
        durable::remove(&self.data_dir().join("standby.signal"))?;
        durable::remove(&self.data_dir().join("recovery.signal"))?;
        self.start_while(may_still).await
    }

    /// A standby that was made from a backup streams now: it fetches WAL from the archive no more.
    ///
    /// # Errors
    /// `Host` when the file cannot be written, `Down` when the server has ended.
    pub async fn end_fetching(&self) -> Result<()> {
        if self.read_conf().is_some_and(|conf| conf.fetch.is_some())
            && self.update_conf(|conf| conf.fetch = None).await?
        {
            self.reload()?;
        }
        Ok(())
    }

    /// Points the running standby at `upstream`, without a restart. Returns once nothing streams from anybody else.
    ///
    /// # Errors
    /// `WrongState` on a primary, `Timeout` when an old walreceiver stays.
    pub async fn follow(&self, upstream: &Upstream, within: Duration) -> Result<()> {
        let begin = Instant::now();
        let before = self.standby_status().await?;
        self.drop_unused_reservations(self.standby_facts(&before).timeline)?;
        let recovery = Recovery::Following(upstream.clone());
        self.memory().expected = None;
        self.update_conf(move |conf| {
            conf.recovery = recovery;
            HELD_BACK.clone_into(&mut conf.sync);
        })
        .await?;
        self.reload_replay(&before)?;
        loop {
            let status = self.standby_status().await?;
            // A walreceiver that came after the reload has the new address even before it is connected.
            let old =
                status.receiver.filter(|pid| before.receiver == Some(*pid) && !self.streams_from(&status, upstream));
            let Some(old) = old else { return Ok(()) };
            if begin.elapsed() > within {
                return Err(Error::timeout("waiting for the old walreceiver to go", within));
            }
            if begin.elapsed() > GO_BY_ITSELF {
                self.end_backends(&[old]);
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Follows nobody any more, now and after a restart, and replays what there is. Nothing received comes after what is returned, and
    /// nothing more is acknowledged to the former upstream. Readers that hold up replay are ended.
    ///
    /// When replay does not end in time the facts come back with `replay_done` false.
    ///
    /// # Errors
    /// `WrongState` on a primary, `Timeout` when the walreceiver does not go: then no pledge may be given.
    pub async fn pledge(&self, within: Duration) -> Result<Standby> {
        let deadline = Instant::now() + within;
        let before = self.standby_status().await?;
        self.update_conf(|conf| conf.recovery = Recovery::Nobody).await?;
        self.reload_replay(&before)?;
        let (mut rested, mut gone) = (0, 0);
        loop {
            let status = self.standby_status().await?;
            // Between the reload and its being taken the old address may be dialled once more: end that one, too.
            self.end_backends(&Vec::from_iter(status.receiver.into_iter().chain(status.slot_taker)));
            self.end_blocking_readers(&status).await?;
            if status.replay_paused() {
                self.resume_replay().await?;
            }
            self.wake_replay(&status);
            gone = if status.receiver.is_none() { gone + 1 } else { 0 };
            rested = if status.rests() && status.startup.and_then(asleep).is_some() { rested + 1 } else { 0 };
            // Seen twice: once could be the moment between two attempts.
            if rested >= 2 {
                return Ok(self.standby_facts(&status));
            }
            if Instant::now() >= deadline {
                let timeout = Error::timeout("waiting for the walreceiver to go", within);
                return if gone >= 2 { Ok(self.standby_facts(&status)) } else { Err(timeout) };
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// A replaying process that somebody has stopped (SIGSTOP) holds up a pledge and a promotion for ever: it is let go on. One that a debugger
    /// holds up is killed, and the server with it, to be started again.
    pub(crate) fn wake_replay(&self, status: &Status) {
        let Some(startup) = status.startup.filter(|pid| process::is_stopped(*pid)) else { return };
        tracing::warn!(
            startup,
            "the replaying process had been stopped by somebody: it goes on, for this standby may be needed"
        );
        if let Some(postmaster) = self.postmaster() {
            process::send_to_children(postmaster.pid, &[startup], Signal::SIGCONT);
            if process::is_traced(startup) {
                process::send_to_children(postmaster.pid, &[startup], Signal::SIGKILL);
            }
        }
    }

    /// Replay that somebody has paused never comes to its end. Only a superuser may let it go on.
    async fn resume_replay(&self) -> Result<()> {
        tracing::warn!("replay had been paused (pg_wal_replay_pause): it goes on, for this standby may be needed");
        let session = self.open_superuser().await?;
        let within = self.config().answer_within;
        let resumed = tokio::time::timeout(within, session.client.batch_execute("SELECT pg_wal_replay_resume()")).await;
        Ok(resumed.map_err(|_| Error::timeout("resuming replay", within))??)
    }

    /// Sees to it that a promotion of this running standby which nobody has ordered would acknowledge nothing; see [`HELD_BACK`]. One that
    /// follows nobody, or makes ready for a promotion, is left alone.
    ///
    /// # Errors
    /// `WrongState` on a primary, `Timeout` when the names are not taken in time.
    pub async fn hold_back(&self, within: Duration) -> Result<()> {
        if self.standby_status().await?.sync == HELD_BACK {
            return Ok(());
        }
        let me = self.clone();
        let at_rest = move |conf: &mut Conf| {
            if conf.recovery.upstream().is_some() && me.memory().expected.is_none() {
                HELD_BACK.clone_into(&mut conf.sync);
            }
        };
        self.update_conf(at_rest).await?;
        self.reload_commits(Instant::now() + within).await.map(|_| ())
    }

    /// The promotion for which this standby was made ready does not come; see [`Instance::expect_promotion`].
    ///
    /// # Errors
    /// As [`Instance::hold_back`].
    pub async fn expect_no_promotion(&self, within: Duration) -> Result<()> {
        self.memory().expected = None;
        self.hold_back(within).await
    }

    async fn standby_status(&self) -> Result<Status> {
        let status = self.status().await?;
        if status.standby { Ok(status) } else { Err(Error::WrongState("the server is a primary".to_owned())) }
    }

    /// Reloads the server, and the replaying process directly: it must take the signal before it can dial the old address again.
    fn reload_replay(&self, status: &Status) -> Result<()> {
        let postmaster = self.reload()?;
        process::send_to_children(postmaster, &Vec::from_iter(status.startup), Signal::SIGHUP);
        Ok(())
    }

    fn streams_from(&self, status: &Status, upstream: &Upstream) -> bool {
        let name = [("application_name", name_at(self.config(), upstream))];
        let wanted = addresses(upstream).into_iter().chain(name).map(|(key, value)| format!("{key}={value}"));
        let wanted: Vec<String> = wanted.collect();
        // Postgres shows the words of the connection string unquoted.
        let words: Vec<&str> = status.conninfo.as_deref().unwrap_or_default().split_whitespace().collect();
        wanted.iter().all(|word| words.contains(&word.as_str()))
    }

    /// What of the floors of the last start is needed still, by what has been replayed since: then the lower value waits for a restart, and is told.
    /// A primary needs none. `None`: nobody knows, or there are none.
    pub(crate) async fn floors_still_needed(&self) -> Option<Capacities> {
        let before = self.read_conf()?.floors;
        if before.is_empty() {
            return None;
        }
        if !self.data_dir().join("standby.signal").exists() {
            return Some(Capacities::new());
        }
        let mut now = self.floors_above_conf(self.capacities_on_disk().await.ok()?);
        now.retain(|name, floor| before.get(name).is_some_and(|before| *floor <= *before));
        Some(now)
    }

    /// What a standby must be configured with at least, where the configuration has less: its primary had these values, and replay stops
    /// at settings below them.
    fn floors_above_conf(&self, floors: Capacities) -> Capacities {
        let (ours, base) = (self.parameters(), self.base_capacities());
        let configured = |key: &str| {
            let ours = ours.get(key).and_then(|value| value.trim().parse::<u64>().ok());
            ours.or_else(|| base.get(key).copied()).unwrap_or(0)
        };
        floors.into_iter().filter(|(key, floor)| *floor > configured(key)).collect()
    }
}
