//! An old leader that has rows which nobody else has: in `async` mode a failover may lose them, and says so; the old leader comes back
//! without them, rewound, and nobody has to lend a hand.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::stage::{Stage, on_stage, options};

/// So many rows are only on the old leader.
const DOOMED_ROWS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn an_old_leader_with_rows_of_its_own_is_rewound_and_the_loss_is_on_record() {
    let options = options().with("durability.mode", "\"async\"").with("durability.max_lag_on_failover", "\"1GB\"");
    on_stage(&options, async |stage| {
        let old = stage.leader().await?;
        let standbys = stage.others(&old);
        let alone = stage.may_be_lost_from_here(&old).await?;
        for name in &standbys {
            stage.node(name)?.kill_everything()?;
        }
        let cut = Instant::now();
        let rows = stage.rows()?;
        let more = async || Ok(stage.rows()? > rows + DOOMED_ROWS);
        stage.eventually("the lonely leader does not write", more).await?;
        stage.node(&old)?.kill_everything()?;
        stage.may_be_lost(alone);
        stage.say(&format!("{old} wrote alone, and is dead"));
        let doomed = stage.rows_between(cut + Duration::from_millis(100), Instant::now())?;

        standbys.iter().try_for_each(|name| stage.start(name))?;
        let new = stage.leader_other_than(&old).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("{new} leads"));
        the_loss_is_on_record(stage, &new).await?;

        stage.start(&old)?;
        stage.whole().await?;
        what_was_lost_is_counted(stage, &new, &old).await?;
        let log = std::fs::read_to_string(stage.node(&old)?.agent().log())?;
        ensure!(log.contains("action=\"rewind\" reason=\"diverged\""), "{old} was not rewound");
        ensure!(!log.contains("action=\"clone\" reason=\"diverged\""), "{old} was copied anew");
        for node in stage.cluster.nodes() {
            let count = format!("SELECT count(*) FROM rows WHERE id BETWEEN {} AND {}", doomed.0, doomed.1);
            let left: i64 = stage.cluster.connect(node.name()).await?.query_one(&count, &[]).await?.get(0);
            ensure!(left == 0, "UNSAFE: {left} rows that only {old} had are on {}", node.name());
        }
        Ok(())
    })
    .await;
}

/// The rows were each a transaction of their own.
async fn what_was_lost_is_counted(stage: &Stage, leader: &str, old: &str) -> Result<()> {
    let counted = async || {
        let records = stage.transitions(leader).await?;
        let record = records.iter().rev().find(|record| record["kind"] == "failover").context("it was there")?;
        let mine = |entry: &&serde_json::Value| entry["member"] == old;
        let discarded = record["discarded"].as_array().and_then(|all| all.iter().find(mine).cloned());
        let discarded = discarded.context("nothing is counted")?;
        Ok(discarded["transactions"].as_u64() >= Some(DOOMED_ROWS as u64) && discarded["bytes"].as_u64() > Some(0))
    };
    stage.eventually("what the rewind threw away is not on record", counted).await
}

async fn the_loss_is_on_record(stage: &Stage, leader: &str) -> Result<()> {
    let recorded = async || Ok(stage.transitions(leader).await?.iter().any(|record| record["kind"] == "failover"));
    stage.eventually("the failover is not on record", recorded).await?;
    let records = stage.transitions(leader).await?;
    let record = records.iter().rev().find(|record| record["kind"] == "failover").context("it was there")?;
    ensure!(record["lost"] == "bounded" || record["lost"] == "unknown", "what may be lost: {record}");
    Ok(())
}
