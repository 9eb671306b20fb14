//! Numbers for Prometheus: ours, and those that dashboards made for Patroni read. Gauges are set from the picture at each scrape, so a
//! scrape asks neither Postgres nor etcd; counters and histograms are fed where things happen.

#[cfg(test)]
mod documented;
mod listeners;
mod ours;
mod patronis;
mod probes;
mod recorded;
mod routes;
mod telling;
mod trail;

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use consensus::records::Transition;
use decision::names::Lsn;
use decision::view::{Primary, Server};
use jiff::Timestamp;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::published::Picture;
use listeners::Listeners;
use ours::OURS;
use patronis::PATRONIS;
use probes::Probes;
use recorded::Recorded;
use routes::Routes;
use telling::Telling;
use trail::Trail;

pub use listeners::ListenerNumbers;

/// Labels of a decision.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    action: String,
    reason: String,
}

/// Labels of a transition.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TransitionLabels {
    kind: String,
    cause: String,
    outcome: String,
}

/// Labels of a phase.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabels {
    kind: String,
    phase: String,
}

/// Labels of one standby.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MemberLabels {
    standby: String,
}

/// Labels of an action's outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabels {
    action: String,
    outcome: String,
}

/// Labels of one replication slot.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SlotLabels {
    slot: String,
    active: String,
}

/// Labels of how far one standby is behind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LagLabels {
    standby: String,
    stage: &'static str,
}

/// Labels of what is promised.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModeLabels {
    mode: String,
}

/// Labels of a certificate.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabels {
    of: &'static str,
    file: String,
}

/// Labels of the program.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// Labels of what was asked of the control API.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AskedLabels {
    verb: String,
    outcome: String,
}

type Real = Gauge<f64, AtomicU64>;

/// All metrics of one agent.
pub struct Metrics {
    registry: Mutex<Registry>,
    gauges: Gauges,
    decisions: Family<DecisionLabels, Counter>,
    actions: Family<ActionLabels, Counter>,
    asked: Family<AskedLabels, Counter>,
    denied: Counter,
    transitions: Family<TransitionLabels, Counter>,
    telling: Telling,
    phases: Family<PhaseLabels, Histogram>,
    outages: Family<PhaseLabels, Histogram>,
    recorded: Recorded,
    listeners: Listeners,
    routes: Routes,
    probes: Probes,
    trail: Mutex<Trail>,
}

/// From a switchover's phase of a few milliseconds to a rejoin of minutes.
fn buckets() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0, 3.0, 5.0, 6.0, 10.0, 30.0, 60.0, 300.0,
    ])
}

