//! Bringing a diverged data directory back to the leader's history with `pg_rewind`. While it works the directory is a mixture of two
//! histories, so a marker outside of it is written first and goes last: a rewind that was cut off is never started, only replaced.

use std::ffi::OsString;

use decision::names::Timeline;
use decision::view::Upstream;
use tokio_util::sync::CancellationToken;

use crate::conf::{Conf, Recovery, quote};
use crate::durable;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::tool;

impl Instance {
    /// Rewinds the stopped data directory to the history of `from`, ready to start as its standby. `pg_rewind` runs crash recovery first
    /// where that is needed. Cancelling leaves the directory half-made.
    ///
    /// # Errors
    /// `SourceNotReady` before anything was touched: the source does not answer, is a standby, is on another timeline than
    /// expected, or has not written its first checkpoint since its promotion. `NeedsClone` when the rewind failed.
    pub async fn rewind(&self, from: &Upstream, expect: Option<Timeline>, cancel: &CancellationToken) -> Result<()> {
        self.refuse_half_made()?;
        if self.postmaster().is_some() {
            return Err(Error::WrongState("a server runs in the data directory".to_owned()));
        }
        self.check_source(from, expect).await?;
        self.kill_stray_tools();
        self.settle().await?;
        self.archive_the_rest(cancel).await;
        self.mark_half_made("rewind")?;
        // pg_rewind runs crash recovery in a standalone server, which refuses to be a standby.
        durable::remove(&self.data_dir().join("standby.signal"))?;
        let mut arguments: Vec<OsString> = vec![
            "--target-pgdata".into(),
            self.data_dir().into(),
            "--source-server".into(),
            self.source_conninfo(from, &self.config().rewind_user).into(),
        ];
        arguments.extend(self.archive_for_rewind()?);
        let said = self.run("pg_rewind", &arguments, cancel).await?;
        if !said.ok {
            let words = tool::last_words(&said.err);
            // A full disk is worth its own mend, but the directory is lost all the same: the marker stays.
            return Err(match tool::diagnose(&said.err) {
                Some(error @ Error::Host { .. }) => error,
                _ => Error::NeedsClone(format!("pg_rewind: {words}")),
            });
        }
        tracing::info!(from = %from.member, "rewound");
        tracing::debug!(said = %tool::last_words(&said.err), "pg_rewind");
        // The source's configuration came along, ours included: this member must never start with it.
        let conf = Conf::of_standby(Recovery::Following(from.clone()));
        self.write_conf_into(self.data_dir(), &conf)?;
        durable::touch(&self.data_dir().join("standby.signal"))?;
        self.memory().end_of_wal = None;
        self.mark_whole()
    }

    /// WAL that is not here any more comes from the archive, where the operator has named one. `pg_rewind` asks Postgres for the
    /// `restore_command`, and whoever may lead runs without one: so it is shown a configuration of its own.
    fn archive_for_rewind(&self) -> Result<Vec<OsString>> {
        let parameters = self.parameters();
        let Some(fetch) = parameters.get("restore_command").filter(|fetch| !fetch.is_empty()) else {
            return Ok(Vec::new());
        };
        let main = self.data_dir().join("postgresql.conf");
        let text = format!("include {}\nrestore_command = {}\n", quote(&main.to_string_lossy()), quote(fetch));
        let path = self.config().state_dir.join("rewind.conf");
        durable::write(&path, text.as_bytes(), 0o600)?;
        let mut shown = OsString::from("--config-file=");
        shown.push(&path);
        Ok(vec!["--restore-target-wal".into(), shown])
    }

    async fn check_source(&self, from: &Upstream, expect: Option<Timeline>) -> Result<()> {
        let source = self.ask_source(from, false).await?;
        let not_ready = |why: String| Err(Error::SourceNotReady(format!("{}: {why}", from.member)));
        let Some(timeline) = source.timeline.filter(|_| !source.standby) else {
            return not_ready("it is a standby".to_owned());
        };
        if let Some(expect) = expect.filter(|expect| *expect != timeline) {
            return not_ready(format!("it is on timeline {timeline}, not {expect}"));
        }
        if source.control_timeline != timeline {
            return not_ready(format!(
                "its control file still shows timeline {}, not {timeline}: it needs a checkpoint after its promotion",
                source.control_timeline
            ));
        }
        Ok(())
    }
}
