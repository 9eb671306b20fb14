//! `--keep`: the cluster lives on without the demo, with a note on how to look around and a script that ends it.

use anyhow::{Context, Result};

use super::cluster::LocalCluster;
use super::screen::Screen;
use super::session::{DATABASE, USER};

/// Ends every program of the cluster, whoever has started it since, and removes the directory. Shells and editors in it stay.
const STOP: &str = r#"#!/bin/sh
# Stops what `pgvigil demo --keep` left running in DIRECTORY, and removes that directory.
directory='DIRECTORY'
found=1
while [ $found = 1 ]; do
    found=0
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe") in
            */pgvigil*|*/postgres*|*/pg_*|*/initdb*|*/etcd*|*/haproxy*) ;;
            *) continue ;;
        esac
        case "$(readlink "$process/cwd") $(tr '\0' ' ' < "$process/cmdline")" in
            *"$directory"*) found=1; kill -KILL "${process#/proc/}" ;;
        esac
    done 2>/dev/null
    [ $found = 0 ] || sleep 0.1
done
cd / && rm -rf "$directory" && echo "stopped and removed: $directory"
"#;

/// Leaves everything running and says how to look around.
///
/// # Errors
/// The script cannot be written.
pub fn leave(cluster: LocalCluster, screen: &Screen) -> Result<()> {
    let directory = cluster.directory().display().to_string();
    let stop = cluster.directory().join("stop");
    std::fs::write(&stop, STOP.replace("DIRECTORY", &directory)).context("writing the stop script")?;
    std::fs::set_permissions(&stop, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let ports = cluster.proxy_ports();
    let psql = cluster.postgres_programs().bin_dir.join("psql");
    let psql = |port: u16| format!("{} -h 127.0.0.1 -p {port} -U {USER} {DATABASE}", psql.display());
    let pages: Vec<String> = cluster.nodes().iter().map(|node| format!("{}/ui", node.api_url())).collect();
    let lines = [
        "The cluster goes on running:".to_owned(),
        format!("  export PGVIGIL_CONFIG={directory}/n1/pgvigil.toml"),
        format!("  {directory}/pgvigil status --watch"),
        format!("  {directory}/pgvigil switchover"),
        format!("  {}   (the cluster on a page, as each agent knows it)", pages.join(" ")),
        format!("  {}   (to the primary)", psql(ports.read_write)),
        format!("  {}   (to a standby)", psql(ports.read_only)),
        format!("  http://127.0.0.1:{}/   (what HAProxy thinks)", ports.statistics),
        format!("  tail -f {directory}/n*.log   (the agents; Postgres logs to n*/data.pgvigil/postgres.log)"),
        format!("  {directory}/stop   (stops everything and removes the directory)"),
    ];
    lines.iter().for_each(|line| screen.print(line));
    cluster.leave_running();
    Ok(())
}
