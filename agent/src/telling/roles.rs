//! The program that Patroni's users know as `on_role_change`: `PROGRAM on_role_change ROLE CLUSTER`, at each other role of this node. A newer role ends the
//! program that still runs for an older one, so that an address is never moved to where it was.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::hook::Run;
use crate::hands::Hands;
use crate::http::health::{Query, healthy};
use crate::published::{Board, Picture};

/// A lease that ends changes the role without a new picture.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at the role, and runs the program. The role that this node has when its agent starts is told as well, for nobody knows what was told before.
pub(super) async fn tell(hands: Arc<Hands>, board: Arc<Board>) {
    let (now, mut told) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            if told.changed().await.is_err() {
                return;
            }
            let Some(role) = *told.borrow_and_update() else { continue };
            tokio::select! {
                outcome = run(&hands, role) => hands.metrics.told("on_role_change", outcome),
                // What it was told is not so any more: the program ends with its group.
                _ = told.changed() => {
                    hands.metrics.told("on_role_change", "overtaken");
                    told.mark_changed();
                }
            }
        }
    });
    let mut made_at = board.load().made_at;
    loop {
        let picture = board.after(made_at, LOOK_EVERY).await;
        made_at = picture.made_at;
        if let Some(role) = role(&picture) {
            now.send_if_modified(|known| known.replace(role) != Some(role));
        }
    }
}

async fn run(hands: &Hands, role: &str) -> &'static str {
    let hooks = &hands.config.hooks;
    let arguments = ["on_role_change", role, &hands.config.cluster].map(str::to_owned);
    let words: Vec<String> = hooks.on_role_change.iter().cloned().chain(arguments).collect();
    let environment = vec![
        ("PGVIGIL_CLUSTER", hands.config.cluster.clone()),
        ("PGVIGIL_MEMBER", hands.me().to_string()),
        ("PGVIGIL_ROLE", role.to_owned()),
    ];
    let (timeout, living) = (hooks.timeout, &hands.programs);
    Run { words: &words, input: "", environment, timeout, living }.to_its_end(role).await
}

/// In Patroni's words. `primary` only once writes are proven, and `demoted` as soon as this node is not to take any; `None`: it is on its way.
fn role(picture: &Picture) -> Option<&'static str> {
    if picture.writable() {
        return Some("primary");
    }
    if healthy(picture, "/standby-leader", &Query::default()) {
        return Some("standby_leader");
    }
    if picture.standby().is_some() {
        return picture.leads().is_none().then_some("replica");
    }
    (picture.leads().is_none() && picture.fresh().is_ok()).then_some("demoted")
}
