//! What was refused, and what was told to others, as counters: of this agent, since it was started.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Labels of a failover that was refused.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Labels of what was told to others.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ToldLabels {
    to: String,
    outcome: &'static str,
}

/// The counters.
#[derive(Default)]
pub(super) struct Telling {
    refused: Family<ReasonLabels, Counter>,
    told: Family<ToldLabels, Counter>,
}

impl Telling {
    /// Registers them.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register(
            "pgvigil_failovers_refused",
            "Failovers that a rule forbade where nobody led, by reason, as this agent saw it",
            all.refused.clone(),
        );
        registry.register(
            "pgvigil_told",
            "Transitions and roles told to the hooks and webhooks of this node, by outcome",
            all.told.clone(),
        );
        all
    }

    /// Nobody is promoted, for this reason.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Somebody was told, or was not.
    pub(super) fn told(&self, to: &str, outcome: &'static str) {
        self.told.get_or_create(&ToldLabels { to: to.to_owned(), outcome }).inc();
    }
}
