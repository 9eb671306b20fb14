//! Parameters of Postgres, set for the whole cluster while clients write: what can be taken up at once is, what needs a restart waits and says
//! so, and what nobody may say or Postgres does not take changes nothing.

use agent::demo::cluster::ClusterOptions;
use agent::demo::processes;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::etcdctl;
use crate::stage::{Stage, on_empty_stage, on_stage, options};

async fn set(stage: &Stage, arguments: &[&str]) -> Result<String> {
    stage.pgvigil("n1", &[&["config", "set", "-y"], arguments].concat()).await
}

async fn shows(stage: &Stage, node: &str, name: &str, expected: &str) -> Result<bool> {
    Ok(stage.cluster.psql(node, &format!("SHOW {name}")).await? == expected)
}

async fn comes_to_show(stage: &Stage, node: &str, name: &str, expected: &str) -> Result<()> {
    let so = async || shows(stage, node, name, expected).await;
    stage.eventually(&format!("{name} is not {expected} on {node}"), so).await
}

fn all(stage: &Stage) -> Vec<String> {
    stage.cluster.nodes().iter().map(|node| node.name().to_owned()).collect()
}

/// What a parameter of a node will be after a restart, as the node says.
async fn waits_for_restart(stage: &Stage, node: &str, name: &str, then: &str) -> Result<()> {
    let so = async || {
        let told = stage.ask(node, "/patroni").await?;
        Ok(told["pending_restart"] == true && told["pending_restart_reason"][name]["new_value"] == then)
    };
    stage.eventually(&format!("{node} does not say that {name} waits to be {then}"), so).await
}

async fn problems(stage: &Stage) -> Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&stage.pgvigil("n1", &["status", "-o", "json"]).await?)?;
    Ok(status["problems"].as_array().cloned().unwrap_or_default())
}

async fn is_told(stage: &Stage, code: &str, words: &str, so: bool) -> Result<()> {
    let told = async || {
        let found = problems(stage).await?;
        let told = found.iter().any(|one| one["code"] == code && one["problem"].to_string().contains(words));
        Ok(told == so)
    };
    stage.eventually(&format!("{code} with {words:?} told: not {so}"), told).await
}

/// What a command says that ends with this code.
async fn fails(stage: &Stage, arguments: &[&str], code: &str) -> Result<String> {
    let told = stage.pgvigil("n1", arguments).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(told.contains(&format!("exit status: {code}")), "{arguments:?} did not end with {code}: {told}");
    Ok(told)
}

