//! The first start: three nodes at once, of which one creates the cluster and the others copy it; and what the health API then says to
//! the tools that know Patroni's.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::http;
use crate::stage::{Stage, on_stage, options};

/// What Patroni's documentation promises of a primary and of a standby that is one of several whom a commit may wait for.
const STATUSES: [(&str, u16, u16); 30] = [
    ("/", 200, 503),
    ("/primary", 200, 503),
    ("/master", 200, 503),
    ("/read-write", 200, 503),
    ("/leader", 200, 503),
    ("/standby-leader", 503, 503),
    ("/replica", 503, 200),
    ("/replica?lag=1GB", 503, 200),
    ("/replica?lag=not-a-number", 503, 200),
    ("/replica?tag_unknown=1", 503, 503),
    ("/read-only", 200, 200),
    ("/sync", 503, 503),
    ("/synchronous", 503, 503),
    ("/async", 503, 503),
    ("/asynchronous", 503, 503),
    ("/quorum", 503, 200),
    ("/read-only-quorum", 200, 200),
    ("/read-only-sync", 200, 503),
    ("/primary?tag_unknown=1", 200, 503),
    ("/read-only-quorum?tag_unknown=1", 503, 503),
    ("/read-only-sync?tag_unknown=1", 503, 503),
    ("/health", 200, 200),
    ("/health?tag_unknown=1", 503, 503),
    ("/liveness", 200, 200),
    ("/readiness", 200, 200),
    ("/patroni", 200, 200),
    ("/cluster", 200, 200),
    ("/history", 200, 200),
    ("/metrics", 200, 200),
    ("/no-such-path", 404, 404),
];

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_started_at_once_become_one_cluster_with_one_initdb() {
    on_stage(&options(), async |stage| {
        one_was_created_and_two_were_copied(stage).await?;
        commits_wait_for_a_quorum(stage).await?;
        only_postgres_is_superuser(stage).await?;
        health_checks_answer_as_patroni_does(stage).await?;
        the_body_tells_what_dashboards_read(stage).await?;
        metrics_are_openmetrics(stage).await
    })
    .await;
}

async fn one_was_created_and_two_were_copied(stage: &Stage) -> Result<()> {
    let mut systems = BTreeSet::new();
    let mut copies = 0;
    for node in stage.cluster.nodes() {
        let system = "SELECT system_identifier FROM pg_control_system()";
        systems.insert(stage.cluster.psql(node.name(), system).await?);
        // pg_basebackup leaves this behind, and initdb does not.
        copies += usize::from(node.data_dir().join("backup_label.old").exists());
    }
    ensure!(systems.len() == 1 && copies == 2, "system identifiers {systems:?}, {copies} copies");
    let leader = stage.leader().await?;
    let checksums = stage.cluster.psql(&leader, "SHOW data_checksums").await?;
    let passwords = stage.cluster.psql(&leader, "SHOW password_encryption").await?;
    ensure!((checksums.as_str(), passwords.as_str()) == ("on", "scram-sha-256"), "{checksums}, {passwords}");
    let records = stage.transitions(&leader).await?;
    ensure!(records.iter().any(|record| record["kind"] == "bootstrap"), "no record of the bootstrap: {records:?}");
    Ok(())
}

async fn commits_wait_for_a_quorum(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let names = stage.cluster.psql(&leader, "SHOW synchronous_standby_names").await?;
    ensure!(names.starts_with("ANY 1 ("), "synchronous_standby_names = {names}");
    for node in stage.cluster.nodes().iter().filter(|node| node.name() != leader) {
        ensure!(names.contains(&format!("\"{}_t", node.name())), "{} is not in {names}", node.name());
    }
    Ok(())
}

async fn only_postgres_is_superuser(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let superusers = "SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolsuper";
    let superusers = stage.cluster.psql(&leader, superusers).await?;
    ensure!(superusers == "postgres", "superusers: {superusers}");
    let replicating = "SELECT DISTINCT usename FROM pg_stat_replication";
    let replicating = stage.cluster.psql(&leader, replicating).await?;
    ensure!(replicating == "pgvigil_replication", "these replicate: {replicating}");
    Ok(())
}

async fn health_checks_answer_as_patroni_does(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let mut wrong = Vec::new();
    for node in stage.cluster.nodes() {
        for (path, of_primary, of_standby) in STATUSES {
            let wanted = if node.name() == leader { of_primary } else { of_standby };
            for method in ["GET", "HEAD", "OPTIONS"] {
                let answer = http::ask(node, method, path).await?;
                if answer.status != wanted {
                    wrong.push(format!("{method} {path} of {}: {}, not {wanted}", node.name(), answer.status));
                }
                if method == "HEAD" && !answer.body.is_empty() {
                    wrong.push(format!("HEAD {path} has a body"));
                }
            }
        }
        let answer = http::ask(node, "POST", "/restart").await?;
        if answer.status < 400 {
            wrong.push(format!("POST /restart: {}", answer.status));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn the_body_tells_what_dashboards_read(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    let body = stage.ask(&leader, "/patroni").await?;
    for field in ["state", "role", "server_version", "timeline", "xlog", "replication", "patroni", "dcs_last_seen"] {
        ensure!(!body[field].is_null(), "/patroni of {leader} has no {field}: {body}");
    }
    ensure!(body["role"] == "primary" && body["state"] == "running", "{body}");
    let cluster = stage.ask(&leader, "/cluster").await?;
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    let roles: Vec<_> = members.iter().filter_map(|member| member["role"].as_str()).collect();
    ensure!(members.len() == 3 && roles.iter().filter(|role| **role == "leader").count() == 1, "{cluster}");
    ensure!(roles.iter().filter(|role| **role == "quorum_standby").count() == 2, "{cluster}");
    Ok(())
}

async fn metrics_are_openmetrics(stage: &Stage) -> Result<()> {
    for node in stage.cluster.nodes() {
        let text = http::ask(node, "GET", "/metrics").await?.body;
        ensure!(text.ends_with("# EOF\n"), "the end is missing: {text}");
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let number = |line: &&str| line.rsplit_once(' ').is_some_and(|(_, number)| number.parse::<f64>().is_ok());
        ensure!(samples.len() > 10 && samples.iter().all(number), "not all of these end with a number: {samples:?}");
        for name in ["pgvigil_leader", "pgvigil_decisions_total"] {
            ensure!(samples.iter().any(|line| line.starts_with(name)), "no {name} in {text}");
        }
    }
    Ok(())
}
