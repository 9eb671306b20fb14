//! What a real bash completes: the members of a cluster that runs, and nothing, soon, where neither etcd nor an agent is there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent::demo::cluster::{ClusterOptions, LocalCluster};
use anyhow::{Context, Result, ensure};

use crate::stage::{SOON, options};

/// What bash makes of the words up to the cursor, which is at the end of the last one.
fn completed(config: &Path, words: &[&str]) -> Result<Vec<String>> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_pgvigil"));
    let programs = program.parent().context("it is in a directory")?;
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let last = words.last().context("no words")?;
    let before = words[words.len() - 2];
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let line = format!(
        "source <(pgvigil completions bash); function=$(complete -p pgvigil | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
         COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9; $function pgvigil '{last}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &line]).env("PATH", path).env("PGVIGIL_CONFIG", config).env_remove("COMPLETE");
    let output = bash.output().context("bash")?;
    let told = String::from_utf8_lossy(&output.stderr);
    // `compopt` complains outside of a real completion, which this is not.
    let told: Vec<&str> = told.lines().filter(|line| !line.contains("compopt")).collect();
    ensure!(output.status.success() && told.is_empty(), "{words:?}: {} {told:?}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_the_members_of_the_cluster() {
    let small = ClusterOptions { nodes: 2, etcd_members: 1, haproxy: false, ..options() };
    let cluster = LocalCluster::start(&small).await.expect("a cluster");
    if let Err(error) = played(&cluster).await {
        panic!("{error:#}");
    }
}

async fn played(cluster: &LocalCluster) -> Result<()> {
    let config = cluster.node("n1")?.config().to_owned();
    ensure!(completed(&config, &["pgvigil", "switch"])? == ["switchover"], "commands do not complete");
    for words in [
        &["pgvigil", "restart", "n"][..],
        &["pgvigil", "why", "n"],
        &["pgvigil", "reinit", "n"],
        &["pgvigil", "reload", "n"],
        &["pgvigil", "member", "remove", "n"],
        &["pgvigil", "switchover", "--to", "n"],
        &["pgvigil", "switchover", "--expect-leader", "n"],
        &["pgvigil", "failover", "--to", "n"],
    ] {
        let found = completed(&config, words)?;
        ensure!(found == ["n1", "n2"], "{words:?}: {found:?}");
    }
    let found = completed(&config, &["pgvigil", "transitions", "t-"])?;
    ensure!(found == ["t-1"], "ids of transitions: {found:?}");
    // From the agent, where etcd is frozen.
    cluster.etcd().iter().for_each(|member| drop(member.freeze()));
    let found = completed(&config, &["pgvigil", "restart", "n"])?;
    ensure!(found == ["n1", "n2"], "with etcd frozen: {found:?}");
    let shown = cluster.pgvigil("n1", &["show", "uri"]).await?;
    let told = String::from_utf8_lossy(&shown.stdout).into_owned();
    let ports: Vec<String> = cluster.nodes().iter().map(|node| node.postgres_port().to_string()).collect();
    ensure!(shown.status.success() && ports.iter().all(|port| told.contains(port)), "{ports:?}: {shown:?}");
    cluster.nodes().iter().for_each(|node| node.agent().kill());
    let began = Instant::now();
    let found = completed(&config, &["pgvigil", "restart", "n"])?;
    ensure!(found.is_empty() && began.elapsed() < Duration::from_secs(5), "{found:?} after {:?}", began.elapsed());
    let found = completed(Path::new("/nowhere.toml"), &["pgvigil", "restart", "n"])?;
    ensure!(found.is_empty() && began.elapsed() < SOON, "without a file: {found:?}");
    Ok(())
}
