//! What an operator says or gets wrong: a pause, a node of another cluster, a name given twice. A pause is kept, and a mistake is told
//! and harms nobody.

use std::time::Duration;

use anyhow::ensure;

use crate::etcdctl;
use crate::stage::{on_stage, options};

/// A failover would be over long before.
const WATCHED_FOR: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_kept_and_its_end_mends_everything() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let term = etcdctl::get(&stage.cluster, "term").await?;
        stage.pgvigil(&leader, &["pause", "--for", "10m", "--reason", "test"]).await?;
        stage.writes_go_on().await?;
        stage.node(&leader)?.kill_postgres()?;
        tokio::time::sleep(WATCHED_FOR).await;
        ensure!(etcdctl::get(&stage.cluster, "term").await? == term, "somebody took the lead in a pause");
        ensure!(!stage.survey().await.iter().any(|sight| sight.writable), "somebody writes in a pause");
        ensure!(stage.node(&leader)?.postmaster_pid().is_none(), "Postgres was started in a pause");
        stage.pgvigil(&leader, &["resume"]).await?;
        stage.writes_go_on().await
    })
    .await;
}
