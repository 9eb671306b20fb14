//! Noticing at once that a process has died. A pidfd becomes readable when its process exits (6 to 20 ms after a kill of the postmaster,
//! most of which is tearing down shared memory), and it cannot be fooled by a process id used again. A thread waits on it, since
//! tokio offers no safe way to; it ends with the process or with the watch.

use std::future::Future;
use std::io::PipeWriter;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::process::{self, Postmaster};

/// A future that completes when the watched process has died. Dropping it ends the watch.
#[derive(Debug)]
pub struct Death {
    died: oneshot::Receiver<()>,
    /// Closed when the watch is dropped: wakes the thread.
    _still_wanted: Option<PipeWriter>,
}

impl Future for Death {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.died).poll(context).map(|_| ())
    }
}

impl Death {
    /// Watches a process. One that is gone already counts as dead.
    pub fn of(pid: i32) -> Result<Self> {
        let failed = |source| Error::Io { doing: format!("watch process {pid}"), source };
        let (sender, died) = oneshot::channel();
        let target = rustix::process::Pid::from_raw(pid);
        let pidfd = match target.map(|target| pidfd_open(target, PidfdFlags::empty())) {
            None | Some(Err(rustix::io::Errno::SRCH)) => return Ok(Self { died, _still_wanted: None }),
            Some(Err(error)) => return Err(failed(error.into())),
            Some(Ok(pidfd)) => pidfd,
        };
        let (dropped, still_wanted) = std::io::pipe().map_err(failed)?;
        let wait = move || {
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&dropped, PollFlags::IN)];
            while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
            process::reap(pid);
            let _ = sender.send(());
        };
        std::thread::Builder::new().name(format!("death-of-{pid}")).spawn(wait).map_err(failed)?;
        Ok(Self { died, _still_wanted: Some(still_wanted) })
    }
}

impl Instance {
    /// The running postmaster, and the future of its death; `None` when there is none.
    pub fn watch_death(&self) -> Result<Option<(Postmaster, Death)>> {
        let Some(before) = process::find(self.data_dir()) else { return Ok(None) };
        let death = Death::of(before.pid)?;
        // The id could have gone to another process between the two: look again, with the pidfd in hand.
        let after = process::find(self.data_dir());
        Ok(after.filter(|after| after.pid == before.pid).map(|after| (after, death)))
    }
}
