//! A HAProxy on this host, with a unix socket that no other agent reaches, is to hear of another leader too. So that one is asked as HAProxy
//! would ask it, on `/primary` of its own agent, which holds its answer back until it changes: what is passed on is its own word.

use std::sync::Arc;
use std::time::Duration;

use decision::names::MemberName;
use tokio::sync::watch;

use crate::peers::Peers;
use crate::published::Board;

/// How long the other may hold its answer back while it is no news. A yes that is passed on is not older than this and [`ANSWERS_WITHIN`].
const PATH: &str = "/primary?wait=1s";
/// How long it may take.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1300);
/// Before it is asked again where there was no answer.
const BREATHER: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps up who takes writes by its own word, if that is another; goes on while anybody wants to know.
pub async fn listen(board: Arc<Board>, relayed: watch::Sender<Option<MemberName>>) {
    let peers = Peers::default();
    while !relayed.is_closed() {
        let Some((leader, url)) = another_leads(&board) else {
            relayed.send_if_modified(|known| known.take().is_some());
            let made_at = board.load().made_at;
            board.after(made_at, LOOK_EVERY).await;
            continue;
        };
        let believed = relayed.borrow().as_ref() == Some(&leader);
        let answer = tokio::select! {
            answer = peers.is_healthy(&url, PATH, believed, ANSWERS_WITHIN) => answer,
            () = replaced(&board, &leader) => Ok(false),
        };
        let says = matches!(answer, Ok(true)).then(|| leader.clone());
        relayed.send_if_modified(|known| std::mem::replace(known, says.clone()) != says);
        if answer.is_err() {
            tokio::time::sleep(BREATHER).await;
        }
    }
}

/// The leader in etcd, and where its agent is; `None`: nobody is seen, or this very node.
fn another_leads(board: &Board) -> Option<(MemberName, String)> {
    let picture = board.load();
    let cluster = picture.cluster()?;
    let leader = cluster.leader.as_ref().filter(|leader| **leader != picture.view.me)?;
    Some((leader.clone(), cluster.members.get(leader)?.api_url.clone()))
}

async fn replaced(board: &Board, leader: &MemberName) {
    loop {
        let made_at = board.load().made_at;
        if another_leads(board).is_none_or(|(now, _)| now != *leader) {
            return;
        }
        board.after(made_at, LOOK_EVERY).await;
    }
}
