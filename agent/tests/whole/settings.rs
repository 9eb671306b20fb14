//! The settings of the whole cluster, changed while it works: every agent acts accordingly, each change is on record, and there is a way
//! back.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::control::socket_of;
use crate::curl::Curl;
use crate::etcdctl;
use crate::stage::{Stage, on_stage, options};

/// What commits of the leader wait for, as its Postgres says.
async fn waits_for(stage: &Stage) -> Result<String> {
    stage.cluster.psql(&stage.leader().await?, "SHOW synchronous_standby_names").await
}

async fn comes_to_wait_for(stage: &Stage, beginning: &str) -> Result<()> {
    let so = async || Ok(waits_for(stage).await?.starts_with(beginning));
    stage.eventually(&format!("commits do not come to wait for {beginning:?}"), so).await
}

async fn set(stage: &Stage, assignment: &str) -> Result<String> {
    stage.pgvigil("n1", &["config", "set", assignment, "--reason", "test", "-y"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn durability_is_changed_while_writers_work_and_back_again() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        comes_to_wait_for(stage, "ANY 1").await?;
        let said = set(stage, "durability.acknowledgers=2").await?;
        ensure!(said.contains("durability.acknowledgers: unset -> 2"), "{said}");
        comes_to_wait_for(stage, "ANY 2").await?;
        set(stage, "durability.mode=strict").await?;
        stage.eventually("it is not strict", async || mode_is(stage, "strict").await).await?;
        stage.writes_go_on().await?;

        // With both asked for, one that is gone holds commits up in strict mode, and they go on where one is enough.
        let away = stage.others(&leader)[0].clone();
        stage.stop(&away).await?;
        stage.node(&away)?.kill_postgres()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(waits_for(stage).await?.starts_with("ANY 2"), "strict has degraded");
        set(stage, "durability.mode=quorum").await?;
        stage.writes_go_on().await?;
        stage.start(&away)?;
        stage.whole().await?;

        let shown: Value = serde_json::from_str(&stage.pgvigil("n1", &["config", "show", "-o", "json"]).await?)?;
        ensure!(shown["revision"] == 3 && shown["config"]["pgvigil"]["durability"]["mode"] == "quorum", "{shown}");
        ensure!(shown["reason"] == "test" && shown["by"].is_string(), "{shown}");
        stage.pgvigil("n1", &["config", "rollback", "1", "-y"]).await?;
        let history = stage.pgvigil("n1", &["config", "history"]).await?;
        ensure!(history.contains("back to revision 1") && history.lines().count() == 5, "{history}");
        ensure!(history.contains("durability.mode: unset -> \"strict\""), "{history}");
        let effective = stage.pgvigil("n1", &["config", "show", "--effective"]).await?;
        let acknowledgers = effective.lines().find(|line| line.starts_with("durability.acknowledgers"));
        ensure!(acknowledgers.is_some_and(|line| line.contains("the cluster")), "{effective}");
        let unset = ["config", "set", "--unset", "durability.acknowledgers", "-y"];
        stage.pgvigil("n1", &unset).await?;
        comes_to_wait_for(stage, "ANY 1").await?;
        ensure!(stage.leader().await? == leader, "another leads");
        connections_are_let_in_as_the_settings_say(stage).await?;
        stage.writes_go_on().await
    })
    .await;
}

