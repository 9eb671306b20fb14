//! What a system costs when nothing happens: no client, no write, no fault.

use std::time::{Duration, Instant};

use anyhow::Result;
use chaos::system::System;

use crate::costs::{agents_on, counters, usage};
use crate::matrix::Name;
use crate::results::Rest;

/// Until the last writes of the start have been told and written.
const SETTLE: Duration = Duration::from_secs(45);
const MEASURED: Duration = Duration::from_secs(40);

/// Measures a system that has formed and serves nobody.
///
/// # Errors
/// etcd does not answer.
pub async fn measure(name: Name, system: &impl System) -> Result<Rest> {
    tokio::time::sleep(SETTLE).await;
    let has_etcd = name != Name::AutoFailover;
    let urls: Vec<String> =
        system.members().iter().map(|member| format!("http://{}:2379", member.host.address())).collect();
    let agents = || -> Vec<i32> { system.spots().iter().flat_map(|spot| agents_on(&spot.host)).collect() };
    let meeting = || -> Vec<i32> { system.members().iter().flat_map(|member| member.host.processes()).collect() };
    let etcd = async || if has_etcd { counters(&urls).await.map(Some) } else { Ok(None) };

    let (counted, began) = (etcd().await?, Instant::now());
    let (agents_before, meeting_before) = (usage(&agents()), usage(&meeting()));
    tokio::time::sleep(MEASURED).await;
    let (agents_after, meeting_after) = (usage(&agents()), usage(&meeting()));
    let over = began.elapsed();
    let rates = match (etcd().await?, counted) {
        (Some(now), Some(before)) => Some(now.rate_since(&before, over)),
        _ => None,
    };
    let nodes = f64::from(u32::try_from(system.spots().len())?);
    let percent = |after: f64, before: f64| (after - before) / over.as_secs_f64() * 100.0;
    Ok(Rest {
        system: name.word().to_owned(),
        processes: f64::from(u32::try_from(agents_after.processes)?) / nodes,
        rss_mb: agents_after.rss_mb / nodes,
        pss_mb: agents_after.pss_mb / nodes,
        cpu_percent: percent(agents_after.cpu_seconds, agents_before.cpu_seconds) / nodes,
        requests: rates.as_ref().map(|rates| rates.requests),
        writes: rates.as_ref().map(|rates| rates.proposals),
        meeting_cpu_percent: percent(meeting_after.cpu_seconds, meeting_before.cpu_seconds),
        meeting_rss_mb: meeting_after.rss_mb,
    })
}
