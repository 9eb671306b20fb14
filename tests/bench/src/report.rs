//! The report: what was measured, as Markdown, and nothing that was not.

pub mod routes;

use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::crowd::Crowd;
use crate::matrix::{FAULTS, Name};
use crate::numbers::{Spread, ratio, time};
use crate::results::{Measured, Played, Rest, Results, Shown};

/// What the reader needs to know of the circumstances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Circumstances {
    /// The command that made it.
    pub command: String,
    /// One line each about machine and programs.
    pub facts: Vec<String>,
}

const COLUMNS: [(Name, &str); 5] = [
    (Name::Pgvigil, "pgvigil"),
    (Name::Patroni, "Patroni, defaults"),
    (Name::Patroni20, "Patroni, ttl 20, quorum"),
    (Name::AutoFailover, "pg_auto_failover, tuned"),
    (Name::PgvigilAsync, "pgvigil, async"),
];

fn words(fault: &str) -> &str {
    match fault {
        "switchover" => "planned switchover",
        "postmaster-killed" => "postmaster of the primary: SIGKILL",
        "power-lost" => "host of the primary loses power",
        "isolated" => "host of the primary cut off, later healed",
        "postgres-frozen" => "Postgres of the primary: SIGSTOP",
        "host-frozen" => "host of the primary frozen, later thawed",
        "agent-restarted" => "agent of the primary: SIGKILL, restarted at once",
        "agent-dead" => "agent of the primary: SIGKILL, dead for 45 s",
        "etcd-leader-killed" => "leading member of etcd: SIGKILL",
        "etcd-lost" => "all of etcd (or the monitor) dead for 45 s",
        other => other,
    }
}

/// The whole report.
///
/// # Errors
/// A result cannot be read.
pub fn report(results: &Results, circumstances: &Circumstances) -> Result<String> {
    let played: Vec<Played> = results.all("faults")?;
    let mut text = head(circumstances);
    text += &faults(&played);
    text += &failures(&played);
    text += &phases(&played);
    text += &proxy(&results.all::<Shown>("proxy")?);
    text += &routes::section(&results.all("routes")?, None);
    text += &rest(&results.all::<Rest>("rest")?);
    text += &crowds(results.all::<Crowd>("crowd")?);
    Ok(text)
}

fn head(circumstances: &Circumstances) -> String {
    let mut text = String::from("# Benchmarks\n\nMade by this command, which writes this file:\n\n");
    let _ = write!(text, "    {}\n\n", circumstances.command);
    for fact in &circumstances.facts {
        let _ = writeln!(text, "- {fact}");
    }
    text + "- Every system has three nodes, each host a network namespace, with etcd (or the monitor) on hosts of its own; the same \
            PostgreSQL, the same disk, one system at a time.\n\
            - A writer at every node asks each 3 ms whether it takes writes, over a kept connection, and writes where it does. An outage is \
            the longest time without an acknowledgement; a row is *lost* if it was acknowledged and is missing on some node at the end; a \
            row is *split* if a node took and acknowledged it after another had begun to.\n\n"
}

fn runs<'a>(played: &'a [Played], name: Name, fault: &str) -> Vec<&'a Played> {
    played.iter().filter(|played| played.system == name.word() && played.fault == fault).collect()
}

fn good<'a>(runs: &[&'a Played]) -> Vec<&'a Measured> {
    runs.iter().filter_map(|played| played.outcome.as_ref().ok()).collect()
}

fn outages(runs: &[&Played]) -> Option<Spread> {
    Spread::of(good(runs).iter().map(|measured| measured.outage_ms))
}

/// What the row of an agent that is left dead does not say.
const AGENT_DEAD: &str = "\
The writers of these runs try every node, so a Postgres whose agent is dead for 45 s serves them until its fencer strikes, and the outage counts from \
there. Whoever goes by HAProxy, `/primary` or an address that follows it leaves that Postgres with the health port of its agent, while nobody else may \
lead yet: about ttl for them, 3.7 s in one run ([failure-modes.md](failure-modes.md#agents)).";

