//! The part of the report on the ways to the primary.

use std::fmt::Write;

use crate::numbers::{Spread, time};
use crate::routes::{FAULTS, Routed, Seen, WAYS};

/// What this part begins with.
const TITLE: &str = "## By each way of clients";

/// The part; `alone`: by which command it was made, and when, where that is not the whole report's.
pub fn section(routed: &[Routed], alone: Option<(&str, &str)>) -> String {
    if routed.is_empty() {
        return String::new();
    }
    let mut text = format!("{TITLE}\n\n");
    if let Some((command, begun)) = alone {
        let _ = write!(text, "Made by `{command}`, which writes this part. {begun}\n\n");
    }
    text += "The longest time without an acknowledgement that one client sees by each way, all four at once on one cluster of three nodes on loopback, each \
             with a row every 5 ms: HAProxy with the configuration of `pgvigil show haproxy`; a second one that agents tell of a change besides \
             (`haproxy.runtime_sockets`); PgBouncer as `pgvigil show pgbouncer` has it before that one, told to hold its clients over a switchover \
             (`[pgbouncer]`); psql with the connection string of `pgvigil show uri`, started again whenever it ends. *Own* is the outage by the \
             transition's own record, until the new primary has proven that it takes writes. Median, in brackets the least and the most, and the errors and \
             lost rows of all runs. On loopback a dead host refuses at once; over a network it is silent, and libpq waits for `connect_timeout`, 2 s.\n\n| \
             fault | runs | own |";
    WAYS.iter().for_each(|(_, title)| text += &format!(" {title} |"));
    text += "\n|---|---|---|";
    text += &"---|".repeat(WAYS.len());
    text += "\n";
    for (fault, title) in FAULTS {
        let runs: Vec<&Routed> = routed.iter().filter(|one| one.fault == fault).collect();
        if runs.is_empty() {
            continue;
        }
        let own = Spread::of(runs.iter().filter_map(|one| one.own_ms)).map_or_else(|| "-".to_owned(), spread);
        let _ = write!(text, "| {title} | {} | {own} |", runs.len());
        for (way, _) in WAYS {
            let seen: Vec<&Seen> = runs.iter().flat_map(|one| &one.ways).filter(|seen| seen.way == way).collect();
            let _ = write!(text, " {} |", cell(&seen));
        }
        text += "\n";
    }
    text + "\n"
}

fn spread(of: Spread) -> String {
    format!("**{}** ({}–{})", time(of.median), time(of.least), time(of.most))
}

fn cell(seen: &[&Seen]) -> String {
    let Some(outages) = Spread::of(seen.iter().map(|one| one.outage_ms)) else { return "not run".to_owned() };
    let (errors, lost) = seen.iter().fold((0, 0), |sum, one| (sum.0 + one.errors, sum.1 + one.lost));
    let lost = if lost == 0 { "none lost".to_owned() } else { format!("**{lost} lost**") };
    format!("{}; {errors} errors, {lost}", spread(outages))
}

/// A report with this part in place of the one that it has, or before what a cluster costs at rest.
pub fn put_into(report: &str, section: &str) -> String {
    let end = |from: usize| report[from..].find("\n## ").map_or(report.len(), |at| from + at + 1);
    let (before, after) = match report.find(TITLE) {
        Some(at) => (at, end(at + TITLE.len())),
        None => report.find("## At rest").map_or((report.len(), report.len()), |at| (at, at)),
    };
    format!("{}{section}{}", &report[..before], &report[after..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(run: usize, outage_ms: f64, errors: usize) -> Routed {
        let seen = |way: &str| Seen { way: way.to_owned(), outage_ms, errors, lost: 0 };
        let ways = WAYS.iter().map(|(way, _)| seen(way)).collect();
        Routed { fault: "switchover".to_owned(), run, own_ms: Some(outage_ms / 2.0), ways }
    }

    #[test]
    fn each_way_has_its_median_and_its_errors() {
        let text = section(&[routed(1, 300.0, 0), routed(2, 200.0, 1), routed(3, 250.0, 0)], None);
        assert!(text.contains("| planned switchover | 3 | **125 ms** (100 ms–150 ms) |"), "{text}");
        assert_eq!(text.matches("**250 ms** (200 ms–300 ms); 1 errors, none lost |").count(), WAYS.len(), "{text}");
        assert_eq!(section(&[], None), "");
    }

    #[test]
    fn it_takes_its_own_place_and_no_other() {
        let report = "# B\n\n## Through HAProxy\n\na\n\n## At rest\n\nb\n";
        let once = put_into(report, "## By each way of clients\n\nc\n\n");
        assert_eq!(once, "# B\n\n## Through HAProxy\n\na\n\n## By each way of clients\n\nc\n\n## At rest\n\nb\n");
        assert_eq!(put_into(&once, "## By each way of clients\n\nd\n\n"), once.replace("\nc\n", "\nd\n"));
    }
}
