//! Ten thousand clients at the health port of a real agent that say nothing: a load balancer's check is answered, the leader leads on, and the metrics
//! tell of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpSocket;

use crate::http::ask;
use crate::stage::Stage;

const CROWD: usize = 10_000;
const ASKS_EVERY: Duration = Duration::from_millis(50);
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Of `n1`, which leads.
pub async fn keep_no_check_waiting(stage: &Stage) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let node = stage.node("n1")?;
    let address: SocketAddr = node.api_url().replace("http://", "").parse()?;
    let before = ask(node, "GET", "/patroni").await?.body;
    let crowd = tokio::spawn(async move {
        let mut crowd = Vec::with_capacity(CROWD);
        for number in 0..CROWD {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from(([127, 0, 0, 2 + u8::try_from(number % 5)?], 0)))?;
            crowd.push(socket.connect(address).await?);
        }
        anyhow::Ok(crowd)
    });
    let (mut worst, mut times, mut after) = (Duration::ZERO, 0, 0);
    while after < 20 {
        after += usize::from(crowd.is_finished());
        let began = Instant::now();
        let answer = ask(node, "GET", "/primary").await?;
        ensure!(answer.status == 200, "n1 leads no more: {answer:?}");
        (worst, times) = (worst.max(began.elapsed()), times + 1);
        tokio::time::sleep(ASKS_EVERY).await;
    }
    stage.say(&format!("{CROWD} silent clients: {times} checks, the slowest after {} ms", worst.as_millis()));
    ensure!(worst < ANSWERED_WITHIN, "a check took {worst:?}");
    let page = ask(node, "GET", "/metrics").await?.body;
    let evicted = page.lines().find(|line| line.starts_with("pgvigil_http_evicted_total{") && line.contains("health"));
    let evicted = evicted.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    ensure!(evicted.context("no such series")? > CROWD / 2, "{evicted:?} were closed");
    drop(crowd.await??);
    let timeline = |body: &str| serde_json::from_str::<serde_json::Value>(body).map(|body| body["timeline"].clone());
    let now = ask(node, "GET", "/patroni").await?.body;
    ensure!(timeline(&now)? == timeline(&before)?, "somebody was promoted: {now}");
    ensure!(!std::fs::read_to_string(node.agent().log())?.contains("panicked"), "it has panicked");
    Ok(())
}
