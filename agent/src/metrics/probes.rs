//! What this agent tries all the time anyway, and how long it takes: its leases at etcd, and, where it is told to, a write to its own Postgres.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Metrics;

/// Which lease.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LeaseLabels {
    lease: &'static str,
}

/// What became of a write.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// All of it.
pub(super) struct Probes {
    renewals: Family<LeaseLabels, Histogram>,
    unanswered: Family<LeaseLabels, Counter>,
    writes: Family<OutcomeLabels, Counter>,
    write_seconds: Histogram,
}

/// From a millisecond to where a lease or a client's patience ends.
fn buckets() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0])
}

impl Probes {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let renewals = Family::new_with_constructor(buckets as fn() -> Histogram);
        registry.register(
            "pgvigil_lease_renewal_seconds",
            "How long etcd took to confirm a renewal, by lease: member, leader",
            renewals.clone(),
        );
        let unanswered = Family::default();
        registry.register(
            "pgvigil_lease_unanswered",
            "Renewals that etcd did not answer in time, by lease",
            unanswered.clone(),
        );
        let writes = Family::default();
        registry.register(
            "pgvigil_write_probes",
            "Commits tried on this primary (`write_probe.every`), by outcome: done, failed",
            writes.clone(),
        );
        let write_seconds = buckets();
        registry.register(
            "pgvigil_write_probe_seconds",
            "How long such a commit took to be acknowledged",
            write_seconds.clone(),
        );
        Self { renewals, unanswered, writes, write_seconds }
    }
}

impl Metrics {
    /// etcd has confirmed a renewal.
    pub fn lease_renewed(&self, lease: &'static str, took: Duration) {
        self.probes.renewals.get_or_create(&LeaseLabels { lease }).observe(took.as_secs_f64());
    }

    /// So many renewals went unanswered.
    pub fn lease_unanswered(&self, lease: &'static str, more: u64) {
        self.probes.unanswered.get_or_create(&LeaseLabels { lease }).inc_by(more);
    }

    /// A write was tried; how long it took if it was acknowledged.
    pub fn write_probed(&self, took: Option<Duration>) {
        let outcome = if took.is_some() { "done" } else { "failed" };
        self.probes.writes.get_or_create(&OutcomeLabels { outcome }).inc();
        if let Some(took) = took {
            self.probes.write_seconds.observe(took.as_secs_f64());
        }
    }
}
