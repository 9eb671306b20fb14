//! Logical slots on PostgreSQL 17, which takes them over to standbys by itself: those of anybody that were made for it, and those that the settings
//! want. Whoever reads changes waits for the voters that are there, and what waits holds up no restart, no switchover and no failover.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use agent::demo::cluster::ClusterOptions;
use agent::demo::processes;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::slots::come_to_be;
use crate::stage::{SOON, Stage, on_stage, options};

/// Both slots: that of the settings, and one that somebody else has made.
const BOTH: [&str; 2] = ["cdc", "theirs"];

/// The programs of PostgreSQL 17 (`scripts/postgres.sh 17`).
fn seventeen() -> Option<PathBuf> {
    let told = ["PGVIGIL_TEST_BIN_DIR_17", "PGVIGIL_TEST_BIN_DIR"].into_iter().filter_map(std::env::var_os);
    let usual = ["/usr/lib/postgresql/17/bin".into(), "/var/tmp/pgvigil-postgres/17/bin".into()];
    let is_17 = |bin_dir: &PathBuf| {
        let said = std::process::Command::new(bin_dir.join("postgres")).arg("--version").output();
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("(PostgreSQL) 17."))
    };
    let found = told.map(PathBuf::from).chain(usual).find(is_17);
    if found.is_none() {
        eprintln!("SKIPPED: there is no PostgreSQL 17 here; scripts/postgres.sh 17 brings it");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_17_takes_logical_slots_over_and_they_hold_up_nothing() {
    let Some(bin_dir) = seventeen() else { return };
    let options = ClusterOptions { bin_dir: Some(bin_dir), ..options() };
    on_stage(&options.with("postgres.parameters.wal_level", "\"logical\""), async |stage| {
        let leader = stage.leader().await?;
        stage.cluster.psql(&leader, "CREATE TABLE changes (id serial PRIMARY KEY)").await?;
        stage.pgvigil(&leader, &["config", "set", "-y", "slots.permanent.cdc=logical:postgres:test_decoding"]).await?;
        let theirs = "SELECT pg_create_logical_replication_slot('theirs', 'test_decoding', failover => true)";
        stage.cluster.psql(&leader, theirs).await?;
        come_to_be(stage, &leader, "failover", &BOTH).await?;
        let mut changes = Changes::default();
        changes.are_taken_over(stage).await?;
        readers_wait_for(stage, &leader, &stage.others(&leader)).await?;
        a_switchover_is_not_held_up(stage, &mut changes).await?;
        a_restart_is_not_held_up(stage, &mut changes).await?;
        a_failover_is_not_held_up(stage, &mut changes).await
    })
    .await;
}

/// The others go over to the next leader beforehand, and whoever reads changes would wait for them.
async fn a_switchover_is_not_held_up(stage: &mut Stage, changes: &mut Changes) -> Result<()> {
    let old = stage.leader().await?;
    let next = stage.standby().await?;
    let reader = Reader::start(stage, &old)?;
    changes.are_written(stage).await?;
    stage.pgvigil(&old, &["switchover", "--to", &next, "-y"]).await?;
    drop(reader);
    let record = stage.transitions(&next).await?.pop().context("it has a record")?;
    stage.say(&format!("{next} leads: {} ms without writes, {}", record["write_outage_ms"], record["phases"]));
    changes.are_all_there(stage).await?;
    // The old leader's own are dropped, or it could not take over the new leader's.
    changes.are_taken_over(stage).await?;
    readers_wait_for(stage, &next, &stage.others(&next)).await
}

/// A voter does not answer any more, and nobody has noticed yet.
async fn a_restart_is_not_held_up(stage: &mut Stage, changes: &mut Changes) -> Result<()> {
    let leader = stage.leader().await?;
    let silent = stage.standby().await?;
    let reader = Reader::start(stage, &leader)?;
    stage.node(&silent)?.agent().freeze()?;
    stage.node(&silent)?.freeze_postgres();
    let begin = Instant::now();
    stage.pgvigil(&leader, &["restart", &leader, "-y"]).await?;
    stage.say(&format!("{leader} was restarted in {} ms", begin.elapsed().as_millis()));
    drop(reader);
    come_to_be(stage, &leader, "failover", &BOTH).await?;
    let rest: Vec<String> = stage.others(&leader).into_iter().filter(|name| *name != silent).collect();
    readers_wait_for(stage, &leader, &rest).await?;
    changes.are_written(stage).await?;
    changes.are_all_there(stage).await?;
    stage.say("one standby is away, and changes are read");
    stage.node(&silent)?.thaw_postgres();
    stage.node(&silent)?.agent().thaw()?;
    stage.whole().await?;
    changes.are_taken_over(stage).await
}

/// Whoever takes slots over waits for an answer of a primary that freezes then. A promotion waits for it in turn.
async fn a_failover_is_not_held_up(stage: &mut Stage, changes: &mut Changes) -> Result<()> {
    let old = stage.leader().await?;
    let asked = "SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE usename = 'pgvigil_replication' AND backend_type = 'client backend'";
    let all_ask = async || Ok(stage.cluster.psql(&old, asked).await?.split_whitespace().count() == 2);
    stage.eventually("the standbys do not take slots over", all_ask).await?;
    let asked = stage.cluster.psql(&old, asked).await?;
    asked.split(' ').filter_map(|pid| pid.parse().ok()).for_each(|pid| processes::signal(pid, Signal::SIGSTOP));
    for name in stage.others(&old) {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'slotsync worker' AND wait_event ILIKE 'libpq%'";
        let waits = async || Ok(stage.cluster.psql(&name, waits).await? == "1");
        stage.eventually(&format!("nothing waits for an answer on {name}"), waits).await?;
    }
    changes.are_written(stage).await?;
    let begin = Instant::now();
    stage.node(&old)?.agent().freeze()?;
    stage.node(&old)?.freeze_postgres();
    let new = stage.leader_other_than(&old).await?;
    stage.writes_go_on().await?;
    stage.say(&format!("{new} leads: {} ms without writes", stage.silence_since(begin)?.as_millis()));
    changes.are_all_there(stage).await?;
    stage.node(&old)?.thaw_postgres();
    stage.node(&old)?.agent().thaw()?;
    stage.whole().await?;
    changes.are_taken_over(stage).await
}

/// Waits until whoever reads changes waits for the slots of these.
async fn readers_wait_for(stage: &Stage, leader: &str, members: &[String]) -> Result<()> {
    let expected = members.join(", ");
    let so = async || {
        let listed = stage.cluster.psql(leader, "SHOW synchronized_standby_slots").await?;
        ensure!(listed == expected, "it is {listed:?}");
        Ok(true)
    };
    stage.eventually(&format!("readers of {leader} do not wait for {members:?}"), so).await
}

/// Somebody who reads all the time, by a connection of replication.
struct Reader(Child);

impl Reader {
    fn start(stage: &Stage, leader: &str) -> Result<Self> {
        let node = stage.node(leader)?;
        let program = stage.cluster.postgres_programs().bin_dir.join("pg_recvlogical");
        let mut command = stage.cluster.command(program.to_str().context("a plain path")?);
        command.args(["-U", "postgres", "-d", "postgres", "-p", &node.postgres_port().to_string(), "-h"]);
        command.arg(node.socket_dir()).args(["--slot", "theirs", "--start", "-n", "-f", "/dev/null"]);
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was written, and what was read of it by the slot.
#[derive(Default)]
struct Changes {
    written: BTreeSet<i32>,
    read: BTreeSet<i32>,
}

impl Changes {
    async fn are_written(&mut self, stage: &Stage) -> Result<()> {
        let leader = stage.leader().await?;
        for _ in 0..3 {
            let id = stage.cluster.psql(&leader, "INSERT INTO changes DEFAULT VALUES RETURNING id").await?;
            self.written.insert(id.parse()?);
        }
        Ok(())
    }

    /// What was read once may come again.
    async fn are_read(&mut self, stage: &Stage) -> Result<()> {
        let leader = stage.leader().await?;
        // While a slot is being made, and until the server has noticed that its reader is gone, nobody else may read by it.
        let free = "SELECT bool_and(NOT active) FROM pg_replication_slots WHERE slot_name IN ('cdc', 'theirs')";
        let so = async || Ok(stage.cluster.psql(&leader, free).await? == "t");
        stage.eventually("somebody else reads by a slot", so).await?;
        let read = "SELECT coalesce(string_agg(substring(data from 'changes: INSERT: id\\[integer\\]:(\\d+)'), ' '), '') FROM pg_logical_slot_get_changes('cdc', NULL, NULL)";
        for id in stage.cluster.psql(&leader, read).await?.split_whitespace() {
            self.read.insert(id.parse()?);
        }
        let theirs = "SELECT count(*) FROM pg_logical_slot_get_changes('theirs', NULL, NULL)";
        stage.cluster.psql(&leader, theirs).await.map(drop)
    }

    /// None is missing: each was written after the slot was made.
    async fn are_all_there(&mut self, stage: &Stage) -> Result<()> {
        self.are_read(stage).await?;
        let missing: Vec<&i32> = self.written.difference(&self.read).collect();
        ensure!(missing.is_empty(), "{missing:?} were not read");
        Ok(())
    }

    /// Postgres takes a slot over for good once whoever reads by it has gone on.
    async fn are_taken_over(&mut self, stage: &Stage) -> Result<()> {
        let (leader, begin) = (stage.leader().await?, Instant::now());
        let expected: BTreeSet<String> = BOTH.map(str::to_owned).into();
        loop {
            self.are_written(stage).await?;
            self.are_all_there(stage).await?;
            let mut there = Vec::new();
            for standby in stage.others(&leader) {
                there.push(
                    crate::slots::slots(stage, &standby, "synced AND invalidation_reason IS NULL")
                        .await
                        .unwrap_or_default(),
                );
            }
            if there.iter().all(|slots| *slots == expected) {
                stage.say(&format!("all standbys have them after {} ms", begin.elapsed().as_millis()));
                return Ok(());
            }
            ensure!(begin.elapsed() < SOON * 2, "the standbys have {there:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
