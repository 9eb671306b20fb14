//! Numbers for Prometheus: ours, and those that dashboards made for Patroni read. Gauges are set from the picture at each scrape, so a
//! scrape asks neither Postgres nor etcd; counters and histograms are fed where things happen.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use consensus::records::Transition;
use decision::view::Server;
use pg_control::Undoes;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::published::{Picture, SyncKind};

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
    transitions: Family<TransitionLabels, Counter>,
    phases: Family<PhaseLabels, Histogram>,
    outages: Family<PhaseLabels, Histogram>,
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
        let transitions = Family::default();
        ours.register("pgvigil_transitions", "Finished transitions that this agent led", transitions.clone());
        let phases = Family::new_with_constructor(buckets as fn() -> Histogram);
        ours.register("pgvigil_transition_phase_seconds", "How long each phase of a transition took", phases.clone());
        let outages = Family::new_with_constructor(buckets as fn() -> Histogram);
        ours.register(
            "pgvigil_transition_write_outage_seconds",
            "How long no write could be acknowledged",
            outages.clone(),
        );
        Self { registry: Mutex::new(registry), gauges, decisions, actions, asked, transitions, phases, outages }
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

    /// The page for Prometheus, in OpenMetrics text.
    pub fn render(&self, picture: &Picture) -> String {
        let Ok(registry) = self.registry.lock() else { return "# EOF\n".into() };
        self.gauges.set(picture);
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut page, &registry);
        page
    }
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
    slots: Family<SlotLabels, Real>,
}

/// Name, help, reading.
type Row = (&'static str, &'static str, fn(&Picture) -> f64);

fn yes(condition: bool) -> f64 {
    if condition { 1.0 } else { 0.0 }
}

fn undone(picture: &Picture, of: fn(Undoes) -> bool) -> f64 {
    picture.overruled.iter().filter(|one| of(one.undoes)).count() as f64
}

const OURS: &[Row] = &[
    ("pgvigil_leader", "1 while this member holds the leader lock", |p| yes(p.leads().is_some())),
    ("pgvigil_writable", "1 while writes are proven to work here", |p| yes(p.writable())),
    ("pgvigil_leader_term", "The highest term this agent has seen", |p| p.cluster().map_or(0.0, |c| c.term.0 as f64)),
    ("pgvigil_fence_armed", "1 while a fencer has confirmed that it kills Postgres at the deadline", |p| {
        yes(p.view.fence.covers.is_some())
    }),
    ("pgvigil_fence_usable", "0 while this member must not become primary for want of a fence", |p| {
        yes(p.view.fence.trouble.is_none())
    }),
    ("pgvigil_lease_remaining_seconds", "Time until Postgres must be dead unless the lease is renewed", |p| {
        p.lock_until.map_or(0.0, |until| until.remaining().as_secs_f64())
    }),
    ("pgvigil_leading_on_promises", "1 while this leader goes on without etcd, by its peers' promises", |p| {
        yes(p.leads_on_promises())
    }),
    ("pgvigil_promised", "1 while this member has promised a leader without etcd to let it go on", |p| {
        yes(p.view.promise.is_some())
    }),
    ("pgvigil_etcd_problems", "Values in etcd that cannot be understood, and alarms of etcd", |p| {
        p.snapshot.as_ref().map_or(0.0, |snapshot| snapshot.problems.len() as f64)
    }),
    ("pgvigil_postgres_up", "1 while Postgres answers", |p| yes(p.primary().is_some() || p.standby().is_some())),
    ("pgvigil_timeline", "The timeline of Postgres", |p| p.timeline().map_or(0.0, |t| f64::from(t.0))),
    ("pgvigil_etcd_last_contact_age_seconds", "Since etcd last confirmed the cluster view", |p| {
        p.etcd_seen_at.map_or(f64::NAN, |seen| seen.elapsed().as_secs_f64())
    }),
    ("pgvigil_replay_lag_bytes", "How far replay is behind the leader", |p| {
        p.replay_lag_bytes().map_or(0.0, |b| b as f64)
    }),
    ("pgvigil_streaming", "1 while this standby streams", |p| yes(p.standby().is_some_and(|s| s.streaming))),
    ("pgvigil_paused", "1 while automatic actions are paused", |p| yes(p.view.settings.paused)),
    ("pgvigil_failover_candidates", "Members that nothing bars from leading", |p| {
        p.decision.standings.iter().filter(|standing| standing.bars.is_empty()).count() as f64
    }),
    ("pgvigil_exposure_seconds", "Since when acknowledged commits are on this leader alone, against its mode", |p| {
        p.exposed.map_or(0.0, |exposed| exposed.since.elapsed().as_secs_f64())
    }),
    ("pgvigil_exposure_bytes", "WAL that is on this leader alone while its mode promises a second copy", |p| {
        p.exposed.map_or(0.0, |exposed| exposed.bytes as f64)
    }),
    ("pgvigil_durability_overruled", "Settings made by SQL under which acknowledged commits may be lost", |p| {
        undone(p, |undoes| undoes != Undoes::Writes)
    }),
    ("pgvigil_writes_forbidden", "1 while a setting made by SQL forbids every client to write", |p| {
        undone(p, |undoes| undoes == Undoes::Writes)
    }),
    ("pgvigil_sync_required", "Standbys that must acknowledge a commit", |p| {
        p.cluster().and_then(|c| c.sync.as_ref()).and_then(|s| s.policies.last()).map_or(0.0, |q| f64::from(q.k))
    }),
];

