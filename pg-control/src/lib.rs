//! The hands of pgvigil: everything that touches the PostgreSQL of this host. [`Instance`] observes it into the words of `decision`,
//! and carries out what was decided: start, stop, promote, follow, pledge, clone, rewind, and who is waited for. Nothing is chosen
//! here. Every call to Postgres has its own deadline, every step may be repeated, and Postgres outlives the agent that started it.

mod adopt;
mod autoconf;
mod bootstrap;
mod clone;
pub mod conf;
pub mod controldata;
mod datadir;
mod death;
mod disk;
mod durable;
mod equip;
mod error;
mod instance;
mod loaded;
mod logical_copy;
mod marker;
mod observe;
mod overruled;
pub mod pidfile;
mod position;
pub mod process;
mod promote;
mod pulse;
mod reserve;
mod rewind;
mod seam;
mod settings;
mod slots;
mod source;
mod sql;
mod standby;
mod start;
mod status;
mod stop;
mod sync;
mod timeline;
mod tool;
mod walend;

pub use adopt::{Given, Stranger};
pub use bootstrap::{Backup, Born, Origin};
pub use clone::{CloneMethod, CloneOptions, Copying, Progress, Watched};
pub use conf::{Conf, Recovery};
pub use death::Death;
pub use disk::DiskWatch;
pub use error::{Error, Result};
pub use instance::{Instance, InstanceConfig, Secrets, make_again};
pub use observe::{Extras, Observation};
pub use overruled::{Overruled, Undoes};
pub use process::Postmaster;
pub use promote::Promoted;
pub use pulse::{Heartbeat, Pulse, opens};
pub use settings::{FellBack, Refused, Running};
pub use timeline::Fork;
pub use walend::{Beyond, EndOfWal};