/// Ends its Postgres, which its agent starts again.
async fn restarts(stage: &Stage, node: &str) -> Result<()> {
    let before = stage.node(node)?.postmaster_pid();
    stage.node(node)?.kill_postgres()?;
    let again = async || {
        let now = stage.node(node)?.postmaster_pid();
        Ok(now.is_some() && now != before)
    };
    stage.eventually(&format!("Postgres of {node} is not started again"), again).await?;
    stage.whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_the_cluster_reach_every_node_and_mistakes_none() {
    on_stage(&options(), async |stage| {
        let said = set(stage, &["-p", "work_mem=9216kB"]).await?;
        ensure!(said.contains("postgres.parameters.work_mem: unset -> \"9MB\""), "{said}");
        for node in all(stage) {
            comes_to_show(stage, &node, "work_mem", "9MB").await?;
        }
        refused(stage).await?;
        by_other_means(stage).await?;
        raised_on_standbys_first(stage).await?;
        too_much_to_start_with(stage).await?;
        by_the_file_of_a_node(stage).await
    })
    .await;
}

/// It is read again at an order and at a SIGHUP; a mistake in it changes nothing.
async fn by_the_file_of_a_node(stage: &Stage) -> Result<()> {
    stage.set("n2", "postgres.parameters.work_mem", "\"10MB\"")?;
    stage.set("n2", "timing.retry_after", "\"4s\"")?;
    let said = stage.pgvigil("n1", &["reload", "n2"]).await?;
    let expected = "in force now: postgres.parameters; restart the agent (Postgres goes on) for timing";
    ensure!(said.contains(expected), "{said}");
    comes_to_show(stage, "n2", "work_mem", "10MB").await?;
    stage.set("n2", "postgres.parameters.work_mem", "\"11MB\"")?;
    stage.set("n2", "tags.nosync", "\"perhaps\"")?;
    let refused = stage.pgvigil("n1", &["reload", "n2"]).await.err().map(|error| format!("{error:#}"));
    ensure!(refused.as_ref().is_some_and(|told| told.contains("nosync")), "{refused:?}");
    ensure!(shows(stage, "n2", "work_mem", "10MB").await?, "a file with a mistake was taken up");
    stage.set("n2", "tags.nosync", "true")?;
    let agent = stage.node("n2")?.agent().pid().context("it runs")?;
    processes::signal(agent, Signal::SIGHUP);
    comes_to_show(stage, "n2", "work_mem", "11MB").await?;
    let told = async || Ok(stage.ask("n2", "/patroni").await?["tags"]["nosync"] == true);
    stage.eventually("it does not say that it does not vote", told).await?;
    stage.set("n2", "tags.nosync", "false")?;
    stage.pgvigil("n1", &["reload"]).await?;
    stage.whole().await
}

async fn refused(stage: &Stage) -> Result<()> {
    for (assignment, code, expected) in [
        ("archive_command=rm %p", "3", "only the node's own file sets it"),
        ("Shared_Preload_Libraries=x", "3", "only the node's own file sets it"),
        ("primary_conninfo=x", "3", "belongs to the agent"),
        ("synchronous_commit=off", "3", "would not wait for the voters"),
        ("work_mem=lots", "2", "expected a whole number, or one with a unit"),
        ("work_men=9MB", "2", "did you mean `work_mem`?"),
        ("max_connections=2", "3", "too small for a cluster"),
        ("max_connections=abc", "2", "expected a whole number"),
    ] {
        let told = set(stage, &["-p", assignment]).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(told.contains(expected) && told.contains(&format!("exit status: {code}")), "{assignment}: {told}");
    }
    let shown = stage.pgvigil("n1", &["config", "show", "-o", "json"]).await?;
    ensure!(shown.contains("\"revision\":1"), "something was changed: {shown}");
    Ok(())
}

/// Who may write to etcd gets no program run thereby.
async fn by_other_means(stage: &Stage) -> Result<()> {
    let mut config: Value = serde_json::from_str(&etcdctl::get(&stage.cluster, "config").await?)?;
    config["postgresql"]["parameters"]["archive_command"] = json!("touch /tmp/pgvigil-was-here");
    config["postgresql"]["parameters"]["log_min_duration_statement"] = json!("soon");
    config["postgresql"]["parameters"]["maintenance_work_mem"] = json!("33MB");
    etcdctl::put(&stage.cluster, "config", &config.to_string()).await?;
    is_told(stage, "parameter_ignored", "archive_command", true).await?;
    is_told(stage, "parameters_rejected", "invalid value for parameter", true).await?;
    for node in all(stage) {
        comes_to_show(stage, &node, "maintenance_work_mem", "33MB").await?;
        let command = stage.cluster.psql(&node, "SHOW archive_command").await?;
        ensure!(!command.contains("pgvigil-was-here"), "{command}");
    }
    let unset = ["--unset", "postgres.parameters.archive_command", "--unset"];
    set(stage, &[&unset[..], &["postgres.parameters.log_min_duration_statement"]].concat()).await?;
    is_told(stage, "parameter_ignored", "", false).await?;
    is_told(stage, "parameters_rejected", "", false).await
}

async fn raised_on_standbys_first(stage: &Stage) -> Result<()> {
    let leader = stage.leader().await?;
    set(stage, &["-p", "max_connections=150"]).await?;
    for standby in stage.others(&leader) {
        waits_for_restart(stage, &standby, "max_connections", "150").await?;
        let told = stage.ask(&leader, "/patroni").await?;
        ensure!(told["pending_restart"].is_null(), "the leader would outrun a standby: {told}");
        let shown = stage.pgvigil("n1", &["status"]).await?;
        let later = format!("{leader} waits for a restart: max_connections 100 -> 150 (after the standbys)");
        ensure!(shown.contains(&later), "{shown}");
        let refused = fails(stage, &["restart", &leader, "--pending", "-y"], "3").await?;
        ensure!(refused.contains("comes after the standbys: pgvigil restart --pending"), "{refused}");
        restarts(stage, &standby).await?;
        ensure!(shows(stage, &standby, "max_connections", "150").await?, "{standby} was not raised");
    }
    waits_for_restart(stage, &leader, "max_connections", "150").await?;
    let shown = stage.pgvigil("n1", &["status"]).await?;
    ensure!(shown.contains(&format!("{leader} waits for a restart: max_connections 100 -> 150")), "{shown}");
    stage.pgvigil("n1", &["restart", "--pending", "-y"]).await?;
    comes_to_show(stage, &leader, "max_connections", "150").await?;
    let nothing = stage.pgvigil("n1", &["restart", "--pending", "-y"]).await?;
    ensure!(nothing.contains("nothing waits for a restart"), "{nothing}");
    stage.whole().await?;
    stage.writes_go_on().await
}

async fn too_much_to_start_with(stage: &Stage) -> Result<()> {
    let standby = stage.standby().await?;
    set(stage, &["-p", "superuser_reserved_connections=500"]).await?;
    waits_for_restart(stage, &standby, "superuser_reserved_connections", "500").await?;
    restarts(stage, &standby).await?;
    ensure!(shows(stage, &standby, "superuser_reserved_connections", "3").await?, "it did not go back");
    is_told(stage, "parameters_rejected", &format!("{standby}: "), true).await?;
    stage.pgvigil("n1", &["config", "rollback", "1", "-y"]).await?;
    is_told(stage, "parameters_rejected", "", false).await?;
    for node in all(stage) {
        comes_to_show(stage, &node, "maintenance_work_mem", "64MB").await?;
        ensure!(shows(stage, &node, "work_mem", "9MB").await?, "going back took too much");
    }
    ignored_by_a_reload(stage, &standby).await
}

/// Without a certificate a reload warns and goes on, and a start dies.
async fn ignored_by_a_reload(stage: &Stage, standby: &str) -> Result<()> {
    set(stage, &["-p", "ssl=on"]).await?;
    for node in all(stage) {
        comes_to_show(stage, &node, "ssl", "on").await?;
    }
    restarts(stage, standby).await?;
    ensure!(shows(stage, standby, "ssl", "off").await?, "it did not go back");
    is_told(stage, "parameters_rejected", "ssl = on", true).await?;
    set(stage, &["--unset", "postgres.parameters.ssl"]).await?;
    is_told(stage, "parameters_rejected", "", false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_postgres_does_not_take_is_named_before_anything_is_created() {
    let one = ClusterOptions { nodes: 1, etcd_members: 1, haproxy: false, ..options() };
    on_empty_stage(&one, async |stage| {
        stage.set("n1", "postgres.parameters.max_conections", "\"100\"")?;
        stage.cluster.start_etcd().await?;
        let file = stage.node("n1")?.config().to_string_lossy();
        let checked = stage.cluster.pgvigil("n1", &["validate", &file]).await?;
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(!checked.status.success() && said.contains("did you mean `max_connections`?"), "{said}");

        stage.start("n1")?;
        let told = async || {
            let why = stage.ask("n1", "/why").await?;
            let failed = why["failed"]["error"].as_str().unwrap_or_default();
            Ok(failed.contains("max_conections: Postgres has no parameter") && why["reason"]["code"] == "retrying")
        };
        stage.eventually("its agent does not name the parameter", told).await?;
        ensure!(etcdctl::get(&stage.cluster, "initialize").await?.is_empty(), "it has begun to create the cluster");
        ensure!(!stage.node("n1")?.data_dir().join("PG_VERSION").exists(), "it has run initdb");

        stage.stop("n1").await?;
        stage.unset("n1", "postgres.parameters.max_conections")?;
        stage.start("n1")?;
        ensure!(stage.leader().await? == "n1");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_bring_what_waits_everywhere_or_say_where_it_does_not() {
    on_stage(&options(), async |stage| {
        // At once: no node has taken it up yet.
        set(stage, &["-p", "max_connections=150"]).await?;
        let first = stage.leader().await?;
        let said = stage.pgvigil("n1", &["restart", "--rolling", "--pending", "-y"]).await?;
        ensure!(said.contains("all of them were restarted"), "{said}");
        everywhere(stage, "max_connections", "150").await?;
        let leader = stage.leader().await?;
        ensure!(leader != first, "the leader was restarted where it takes writes");
        set(stage, &["--unset", "postgres.parameters.max_connections"]).await?;
        let said = stage.pgvigil("n1", &["restart", "--pending", "-y"]).await?;
        ensure!(said.contains("all of them were restarted"), "{said}");
        everywhere(stage, "max_connections", "100").await?;
        ensure!(stage.leader().await? == leader, "whoever came to lead would have had as many as before");
        carries_nothing_on(stage, &leader).await
    })
    .await;
}

async fn everywhere(stage: &Stage, name: &str, expected: &str) -> Result<()> {
    for node in all(stage) {
        ensure!(shows(stage, &node, name, expected).await?, "{name} is not {expected} on {node}");
    }
    let nothing = stage.pgvigil("n1", &["restart", "--pending", "-y"]).await?;
    ensure!(nothing.contains("nothing waits for a restart"), "{nothing}");
    stage.whole().await
}

/// Good by itself, and more than there are connections: the first node that is restarted tells it.
async fn carries_nothing_on(stage: &Stage, leader: &str) -> Result<()> {
    let (wrong, others) = ("superuser_reserved_connections", stage.others(leader));
    let server = |name: &str| anyhow::Ok(stage.node(name)?.postmaster_pid());
    set(stage, &["-p", &format!("{wrong}=500")]).await?;
    let before = [server(leader)?, server(&others[1])?];
    let told = fails(stage, &["restart", "--rolling", "-y"], "1").await?;
    let (ends, rest) = (
        format!("{} runs again, but without {wrong} = 500 (", others[0]),
        format!("{}, {leader} were not touched", others[1]),
    );
    for expected in [&ends, "Mend: pgvigil config rollback 2", &rest] {
        ensure!(told.contains(expected), "{expected:?} is not told: {told}");
    }
    ensure!([server(leader)?, server(&others[1])?] == before, "it was carried on to other nodes");
    let told = fails(stage, &["restart", "--pending", "-y"], "3").await?;
    ensure!(told.contains(&format!("{} does not take {wrong} = 500", others[0])), "{told}");
    stage.pgvigil("n1", &["config", "rollback", "2", "-y"]).await?;
    stage.whole().await
}
