//! The stage: one cluster with its writer, whatever happens on it, and the same three questions at the end of every play. Is every
//! acknowledged row on every node, do all nodes stream, and does exactly one of them take writes?

use std::future::Future;
use std::time::{Duration, Instant};

use agent::demo::audit::audit;
use agent::demo::cluster::{ClusterOptions, LocalCluster};
use agent::demo::lookout::{Sight, told};
use agent::demo::node::Node;
use agent::demo::writer::{Acknowledged, Logbook, TABLE, Writer};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::http;
use crate::volume::Volume;

/// As many clusters as a machine of two cores carries: most of the time they wait for a lease or a timeout.
static STAGES: Semaphore = Semaphore::const_new(3);
/// Nothing here may take longer, on however busy a machine.
pub const SOON: Duration = Duration::from_secs(60);
/// An agent ends at once when it is asked to.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// So many further rows make it certain that writes work.
const SOME_ROWS: usize = 10;
const POLL: Duration = Duration::from_millis(20);

/// A cluster as these tests want it.
pub fn options() -> ClusterOptions {
    ClusterOptions::new(env!("CARGO_BIN_EXE_pgvigil"))
}

/// A cluster on which something is played.
pub struct Stage {
    /// Disks of single nodes. They end before the cluster does: what hangs with a disk cannot be killed.
    pub disks: Vec<Volume>,
    /// The cluster.
    pub cluster: LocalCluster,
    writer: Option<Writer>,
    further: Vec<Acknowledged>,
    lossy: Vec<(Instant, Instant)>,
    began: Instant,
}

/// Plays on a cluster of which nothing runs yet. When the play goes wrong the logs stay, and the test fails with what every agent says.
pub async fn on_empty_stage(options: &ClusterOptions, play: impl AsyncFnOnce(&mut Stage) -> Result<()>) {
    let _turn = STAGES.acquire().await.expect("the semaphore is never closed");
    let cluster = LocalCluster::prepare(options).expect("this machine has all that a cluster needs");
    let (writer, began) = (None, Instant::now());
    let mut stage = Stage { disks: Vec::new(), cluster, writer, further: Vec::new(), lossy: Vec::new(), began };
    if let Err(error) = play(&mut stage).await {
        let says = told(&stage.survey().await);
        panic!("after {:.1} s: {error:#}{says}", stage.began.elapsed().as_secs_f64());
    }
    stage.say("the end");
}

/// Plays on a cluster that has formed and is written to, and asks the questions at the end.
pub async fn on_stage(options: &ClusterOptions, play: impl AsyncFnOnce(&mut Stage) -> Result<()>) {
    let whole_play = async |stage: &mut Stage| {
        stage.form().await.context("the cluster does not form")?;
        play(stage).await?;
        stage.ends_well().await
    };
    on_empty_stage(options, whole_play).await;
}

impl Stage {
    /// Tells what happens, and when, to whoever reads the output of a test that failed.
    pub fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Starts everything, waits until all stream and vote, and begins to write.
    pub async fn form(&mut self) -> Result<()> {
        self.cluster.start_etcd().await?;
        self.cluster.start_nodes()?;
        self.cluster.start_proxy()?;
        self.begins_to_write().await?;
        self.say("formed");
        Ok(())
    }

    /// Waits until the cluster is whole, and begins to write through HAProxy.
    pub async fn begins_to_write(&mut self) -> Result<()> {
        self.whole().await?;
        self.begins_to_write_now().await
    }

    /// The same where it never comes to be whole: some node is not to stream from the leader, or never votes.
    pub async fn begins_to_write_now(&mut self) -> Result<()> {
        self.cluster.create_client().await?;
        self.cluster.connect(&self.leader().await?).await?.batch_execute(TABLE).await.context("creating the table")?;
        self.writer = Some(Writer::start(self.cluster.proxy_ports().read_write));
        self.writes_go_on().await
    }

    fn writer(&self) -> Result<&Writer> {
        self.writer.as_ref().context("nobody writes yet")
    }

    /// How many rows are acknowledged.
    pub fn rows(&self) -> Result<usize> {
        Ok(self.writer()?.count())
    }

    /// Rows that somebody else than the writer got acknowledged: they must be there at the end too.
    pub fn must_also_be_there(&mut self, rows: Vec<Acknowledged>) {
        self.further.extend(rows);
    }

    /// The first and the last row that were acknowledged between two instants.
    pub fn rows_between(&self, begin: Instant, end: Instant) -> Result<(i64, i64)> {
        let within = |row: &&Acknowledged| row.at > begin && row.at < end;
        let found = self.writer()?.read(|logbook| {
            let mut rows = logbook.acknowledged.iter().filter(within).map(|row| row.id);
            rows.next().map(|first| (first, rows.next_back().unwrap_or(first)))
        });
        found.context("no row was acknowledged then")
    }

