//! What the records of transitions say, as numbers. They lie in etcd and every agent has read them, so these figures survive the agents that
//! measured them: an alert on a failover does not depend on a counter of a process that was just started.

use std::collections::BTreeMap;

use consensus::records::Transition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Real;
use crate::slo::counts;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    kind: String,
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

/// The gauges.
#[derive(Default)]
pub(super) struct Recorded {
    count: Family<Labels, Real>,
    last_at: Family<Labels, Real>,
    last_outage: Family<KindLabels, Real>,
    outage: Real,
}

impl Recorded {
    /// Registers them.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register(
            "pgvigil_recorded_transitions",
            "Records of transitions that are kept in etcd (a hundred at most)",
            all.count.clone(),
        );
        registry.register(
            "pgvigil_last_transition_timestamp_seconds",
            "When the newest recorded transition began, by the clock of whoever wrote it",
            all.last_at.clone(),
        );
        registry.register(
            "pgvigil_last_write_outage_seconds",
            "How long the newest transition of its kind left clients without an acknowledged write",
            all.last_outage.clone(),
        );
        registry.register(
            "pgvigil_recorded_write_outage_30d_seconds",
            "All recorded write outages of the last 30 days together",
            all.outage.clone(),
        );
        all
    }

    /// Replaces what they say by what the records say at `now`.
    pub(super) fn set(&self, records: &[Transition], now: jiff::Timestamp) {
        self.count.clear();
        self.last_at.clear();
        self.last_outage.clear();
        let mut outage_ms = 0.0;
        let mut newest: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for record in records {
            let labels = Labels { kind: record.kind.clone(), outcome: record.outcome.clone() };
            self.count.get_or_create(&labels).inc();
            // A record without a readable time is counted, and no more.
            let Ok(at) = record.started_at.parse::<jiff::Timestamp>() else { continue };
            let at = at.as_duration().as_secs_f64();
            let last = self.last_at.get_or_create(&labels);
            last.set(last.get().max(at));
            let Some(took_ms) = record.write_outage_ms else { continue };
            if counts(record, now) {
                outage_ms += took_ms;
            }
            let known = newest.entry(&record.kind).or_insert((at, took_ms));
            *known = if at >= known.0 { (at, took_ms) } else { *known };
        }
        self.outage.set(outage_ms / 1000.0);
        for (kind, (_, took_ms)) in newest {
            self.last_outage.get_or_create(&KindLabels { kind: kind.to_owned() }).set(took_ms / 1000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn record(kind: &str, outcome: &str, started_at: &str, write_outage_ms: Option<f64>) -> Transition {
        let (kind, outcome, started_at) = (kind.into(), outcome.into(), started_at.into());
        Transition { kind, outcome, started_at, write_outage_ms, ..Transition::default() }
    }

    #[test]
    fn the_newest_of_each_kind_is_told_and_the_outages_of_thirty_days_are_added_up() {
        let mut registry = Registry::default();
        let recorded = Recorded::register(&mut registry);
        let records = [
            record("failover", "done", "2026-08-01T00:00:00Z", Some(9000.0)),
            record("failover", "done", "2026-09-20T00:00:10Z", Some(700.0)),
            record("failover", "done", "2026-09-20T00:00:00Z", Some(500.0)),
            record("bootstrap", "done", "2026-09-19T00:00:00Z", Some(60_000.0)),
            record("switchover", "failed", "2026-09-20T00:01:00Z", None),
            record("restart", "done", "yesterday", Some(80.0)),
        ];
        recorded.set(&records, "2026-09-21T00:00:00Z".parse().expect("a time"));
        let mut page = String::new();
        encode(&mut page, &registry).expect("writing to a string");
        for line in [
            "pgvigil_recorded_transitions{kind=\"failover\",outcome=\"done\"} 3.0",
            "pgvigil_recorded_transitions{kind=\"restart\",outcome=\"done\"} 1.0",
            "pgvigil_last_transition_timestamp_seconds{kind=\"failover\",outcome=\"done\"} 1789862410.0",
            "pgvigil_last_transition_timestamp_seconds{kind=\"switchover\",outcome=\"failed\"} 1789862460.0",
            "pgvigil_last_write_outage_seconds{kind=\"failover\"} 0.7",
            "pgvigil_recorded_write_outage_30d_seconds 1.2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("pgvigil_last_write_outage_seconds{kind=\"restart\"}"), "{page}");
    }
}
