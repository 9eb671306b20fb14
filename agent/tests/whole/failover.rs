//! Unplanned ends of a leader: its node, its Postgres, or a freeze that looks like an end. Another leads, the old one comes back by
//! itself, and no two ever acknowledge at the same time.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::direct::DirectWriter;
use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

/// Longer than the lease and everything that follows its end.
const FROZEN_FOR: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_is_replaced_and_returns_by_itself() {
    on_stage(&options(), async |stage| {
        the_node_is_killed(stage).await?;
        postgres_is_killed(stage).await?;
        postgres_is_frozen(stage).await?;
        each_has_a_record(stage, 3).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_that_wakes_up_acknowledges_nothing_that_is_lost() {
    on_stage(&options(), async |stage| {
        let old = stage.leader().await?;
        let node = stage.node(&old)?;
        let sticking = DirectWriter::start(node.postgres_port());
        stage.eventually("the other client gets nothing acknowledged", async || Ok(sticking.count() > 10)).await?;
        node.agent().freeze()?;
        node.freeze_postgres();
        stage.say(&format!("{old} is frozen"));
        let new = stage.leader_other_than(&old).await?;
        stage.writes_go_on().await?;
        tokio::time::sleep(FROZEN_FOR).await;
        node.thaw_postgres();
        node.agent().thaw()?;
        stage.say(&format!("{old} goes on, while {new} leads"));
        stage.whole().await?;
        ensure!(stage.leader().await? == new, "the leadership has changed again");
        stage.must_also_be_there(sticking.stop());
        each_has_a_record(stage, 1).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_lease_must_be_waited_for_nobody_is_promoted_before_it_has_ended() {
    on_stage(&options().with("failover.wait_for_lease", "true"), async |stage| {
        the_node_is_killed(stage).await?;
        was_free_when_it_was_taken(stage).await?;
        postgres_is_killed(stage).await?;
        was_free_when_it_was_taken(stage).await?;
        the_node_is_frozen(stage).await?;
        was_free_when_it_was_taken(stage).await
    })
    .await;
}

/// Nobody held the lock when the leader took it: the key was created by the transaction that raised the term. Whoever is deposed while its
/// lease runs leaves a key of an earlier one.
async fn was_free_when_it_was_taken(stage: &Stage) -> Result<()> {
    let (leader, term) = (stored(stage, "leader").await?, stored(stage, "term").await?);
    let (created, taken) = (&leader["create_revision"], &term["mod_revision"]);
    ensure!(created == taken, "the lock is of revision {created} and was taken in {taken}, while its lease ran");
    Ok(())
}

async fn stored(stage: &Stage, key: &str) -> Result<serde_json::Value> {
    let key = format!("/service/demo/{key}");
    let found = etcdctl::etcdctl(&stage.cluster, &["get", &key, "--write-out=json"]).await?;
    let found: serde_json::Value = serde_json::from_str(&found)?;
    ensure!(found["kvs"][0]["mod_revision"].is_number(), "{key} is not there: {found}");
    Ok(found["kvs"][0].clone())
}

async fn the_node_is_frozen(stage: &Stage) -> Result<()> {
    let old = stage.leader().await?;
    let node = stage.node(&old)?;
    node.agent().freeze()?;
    node.freeze_postgres();
    stage.say(&format!("{old} is frozen"));
    stage.leader_other_than(&old).await?;
    stage.writes_go_on().await?;
    node.thaw_postgres();
    node.agent().thaw()?;
    stage.whole().await
}

async fn the_node_is_killed(stage: &Stage) -> Result<()> {
    let old = stage.leader().await?;
    stage.node(&old)?.kill_everything()?;
    stage.say(&format!("{old} is killed"));
    stage.leader_other_than(&old).await?;
    stage.writes_go_on().await?;
    stage.start(&old)?;
    stage.whole().await
}

async fn postgres_is_killed(stage: &Stage) -> Result<()> {
    let old = stage.leader().await?;
    stage.node(&old)?.kill_postgres()?;
    stage.say(&format!("Postgres of {old} is killed"));
    stage.leader_other_than(&old).await?;
    stage.writes_go_on().await?;
    stage.whole().await
}

async fn postgres_is_frozen(stage: &Stage) -> Result<()> {
    let old = stage.leader().await?;
    stage.node(&old)?.freeze_postgres();
    stage.say(&format!("Postgres of {old} is frozen"));
    stage.leader_other_than(&old).await?;
    stage.writes_go_on().await?;
    stage.node(&old)?.thaw_postgres();
    stage.whole().await
}

/// As many failovers are on record, each with its phases and the proof that nothing is lost.
async fn each_has_a_record(stage: &Stage, count: usize) -> Result<()> {
    let leader = stage.leader().await?;
    let recorded = async || {
        let records = stage.transitions(&leader).await?;
        let proven = |record: &&serde_json::Value| {
            let phases = record["phases"].as_array().cloned().unwrap_or_default();
            let named = |name: &str| phases.iter().any(|phase| phase["name"] == name);
            let proven = record["lost"] == "none" && record["lost_bytes_bound"] == 0;
            record["kind"] == "failover" && proven && named("detect") && named("promote") && named("writable")
        };
        Ok(records.iter().filter(proven).count() == count)
    };
    stage.eventually(&format!("there are not {count} records of failovers without loss"), recorded).await
}
