//! The table: a line for each fault in each setting, for the terminal and as Markdown.

use std::time::Duration;

use crate::round::Outcome;

/// The runs of one fault in one setting.
#[derive(Clone, Debug)]
pub struct Line {
    /// The fault.
    pub fault: String,
    /// How many nodes.
    pub nodes: usize,
    /// `apart` or `together`.
    pub layout: String,
    /// The durability mode.
    pub mode: String,
    /// `idle` or `pgbench`.
    pub load: String,
    /// What came of each run that could be played to its end.
    pub outcomes: Vec<Outcome>,
    /// Runs that could not.
    pub failed: usize,
}

const HEAD: [&str; 15] = [
    "fault",
    "nodes",
    "etcd",
    "mode",
    "load",
    "runs",
    "outage ms",
    "least",
    "most",
    "record off ms",
    "rows",
    "lost",
    "split",
    "redundancy ms",
    "verdict",
];

impl Line {
    /// Nothing happened that must not.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.outcomes.iter().all(|outcome| outcome.violations.is_empty())
    }

    fn verdict(&self) -> &'static str {
        if self.is_good() { "good" } else { "BROKEN" }
    }

    fn cells(&self) -> [String; HEAD.len()] {
        let outages: Vec<f64> = self.outcomes.iter().map(|outcome| milliseconds(outcome.outage)).collect();
        let off: Vec<f64> = self.outcomes.iter().filter_map(|outcome| outcome.record_off_ms).collect();
        let redundancy: Vec<f64> =
            self.outcomes.iter().filter_map(|outcome| outcome.redundancy.map(milliseconds)).collect();
        let sum = |of: fn(&Outcome) -> usize| self.outcomes.iter().map(of).sum::<usize>();
        let worst = off.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
        let runs = self.outcomes.len();
        [
            self.fault.clone(),
            self.nodes.to_string(),
            self.layout.clone(),
            self.mode.clone(),
            self.load.clone(),
            if self.failed == 0 { runs.to_string() } else { format!("{runs} of {}", runs + self.failed) },
            shown(median(&outages)),
            shown(outages.iter().copied().min_by(f64::total_cmp)),
            shown(outages.iter().copied().max_by(f64::total_cmp)),
            worst.map_or_else(|| "-".to_owned(), |worst| format!("{worst:+.0}")),
            sum(|outcome| outcome.acknowledged).to_string(),
            sum(|outcome| outcome.lost).to_string(),
            sum(|outcome| outcome.splits.len()).to_string(),
            shown(median(&redundancy)),
            self.verdict().to_owned(),
        ]
    }
}

/// The table as aligned Markdown, which reads well in a terminal too.
pub fn table(lines: &[Line]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(lines.iter().map(Line::cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        text += &format!("|{}\n", cells.collect::<String>());
        if number == 0 {
            let dashes = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2)));
            text += &format!("|{}\n", dashes.collect::<String>());
        }
    }
    text
}

fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn shown(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.0}"))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(outage_ms: u64, lost: usize) -> Outcome {
        Outcome {
            led: ("n1".into(), "n2".into()),
            outage: Duration::from_millis(outage_ms),
            lasted: Duration::ZERO,
            later: Duration::ZERO,
            record_off_ms: Some(-3.2),
            recorded: Vec::new(),
            acknowledged: 100,
            lost,
            splits: Vec::new(),
            redundancy: None,
            violations: if lost > 0 { vec!["lost".into()] } else { Vec::new() },
        }
    }

    #[test]
    fn a_line_has_the_medians_and_the_sums() {
        let line = Line {
            fault: "isolated".into(),
            nodes: 3,
            layout: "apart".into(),
            mode: "quorum".into(),
            load: "idle".into(),
            outcomes: vec![outcome(300, 0), outcome(500, 0), outcome(310, 0)],
            failed: 0,
        };
        let text = table(std::slice::from_ref(&line));
        let cells: Vec<&str> = text.lines().nth(2).unwrap_or_default().split('|').map(str::trim).collect();
        assert_eq!(cells[6..16], ["3", "310", "300", "500", "-3", "300", "0", "0", "-", "good"]);
        let broken = Line { outcomes: vec![outcome(300, 2)], ..line };
        assert!(!broken.is_good() && table(&[broken]).contains("BROKEN"));
    }
}