fn faults(played: &[Played]) -> String {
    let shown: Vec<(Name, &str)> =
        COLUMNS.into_iter().filter(|(name, _)| played.iter().any(|played| played.system == name.word())).collect();
    if shown.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "## Outage of writes\n\nMedian, in brackets the least and the most and the number of runs; × is how many times longer than pgvigil \
         with its defaults. Lost and split rows are sums over all runs.\n\n| fault |",
    );
    shown.iter().for_each(|(_, title)| text += &format!(" {title} |"));
    text += "\n|---|";
    text += &"---|".repeat(shown.len());
    text += "\n";
    for fault in FAULTS.into_iter().filter(|fault| played.iter().any(|played| played.fault == *fault)) {
        let _ = write!(text, "| {} |", words(fault));
        let ours = outages(&runs(played, Name::Pgvigil, fault)).map(|spread| spread.median);
        for (name, _) in &shown {
            let _ = write!(text, " {} |", cell(*name, fault, &runs(played, *name, fault), ours));
        }
        text += "\n";
    }
    if played.iter().any(|played| played.fault == "agent-dead") {
        text += &format!("\n{AGENT_DEAD}\n");
    }
    text + "\n"
}

fn cell(name: Name, fault: &str, runs: &[&Played], ours: Option<f64>) -> String {
    if !name.knows(fault) {
        return "no such member".to_owned();
    }
    let Some(spread) = outages(runs) else {
        return if runs.is_empty() { "not run" } else { "failed, see below" }.to_owned();
    };
    let measured = good(runs);
    let mut text =
        format!("**{}** ({}–{}, n={})", time(spread.median), time(spread.least), time(spread.most), spread.count);
    if let Some(ours) = ours.filter(|_| name != Name::Pgvigil) {
        text += &format!(" {}", ratio(spread.median, ours));
    }
    // An outage that lasts as long as the fault ends only with it.
    let stuck = measured.iter().filter(|measured| !measured.back_by_itself).count();
    if stuck > 0 {
        text += &format!("; not before the mend in {stuck}");
    }
    let (lost, split) = measured.iter().fold((0, 0), |sum, one| (sum.0 + one.lost, sum.1 + one.split));
    text += &format!(
        "; {}",
        if lost + split == 0 { "none lost".to_owned() } else { format!("**{lost} lost, {split} split**") }
    );
    if runs.len() > measured.len() {
        text += &format!("; {} failed, see below", runs.len() - measured.len());
    }
    text
}

fn failures(played: &[Played]) -> String {
    let failed: Vec<String> = played
        .iter()
        .filter_map(|one| {
            let why = match &one.outcome {
                Err(why) => why.clone(),
                Ok(measured) => measured.violations.join("; "),
            };
            (!why.is_empty()).then(|| format!("- {}, {}, run {}: {why}\n", one.system, words(&one.fault), one.run))
        })
        .collect();
    if failed.is_empty() { String::new() } else { format!("What went wrong in these runs:\n\n{}\n", failed.concat()) }
}

fn phases(played: &[Played]) -> String {
    let mut lines = String::new();
    for fault in FAULTS {
        let runs = runs(played, Name::Pgvigil, fault);
        let measured = good(&runs);
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in measured.iter().flat_map(|measured| &measured.phases) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let median = |name: &&str| {
            let phase = measured.iter().flat_map(|measured| &measured.phases).filter(|(other, _)| other == name);
            Spread::of(phase.map(|(_, ms)| *ms)).map(|spread| format!("{name} {}", time(spread.median)))
        };
        let phases: Vec<String> = names.iter().filter_map(median).collect();
        if !phases.is_empty() {
            let _ = writeln!(lines, "| {} | {} |", words(fault), phases.join(", "));
        }
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "Where the time goes, by pgvigil's own records (medians; phases after *writable* cost no write):\n\n| fault | phases |\n|---|---|\n{lines}\n"
    )
}

fn proxy(shown: &[Shown]) -> String {
    let mut lines = String::new();
    for fault in crate::proxy::FAULTS {
        let runs: Vec<&Shown> = shown.iter().filter(|shown| shown.fault == fault).collect();
        let Some(spread) = Spread::of(runs.iter().map(|shown| shown.outage_ms)) else { continue };
        let lost: usize = runs.iter().map(|shown| shown.lost).sum();
        let (median, least, most) = (time(spread.median), time(spread.least), time(spread.most));
        let _ = writeln!(lines, "| {fault} | {median} | {least} | {most} | {} | {lost} |", spread.count);
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "## Through HAProxy\n\nThe outage that one client of HAProxy sees, with the configuration of `pgvigil show haproxy` (`pgvigil demo \
         --json --fault ...`): the above, and the wait for a health check.\n\n| fault | outage | least | most | runs | rows lost |\n\
         |---|---|---|---|---|---|\n{lines}\n"
    )
}

