//! The fencer: a process of its own that kills every process of Postgres when the deadline passes, whether the agent is alive, dead,
//! stopped or starved. It asks nobody, needs no disk once it runs, and knows nothing but a deadline and a data directory. Read
//! `guard.rs` first: what it does when. `serve.rs` is its loop, `protocol.rs` the words between it and the agent, `family.rs` finds
//! and kills the processes, `watchdog.rs` keeps the kernel's watchdog behind it.

pub mod clock;
pub mod family;
pub mod guard;
pub mod protocol;
mod serve;
pub mod voice;
pub mod watchdog;
mod wires;

pub use serve::{ANOTHER_IS_THERE, main};

/// The name of the program, to be found beside the agent's own.
pub const PROGRAM: &str = "pgvigil-fencer";
