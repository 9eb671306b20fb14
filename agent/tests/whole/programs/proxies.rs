//! HAProxy with the configurations that Patroni publishes: its sample, which asks `OPTIONS /`, and what confd makes of its template, which asks
//! `HEAD /primary` and `HEAD /replica`. Beside them what people write themselves: other paths, with a limit on the lag.

use std::collections::BTreeSet;
use std::time::Duration;

use agent::demo::ports::Ports;
use agent::demo::session::Session;
use anyhow::{Context, Result, ensure};
use tokio::process::Child;

use super::templates;
use crate::stage::Stage;

/// Patroni's `haproxy.cfg`, with a place for the servers.
const SAMPLE: &str = "\
global
    maxconn 100

defaults
    log global
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s

listen stats
    mode http
    bind *:7000
    stats enable
    stats uri /

listen batman
    bind *:5000
    option httpchk
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
SERVERS";
/// Written as people write them.
const OTHERS: &str = "
listen replicas_near
    bind *:5001
    option httpchk OPTIONS /replica?lag=100MB
    http-check expect status 200
    default-server inter 1s fall 2 rise 2
SERVERS
listen everybody
    bind *:5002
    option httpchk OPTIONS /read-only
    http-check expect status 200
    default-server inter 1s fall 2 rise 2
SERVERS
listen nobody
    bind *:5003
    option httpchk HEAD /async
    http-check expect status 200
    default-server inter 1s fall 2 rise 2
SERVERS";
/// Round robin reaches each of three servers well within.
const CONNECTIONS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(2);

/// HAProxy twice, for either configuration.
pub struct Proxies {
    ports: Ports,
    _running: [Child; 2],
}

/// Which port leads where, in the order of the ports.
const SAMPLES_LEADER: u16 = 0;
const NEAR: u16 = 1;
const EVERYBODY: u16 = 2;
const NOBODY: u16 = 3;
const TEMPLATES_LEADER: u16 = 5;
const TEMPLATES_STANDBYS: u16 = 6;

impl Proxies {
    pub async fn start(stage: &Stage) -> Result<Self> {
        let ports = Ports::choose(None, 8)?;
        let servers = stage.cluster.nodes().iter().map(|node| {
            let (port, api) = (node.postgres_port(), node.api_url());
            let api_port = api.rsplit(':').next().unwrap_or_default();
            format!("    server postgresql_127.0.0.1_{port} 127.0.0.1:{port} maxconn 100 check port {api_port}\n")
        });
        let sample = format!("{SAMPLE}{OTHERS}").replace("SERVERS", &servers.collect::<String>());
        let rendered = templates::haproxy(stage).await?;
        let running = [start(stage, "sample", &sample, &ports, 0)?, start(stage, "confd", &rendered, &ports, 5)?];
        Ok(Self { ports, _running: running })
    }

    /// Writes reach the leader, reads a standby. It takes the sample nine seconds to give up a server.
    pub async fn lead_where_they_should(&self, stage: &Stage, leader: &str) -> Result<()> {
        let port = |name: &String| Ok(i32::from(stage.node(name)?.postgres_port()));
        let leading = BTreeSet::from([port(&leader.to_owned())?]);
        let following = stage.others(leader).iter().map(port).collect::<Result<BTreeSet<_>>>()?;
        let all = &leading | &following;
        for (what, index, expected) in [
            ("the sample's leader", SAMPLES_LEADER, &leading),
            ("the template's leader", TEMPLATES_LEADER, &leading),
            ("the template's standbys", TEMPLATES_STANDBYS, &following),
            ("standbys that are near", NEAR, &following),
            ("whoever serves reads", EVERYBODY, &all),
            ("standbys that do not vote", NOBODY, &BTreeSet::new()),
        ] {
            let there = async || {
                let reached = self.reached(index).await;
                ensure!(reached == *expected, "{reached:?} instead of {expected:?}");
                Ok(true)
            };
            stage.eventually(&format!("{what}: HAProxy leads elsewhere"), there).await?;
        }
        for index in [SAMPLES_LEADER, TEMPLATES_LEADER] {
            let written = self.open(index).await?.batch_execute("CREATE TEMP TABLE t (i int)").await;
            written.context("a write through HAProxy")?;
        }
        let refused = self.open(TEMPLATES_STANDBYS).await?.batch_execute("CREATE TABLE never (i int)").await;
        ensure!(refused.is_err(), "a standby took a write");
        Ok(())
    }

    async fn open(&self, index: u16) -> Result<Session> {
        Session::open(self.ports.at(index), PATIENCE).await
    }

    /// The ports of the servers that connections end up at.
    async fn reached(&self, index: u16) -> BTreeSet<i32> {
        let mut reached = BTreeSet::new();
        for _ in 0..CONNECTIONS {
            let Ok(session) = self.open(index).await else { continue };
            if let Ok(row) = session.query_one("SELECT inet_server_port()", &[]).await {
                reached.insert(row.get(0));
            }
        }
        reached
    }
}

/// The configurations name ports from 5000 on, and 7000 for the statistics: here these are loopback's, from `first` on.
fn start(stage: &Stage, name: &str, text: &str, ports: &Ports, first: u16) -> Result<Child> {
    let named = [5000, 5001, 5002, 5003, 7000].into_iter().filter(|port| text.contains(&format!("*:{port}")));
    let text = named.zip(first..).fold(text.to_owned(), |text, (port, index)| {
        text.replace(&format!("*:{port}"), &format!("127.0.0.1:{}", ports.at(index)))
    });
    stage.haproxy(name, &text)
}
