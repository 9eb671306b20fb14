//! What the last thirty days have cost of the objective for availability, by the records of transitions. They lie in etcd, so these figures survive restarts
//! and failovers; what no record tells of (writes that waited, an etcd and agents that were dark) is Prometheus' to see.

use consensus::records::Transition;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// The part of the time in which clients are to be able to write.
pub const OBJECTIVE: f64 = 0.9995;
/// Over so many days.
pub const WINDOW_DAYS: i64 = 30;
/// What the objective allows in the window, in milliseconds: 1296 s.
pub const BUDGET_MS: f64 = 1_296_000.0;

/// What one transition has cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// The id of its record.
    pub id: String,
    /// `failover`, `switchover`, ...
    pub kind: String,
    /// When it began, by the clock of whoever wrote it.
    pub started_at: String,
    /// For how long nobody could write; `null`: not known.
    pub write_outage_ms: Option<f64>,
    /// Whether it may have been longer: nobody was there to measure its beginning.
    pub write_outage_at_least: bool,
    /// Of the budget of the window.
    pub budget_ratio: Option<f64>,
}

/// How the objective stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slo {
    /// `pgvigil.slo/v1`
    pub schema: &'static str,
    /// The part of the time in which clients are to be able to write.
    pub objective: f64,
    /// Over so many days.
    pub window_days: i64,
    /// From here on there are records; `null`: there are none.
    pub known_since: Option<String>,
    /// The recorded outages together.
    pub write_outage_ms: f64,
    /// Whether one of them may have been longer.
    pub write_outage_at_least: bool,
    /// What the objective allows in the window.
    pub budget_ms: f64,
    /// The part of it that is left; below 0: it is overdrawn.
    pub budget_left_ratio: f64,
    /// The part of the window in which clients could write, as far as there are records.
    pub availability: f64,
    /// What each transition of the window has cost, the dearest first.
    pub costs: Vec<Cost>,
    /// The same in one sentence.
    pub sentence: String,
}

/// Whether a record counts: it is of the window, its time can be read, and the cluster was there to be missed.
pub fn counts(record: &Transition, now: Timestamp) -> bool {
    let window = SignedDuration::from_hours(WINDOW_DAYS * 24);
    let is_in = record.started_at.parse::<Timestamp>().is_ok_and(|at| now.duration_since(at) <= window);
    is_in && record.kind != "bootstrap"
}

impl Slo {
    /// By these records.
    pub fn of(records: &[Transition], now: Timestamp) -> Self {
        let counted = records.iter().filter(|record| counts(record, now));
        let mut costs: Vec<Cost> = counted.filter(|record| record.tells_of_an_outage()).map(Cost::of).collect();
        costs.sort_by(|one, other| other.write_outage_ms.unwrap_or(0.0).total_cmp(&one.write_outage_ms.unwrap_or(0.0)));
        let write_outage_ms = costs.iter().filter_map(|cost| cost.write_outage_ms).sum::<f64>();
        let unknown = costs.iter().filter(|cost| cost.write_outage_ms.is_none()).count();
        let at_least = costs.iter().any(|cost| cost.write_outage_at_least);
        let left = 1.0 - write_outage_ms / BUDGET_MS;
        Self {
            schema: "pgvigil.slo/v1",
            objective: OBJECTIVE,
            window_days: WINDOW_DAYS,
            known_since: records
                .iter()
                .filter_map(|record| record.started_at.parse::<Timestamp>().ok())
                .min()
                .map(|at| at.to_string()),
            write_outage_ms,
            write_outage_at_least: at_least,
            budget_ms: BUDGET_MS,
            budget_left_ratio: left,
            availability: 1.0 - write_outage_ms / (BUDGET_MS / (1.0 - OBJECTIVE)),
            sentence: sentence((write_outage_ms, at_least), left, costs.len(), unknown),
            costs,
        }
    }
}

impl Cost {
    fn of(record: &Transition) -> Self {
        Self {
            id: record.id.clone(),
            kind: record.kind.clone(),
            started_at: record.started_at.clone(),
            write_outage_ms: record.write_outage_ms,
            write_outage_at_least: record.write_outage_at_least && record.write_outage_ms.is_some(),
            budget_ratio: record.write_outage_ms.map(|outage| outage / BUDGET_MS),
        }
    }
}