const PATRONIS: &[Row] = &[
    ("patroni_version", "Version that Patroni's tools compare", |_| 40105.0),
    ("patroni_postgres_running", "1 if Postgres is running", |p| yes(p.state() == "running")),
    ("patroni_postmaster_start_time", "When Postgres started, seconds since the epoch, 0 while it does not run", |p| {
        p.extras.as_ref().map_or(0.0, |extras| seconds_since_epoch(&extras.postmaster_start_time))
    }),
    ("patroni_primary", "1 if Postgres is a primary", |p| yes(p.primary().is_some())),
    ("patroni_master", "1 if Postgres is a primary (old name)", |p| yes(p.primary().is_some())),
    ("patroni_xlog_location", "Flushed WAL position in bytes, 0 on a standby", |p| {
        p.primary().map_or(0.0, |x| x.flushed.0 as f64)
    }),
    ("patroni_standby_leader", "1 if this is a standby leader", |p| yes(p.leads_a_follower())),
    ("patroni_replica", "1 if Postgres is a standby, and no standby leader", |p| {
        yes(p.standby().is_some() && !p.leads_a_follower())
    }),
    ("patroni_sync_standby", "1 if every acknowledged commit is here", |p| yes(p.sync_kind() == SyncKind::Sync)),
    ("patroni_quorum_standby", "1 if this is a voter", |p| yes(p.sync_kind() == SyncKind::Quorum)),
    ("patroni_xlog_received_location", "Received WAL position in bytes, 0 on a primary", |p| {
        p.standby().map_or(0.0, |s| s.received.0 as f64)
    }),
    ("patroni_xlog_replayed_location", "Replayed WAL position in bytes, 0 on a primary", |p| {
        p.standby().map_or(0.0, |s| s.replayed.0 as f64)
    }),
    (
        "patroni_xlog_replayed_timestamp",
        "When the transaction replayed last was committed, seconds since the epoch",
        |p| {
            let replayed = p.extras.as_ref().and_then(|extras| extras.replayed_timestamp.as_deref());
            replayed.filter(|_| p.standby().is_some()).map_or(0.0, seconds_since_epoch)
        },
    ),
    ("patroni_xlog_paused", "1 if replay is paused", |p| yes(p.extras.as_ref().is_some_and(|e| e.replay_paused))),
    ("patroni_postgres_streaming", "1 if the standby streams", |p| yes(p.standby().is_some_and(|s| s.streaming))),
    ("patroni_postgres_in_archive_recovery", "1 if the standby reads from an archive", |p| {
        yes(p.standby().is_some_and(|s| !s.streaming))
    }),
    ("patroni_postgres_server_version", "Version of Postgres", |p| {
        p.extras.as_ref().map_or(0.0, |e| e.server_version as f64)
    }),
    ("patroni_cluster_unlocked", "1 if nobody holds the leader lock", |p| {
        yes(p.cluster().is_none_or(|c| c.leader.is_none()))
    }),
    ("patroni_failsafe_mode_is_active", "1 if failsafe mode is active", |p| yes(p.leads_on_promises())),
    ("patroni_failsafe_mode_enabled", "1: going on without etcd is no switch here", |_| 1.0),
    ("patroni_failsafe_member", "1 if this member is listed among those that a leader without etcd asks", |p| {
        yes(p.cluster().and_then(|c| c.failsafe.as_ref()).is_some_and(|listed| listed.contains(&p.view.me)))
    }),
    ("patroni_postgres_timeline", "The timeline of Postgres", |p| p.timeline().map_or(0.0, |t| f64::from(t.0))),
    ("patroni_dcs_last_seen", "When etcd was last seen, seconds since the epoch", |p| p.etcd_seen_epoch_s as f64),
    ("patroni_pending_restart", "1 if a parameter waits for a restart", |p| yes(!p.parameters.pending().is_empty())),
    ("patroni_is_paused", "1 while automatic actions are paused", |p| yes(p.view.settings.paused)),
    ("patroni_postgres_state", "State of Postgres, as Patroni numbers it", |p| state_number(p)),
    ("patroni_failover_priority", "Among equals the higher number leads, 0: never", |p| {
        let tags = p.cluster().and_then(|c| c.members.get(&p.view.me)).map(|member| &member.tags);
        tags.map_or(0.0, |tags| if tags.nofailover { 0.0 } else { f64::from(tags.failover_priority) })
    }),
];

