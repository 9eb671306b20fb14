//! What a returning node needs of a new leader: where the timeline before ended, and a control file that shows the new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use consensus::records::HistoryRow;
use decision::names::{Term, Timeline};
use decision::view::{Cluster, Primary};
use pg_control::Fork;

use super::AGAIN_AFTER;
use crate::chore::Chore;
use crate::hands::Hands;

const CHECKPOINT_WITHIN: Duration = Duration::from_secs(300);

/// The chores of a leader for those who come back.
pub struct WayBack {
    hands: Arc<Hands>,
    checkpoint: Chore,
    history: Chore,
    /// The timeline whose origin this life has published.
    history_of: Arc<AtomicU32>,
}

impl WayBack {
    /// Nothing is published yet.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self {
            hands,
            checkpoint: Chore::new("checkpoint"),
            history: Chore::new("history"),
            history_of: Arc::new(AtomicU32::new(0)),
        }
    }

    /// It does not wait for the marker, for the marker may wait for that very node: with two nodes in `strict` mode there is no other voter.
    pub fn prepare(&mut self, cluster: &Cluster, primary: &Primary, term: Term) {
        if primary.control_timeline < primary.timeline {
            let hands = Arc::clone(&self.hands);
            self.checkpoint.begin(AGAIN_AFTER, async move { Ok(hands.instance.checkpoint(CHECKPOINT_WITHIN).await?) });
        }
        // The row names the timeline before, and numbers may have been skipped: it alone does not tell that it is mine.
        let told = self.history_of.load(Ordering::SeqCst) == primary.timeline.0 && !cluster.history.is_empty();
        if primary.timeline != Timeline(1) && !told {
            let (hands, timeline, told) = (Arc::clone(&self.hands), primary.timeline, Arc::clone(&self.history_of));
            self.history.begin(AGAIN_AFTER, async move {
                publish_history(&hands, timeline, term).await?;
                told.store(timeline.0, Ordering::SeqCst);
                Ok(())
            });
        }
    }
}

/// Publishes where the timeline before this leader's ended: every returning node needs it to know whether it has diverged.
async fn publish_history(hands: &Hands, timeline: Timeline, term: Term) -> Result<()> {
    let forks = hands.instance.local_history(timeline)?;
    let row = |fork: &Fork| HistoryRow {
        timeline: fork.timeline,
        ended_at: fork.ended_at,
        reason: "no recovery target specified".into(),
        timestamp: None,
        new_leader: None,
    };
    let (last, before) = forks.split_last().context("the history file names no timeline")?;
    let timestamp = Some(jiff::Timestamp::now().to_string());
    let mine = HistoryRow { timestamp, new_leader: Some(hands.me().clone()), ..row(last) };
    let ancestors: Vec<HistoryRow> = before.iter().map(row).collect();
    hands.store.append_history(hands.me(), term, &ancestors, &mine).await?;
    Ok(())
}