    /// In `async` mode the standbys may miss what is acknowledged from this instant on, and nothing that was acknowledged before it.
    pub async fn may_be_lost_from_here(&self, leader: &str) -> Result<Instant> {
        let begin = Instant::now();
        let end = self.cluster.psql(leader, "SELECT pg_current_wal_insert_lsn()").await?;
        let there = format!(
            "SELECT count(*) = {} FROM pg_stat_replication WHERE replay_lsn >= '{end}'",
            self.cluster.nodes().len() - 1
        );
        let caught_up = async || Ok(self.cluster.psql(leader, &there).await? == "t");
        self.eventually("the standbys do not catch up", caught_up).await?;
        Ok(begin)
    }

    /// What was acknowledged from `begin` until now need not be there at the end.
    pub fn may_be_lost(&mut self, begin: Instant) {
        self.lossy.push((begin, Instant::now()));
    }

    /// Waits until some more rows are acknowledged.
    pub async fn writes_go_on(&self) -> Result<()> {
        let before = self.rows()?;
        self.eventually("no write is acknowledged", async || Ok(self.rows()? >= before + SOME_ROWS)).await
    }

    /// The longest time without an acknowledgement that has ended since `begin`.
    pub fn silence_since(&self, begin: Instant) -> Result<Duration> {
        Ok(self.writer()?.read(|logbook| logbook.silence(|_, next| next > begin)).unwrap_or_default())
    }