/// A time as Postgres prints it; 0 where that is no ISO date.
fn seconds_since_epoch(printed: &str) -> f64 {
    printed.parse::<jiff::Timestamp>().map_or(0.0, |at| at.as_duration().as_secs_f64())
}

/// Patroni's numbers for the states of Postgres.
fn state_number(picture: &Picture) -> f64 {
    match picture.state() {
        "initializing new cluster" => 0.0,
        "creating replica" => 4.0,
        "running" => 5.0,
        "starting" => 6.0,
        "stopping" => 11.0,
        "stopped" => 12.0,
        "crashed" => 14.0,
        _ => -1.0,
    }
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
        let help = "WAL that each replication slot of this server keeps";
        registry.register("pgvigil_slot_retained_bytes", help, self.slots.clone());
    }

    fn set(&self, picture: &Picture) {
        for reading in &self.readings {
            reading.gauge.set((reading.read)(picture));
        }
        self.slots.clear();
        for slot in &picture.slots.here {
            let labels = SlotLabels { slot: slot.name.to_string(), active: slot.active.to_string() };
            self.slots.get_or_create(&labels).set(slot.retained_bytes as f64);
        }
        self.lag.clear();
        if let Some(Server::Primary(primary)) = picture.postgres().map(|postgres| &postgres.server) {
            for standby in &primary.standbys {
                let labels = MemberLabels { standby: standby.member.to_string() };
                self.lag.get_or_create(&labels).set(standby.replayed.bytes_behind(primary.flushed) as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_postgres_prints_them() {
        for (printed, epoch_s) in [
            ("2026-08-28 11:09:08.5+00", 1_787_915_348.5),
            ("2026-08-28 13:09:08.5+02", 1_787_915_348.5),
            ("2026-08-28 16:39:08+05:30", 1_787_915_348.0),
            ("Fri 28 Aug 11:09:08 2026 UTC", 0.0),
            ("", 0.0),
        ] {
            assert!((seconds_since_epoch(printed) - epoch_s).abs() < 1e-6, "{printed}");
        }
    }
}
