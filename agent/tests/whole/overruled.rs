//! What an operator does by SQL behind the agents' backs: settings that undo what is promised, which are told; and the agent's own table and
//! role taken away, which are mended.

use anyhow::{Result, ensure};

use crate::stage::{Stage, on_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn settings_against_the_promises_are_told_with_their_mend() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        verdict(stage, &leader, "OK - ").await?;
        set(stage, &leader, "SET synchronous_commit = local").await?;
        let told = verdict(stage, &leader, "DEGRADED - ").await?;
        let mend = "ALTER SYSTEM RESET synchronous_commit; SELECT pg_reload_conf()";
        ensure!(told.contains(mend) && told.contains("may lose acknowledged writes"), "{told}");
        set(stage, &leader, "RESET synchronous_commit").await?;
        verdict(stage, &leader, "OK - ").await?;
        set(stage, &leader, "SET default_transaction_read_only = on").await?;
        let told = verdict(stage, &leader, "DEGRADED - ").await?;
        ensure!(told.contains("forbids them to every client"), "{told}");
        let why = stage.pgvigil(&leader, &["why"]).await?;
        ensure!(why.contains("ALTER SYSTEM RESET default_transaction_read_only"), "{why}");
        set(stage, &leader, "RESET default_transaction_read_only").await?;
        verdict(stage, &leader, "OK - ").await?;
        stage.writes_go_on().await
    })
    .await;
}

async fn set(stage: &Stage, leader: &str, what: &str) -> Result<()> {
    stage.cluster.psql(leader, &format!("ALTER SYSTEM {what}")).await?;
    stage.cluster.psql(leader, "SELECT pg_reload_conf()").await.map(drop)
}

async fn verdict(stage: &Stage, on: &str, begins: &str) -> Result<String> {
    let status = async || stage.pgvigil(on, &["status"]).await;
    let so = async || Ok(status().await?.contains(begins));
    stage.eventually(&format!("status does not say {begins:?}"), so).await?;
    status().await
}
