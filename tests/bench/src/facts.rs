//! The circumstances of a measurement: the machine, and which programs were measured.

use std::process::{Command, Stdio};

use crate::report::Circumstances;

/// Looks at this machine.
pub fn circumstances(command: String) -> Circumstances {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processor = processor.map_or("a processor that does not tell its name", |(_, name)| name);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let etcd = said("etcd", &["--version"]).replace("etcd Version: ", "");
    let peer = said("pg_autoctl", &["version"]).replace("pg_autoctl version ", "");
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    Circumstances {
        command,
        facts: vec![
            format!("Begun on {}, at commit {commit}.", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC")),
            format!("Load of the machine before (one, five, fifteen minutes): {}.", load.split(' ').take(3).collect::<Vec<_>>().join(", ")),
            format!("One machine: {cores} cores ({processor}), {} GB of memory.", memory.unwrap_or_default() / 1_000_000),
            format!(
                "{}, etcd {etcd}, Patroni {}, pg_auto_failover {peer}.",
                said("/usr/lib/postgresql/15/bin/postgres", &["--version"]).replace("postgres (PostgreSQL)", "PostgreSQL"),
                patroni()
            ),
            "Patroni with its defaults: ttl 30, loop_wait 10, retry_timeout 10, asynchronous. With ttl 20 (the least that it takes): loop_wait \
             5, retry_timeout 5, `synchronous_mode: quorum`. pg_auto_failover: `node_considered_unhealthy_timeout`, `primary_demote_timeout` and \
             `network_partition_timeout` 5 s (20, 30 and 20 by default), health checks each second; synchronous with a quorum by itself. \
             pgvigil: defaults."
                .to_owned(),
        ],
    }
}

/// When it was begun, at which commit, and on what.
pub fn begun() -> String {
    let now = circumstances(String::new());
    now.facts.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// The version that `scripts/bench-setup.sh` has pinned.
fn patroni() -> String {
    let script = include_str!("../../../scripts/bench-setup.sh");
    let version =
        script.split("patroni==").nth(1).map(|rest| rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.'));
    version.map(Iterator::collect).unwrap_or_default()
}

/// The first line of what a program says.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.lines().next().unwrap_or_default().trim().to_owned()
}