    /// Waits until something is so. What cannot be found out is not so yet.
    pub async fn eventually<F>(&self, complaint: &str, so: impl Fn() -> F) -> Result<()>
    where
        F: Future<Output = Result<bool>>,
    {
        let begin = Instant::now();
        loop {
            let answer = so().await;
            if matches!(answer, Ok(true)) {
                return Ok(());
            }
            if begin.elapsed() > SOON {
                let why = answer.err().map(|error| format!(": {error:#}")).unwrap_or_default();
                bail!("{complaint} within {SOON:?}{why}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the agents say.
    pub async fn survey(&self) -> Vec<Sight> {
        self.cluster.lookout().survey().await
    }

    /// A node.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.cluster.node(name)
    }

    /// Who accepts writes; waits for somebody.
    pub async fn leader(&self) -> Result<String> {
        self.leader_that(|_| true).await
    }

    /// Waits until somebody other than `old` accepts writes.
    pub async fn leader_other_than(&self, old: &str) -> Result<String> {
        self.leader_that(|name| name != old).await
    }

    async fn leader_that(&self, fits: impl Fn(&str) -> bool) -> Result<String> {
        let writable = |sight: &&Sight| sight.writable && fits(&sight.name);
        let there = |sights: &[Sight]| sights.iter().any(|sight| writable(&sight));
        let sights = self.cluster.wait_for("nobody new accepts writes", SOON, there).await?;
        let leader = sights.iter().find(writable).context("somebody accepted writes just now")?;
        Ok(leader.name.clone())
    }

    /// Some standby that streams, the first by name.
    pub async fn standby(&self) -> Result<String> {
        let streams = |sights: &[Sight]| sights.iter().any(Sight::streams);
        let sights = self.cluster.wait_for("no standby streams", SOON, streams).await?;
        Ok(sights.iter().find(|sight| sight.streams()).context("one streamed just now")?.name.clone())
    }

    /// Waits until every node streams from one leader that accepts writes; with two standbys or more, until they vote; and until the
    /// leader knows all that.
    pub async fn whole(&self) -> Result<()> {
        self.cluster.wait_settled(SOON * 2).await?;
        let all_vote = |sights: &[Sight]| sights.iter().all(|sight| sight.writable || sight.votes);
        let whole = |sights: &[Sight]| self.votes_nowhere() || sights.len() < 3 || all_vote(sights);
        self.cluster.wait_for("the standbys do not vote", SOON, whole).await?;
        let known = async || {
            let leader = self.leader().await?;
            let caught_up = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            let caught_up: usize = self.cluster.psql(&leader, caught_up).await?.parse()?;
            let why = self.ask(&leader, "/why").await?;
            let standings = why["standings"].as_array().cloned().unwrap_or_default();
            let bars = |node: &Node| {
                let mine = standings.iter().find(|standing| standing["member"] == node.name());
                mine.and_then(|standing| standing["bars"].as_array())
            };
            let away = ["agent_down", "not_running", "not_streaming"];
            let here = |bars: &Vec<Value>| !bars.iter().any(|bar| away.iter().any(|code| bar["code"] == *code));
            let nodes = self.cluster.nodes();
            Ok(nodes.iter().all(|node| bars(node).is_some_and(here)) && caught_up + 1 == nodes.len())
        };
        self.eventually("the leader does not know that all stream", known).await
    }

    /// In `async` mode no standby ever votes.
    pub fn votes_nowhere(&self) -> bool {
        let file = self.cluster.nodes().first().map(|node| std::fs::read_to_string(node.config()));
        file.is_some_and(|file| file.is_ok_and(|text| text.contains("\"async\"")))
    }

    /// Sets a key in the file of a node, to a value as TOML writes it; its next agent goes by that.
    pub fn set(&self, name: &str, key: &str, value: &str) -> Result<()> {
        self.unset(name, key)?;
        let config = self.node(name)?.config();
        let text = std::fs::read_to_string(config)?;
        std::fs::write(config, format!("{text}{key} = {value}\n")).context("its file")
    }

    /// Takes a key out of the file of a node.
    pub fn unset(&self, name: &str, key: &str) -> Result<()> {
        let config = self.node(name)?.config();
        let text = std::fs::read_to_string(config)?;
        let kept = text.lines().filter(|line| !line.starts_with(&format!("{key} =")));
        std::fs::write(config, kept.map(|line| format!("{line}\n")).collect::<String>()).context("its file")
    }

    /// Starts the agent of a node.
    pub fn start(&self, name: &str) -> Result<()> {
        self.node(name)?.agent().start()
    }

    /// Ends the agent of a node as an operator does; its Postgres runs on.
    pub async fn stop(&self, name: &str) -> Result<()> {
        let status = self.node(name)?.agent().stop(STOPS_WITHIN).await?;
        ensure!(status.success(), "the agent of {name} ended with {status}");
        Ok(())
    }

    /// The other nodes.
    pub fn others(&self, name: &str) -> Vec<String> {
        self.cluster.nodes().iter().map(|node| node.name().to_owned()).filter(|other| other != name).collect()
    }

    /// The body of a path of one agent.
    pub async fn ask(&self, name: &str, path: &str) -> Result<Value> {
        let answer = http::ask(self.node(name)?, "GET", path).await?;
        serde_json::from_str(&answer.body).with_context(|| format!("{path} of {name} is no JSON: {}", answer.body))
    }

    /// The transition records as a node tells them, oldest first.
    pub async fn transitions(&self, name: &str) -> Result<Vec<Value>> {
        Ok(self.ask(name, "/transitions").await?["transitions"].as_array().cloned().unwrap_or_default())
    }

    /// Runs `pgvigil` on a node; what it said goes into the error unless it exits with 0.
    pub async fn pgvigil(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let output = self.cluster.pgvigil(name, arguments).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            bail!("{arguments:?} on {name}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// Starts another HAProxy, with this configuration.
    pub fn haproxy(&self, name: &str, text: &str) -> Result<Child> {
        let file = self.cluster.directory().join(format!("{name}.cfg"));
        std::fs::write(&file, text)?;
        let log = std::fs::File::create(self.cluster.directory().join(format!("{name}.haproxy.log")))?;
        let mut command = Command::from(self.cluster.command("haproxy"));
        command.arg("-db").arg("-f").arg(&file).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().context("running haproxy")
    }

    /// Everything streams, exactly one node is primary, and every acknowledged row is on every node.
    pub async fn ends_well(&mut self) -> Result<()> {
        self.whole().await?;
        self.writes_go_on().await?;
        let mut logbook = self.writer.take().context("nobody has written")?.stop();
        logbook.acknowledged.append(&mut self.further);
        let must_be_there = |row: &Acknowledged| !self.lossy.iter().any(|(from, to)| (*from..=*to).contains(&row.at));
        logbook.acknowledged.retain(must_be_there);
        self.say(&format!("{} rows are acknowledged, {} unknown", logbook.acknowledged.len(), logbook.unknown));
        self.nothing_is_missing(&logbook).await?;
        self.one_primary().await
    }

    async fn nothing_is_missing(&self, logbook: &Logbook) -> Result<()> {
        ensure!(!logbook.acknowledged.is_empty(), "no row was acknowledged at all");
        let begin = Instant::now();
        loop {
            // A standby that has just come up may not have replayed the creation of the database yet.
            let found = match audit(&self.cluster, logbook).await {
                Ok(found) => found,
                Err(_) if begin.elapsed() < SOON => {
                    tokio::time::sleep(POLL).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            ensure!(found.lost_rows == 0, "UNSAFE: acknowledged rows are missing: {:?}", found.missing);
            if found.missing.len() == self.cluster.nodes().len() {
                return Ok(());
            }
            ensure!(begin.elapsed() < SOON, "only {:?} could be looked at", found.missing.keys());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn one_primary(&self) -> Result<()> {
        let mut primaries = Vec::new();
        for node in self.cluster.nodes() {
            if http::ask(node, "GET", "/primary").await?.status == 200 {
                primaries.push(node.name());
            }
        }
        ensure!(primaries.len() < 2, "UNSAFE: 200 on /primary: {primaries:?}");
        ensure!(primaries.len() == 1, "nobody answers 200 on /primary");
        Ok(())
    }
}
