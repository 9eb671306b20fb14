//! The lines of the log on their way out. A reader of standard error that stalls (a journal that hangs, a container's log that is full) must not
//! stop an agent that renews its lease beside: lines go to a thread of their own, and where that is blocked they are dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// As many lines may wait: seconds of the most talkative filter, and less than a megabyte.
const BACKLOG: usize = 2048;
const POLL: Duration = Duration::from_millis(5);

enum Item {
    Line { text: Vec<u8>, dropped_before: u64 },
    Flush(SyncSender<()>),
}

/// Takes lines without ever waiting. Each call of `write` is one line.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread that writes to `out`. `gap` words the line that stands for lines that were dropped.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(out: impl Write + Send + 'static, gap: fn(u64) -> String) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(BACKLOG);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_out(out, &waiting, gap))?;
        Ok(Self { queue, dropped: Arc::default() })
    }

    /// Waits until everything that was said before is written, for so long at most.
    pub(super) fn flush(&self, within: Duration) {
        let begin = Instant::now();
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(item) {
            if begin.elapsed() >= within {
                return;
            }
            thread::sleep(POLL);
            item = back;
        }
        let _ = written.recv_timeout(within.saturating_sub(begin.elapsed()));
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let dropped_before = self.dropped.swap(0, Ordering::Relaxed);
        if self.queue.try_send(Item::Line { text: text.to_vec(), dropped_before }).is_err() {
            self.dropped.fetch_add(dropped_before + 1, Ordering::Relaxed);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_out(mut out: impl Write, waiting: &Receiver<Item>, gap: fn(u64) -> String) {
    for item in waiting {
        match item {
            Item::Line { text, dropped_before } => {
                if dropped_before > 0 {
                    let _ = writeln!(out, "{}", gap(dropped_before));
                }
                // There is nobody to tell that it could not be written.
                let _ = out.write_all(&text);
            }
            Item::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    /// More than a pipe and the queue hold together.
    const MANY: u64 = 20_000;
    const NEVER_WAITS: Duration = Duration::from_secs(5);

    fn gap(count: u64) -> String {
        format!("{count} dropped")
    }

    fn say(lines: &mut Lines, line: &str) {
        lines.write_all(format!("{line}\n").as_bytes()).expect("it is never refused");
    }

    #[test]
    fn whoever_logs_never_waits_for_a_reader_and_the_gap_is_told_where_it_is() {
        let (reader, writer) = pipe().expect("a pipe");
        let mut lines = Lines::start(writer, gap).expect("a thread");
        let begin = Instant::now();
        for number in 0..MANY {
            say(&mut lines, &number.to_string());
        }
        lines.flush(Duration::from_millis(50));
        assert!(begin.elapsed() < NEVER_WAITS, "it waited for {:?}", begin.elapsed());
        let heard = thread::spawn(|| BufReader::new(reader).lines().map(|line| line.expect("a line")).collect());
        lines.flush(NEVER_WAITS);
        say(&mut lines, "after");
        drop(lines);
        let heard: Vec<String> = heard.join().expect("it reads to the end");
        let (mut next, mut gaps) = (0, 0);
        for line in &heard[..heard.len() - 1] {
            let (count, is_gap) = line.strip_suffix(" dropped").map_or((line.as_str(), false), |count| (count, true));
            let count: u64 = count.parse().expect("a number");
            assert!(is_gap || count == next, "{count} instead of {next}");
            (next, gaps) = if is_gap { (next + count, gaps + 1) } else { (next + 1, gaps) };
        }
        assert_eq!((next, heard.last().map(String::as_str)), (MANY, Some("after")));
        assert!(gaps > 0, "a pipe and a queue have held {MANY} lines");
    }

    #[test]
    fn what_was_said_is_written_when_the_flush_returns() {
        let (reader, writer) = pipe().expect("a pipe");
        let mut lines = Lines::start(writer, gap).expect("a thread");
        say(&mut lines, "the last word");
        let begin = Instant::now();
        lines.flush(NEVER_WAITS);
        assert!(begin.elapsed() < NEVER_WAITS, "it waited in vain");
        let mut heard = String::new();
        BufReader::new(reader).read_line(&mut heard).expect("a line");
        assert_eq!(heard, "the last word\n");
    }
}
