//! Promises between agents: a leader that cannot renew its lease asks its peers to let it go on, and goes on while enough of them do.
//! `ask` is the leader's side and `hear` the peers'; `book` keeps what has been promised, `reign` on what `ground` a leader stands, `seal`
//! keeps strangers out. The rules are in `decision::promise`.

mod ask;
mod book;
mod ground;
mod hear;
mod refused;
mod reign;
mod seal;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use decision::names::{MemberName, SystemId, Term};
use decision::promise::Refusal;
use decision::view::Upstream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::state_dir::in_its_directory;

pub use ask::Asker;
pub use book::Book;
pub use ground::Ground;
#[cfg(test)]
pub use ground::Record;
pub use hear::{Reply, hear};
pub use refused::Refused;
pub use reign::{Carried, Reign, Round};
pub use seal::Seal;

/// The path of the endpoint.
pub const PATH: &str = "/promise";
/// The header with the seal of a question or an answer.
pub const SEAL: &str = "x-pgvigil-seal";

/// Everything about promises on one node.
pub struct Promises {
    /// What this node has promised and revoked.
    pub book: Book,
    /// On what ground it leads.
    pub reign: Reign,
    /// Who has not promised to let it go on.
    pub refused: Refused,
    /// The key of the cluster.
    pub seal: Seal,
    /// Whether there is anything here for which to ask: a Postgres that takes writes, or will soon. Promises for a dead one would only keep
    /// others from taking over.
    pub worth_asking: AtomicBool,
    /// Whether etcd was seen before and does not show itself now. The lock lease may be renewed all the same, but it no longer says that the
    /// leader key is where it was.
    pub out_of_sight: watch::Sender<bool>,
    /// The lease under which the leader key names this node, as last seen; 0: none.
    pub held_under: watch::Sender<i64>,
    cluster: String,
    me: MemberName,
    /// Where the Postgres of this node is: host and port.
    address: (String, u16),
}

impl Promises {
    /// What earlier lives have left in `state_dir`. `address`: where others reach the Postgres of this node, host and port.
    pub fn open(state_dir: &Path, cluster: &str, me: &MemberName, address: (String, u16)) -> Arc<Self> {
        // A kernel that does not tell its boot leaves promises of an earlier life at their whole length.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Arc::new(Self {
            book: Book::open(state_dir, boot.trim().to_owned()),
            reign: Reign::open(state_dir, me.clone()),
            refused: Refused::default(),
            seal: Seal::open(state_dir),
            worth_asking: AtomicBool::new(true),
            out_of_sight: watch::channel(false).0,
            held_under: watch::channel(0).0,
            cluster: cluster.to_owned(),
            me: me.clone(),
            address,
        })
    }

    /// Writes down again what somebody has deleted of these notes: what has been promised binds the next life as well.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self) -> std::io::Result<bool> {
        let book = self.book.keep()?;
        let reign = self.reign.keep()?;
        Ok(self.seal.keep()? || book || reign)
    }

    /// Where this node is to be followed while it leads `term`.
    fn upstream(&self, term: Term) -> Upstream {
        Upstream { member: self.me.clone(), host: self.address.0.clone(), port: self.address.1, term, slot: None }
    }
}

/// The role in which the answer to a question with this seal is sealed: an answer to one question is none to another.
fn answer_to(seal: &str) -> String {
    format!("answer to {seal}")
}

/// A question, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    cluster: String,
    system_id: SystemId,
    leader: MemberName,
    term: Term,
    /// To whom: a question to one member is none to another.
    to: MemberName,
    /// Higher with each question of this leader: a question that has been heard is not heard again.
    number: u64,
    /// Where the leader is to be followed; its member record may end with its lease.
    #[serde(default)]
    upstream: Option<Upstream>,
    /// 0: the leader relies on no promise any more.
    for_ms: u64,
}

/// An answer, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answered {
    from: MemberName,
    /// Of the question that it answers.
    number: u64,
    /// For how long it is promised, from when the question came; 0: it is not.
    for_ms: u64,
    refusal: Option<Refusal>,
    /// The last number heard, where that of the question was not above it.
    last_number: Option<u64>,
}

/// Replaces a file so that a power loss leaves the old or the new one, whole. Its directory is made again where somebody has deleted it.
fn durably(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let written = in_its_directory(path, || replace(path, content));
    written.map_err(|error| std::io::Error::new(error.kind(), format!("{} cannot be written: {error}", path.display())))
}

fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    flush_directory(path)
}

fn flush_directory(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}
