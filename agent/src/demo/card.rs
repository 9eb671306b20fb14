//! What the demo found out: a card for people, and one line of JSON for programs.

use serde_json::{Map, Value, json};

use super::audit::Audit;
use crate::cli::Fault;

/// The outage that 99.95 % allows in a month of 30 days.
const MONTH_BUDGET_MS: f64 = crate::slo::BUDGET_MS;

/// A pause that nobody would call one.
const SHORT_MS: f64 = 100.0;

/// The findings.
#[derive(Clone, Debug)]
pub struct Card {
    /// What was broken.
    pub fault: Fault,
    /// Between two acknowledgements around the fault.
    pub write_outage_ms: f64,
    /// The longest silence after that, while the broken node came back.
    pub later_pause_ms: f64,
    /// How many rows were acknowledged.
    pub acknowledged_rows: usize,
    /// Rows of which the writer never heard.
    pub unknown_rows: u64,
    /// What was counted.
    pub audit: Audit,
    /// Who led before.
    pub old_leader: String,
    /// Who leads after.
    pub new_leader: String,
    /// From the fault until commits were on a standby again.
    pub redundancy_restored_ms: Option<f64>,
    /// The record of the transition: its id, and its phases in their order.
    pub transition: Option<(String, Vec<(String, f64)>)>,
}

impl Card {
    /// One object on one line.
    pub fn json(&self) -> String {
        let (id, phases) = self.transition.clone().unzip();
        let phases: Map<String, Value> = phases.unwrap_or_default().into_iter().map(|(k, v)| (k, json!(v))).collect();
        json!({
            "fault": self.fault.word(),
            "write_outage_ms": rounded(self.write_outage_ms),
            "acknowledged_rows": self.acknowledged_rows,
            "lost_rows": self.audit.lost_rows,
            "old_leader": self.old_leader,
            "new_leader": self.new_leader,
            "redundancy_restored_ms": self.redundancy_restored_ms.map(rounded),
            "phases": phases,
            "transition": id,
        })
        .to_string()
    }

    /// The lines of the card.
    pub fn lines(&self) -> Vec<String> {
        let nodes: Vec<&str> = self.audit.missing.keys().map(String::as_str).collect();
        let redundancy = self
            .redundancy_restored_ms
            .map_or("none: this is a single node".to_owned(), |took| format!("{} after the fault", time(took)));
        let led = if self.old_leader == self.new_leader {
            format!("{} leads on", self.old_leader)
        } else {
            format!("{} -> {}", self.old_leader, self.new_leader)
        };
        let later = match self.later_pause_ms {
            pause if pause < SHORT_MS => String::new(),
            pause => format!(" (later at most {}, while the node came back; all share one disk here)", time(pause)),
        };
        let row = |name: &str, value: String| format!("  {name:<20}{value}");
        let mut lines = vec![
            String::new(),
            row("fault", format!("{}: {led}", broken(self.fault))),
            row("write outage", format!("{}{later}", time(self.write_outage_ms))),
            row(
                "rows acknowledged",
                format!("{} ({} more without an answer)", self.acknowledged_rows, self.unknown_rows),
            ),
            row(
                "rows lost",
                format!("{} (every acknowledged row looked for on {})", self.audit.lost_rows, nodes.join(", ")),
            ),
            row("redundancy back", redundancy),
        ];
        if let Some((id, phases)) = &self.transition {
            let phases: Vec<String> = phases.iter().map(|(name, took)| format!("{name} {}", time(*took))).collect();
            lines.push(row("phases", format!("{} ({id})", phases.join(", "))));
        }
        lines.push(row("99.95 % a month", month(self.write_outage_ms)));
        lines.push(String::new());
        lines
    }
}

fn broken(fault: Fault) -> &'static str {
    match fault {
        Fault::Node => "primary node killed (agent and Postgres)",
        Fault::Postgres => "postmaster of the primary killed",
        Fault::Hang => "Postgres of the primary frozen",
        Fault::Switchover => "none, a planned switchover",
    }
}

/// What share of a month's allowance this is, and how many fit into one.
fn month(outage_ms: f64) -> String {
    let share = outage_ms / MONTH_BUDGET_MS * 100.0;
    let fit = (MONTH_BUDGET_MS / outage_ms.max(1.0)).floor();
    format!("{share:.3} % of the 21 min 36 s that it allows: {fit} of these fit into one")
}

fn time(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.2} s", ms / 1000.0) }
}

fn rounded(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card {
            fault: Fault::Node,
            write_outage_ms: 5184.04,
            later_pause_ms: 20.0,
            acknowledged_rows: 6812,
            unknown_rows: 1,
            audit: Audit { lost_rows: 0, missing: [("n1".to_owned(), 0), ("n2".to_owned(), 0)].into() },
            old_leader: "n1".into(),
            new_leader: "n2".into(),
            redundancy_restored_ms: None,
            transition: Some(("t-2".into(), vec![("detect".into(), 4800.0), ("promote".into(), 35.5)])),
        }
    }

    #[test]
    fn an_outage_is_a_share_of_the_month() {
        assert_eq!(month(5184.0), "0.400 % of the 21 min 36 s that it allows: 250 of these fit into one");
        assert!(month(0.0).starts_with("0.000 %"));
    }

    #[test]
    fn the_last_line_has_exactly_these_keys() {
        let value: Value = serde_json::from_str(&card().json()).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "fault",
            "write_outage_ms",
            "acknowledged_rows",
            "lost_rows",
            "old_leader",
            "new_leader",
            "redundancy_restored_ms",
            "phases",
            "transition",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(value["write_outage_ms"], 5184.0);
        assert_eq!(value["phases"]["promote"], 35.5);
        assert!(!card().json().contains('\n'));
    }

    #[test]
    fn the_card_names_who_was_looked_at() {
        let text = card().lines().join("\n");
        assert!(
            text.contains("n1 -> n2") && text.contains("looked for on n1, n2") && text.contains("detect 4.80 s"),
            "{text}"
        );
    }
}
