//! check_patroni: every check it has, and of each the good outcome and the bad one. Its exit codes are Nagios': 0 well, 2 critical, 3 unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::run;
use crate::stage::{SOON, Stage};

const OK: i32 = 0;
const CRITICAL: i32 = 2;
const UNKNOWN: i32 = 3;
/// As many interpreters as two cores start without a check running into its timeout.
const AT_ONCE: usize = 4;
/// The version that the compatible answers bear.
const VERSION: &str = consensus::records::COMPAT_VERSION;
const POLL: Duration = Duration::from_millis(200);

/// Whom a check asks.
#[derive(Clone, Copy)]
enum At<'a> {
    /// Any node: all are named, as its documentation advises.
    Cluster,
    /// This node.
    Node(&'a str),
}

/// The program, and the API of each node.
pub struct Nagios {
    program: PathBuf,
    urls: BTreeMap<String, String>,
    timeline: String,
    settings: String,
}

impl Nagios {
    pub fn new(program: PathBuf, stage: &Stage) -> Result<Self> {
        let directory = stage.cluster.directory();
        let file = |name: &str| directory.join(name).to_str().map(str::to_owned).context("a path");
        let urls = stage.cluster.nodes().iter().map(|node| (node.name().to_owned(), node.api_url())).collect();
        Ok(Self { program, urls, timeline: file("timeline.state")?, settings: file("settings.state")? })
    }

    /// No check of a healthy cluster complains, and what is only true of others is denied. Each that the program has is among them.
    pub async fn every_check_is_good(&self, stage: &Stage, leader: &str) -> Result<()> {
        let standby = &stage.standby().await?;
        let (cluster, leader, standby) = (At::Cluster, At::Node(leader), At::Node(standby));
        // Both say that something has changed when they have nothing to compare with, and remember it.
        for (at, check) in [(cluster, self.changed()), (leader, self.changed_timeline())] {
            self.run(at, &format!("{check} --save")).await?;
        }
        let (settings, timeline) = (self.changed(), self.changed_timeline());
        let version = format!("node_patroni_version --patroni-version {VERSION}");
        let expected = [
            (cluster, OK, settings.as_str()),
            (cluster, OK, "cluster_has_leader"),
            (cluster, OK, "cluster_has_replica -w 2: -c 1: --max-lag 10MB"),
            (cluster, OK, "cluster_has_replica --sync-warning 2: --sync-critical 1: --sync-type quorum"),
            (cluster, OK, "cluster_has_scheduled_action"),
            (cluster, OK, "cluster_is_in_maintenance"),
            (cluster, OK, "cluster_node_count -w 3: -c 2: --healthy-warning 3: --healthy-critical 2:"),
            (leader, OK, "node_is_alive"),
            (leader, OK, "node_is_leader"),
            (leader, OK, "node_is_primary"),
            (leader, OK, "node_is_pending_restart"),
            (leader, OK, timeline.as_str()),
            (leader, OK, version.as_str()),
            (standby, OK, "node_is_alive"),
            (standby, OK, "node_is_replica --max-lag 10MB"),
            (standby, OK, "node_is_replica --is-sync --sync-type quorum"),
            (leader, CRITICAL, "node_is_replica"),
            (leader, CRITICAL, "node_is_leader --is-standby-leader"),
            (leader, CRITICAL, "node_patroni_version --patroni-version 3.0.3"),
            (standby, CRITICAL, "node_is_leader"),
            (standby, CRITICAL, "node_is_primary"),
            (standby, CRITICAL, "node_is_replica --is-async"),
            (standby, CRITICAL, "node_is_replica --is-sync --sync-type sync"),
            (cluster, CRITICAL, "cluster_node_count -c 4:"),
            (cluster, CRITICAL, "cluster_has_replica -c 3:"),
        ];
        let tried = expected.iter().filter_map(|(_, _, check)| check.split(' ').next());
        let missing: BTreeSet<String> = &self.checks().await? - &tried.map(str::to_owned).collect();
        ensure!(missing.is_empty(), "check_patroni has checks that nobody tries: {missing:?}");
        self.come_true(&expected).await
    }

    /// Whoever leads is another now, and the rest is as before.
    pub async fn the_roles_are_others(&self, stage: &Stage, leader: &str) -> Result<()> {
        let standby = &stage.standby().await?;
        let (leader, standby) = (At::Node(leader), At::Node(standby));
        self.come_true(&[
            (At::Cluster, OK, "cluster_has_leader"),
            (At::Cluster, OK, "cluster_has_replica -w 2: -c 1: --max-lag 10MB"),
            (At::Cluster, OK, "cluster_node_count -w 3: --healthy-warning 3:"),
            (At::Cluster, OK, "cluster_is_in_maintenance"),
            (leader, OK, "node_is_primary"),
            (leader, CRITICAL, "node_is_replica"),
            (standby, OK, "node_is_replica --is-sync"),
            (standby, CRITICAL, "node_is_leader"),
        ])
        .await
    }

