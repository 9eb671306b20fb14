//! One connection to a fencer: numbered orders, and answers that repeat the number. A fencer that does not answer in time is as good as
//! none.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fencer::protocol::{Answer, LONGEST_LINE, Order, VERSION, socket_name};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::net::UnixStream;

/// How long an answer may take, on a starved host too. Beyond it the fencer is replaced.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    /// The same stream, for writing at once: one line a second never fills it.
    writer: StdStream,
    /// The fencer's process id.
    pub(super) pid: i32,
    unread: Vec<u8>,
    seq: u64,
    answered: u64,
    asked_at: Instant,
}

impl Wire {
    /// Connects to the fencer of this version.
    pub(super) fn connect(state_dir: &Path) -> Result<Self> {
        Self::to(state_dir, &socket_name(VERSION))
    }

    /// Connects to any fencer, by the name of its socket. The way through an open directory is short, whatever its name.
    pub(super) fn to(state_dir: &Path, name: &str) -> Result<Self> {
        let directory = File::open(state_dir).with_context(|| format!("cannot open {}", state_dir.display()))?;
        let stream = StdStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
        stream.set_nonblocking(true)?;
        let pid = getsockopt(&stream, PeerCredentials)?.pid();
        let writer = stream.try_clone()?;
        let stream = UnixStream::from_std(stream)?;
        Ok(Self { stream, writer, pid, unread: Vec::new(), seq: 0, answered: 0, asked_at: Instant::now() })
    }

    /// Sends an order and returns its number.
    pub(super) fn send(&mut self, order: &Order) -> Result<u64> {
        if self.is_answered() {
            self.asked_at = Instant::now();
        }
        self.seq += 1;
        let line = order.line(self.seq);
        let sent = self.writer.write(line.as_bytes()).context("the fencer cannot be told")?;
        if sent < line.len() {
            bail!("the fencer does not read");
        }
        Ok(self.seq)
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered >= self.seq
    }

    /// How long nothing has been said.
    pub(super) fn quiet_for(&self) -> Duration {
        self.asked_at.elapsed()
    }

    /// How long the oldest question may still go unanswered; `None`: there is none.
    pub(super) fn patience(&self) -> Option<Duration> {
        (!self.is_answered()).then(|| ANSWER_WITHIN.saturating_sub(self.asked_at.elapsed()))
    }

    /// Grants an overdue answer a quarter of the time again.
    pub(super) fn wait_a_little_more(&mut self) {
        self.asked_at = Instant::now().checked_sub(ANSWER_WITHIN * 3 / 4).unwrap_or(self.asked_at);
    }

    /// The next answer. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// The fencer has ended, or says what is no answer.
    pub(super) async fn next(&mut self) -> Result<Answer> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let answer = String::from_utf8_lossy(&line[..end]).parse().map_err(anyhow::Error::msg)?;
                if let Answer::Report(report) = &answer {
                    self.answered = self.answered.max(report.seq.min(self.seq));
                    self.asked_at = Instant::now();
                }
                return Ok(answer);
            }
            if self.unread.len() > LONGEST_LINE {
                bail!("the fencer does not come to the end of its line");
            }
            self.stream.readable().await?;
            let mut chunk = [0_u8; 1024];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => bail!("the fencer has ended"),
                Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The answer to what was sent last, or whatever comes before it that ends the conversation.
    pub(super) async fn answer(&mut self) -> Result<Answer> {
        let answer = async {
            loop {
                let answer = self.next().await?;
                if self.is_answered() || answer == Answer::Superseded {
                    return Ok(answer);
                }
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| bail!("the fencer does not answer"))
    }
}
