//! What an operator does by SQL behind the agents' backs: settings that undo what is promised, which are told; and the agent's own table and
//! role taken away, which are mended.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::stage::{Stage, on_stage, options};

/// All that is the agent's own inside the database.
const HARM: &str = "BEGIN; DROP SCHEMA pgvigil CASCADE; ALTER ROLE pgvigil NOLOGIN; COMMIT";

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

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_role_and_table_are_put_back_before_anybody_misses_them() {
    on_stage(&options(), async |stage| {
        let old = stage.leader().await?;
        let standby = stage.standby().await?;
        let whole = "SELECT to_regclass('pgvigil.leadership') IS NOT NULL AND rolcanlogin FROM pg_roles WHERE rolname = 'pgvigil'";
        stage.cluster.psql(&old, HARM).await?;
        // At once, so that the next reign begins without either.
        let began = Instant::now();
        stage.pgvigil(&standby, &["switchover", "--to", &standby, "-y"]).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("switched over: {} ms without writes", stage.silence_since(began)?.as_millis()));
        let mended = async |name: &str| Ok(stage.cluster.psql(name, whole).await? == "t");
        stage.eventually("the new leader has not mended it", || mended(&standby)).await?;
        stage.whole().await?;

        stage.cluster.psql(&standby, HARM).await?;
        let began = Instant::now();
        stage.node(&standby)?.kill_everything()?;
        let new = stage.leader_other_than(&standby).await?;
        stage.writes_go_on().await?;
        stage.say(&format!("failed over: {} ms without writes", stage.silence_since(began)?.as_millis()));
        stage.eventually("the next leader has not mended it", || mended(&new)).await?;
        stage.start(&standby)?;
        stage.whole().await?;

        stage.cluster.psql(&new, HARM).await?;
        stage.eventually("a leader does not mend it while all is well", || mended(&new)).await?;
        ensure!(stage.leader().await? == new, "{new} does not lead any more");
        Ok(())
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