    fn changed(&self) -> String {
        format!("cluster_config_has_changed --state-file {}", self.settings)
    }

    fn changed_timeline(&self) -> String {
        format!("node_tl_has_changed --state-file {}", self.timeline)
    }

    /// A switchover that is to come is told, and forgotten when it has been taken back.
    pub async fn something_is_scheduled(&self, stage: &Stage) -> Result<()> {
        let told = |expected| [(At::Cluster, expected, "cluster_has_scheduled_action")];
        stage.pgvigil("n1", &["switchover", "--in", "1h", "-y"]).await?;
        self.come_true(&told(CRITICAL)).await?;
        stage.pgvigil("n1", &["switchover", "--cancel"]).await?;
        self.come_true(&told(OK)).await
    }

    /// What was changed is told once, and nothing else.
    pub async fn a_restart_is_pending(&self, leader: &str) -> Result<()> {
        let settings = self.changed();
        self.come_true(&[
            (At::Node(leader), CRITICAL, "node_is_pending_restart"),
            (At::Cluster, CRITICAL, settings.as_str()),
            (At::Cluster, OK, "cluster_has_leader"),
        ])
        .await
    }

    pub async fn the_leader_is_down_in_a_pause(&self, leader: &str) -> Result<()> {
        let leader = At::Node(leader);
        self.come_true(&[
            (At::Cluster, CRITICAL, "cluster_is_in_maintenance"),
            (At::Cluster, CRITICAL, "cluster_has_leader"),
            (At::Cluster, CRITICAL, "cluster_node_count --healthy-critical 3:"),
            (leader, CRITICAL, "node_is_primary"),
            (leader, CRITICAL, "node_is_replica"),
            (leader, OK, "node_is_alive"),
        ])
        .await
    }

    /// Nobody can tell a wrong address from an agent that is away, so this is "unknown" by its documentation.
    pub async fn an_agent_is_away(&self, away: &str) -> Result<()> {
        self.come_true(&[
            (At::Node(away), UNKNOWN, "node_is_alive"),
            (At::Node(away), UNKNOWN, "node_is_replica"),
            (At::Cluster, OK, "cluster_has_leader"),
        ])
        .await
    }

    pub async fn the_timeline_has_changed(&self, node: &str) -> Result<()> {
        self.come_true(&[(At::Node(node), CRITICAL, self.changed_timeline().as_str())]).await
    }

    /// The checks that `--help` lists.
    async fn checks(&self) -> Result<BTreeSet<String>> {
        let output = run(&self.program, &["--help"]).await?;
        let text = String::from_utf8(output.stdout)?;
        let commands = text.split("Commands:").nth(1).context("--help lists no commands")?;
        let names = commands.lines().filter_map(|line| line.split_whitespace().next());
        Ok(names.filter(|word| word.starts_with("cluster_") || word.starts_with("node_")).map(str::to_owned).collect())
    }

    async fn come_true(&self, expected: &[(At<'_>, i32, &str)]) -> Result<()> {
        for some in expected.chunks(AT_ONCE) {
            let mut waiting = JoinSet::new();
            for (at, code, check) in some {
                let (program, endpoints) = (self.program.clone(), self.endpoints(*at)?);
                waiting.spawn(comes_true(program, endpoints, *code, (*check).to_owned()));
            }
            while let Some(ended) = waiting.join_next().await {
                ended.context("a check")??;
            }
        }
        Ok(())
    }

    async fn run(&self, at: At<'_>, check: &str) -> Result<(Option<i32>, String)> {
        once(&self.program, &self.endpoints(at)?, check).await
    }

    fn endpoints(&self, at: At) -> Result<String> {
        Ok(match at {
            At::Cluster => self.urls.values().map(String::as_str).collect::<Vec<_>>().join(","),
            At::Node(name) => self.urls.get(name).context("there is no such node")?.clone(),
        })
    }
}

/// What is published by one node and told by another takes a moment.
async fn comes_true(program: PathBuf, endpoints: String, code: i32, check: String) -> Result<()> {
    let begin = Instant::now();
    loop {
        let (exit, said) = once(&program, &endpoints, &check).await?;
        if exit == Some(code) && !said.contains("Traceback") {
            return Ok(());
        }
        ensure!(begin.elapsed() < SOON, "`{check}` at {endpoints}: exit code {exit:?} instead of {code}: {said}");
        tokio::time::sleep(POLL).await;
    }
}

async fn once(program: &std::path::Path, endpoints: &str, check: &str) -> Result<(Option<i32>, String)> {
    let mut arguments = vec!["--timeout", "30", "-e", endpoints];
    arguments.extend(check.split(' '));
    let output = run(program, &arguments).await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).trim().to_owned()))
}
