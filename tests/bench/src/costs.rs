//! What programs cost: processor time and memory of processes from `/proc`, requests, writes and fsyncs of etcd from its own counters.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos::host::Host;
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use crate::http;

/// Processes at one moment, added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// How many there are.
    pub processes: usize,
    /// Processor time since each began, that of children that have ended included.
    pub cpu_seconds: f64,
    /// Resident memory; what several share counts for each.
    pub rss_mb: f64,
    /// Resident memory; what several share counts in equal parts.
    pub pss_mb: f64,
}

/// Adds these processes up. Whoever has ended meanwhile counts nothing.
pub fn usage(pids: &[i32]) -> Usage {
    let mut sum = Usage::default();
    for pid in pids {
        let Some(one) = of_process(*pid) else { continue };
        sum.processes += 1;
        sum.cpu_seconds += one.cpu_seconds;
        sum.rss_mb += one.rss_mb;
        sum.pss_mb += one.pss_mb;
    }
    sum
}

fn of_process(pid: i32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name, which may hold anything; the last bracket ends it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u32 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u32>().ok()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kilobytes = |name: &str| -> Option<f64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some(Usage {
        processes: 1,
        cpu_seconds: f64::from(ticks) / ticks_a_second(),
        rss_mb: kilobytes("Rss:")? / 1024.0,
        pss_mb: kilobytes("Pss:")? / 1024.0,
    })
}

fn ticks_a_second() -> f64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u32::try_from(ticks).ok());
    f64::from(ticks.unwrap_or(100))
}

/// The processes of whoever keeps Postgres running on a host: all but Postgres itself.
pub fn agents_on(host: &Host) -> Vec<i32> {
    let is_postgres = |pid: &i32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        exe.as_deref().and_then(std::path::Path::file_name).is_some_and(|name| name == "postgres" || name == "psql")
    };
    host.processes().into_iter().filter(|pid| !is_postgres(pid)).collect()
}

/// Counters of etcd, all members together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Requests of clients: calls, and messages on streams.
    pub requests: f64,
    /// What went through the log of the members: writes, and the coming and going of leases.
    pub proposals: f64,
    /// How often a member's log was synced to disk.
    pub fsyncs: f64,
}

impl Counters {
    /// What has been added since, a second.
    pub fn rate_since(&self, before: &Self, over: Duration) -> Self {
        let rate = |now: f64, before: f64| (now - before) / over.as_secs_f64();
        Self {
            requests: rate(self.requests, before.requests),
            proposals: rate(self.proposals, before.proposals),
            fsyncs: rate(self.fsyncs, before.fsyncs),
        }
    }
}

/// Reads the counters of these members (`http://address:port`).
///
/// # Errors
/// One does not answer.
pub async fn counters(urls: &[String]) -> Result<Counters> {
    let mut sum = Counters::default();
    for url in urls {
        let address = url.trim_start_matches("http://");
        let (status, page) = http::get(address, "/metrics", Duration::from_secs(5)).await?;
        ensure!(status == 200, "{url}/metrics answers {status}");
        let one = read(&page).with_context(|| format!("{url}/metrics has no counters"))?;
        sum.requests += one.requests;
        // Every member counts every proposal.
        sum.proposals = sum.proposals.max(one.proposals);
        sum.fsyncs += one.fsyncs;
    }
    Ok(sum)
}

fn read(page: &str) -> Option<Counters> {
    let values = |name: &str| -> Vec<f64> {
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
    };
    Some(Counters {
        requests: values("grpc_server_msg_received_total").into_iter().sum(),
        proposals: *values("etcd_server_proposals_applied_total").first()?,
        fsyncs: *values("etcd_disk_wal_fsync_duration_seconds_count").first()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_a_member_are_found_on_its_page() {
        let page = "etcd_disk_wal_fsync_duration_seconds_count 47\netcd_server_proposals_applied_total 1.5e+03\n\
             grpc_server_msg_received_total{grpc_method=\"Range\"} 7\ngrpc_server_msg_received_total{grpc_method=\"Watch\"} 5\n";
        let read = read(page).unwrap();
        assert_eq!((read.requests, read.proposals, read.fsyncs), (12.0, 1500.0, 47.0));
    }

    #[test]
    fn this_process_costs_something() {
        let me = i32::try_from(std::process::id()).unwrap();
        let usage = usage(&[me]);
        assert!(usage.processes == 1 && usage.rss_mb > 1.0 && usage.pss_mb > 0.0);
    }
}
