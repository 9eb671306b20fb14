//! Clients are told the way: HAProxy is told by its runtime socket of each change of `/primary` and `/replica`, instead of finding out at its
//! next check. It all runs beside the decisions, looks only at the published picture, and every word has a deadline: whatever becomes of it,
//! nobody waits for it. Read `standing.rs` first: what is said, and why it is never more than a check would find.

pub mod pooler;
mod relay;
pub mod runtime;
mod standing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use decision::names::MemberName;
use tokio::sync::watch;

use crate::config::RuntimeSocket;
use crate::hands::Hands;
use crate::http::health::{Query, healthy};
use crate::published::{Board, Picture};
use runtime::Trouble;
use standing::{Standing, Writes};

/// How long HAProxy may take. It answers within a millisecond.
const ANSWERS_WITHIN: Duration = Duration::from_millis(200);
/// For so long this node must have ceased to take writes before that is told: as long as two checks of `show haproxy` take. A moment's no cuts
/// nobody's session off.
const SETTLES_WITHIN: Duration = Duration::from_millis(20);
/// The picture is looked at so often where no new one comes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// When a HAProxy is told again that could not be.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Begins to tell every HAProxy and every PgBouncer that the configuration names; nothing where it names none.
pub fn start(hands: &Arc<Hands>, board: &Arc<Board>) {
    if !hands.config.pgbouncer.admin.is_empty() {
        tokio::spawn(pooler::let_go_when_it_leads(Arc::clone(hands), Arc::clone(board)));
    }
    let sockets = &hands.config.haproxy.sockets;
    if sockets.is_empty() {
        return;
    }
    let (relayed, by_others) = watch::channel(None);
    if sockets.iter().any(RuntimeSocket::is_of_this_host) {
        tokio::spawn(relay::listen(Arc::clone(board), relayed));
    }
    let standing = watch::Sender::new(Standing::default());
    for socket in sockets {
        let teller =
            Teller { hands: Arc::clone(hands), board: Arc::clone(board), socket: socket.clone(), complaint: None };
        tokio::spawn(teller.keep_told(standing.subscribe()));
    }
    tokio::spawn(follow(Arc::clone(board), by_others, standing));
}

fn reads(picture: &Picture) -> bool {
    healthy(picture, "/replica", &Query::default())
}

/// Keeps the standing as the picture and the others' own words have it.
async fn follow(
    board: Arc<Board>,
    mut relayed: watch::Receiver<Option<MemberName>>,
    standing: watch::Sender<Standing>,
) {
    loop {
        let picture = board.load().clone();
        let mut here = picture.writable();
        if !here && standing.borrow().writes == Writes::Here {
            tokio::time::sleep(SETTLES_WITHIN).await;
            here = board.load().writable();
        }
        let another = relayed.borrow_and_update().clone().filter(|name| *name != picture.view.me);
        let writes = if here { Writes::Here } else { another.map_or(Writes::Nowhere, Writes::There) };
        let now = Standing { writes, reads: reads(&picture) };
        standing.send_if_modified(|before| {
            let differs = *before != now;
            *before = now;
            differs
        });
        let lease = picture.lock_until.map_or(LOOK_EVERY, |until| until.remaining().max(SETTLES_WITHIN));
        tokio::select! {
            _ = board.after(picture.made_at, LOOK_EVERY.min(lease)) => {}
            // The other end lives as long as the agent where there is somebody to relay to.
            Ok(()) = relayed.changed() => {}
        }
    }
}

/// Tells one HAProxy.
struct Teller {
    hands: Arc<Hands>,
    board: Arc<Board>,
    socket: RuntimeSocket,
    /// What it could not be told for, so that the log has it once.
    complaint: Option<Trouble>,
}

impl Teller {
    async fn keep_told(mut self, mut standing: watch::Receiver<Standing>) {
        let mut known = Some(Standing::default());
        loop {
            let now = standing.borrow_and_update().clone();
            let now = if self.socket.is_of_this_host() { now } else { now.of_this_member_alone() };
            let told = known.as_ref() == Some(&now) || self.tell(known.as_ref(), &now).await;
            known = told.then_some(now);
            let changed = standing.changed();
            let goes_on = if told { Ok(changed.await) } else { tokio::time::timeout(AGAIN_AFTER, changed).await };
            if matches!(goes_on, Ok(Err(_))) {
                return;
            }
        }
    }

    /// Whether it knows now.
    async fn tell(&mut self, known: Option<&Standing>, now: &Standing) -> bool {
        let picture = self.board.load().clone();
        // Judged once more in the moment in which it is said: a no that has come meanwhile is told next.
        if (now.writes == Writes::Here && !picture.writable()) || (now.reads && !reads(&picture)) {
            return false;
        }
        let members: BTreeSet<MemberName> =
            picture.cluster().map(|cluster| cluster.members.keys().cloned().collect()).unwrap_or_default();
        let me = self.hands.me();
        let commands = now.commands(known, me, &members, &self.hands.config.haproxy);
        if commands.is_empty() {
            return true;
        }
        let began = Instant::now();
        // A member that this HAProxy does not lead to need not be told of, but for this one.
        let own = format!("/{me} ");
        let unknown = |command: &str, said: &str| said.contains("No such server") && !command.contains(&own);
        let said = runtime::say(&self.socket, &commands, ANSWERS_WITHIN, unknown).await;
        self.hands.metrics.told_haproxy(said.as_ref().map_or_else(Trouble::word, |()| "done"), began.elapsed());
        self.note(said, &commands, began.elapsed())
    }

    fn note(&mut self, said: Result<(), Trouble>, commands: &[String], took: Duration) -> bool {
        let socket = self.socket.to_string();
        match said {
            Ok(()) => {
                let took_ms = took.as_secs_f64() * 1000.0;
                tracing::info!(socket, took_ms, commands = commands.join("; "), "HAProxy was told");
                self.complaint = None;
                true
            }
            Err(trouble) => {
                if self.complaint.as_ref() != Some(&trouble) {
                    tracing::warn!("{trouble}. Its checks go on as they are");
                    self.complaint = Some(trouble);
                }
                false
            }
        }
    }
}
