//! `pgvigil slo`: what is left of the month's objective, and what each transition has cost of it.

use jiff::Timestamp;

use super::screen::{self, answer};
use super::transitions::recorded;
use super::words;
use crate::cli::{Exit, Output, SloArgs};
use crate::slo::{Cost, Slo};

/// Prints it.
pub async fn run(arguments: &SloArgs) -> Exit {
    let (_, records) = match recorded(&arguments.config).await {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let slo = Slo::of(&records, Timestamp::now());
    match arguments.output {
        Output::Json => answer(&serde_json::to_string_pretty(&slo).unwrap_or_default()),
        Output::Table => answer(&render(&slo)),
    };
    Exit::Done
}

fn render(slo: &Slo) -> String {
    let rows: Vec<Vec<String>> = slo.costs.iter().map(row).collect();
    let mut lines = Vec::new();
    if !rows.is_empty() {
        lines.push(screen::table(&["ID", "WHEN", "KIND", "OUTAGE", "OF THE BUDGET"], &rows));
    }
    lines.push(slo.sentence.clone());
    lines.join("\n")
}

fn row(cost: &Cost) -> Vec<String> {
    let ratio = cost.budget_ratio.map_or("-".to_owned(), |ratio| format!("{:.3} %", ratio * 100.0));
    let least = if cost.write_outage_at_least { "≥ " } else { "" };
    let outage =
        cost.write_outage_ms.map_or("unknown".to_owned(), |outage| format!("{least}{}", words::outage(outage)));
    vec![cost.id.clone(), words::moment(&cost.started_at), cost.kind.clone(), outage, ratio]
}
