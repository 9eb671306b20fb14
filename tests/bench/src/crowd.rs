//! Many clusters on one etcd: the clients of idle agents, as the agent itself starts them, with nothing behind them. Each cluster has
//! three: leases kept alive, a watch with its confirming reads, a member record; and one of them holds the lock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chaos::site::Site;
use chaos::system::Member;
use consensus::records::MemberRecord;
use consensus::{Adopted, ClusterWatch, Endpoints, EtcdOptions, Keys, LeaseKeeper, Store};
use decision::action::{Claim, ClaimKind};
use decision::durability::Quorum;
use decision::names::{MemberName, Term, Timeline};
use decision::settings::{Mode, Timing};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::costs::{Counters, counters, usage};

/// How long the counters must have been at rest before the measurement, and how long to wait for that.
const SETTLE: Duration = Duration::from_secs(10);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const MEASURED: Duration = Duration::from_secs(30);
/// So many clusters come up at once.
const AT_ONCE: usize = 8;
const AGENTS: usize = 3;
/// How often a cluster is brought up before that is given up.
const ATTEMPTS: usize = 5;

/// What a crowd costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Crowd {
    /// How many clusters.
    pub clusters: usize,
    /// Whether each agent names another member of etcd first, or all the same.
    pub spread: bool,
    /// Processor time of each member, in percent of one core, the busiest first.
    pub cpu_percent: Vec<f64>,
    /// Resident memory of all members together.
    pub rss_mb: f64,
    /// A second, all members together.
    pub rates: Counters,
    /// How long a renewal took: median, the 99th of a hundred, the longest.
    pub renewal_ms: [f64; 3],
    /// Renewals without an answer in time.
    pub unanswered: u64,
    /// Leases that were lost.
    pub lost: usize,
    /// Processor time of all clients together, in percent of one core.
    pub clients_cpu_percent: f64,
}

struct Agent {
    leases: LeaseKeeper,
    _watch: ClusterWatch,
}

/// Latencies of the renewals, while they are wanted.
#[derive(Default)]
struct Latencies {
    wanted: AtomicBool,
    ms: Mutex<Vec<f64>>,
}

/// Brings up `clusters` clusters on a new etcd of three members and measures it.
///
/// # Errors
/// etcd does not start, or a cluster does not come up.
pub async fn measure(clusters: usize, spread: bool) -> Result<Crowd> {
    let mut site = Site::new()?;
    let hosts = site.hosts("e", 3)?;
    let (members, urls) = site.etcd(&hosts)?;
    members.iter().try_for_each(|member| member.service.start())?;
    ready(&urls).await?;
    let latencies = Arc::new(Latencies::default());
    let agents = bring_up(clusters, spread, &urls, &latencies).await?;
    settle(&urls).await?;

    let me = i32::try_from(std::process::id())?;
    let (before, cpu_before, mine) = (counters(&urls).await?, cpu(&members), usage(&[me]).cpu_seconds);
    let failures_before = failures(&agents);
    latencies.wanted.store(true, Ordering::Relaxed);
    let began = Instant::now();
    tokio::time::sleep(MEASURED).await;
    let over = began.elapsed();
    let percent = |seconds: f64| seconds / over.as_secs_f64() * 100.0;
    let mut cpu_percent: Vec<f64> =
        cpu(&members).iter().zip(&cpu_before).map(|(now, before)| percent(now - before)).collect();
    cpu_percent.sort_by(|a, b| b.total_cmp(a));
    let clients_cpu_percent = percent(usage(&[me]).cpu_seconds - mine);
    let rates = counters(&urls).await?.rate_since(&before, over);
    let pids: Vec<i32> = members.iter().filter_map(|member| member.service.pid()).collect();
    ensure!(pids.len() == members.len(), "a member of etcd has ended");
    Ok(Crowd {
        clusters,
        spread,
        cpu_percent,
        rss_mb: usage(&pids).rss_mb,
        rates,
        renewal_ms: quantiles(&mut latencies.ms.lock().unwrap_or_else(PoisonError::into_inner)),
        unanswered: failures(&agents) - failures_before,
        lost: agents.iter().filter(|agent| agent.leases.member().borrow().alive().is_none()).count(),
        clients_cpu_percent,
    })
}