fn sentence((write_outage_ms, at_least): (f64, bool), left: f64, costs: usize, unknown: usize) -> String {
    let seconds = write_outage_ms / 1000.0;
    let whole = BUDGET_MS / 1000.0;
    let of = if costs == 1 { "1 transition" } else { &format!("{costs} transitions") };
    let budget = match left {
        left if left < 0.0 => {
            format!("that is {:.1} s more than the {whole:.0} s that 99.95 % allows", seconds - whole)
        }
        left => format!("{:.1} % of the {whole:.0} s that 99.95 % allows are left", left * 100.0),
    };
    let more = match unknown {
        0 => String::new(),
        1 => "; how long one of them took is not known".to_owned(),
        several => format!("; how long {several} of them took is not known"),
    };
    let least = if at_least { "at least " } else { "" };
    format!("in 30 days {of} kept clients from writing for {least}{seconds:.2} s: {budget}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, kind: &str, started_at: &str, write_outage_ms: Option<f64>) -> Transition {
        let (id, kind, started_at) = (id.into(), kind.into(), started_at.into());
        Transition { id, kind, started_at, write_outage_ms, outcome: "done".into(), ..Transition::default() }
    }

    fn of(records: &[Transition]) -> Slo {
        Slo::of(records, "2026-09-21T00:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn the_outages_of_the_window_are_what_is_spent_of_it() {
        let slo = of(&[
            record("t-1", "bootstrap", "2026-09-01T00:00:00Z", Some(60_000.0)),
            record("t-2", "failover", "2026-08-01T00:00:00Z", Some(9_000_000.0)),
            record("s-3", "switchover", "2026-09-10T00:00:00Z", Some(200.0)),
            record("t-4", "failover", "2026-09-20T00:00:00Z", Some(129_400.0)),
            record("o-5", "restart", "2026-09-20T00:00:00Z", None),
            record("x-6", "failover", "yesterday", Some(1.0)),
        ]);
        let told: Vec<&str> = slo.costs.iter().map(|cost| cost.id.as_str()).collect();
        assert_eq!(told, ["t-4", "s-3"], "the dearest first; none that nobody missed");
        assert!((slo.budget_left_ratio - 0.9).abs() < 1e-9 && (slo.availability - 0.99995).abs() < 1e-9, "{slo:?}");
        assert_eq!(slo.known_since.as_deref(), Some("2026-08-01T00:00:00Z"));
        let sentence = "in 30 days 2 transitions kept clients from writing for 129.60 s: 90.0 % of the 1296 s that 99.95 % allows are left";
        assert_eq!(slo.sentence, sentence);
    }

    #[test]
    fn an_outage_whose_beginning_nobody_has_seen_is_at_least_so_long_in_the_sum_as_well() {
        let seen = record("t-4", "failover", "2026-09-20T00:00:00Z", Some(500.0));
        let least = Transition { id: "t-5".into(), write_outage_at_least: true, ..seen.clone() };
        let slo = of(&[seen.clone(), least]);
        let told: Vec<bool> = slo.costs.iter().map(|cost| cost.write_outage_at_least).collect();
        assert_eq!((told, slo.write_outage_at_least), (vec![false, true], true));
        assert!(slo.sentence.contains(" from writing for at least 1.00 s: "), "{}", slo.sentence);
        assert!(!of(&[seen]).write_outage_at_least);
    }

    #[test]
    fn what_is_overdrawn_and_what_is_not_known_are_said() {
        let slo = of(&[
            record("t-4", "failover", "2026-09-20T00:00:00Z", Some(1_300_000.0)),
            record("t-5", "failover", "2026-09-20T00:00:00Z", None),
        ]);
        assert!(slo.budget_left_ratio < 0.0);
        assert!(
            slo.sentence
                .ends_with("4.0 s more than the 1296 s that 99.95 % allows; how long one of them took is not known"),
            "{}",
            slo.sentence
        );
        assert!((of(&[]).budget_left_ratio - 1.0).abs() < f64::EPSILON && of(&[]).known_since.is_none());
    }
}
