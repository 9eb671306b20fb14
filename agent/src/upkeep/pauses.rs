//! A pause that has ended is taken out of the settings by the leader: agents look at its end, and programs made for Patroni at `pause` alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use consensus::records::{ClusterConfig, ConfigRevision};
use consensus::{Condition, ConfigChange, Lead, Outcome, SettingsFrom, Snapshot};
use jiff::{SignedDuration, Timestamp};

use crate::chore::Chore;
use crate::hands::Hands;
use crate::operate::pause::{in_words, resumed};

/// A pause ends by each host's own clock: so long after its end by this one's nobody is in it any more.
const PAST: SignedDuration = SignedDuration::from_secs(10);
/// How soon it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The chore.
pub struct Pauses {
    hands: Arc<Hands>,
    chore: Chore,
}

impl Pauses {
    /// Nothing is paused.
    pub fn new(hands: Arc<Hands>) -> Self {
        Self { hands, chore: Chore::new("a pause that has ended") }
    }

    /// Looks whether there is something to do.
    pub fn see(&mut self, seen: &Snapshot) {
        if is_to_be_cleared(seen, Timestamp::now()) {
            let hands = Arc::clone(&self.hands);
            self.chore.begin(AGAIN_AFTER, async move { clear(&hands).await });
        }
    }
}

/// Whether the settings hold a pause that is over everywhere.
fn has_ended(config: &ClusterConfig, now: Timestamp) -> bool {
    let until = config.pause.as_ref().and_then(|pause| pause.until);
    until.is_some_and(|until| now.duration_since(until) >= PAST)
}

/// Settings that were recalled for want of readable ones are nobody's to write back.
fn is_to_be_cleared(seen: &Snapshot, now: Timestamp) -> bool {
    seen.settings_from == SettingsFrom::Stored && has_ended(&seen.config, now)
}

async fn clear(hands: &Hands) -> Result<()> {
    let seen = hands.store.read().await?;
    let now = Timestamp::now();
    let Some(pause) = seen.config.pause.as_ref().filter(|_| is_to_be_cleared(&seen, now)) else { return Ok(()) };
    let Some(after) = seen.config.raw.as_object().and_then(resumed) else { return Ok(()) };
    let told = in_words(pause);
    let made = ConfigRevision {
        by: Some(format!("the agent of {}", hands.me())),
        reason: Some(format!("{told} has ended")),
        at: now.to_string(),
        ..ConfigRevision::default()
    };
    let condition = Condition { lead: Lead::Of(hands.me().clone()), hold: None };
    let (before, revision) = (seen.config.raw.clone(), seen.config_revision);
    let (outcome, _) = hands.store.change_config(&ConfigChange { before, revision, after, condition, made }).await?;
    if matches!(outcome, Outcome::Applied { .. }) {
        tracing::info!("{told} has ended, and is taken out of the settings");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_over_when_it_is_so_by_clocks_that_differ_a_little() {
        let ended = |text: &str, now: &str| has_ended(&ClusterConfig::from_json(text).0, now.parse().unwrap());
        let pause = r#"{"pause": true, "pgvigil": {"pause": {"until": "2026-11-22T10:00:00Z"}}}"#;
        assert!(!ended(pause, "2026-11-22T10:00:09Z"));
        assert!(ended(pause, "2026-11-22T10:00:10Z"));
        assert!(!ended(r#"{"pause": true}"#, "2026-11-22T10:00:10Z"), "it has no end");
        assert!(!ended("{}", "2026-11-22T10:00:10Z"));
    }
}