impl Metrics {
    /// Metrics of the agent `member` of `cluster`.
    pub fn new(cluster: &str, member: &str) -> Self {
        let labels = |one: &'static str, other: &'static str| {
            vec![(one.into(), cluster.to_owned().into()), (other.into(), member.to_owned().into())]
        };
        let mut registry = Registry::default();
        let mut gauges = Gauges::default();
        gauges.register_patronis(registry.sub_registry_with_labels(labels("scope", "name").into_iter()));
        let ours = registry.sub_registry_with_labels(labels("cluster", "member").into_iter());
        gauges.register_ours(ours);
        let decisions = Family::default();
        ours.register("pgvigil_decisions", "Changes of the agent's decision, by action and reason", decisions.clone());
        let actions = Family::default();
        ours.register("pgvigil_actions", "Actions carried out, by outcome", actions.clone());
        let asked = Family::default();
        ours.register(
            "pgvigil_control_requests",
            "What was asked of the control API, by verb and outcome",
            asked.clone(),
        );
        let denied = Counter::default();
        ours.register(
            "pgvigil_control_denied",
            "What was asked of the control API by somebody who may not",
            denied.clone(),
        );
        let transitions = Family::default();
        ours.register("pgvigil_transitions", "Finished transitions that this agent led", transitions.clone());
        let telling = Telling::register(ours);
        let phases = Family::new_with_constructor(buckets as fn() -> Histogram);
        ours.register("pgvigil_transition_phase_seconds", "How long each phase of a transition took", phases.clone());
        let outages = outages_of(ours);
        let build = Family::<BuildLabels, Real>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1.0);
        ours.register("pgvigil_build_info", "Always 1; the label says which version runs", build);
        let recorded = Recorded::register(ours);
        let listeners = Listeners::register(ours);
        let routes = Routes::register(ours);
        let probes = Probes::register(ours);
        let (registry, trail) = (Mutex::new(registry), Mutex::default());
        Self {
            registry,
            gauges,
            decisions,
            actions,
            asked,
            denied,
            transitions,
            telling,
            phases,
            outages,
            recorded,
            listeners,
            routes,
            probes,
            trail,
        }
    }

    /// A decision has changed.
    pub fn decided(&self, action: &str, reason: &str) {
        self.decisions.get_or_create(&DecisionLabels { action: action.into(), reason: reason.into() }).inc();
    }

    /// An action has ended.
    pub fn acted(&self, action: &str, outcome: &str) {
        self.actions.get_or_create(&ActionLabels { action: action.into(), outcome: outcome.into() }).inc();
    }

    /// Somebody has asked something of the control API, and it has ended.
    pub fn asked(&self, verb: &str, outcome: &str) {
        self.asked.get_or_create(&AskedLabels { verb: verb.into(), outcome: outcome.into() }).inc();
        if outcome == "denied" {
            self.denied.inc();
        }
    }

    /// The numbers of a listener, which keeps them itself.
    pub fn listener(&self, listener: &'static str) -> ListenerNumbers {
        self.listeners.of(listener)
    }

    /// A picture was made: how far the WAL of this leader had come then.
    pub fn saw(&self, picture: &Picture) {
        let flushed = picture.primary().filter(|_| picture.leads().is_some()).map(|primary| primary.flushed);
        let mut trail = self.trail.lock().unwrap_or_else(PoisonError::into_inner);
        match flushed {
            Some(flushed) => trail.saw(Instant::now(), flushed),
            None => trail.forget(),
        }
    }

    /// Nobody leads, and nobody is promoted, for this reason: once an episode.
    pub fn refused_to_fail_over(&self, reason: &'static str) {
        self.telling.refused(reason);
    }

    /// Somebody was told what happened, or was not.
    pub fn told(&self, to: &str, outcome: &'static str) {
        self.telling.told(to, outcome);
    }

    /// A transition that this agent led is over.
    pub fn finished(&self, record: &Transition) {
        let labels = TransitionLabels {
            kind: record.kind.clone(),
            cause: record.cause.clone(),
            outcome: record.outcome.clone(),
        };
        self.transitions.get_or_create(&labels).inc();
        for phase in &record.phases {
            let labels = PhaseLabels { kind: record.kind.clone(), phase: phase.name.clone() };
            self.phases.get_or_create(&labels).observe(phase.duration_ms / 1000.0);
        }
        if let Some(outage_ms) = record.write_outage_ms {
            let labels = PhaseLabels { kind: record.kind.clone(), phase: "write_outage".into() };
            self.outages.get_or_create(&labels).observe(outage_ms / 1000.0);
        }
    }

    /// The page for Prometheus, in OpenMetrics text: what the picture shows, and what the records of transitions say.
    pub fn render(&self, picture: &Picture, records: &[Transition]) -> String {
        let Ok(registry) = self.registry.lock() else { return "# EOF\n".into() };
        self.gauges.set(picture, &self.trail.lock().unwrap_or_else(PoisonError::into_inner));
        self.recorded.set(records, Timestamp::now());
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut page, &registry);
        page
    }
}

/// The histograms of outages, from 0 on: a series that began with its first outage would hide it from whoever asks by how much it has grown.
fn outages_of(registry: &mut Registry) -> Family<PhaseLabels, Histogram, fn() -> Histogram> {
    let outages = Family::new_with_constructor(buckets as fn() -> Histogram);
    for kind in ["failover", "switchover", "restart"] {
        drop(outages.get_or_create(&PhaseLabels { kind: kind.into(), phase: "write_outage".into() }));
    }
    let help = "How long no write could be acknowledged";
    registry.register("pgvigil_transition_write_outage_seconds", help, outages.clone());
    outages
}