/// What the settings say of connections is so on every node, and a mistake of theirs on none.
async fn connections_are_let_in_as_the_settings_say(stage: &Stage) -> Result<()> {
    let line = "host postgres demo 127.0.0.1/32 reject";
    set(stage, &format!("postgres.pg_hba=[\"host demo demo 127.0.0.1/32 trust\", \"{line}\"]")).await?;
    let rules = async |node: &str, what: &str| {
        let rules = "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method =";
        stage.cluster.psql(node, &format!("{rules} '{what}'")).await
    };
    for node in ["n1", "n2", "n3"] {
        stage.eventually("the rule is not there", async || Ok(rules(node, "reject").await? == "1")).await?;
    }
    the_secrets_in_rules_are_for_who_may_read_settings(stage).await?;
    // Postgres alone knows that this is none.
    set(stage, "postgres.pg_hba=[\"host demo demo 127.0.0.1/32 trust\", \"host all all 10.0.0.0/8 handshake\"]")
        .await?;
    let told = async || Ok(stage.pgvigil("n1", &["status", "-o", "json"]).await?.contains("access_rejected"));
    stage.eventually("nobody says that the rules are wrong", told).await?;
    ensure!(rules("n1", "reject").await? == "1", "the rules before were not put back");
    set(stage, "postgres.pg_hba=[\"host demo demo 127.0.0.1/32 trust\"]").await?;
    stage.eventually("the rule is still there", async || Ok(rules("n2", "reject").await? == "0")).await?;
    stage.pgvigil("n1", &["config", "set", "--unset", "postgres.pg_hba", "-y"]).await?;
    stage.writes_go_on().await
}

async fn the_secrets_in_rules_are_for_who_may_read_settings(stage: &Stage) -> Result<()> {
    let rule = "host all all 192.0.2.0/24 radius radiusservers=192.0.2.1 radiussecrets=hunter2";
    let also = "host postgres demo 127.0.0.1/32 reject";
    set(stage, &format!("postgres.pg_hba=[\"host demo demo 127.0.0.1/32 trust\", \"{also}\", \"{rule}\"]")).await?;
    for node in stage.cluster.nodes() {
        let shown = async || {
            let config = stage.ask(node.name(), "/config").await?.to_string();
            ensure!(!config.contains("hunter2"), "everybody may read it: {config}");
            Ok(config.contains("radiussecrets=***"))
        };
        stage.eventually("the rule is not shown", shown).await?;
        let socket = socket_of(stage, node.name())?;
        let whole = Curl::by_socket(&socket, "GET", "/config").send().await?;
        ensure!(whole.body.contains("radiussecrets=hunter2"), "{whole:?}");
    }
    Ok(())
}

async fn mode_is(stage: &Stage, mode: &str) -> Result<bool> {
    let sync: Value = serde_json::from_str(&etcdctl::get(&stage.cluster, "sync").await?)?;
    Ok(sync.to_string().contains(&format!("{mode:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_agent_would_understand_is_refused_and_changes_nothing() {
    on_stage(&options(), async |stage| {
        for (arguments, expected) in [
            (vec!["config", "set", "durability.mod=strict", "-y"], "did you mean `durability.mode`?"),
            (
                vec!["config", "set", "durability.mode=strict", "--expect-revision", "7", "-y"],
                "newest revision is 0, not 7",
            ),
            (vec!["config", "set", "durability.mode=strict"], "say --yes"),
            (vec!["config", "rollback", "1", "-y"], "no history yet"),
        ] {
            let told = stage.pgvigil("n1", &arguments).await.err().map(|error| format!("{error:#}"));
            ensure!(told.as_ref().is_some_and(|told| told.contains(expected)), "{arguments:?}: {told:?}");
        }
        stage.set("n2", "name", "\"n1\"")?;
        let checked = stage.cluster.pgvigil("n2", &["validate"]).await?;
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(said.contains("error[E28] a living member of cluster demo is called n1 already"), "{said}");
        stage.set("n2", "name", "\"n2\"")?;
        let checked = stage.cluster.pgvigil("n2", &["validate"]).await?;
        ensure!(String::from_utf8_lossy(&checked.stdout).contains("n2 is registered in cluster demo"), "{checked:?}");
        stage.pgvigil("n1", &["config", "set", "durability.mode=strict", "--dry-run"]).await?;
        let shown = stage.pgvigil("n1", &["config", "show", "-o", "json"]).await?;
        ensure!(shown.contains("\"config\":{}"), "{shown}");
        stage.pgvigil("n1", &["pause", "--for", "1m", "--reason", "test"]).await?;
        let shown = stage.pgvigil("n1", &["config", "history"]).await?;
        ensure!(shown.contains("test"), "a pause is no change of the settings: {shown}");
        stage.pgvigil("n1", &["resume"]).await.map(drop)
    })
    .await;
}
