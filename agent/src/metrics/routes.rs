//! How it went when the neighbours that lead clients were told of a change.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Metrics;

/// What became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// What a pooler was told, and what became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolerLabels {
    command: &'static str,
    outcome: &'static str,
}

/// Both.
pub(super) struct Routes {
    pooler: Family<PoolerLabels, Counter>,
    pushes: Family<Labels, Counter>,
    push_seconds: Histogram,
}

impl Routes {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let pushes = Family::default();
        registry.register(
            "pgvigil_haproxy_pushes",
            "Changes of health told to HAProxy by its runtime socket, by outcome: done, refused, unreachable, timeout",
            pushes.clone(),
        );
        let push_seconds = Histogram::new([0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2]);
        registry.register(
            "pgvigil_haproxy_push_seconds",
            "From a change of health until HAProxy has said that it knows",
            push_seconds.clone(),
        );
        let pooler = Family::default();
        registry.register(
            "pgvigil_pgbouncer_commands",
            "What PgBouncer was told around planned switchovers, by command (pause, resume) and outcome: done, failed",
            pooler.clone(),
        );
        Self { pooler, pushes, push_seconds }
    }
}

impl Metrics {
    /// A PgBouncer was told, or could not be.
    pub fn told_pgbouncer(&self, command: &'static str, outcome: &'static str) {
        self.routes.pooler.get_or_create(&PoolerLabels { command, outcome }).inc();
    }

    /// A HAProxy was told, or could not be.
    pub fn told_haproxy(&self, outcome: &'static str, took: Duration) {
        self.routes.pushes.get_or_create(&Labels { outcome }).inc();
        if outcome == "done" {
            self.routes.push_seconds.observe(took.as_secs_f64());
        }
    }
}