/// One gauge a name: what it is called, what it says, and how it is read off the picture.
struct Reading {
    gauge: Real,
    read: fn(&Picture) -> f64,
}

#[derive(Default)]
struct Gauges {
    readings: Vec<Reading>,
    lag: Family<MemberLabels, Real>,
    lag_seconds: Family<LagLabels, Real>,
    mode: Family<ModeLabels, Real>,
    slots: Family<SlotLabels, Real>,
    certificates_left: Family<CertificateLabels, Real>,
    certificates_lifetime: Family<CertificateLabels, Real>,
}

/// Name, help, reading.
type Row = (&'static str, &'static str, fn(&Picture) -> f64);

fn yes(condition: bool) -> f64 {
    if condition { 1.0 } else { 0.0 }
}

impl Gauges {
    fn register(&mut self, registry: &mut Registry, rows: &[Row]) {
        for (name, help, read) in rows {
            let gauge = Real::default();
            registry.register(*name, *help, gauge.clone());
            self.readings.push(Reading { gauge, read: *read });
        }
    }

    fn register_patronis(&mut self, registry: &mut Registry) {
        self.register(registry, PATRONIS);
    }

    fn register_ours(&mut self, registry: &mut Registry) {
        self.register(registry, OURS);
        registry.register(
            "pgvigil_standby_lag_bytes",
            "Replay lag of each standby, as its leader sees it",
            self.lag.clone(),
        );
        registry.register(
            "pgvigil_standby_lag_seconds",
            "For how long there has been WAL on this leader that each standby has not flushed or replayed",
            self.lag_seconds.clone(),
        );
        registry.register("pgvigil_durability_mode", "1 for the mode in force", self.mode.clone());
        let help = "WAL that each replication slot of this server keeps";
        registry.register("pgvigil_slot_retained_bytes", help, self.slots.clone());
        let help = "Until a certificate ends, by what it is for and its file; negative: it has ended";
        registry.register("pgvigil_certificate_left_seconds", help, self.certificates_left.clone());
        let help = "From the first to the last instant of a certificate";
        registry.register("pgvigil_certificate_lifetime_seconds", help, self.certificates_lifetime.clone());
    }

    fn set(&self, picture: &Picture, trail: &Trail) {
        for reading in &self.readings {
            reading.gauge.set((reading.read)(picture));
        }
        self.slots.clear();
        for slot in &picture.slots.here {
            let labels = SlotLabels { slot: slot.name.to_string(), active: slot.active.to_string() };
            self.slots.get_or_create(&labels).set(slot.retained_bytes as f64);
        }
        self.set_certificates(picture, Timestamp::now());
        self.mode.clear();
        if let Some(sync) = picture.cluster().and_then(|cluster| cluster.sync.as_ref()) {
            self.mode.get_or_create(&ModeLabels { mode: sync.mode.to_string() }).set(1.0);
        }
        self.lag.clear();
        self.lag_seconds.clear();
        if let Some(Server::Primary(primary)) = picture.postgres().map(|postgres| &postgres.server) {
            self.set_lags(primary, trail);
        }
    }

    fn set_certificates(&self, picture: &Picture, now: Timestamp) {
        self.certificates_left.clear();
        self.certificates_lifetime.clear();
        for found in picture.certificates.all() {
            let labels = CertificateLabels { of: found.of.word(), file: found.file.display().to_string() };
            self.certificates_left.get_or_create(&labels).set(found.left(now).as_secs_f64());
            self.certificates_lifetime.get_or_create(&labels).set(found.lifetime().as_secs_f64());
        }
    }

    fn set_lags(&self, primary: &Primary, trail: &Trail) {
        let now = Instant::now();
        for standby in &primary.standbys {
            let labels = MemberLabels { standby: standby.member.to_string() };
            self.lag.get_or_create(&labels).set(standby.replayed.bytes_behind(primary.flushed) as f64);
            let set = |stage, position: Lsn| {
                let labels = LagLabels { standby: standby.member.to_string(), stage };
                self.lag_seconds.get_or_create(&labels).set(trail.behind(now, position).as_secs_f64());
            };
            set("flush", standby.flushed);
            set("replay", standby.replayed);
        }
    }
}