fn rest(rests: &[Rest]) -> String {
    let mut lines = String::new();
    for (name, title) in COLUMNS {
        let Some(rest) = rests.iter().find(|rest| rest.system == name.word()) else { continue };
        let number = |number: Option<f64>| number.map_or_else(|| "no etcd".to_owned(), |number| format!("{number:.2}"));
        let _ = writeln!(
            lines,
            "| {title} | {:.0} | {:.1} MB | {:.1} MB | {:.2} % | {} | {} | {:.2} % | {:.0} MB |",
            rest.processes,
            rest.rss_mb,
            rest.pss_mb,
            rest.cpu_percent,
            number(rest.requests),
            number(rest.writes),
            rest.meeting_cpu_percent,
            rest.meeting_rss_mb
        );
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "## At rest\n\nThree nodes, no client, for 40 s. Memory and processor time (of one core) are those of one agent, the mean of three; \
         requests and writes those of the whole cluster. *Shared once* counts memory that processes share in equal parts.\n\n\
         | system | processes | resident | shared once | CPU | etcd requests/s | etcd writes/s | CPU of etcd or monitor | its memory |\n\
         |---|---|---|---|---|---|---|---|---|\n{lines}\n"
    )
}

fn crowds(mut crowds: Vec<Crowd>) -> String {
    if crowds.is_empty() {
        return String::new();
    }
    crowds.sort_by_key(|crowd| (crowd.spread, crowd.clusters));
    let mut text = String::from(
        "## Many clusters on one etcd\n\nThree members, for 30 s: the etcd clients of idle agents (three a cluster, one of which holds the \
         lock), all in one process on the same machine, with the default timings. Processor time is of one core, for each member, the \
         busiest first. Where all agents name the same member first, that one serves them all.\n\n| clusters | first named | CPU of the members | memory, all | \
         requests/s | writes/s | fsyncs/s | renewal median / p99 / longest | unanswered | leases lost | CPU of all clients |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for crowd in &crowds {
        let cpu: Vec<String> = crowd.cpu_percent.iter().map(|percent| format!("{percent:.1} %")).collect();
        let [median, most, longest] = crowd.renewal_ms;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.0} MB | {:.0} | {:.2} | {:.2} | {median:.1} / {most:.1} / {longest:.1} ms | {} | {} | {:.0} % |",
            crowd.clusters,
            if crowd.spread { "in turn" } else { "the same" },
            cpu.join(", "),
            crowd.rss_mb,
            crowd.rates.requests,
            crowd.rates.proposals,
            crowd.rates.fsyncs,
            crowd.unanswered,
            crowd.lost,
            crowd.clients_cpu_percent
        );
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(name: Name, fault: &str, run: usize, outage_ms: f64, lost: usize) -> Played {
        let measured = Measured {
            outage_ms,
            lasted_ms: 50_000.0,
            back_by_itself: true,
            acknowledged: 100,
            lost,
            split: 0,
            redundancy_ms: None,
            phases: vec![("detect".into(), outage_ms / 2.0)],
            violations: Vec::new(),
        };
        Played { system: name.word().into(), fault: fault.into(), run, outcome: Ok(measured) }
    }

    #[test]
    fn a_peer_is_told_as_a_multiple_of_ours_with_what_it_lost() {
        let all = [
            played(Name::Pgvigil, "isolated", 1, 500.0, 0),
            played(Name::Pgvigil, "isolated", 2, 700.0, 0),
            played(Name::Pgvigil, "isolated", 3, 600.0, 0),
            played(Name::Patroni, "isolated", 1, 24_000.0, 7),
        ];
        let text = faults(&all);
        assert!(text.contains("**600 ms** (500 ms–700 ms, n=3); none lost"), "{text}");
        assert!(text.contains("**24.0 s** (24.0 s–24.0 s, n=1) ×40; **7 lost, 0 split**"), "{text}");
        assert!(phases(&all).contains("detect 300 ms"));
    }

    #[test]
    fn an_agent_that_is_left_dead_costs_others_more_and_the_report_says_so() {
        let told = |fault: &str| faults(&[played(Name::Pgvigil, fault, 1, 200.0, 0)]).contains("about ttl for them");
        assert!(told("agent-dead") && !told("isolated"));
    }

    #[test]
    fn a_run_that_failed_is_told() {
        let mut broken = played(Name::Patroni, "agent-dead", 2, 0.0, 0);
        broken.outcome = Err("not whole again".into());
        let all = [played(Name::Patroni, "agent-dead", 1, 3.0, 0), broken];
        assert!(faults(&all).contains("1 failed, see below"));
        assert!(failures(&all).contains("run 2: not whole again"));
    }
}
