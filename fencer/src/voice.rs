//! What the fencer has to say, without ever waiting for a listener: lines go to a thread of their own, which writes them to standard
//! error (the journal); where that is blocked, lines are dropped and the kill goes on.

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// As many lines may wait.
const BACKLOG: usize = 64;
/// Enough to write a line; the stack is locked memory.
const STACK_BYTES: usize = 64 * 1024;

/// Says lines.
#[derive(Clone, Debug)]
pub struct Voice(Option<SyncSender<String>>);

impl Voice {
    /// Starts the thread. Without one nothing is said.
    pub fn start() -> Self {
        let (lines, heard) = sync_channel::<String>(BACKLOG);
        let speak = move || {
            for line in heard {
                let _ = writeln!(std::io::stderr(), "pgvigil-fencer: {line}");
            }
        };
        let thread = thread::Builder::new().name("voice".to_owned()).stack_size(STACK_BYTES).spawn(speak);
        Self(thread.is_ok().then_some(lines))
    }

    /// Says nothing.
    pub fn mute() -> Self {
        Self(None)
    }

    /// Says a line, if somebody listens.
    pub fn say(&self, line: impl Into<String>) {
        if let Some(lines) = &self.0 {
            let _ = lines.try_send(line.into());
        }
    }
}