/// Waits until etcd answers.
///
/// # Errors
/// Not within 30 s.
pub async fn ready(urls: &[String]) -> Result<()> {
    let begin = Instant::now();
    while counters(urls).await.is_err()
        || Store::new(endpoints(urls)?, Keys::new("service", "none")).read().await.is_err()
    {
        ensure!(begin.elapsed() < Duration::from_secs(30), "etcd does not answer");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn options(urls: &[String]) -> EtcdOptions {
    let request_timeout = Timing::default().request_timeout;
    EtcdOptions {
        endpoints: urls.to_vec(),
        tls: None,
        username: None,
        password: None,
        password_file: None,
        request_timeout,
    }
}

fn endpoints(urls: &[String]) -> Result<Endpoints> {
    Ok(Endpoints::new(options(urls))?)
}

async fn bring_up(clusters: usize, spread: bool, urls: &[String], latencies: &Arc<Latencies>) -> Result<Vec<Agent>> {
    let (mut coming, mut agents) = (JoinSet::new(), Vec::new());
    for number in 0..clusters {
        if coming.len() >= AT_ONCE {
            agents.extend(next(&mut coming).await?);
        }
        coming.spawn(cluster(number, spread, urls.to_vec(), Arc::clone(latencies)));
    }
    while !coming.is_empty() {
        agents.extend(next(&mut coming).await?);
    }
    Ok(agents)
}

async fn next(coming: &mut JoinSet<Result<Vec<Agent>>>) -> Result<Vec<Agent>> {
    coming.join_next().await.context("no cluster is coming up")??
}

/// One cluster of three agents. Where a busy etcd leaves a write unanswered it is begun anew under another name.
async fn cluster(number: usize, spread: bool, urls: Vec<String>, latencies: Arc<Latencies>) -> Result<Vec<Agent>> {
    for attempt in 1.. {
        let name = format!("cluster-{number:03}-{attempt}");
        match attempted(&name, number, spread, &urls, &latencies).await {
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            up => return up,
        }
    }
    bail!("no attempt was made")
}

async fn attempted(
    cluster: &str,
    number: usize,
    spread: bool,
    urls: &[String],
    latencies: &Arc<Latencies>,
) -> Result<Vec<Agent>> {
    let timing = Timing::default();
    let names: Vec<MemberName> =
        (1..=AGENTS).map(|agent| MemberName::new(format!("pg{agent}"))).collect::<Result<_, _>>()?;
    let mut agents = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let mut nearest = urls.to_vec();
        let turn = if spread { (number + index) % nearest.len() } else { 0 };
        nearest.rotate_left(turn);
        let store = Store::new(endpoints(&nearest)?, Keys::new("service", cluster));
        let leases = LeaseKeeper::start(options(&nearest), timing.ttl, timing.heartbeat, Adopted::default())?;
        let watch = ClusterWatch::start(store.clone(), timing.heartbeat);
        let member_lease = granted(&leases).await.with_context(|| format!("cluster {number}"))?;
        let record = record(name, index);
        ensure!(store.register_member(name, &record, member_lease).await?.applied(), "the name {name} is taken");
        if index == 0 {
            let lock = leases.ensure_lock_lease().await?;
            let claim = first_claim(&names[1..]);
            ensure!(store.acquire(name, lock, &claim, 0).await?.applied(), "the lock of cluster {number} is taken");
        }
        for mut lease in [leases.member(), leases.lock()] {
            let latencies = Arc::clone(latencies);
            tokio::spawn(async move {
                while lease.changed().await.is_ok() {
                    let state = lease.borrow_and_update().alive();
                    if let Some(state) = state.filter(|_| latencies.wanted.load(Ordering::Relaxed)) {
                        let mut ms = latencies.ms.lock().unwrap_or_else(PoisonError::into_inner);
                        ms.push(state.renewal_latency.as_secs_f64() * 1000.0);
                    }
                }
            });
        }
        agents.push(Agent { leases, _watch: watch });
    }
    Ok(agents)
}

async fn granted(leases: &LeaseKeeper) -> Result<i64> {
    let mut lease = leases.member();
    let wait = async {
        loop {
            if let Some(id) = lease.borrow_and_update().id() {
                return Some(id);
            }
            lease.changed().await.ok()?;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.ok().flatten().context("no lease within 30 s")
}

fn record(name: &MemberName, index: usize) -> MemberRecord {
    MemberRecord {
        conn_url: MemberRecord::conn_url_of(name.as_str(), 5432),
        api_url: format!("http://{name}:8008/patroni"),
        role: if index == 0 { "primary" } else { "replica" }.to_owned(),
        state: "running".to_owned(),
        timeline: Some(1),
        ..MemberRecord::default()
    }
}

fn first_claim(voters: &[MemberName]) -> Claim {
    let voters: BTreeSet<MemberName> = voters.iter().cloned().collect();
    Claim {
        term: Term(1),
        after: Term(0),
        policies: vec![Quorum::of(1, voters)],
        mode: Mode::Quorum,
        timeline: Timeline(1),
        ballots: Vec::new(),
        failsafe_revision: None,
        depose: None,
        follows: false,
        kind: ClaimKind::Failover,
        request: None,
        lost_bytes_bound: Some(0),
    }
}

/// Waits until the start is over: no write for a while.
async fn settle(urls: &[String]) -> Result<()> {
    let begin = Instant::now();
    loop {
        let before = counters(urls).await?;
        tokio::time::sleep(SETTLE).await;
        if counters(urls).await?.proposals - before.proposals < 1.0 {
            return Ok(());
        }
        if begin.elapsed() > SETTLED_WITHIN {
            bail!("still writes after {SETTLED_WITHIN:?} of rest");
        }
    }
}

fn cpu(members: &[Member]) -> Vec<f64> {
    members.iter().map(|member| usage(&member.service.pid().into_iter().collect::<Vec<_>>()).cpu_seconds).collect()
}

fn failures(agents: &[Agent]) -> u64 {
    let of = |agent: &Agent| agent.leases.member().borrow().alive().map_or(0, |state| state.failures);
    agents.iter().map(of).sum()
}

fn quantiles(ms: &mut [f64]) -> [f64; 3] {
    ms.sort_by(f64::total_cmp);
    let at = |part: usize| ms.get((ms.len() * part / 100).min(ms.len().saturating_sub(1))).copied().unwrap_or(0.0);
    [at(50), at(99), at(100)]
}
