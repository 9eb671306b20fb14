//! Another program has the port of Postgres on the address by which the node is known. Postgres starts all the same, on what is left, and every
//! look at it over its socket is content; what is told must be what a client would find.

use std::net::TcpListener;

use agent::demo::cluster::ClusterOptions;
use anyhow::ensure;
use serde_json::Value;

use crate::http;
use crate::stage::{on_empty_stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_port_is_taken_is_not_called_writable() {
    let one = ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() };
    on_empty_stage(&one, async |stage| {
        let node = stage.node("n1")?;
        stage.set("n1", "postgres.listen", "\"127.0.0.1, 127.0.0.2\"")?;
        let other = TcpListener::bind(("127.0.0.1", node.postgres_port()))?;
        stage.cluster.start_etcd().await?;
        let file = node.config().to_string_lossy();
        let checked = stage.cluster.pgvigil("n1", &["validate", &file]).await?;
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(!checked.status.success() && said.contains("error[E27]"), "{said}");

        stage.start("n1")?;
        let told = async || {
            let answer = http::ask(node, "GET", "/primary").await?;
            let health: Value = serde_json::from_str(&answer.body)?;
            Ok(answer.status == 503 && health["pgvigil"]["health"]["code"] == "not_listening")
        };
        stage.eventually("nothing is said of the port", told).await?;
        let status = stage.cluster.pgvigil("n1", &["status"]).await?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains("no client reaches n1, which leads"), "{status}");
        ensure!(status.contains("stop that, then pgvigil restart n1"), "{status}");
        let why = stage.pgvigil("n1", &["why"]).await?;
        ensure!(why.contains("does not listen on 127.0.0.1:"), "{why}");

        drop(other);
        stage.pgvigil("n1", &["restart", "n1", "-y"]).await?;
        ensure!(stage.leader().await? == "n1");
        let checked = stage.pgvigil("n1", &["validate", &file]).await;
        ensure!(!format!("{checked:?}").contains("E27"), "{checked:?}");
        stage.cluster.psql("n1", "SELECT 1").await?;
        Ok(())
    })
    .await;
}
