//! Who may connect, where the settings of the cluster say so: the agent's own rules, those of the node's file, and those of the cluster, in the files
//! of every server. Where the cluster says nothing the files are the operator's, and nothing looks at them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use consensus::Snapshot;
use consensus::records::Access;
use decision::view::{Data, Initialize, Server, View};
use serde_json::{Value, json};

use crate::chore::Chore;
use crate::hands::Hands;
use crate::strike::Strike;

/// How often is looked whether somebody has written other rules.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon further rules are taken up.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is known of the rules here.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Why those of the cluster are not in force; `None`: they are, or there are none.
    refused: Option<String>,
}

impl Known {
    /// What is wrong, for `status`.
    pub fn problems(&self) -> Vec<Value> {
        let strike = Strike::new([]);
        let problem = |why: &String| {
            // It may quote a rule.
            let why = strike.text(why);
            let problem = format!("the rules of the cluster for connections are not in force here: {why}");
            let hint = "pgvigil config edit: postgresql.pg_hba and postgresql.pg_ident";
            json!({"code": "access_rejected", "problem": problem, "hint": hint})
        };
        self.refused.iter().map(problem).collect()
    }
}

/// The chore.
pub struct Keeping {
    hands: Arc<Hands>,
    chore: Chore,
    done: Option<(Access, Vec<String>, i32)>,
}

impl Keeping {
    /// Nothing is known yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("rules for connections"), done: None }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, view: &View, snapshot: Option<&Arc<Snapshot>>, postmaster: Option<i32>) {
        let (Some(cluster), Some(snapshot), Some(postmaster), None) =
            (view.cluster.now(), snapshot, postmaster, &view.job)
        else {
            return;
        };
        let postgres = view.postgres.now();
        let runs = postgres.is_some_and(|it| matches!(it.server, Server::Primary(_) | Server::Standby(_)));
        // A database of another cluster is left alone, and so is one under a name that may be somebody else's.
        let disk = postgres.map(|postgres| &postgres.data);
        let ours = matches!((cluster.initialize, disk), (Initialize::Done(id), Some(Data::Present(disk))) if disk.system_id == id);
        if !runs || !ours || !self.hands.name_is_mine.load(Ordering::SeqCst) {
            return;
        }
        let Some(access) = snapshot.config.access.clone() else {
            self.done = None;
            self.hands.access.store(Arc::default());
            return;
        };
        let ground = (access.clone(), self.hands.local.load().postgres.hba.clone(), postmaster);
        let known = self.done.as_ref() == Some(&ground);
        if known && self.hands.access.load().refused.is_some() {
            // Postgres will not take them now, either.
            return;
        }
        let every = if known { LOOK_EVERY } else { AGAIN_AFTER };
        let (hands, of_node) = (Arc::clone(&self.hands), ground.1.clone());
        if self.chore.begin(every, async move { hands.keep_access(&access, of_node).await }) {
            self.done = Some(ground);
        }
    }
}

impl Hands {
    async fn keep_access(&self, access: &Access, of_node: Vec<String>) -> Result<()> {
        let hba: Vec<String> = of_node.into_iter().chain(access.hba.clone()).collect();
        let kept = self.instance.keep_access_rules(&access.ident, &hba).await;
        let mistake = kept.as_ref().err().filter(|error| matches!(error, pg_control::Error::Setting(_)));
        let refused = mistake.map(ToString::to_string);
        self.access.store(Arc::new(Known { refused }));
        Ok(kept?)
    }
}
