//! The OpenAPI document against the agent it describes: schemathesis, a program that makes up requests from such a document, finds no answer that is
//! not in it, and nothing that it sends does harm. `scripts/programs.sh` brings it; where it is not, that is told.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::control::{Controlled, begins, is, one_node, token};
use crate::curl::Curl;
use crate::stage::{Stage, on_empty_stage};

/// What every answer is held against.
const CHECKS: &str = "status_code_conformance,content_type_conformance,response_schema_conformance";
/// And where 503 is no answer by contract, as it is of a health path and of Patroni's verbs where they do not do something.
const STRICT: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection";
const ENDS_WITHIN: Duration = Duration::from_secs(300);

fn program() -> Option<PathBuf> {
    let told = std::env::var_os("PGVIGIL_TEST_PROGRAMS").map(PathBuf::from);
    let found = told.into_iter().chain(["/var/tmp/pgvigil-programs".into()]);
    let found = found.map(|place| place.join("schemathesis/bin/schemathesis")).find(|program| program.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: schemathesis is not here; scripts/programs.sh brings it");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_to_made_up_requests_is_one_that_the_document_tells_of() {
    let Some(program) = program() else { return };
    on_empty_stage(&one_node(), async |stage| {
        let control = Controlled::prepare(stage)?;
        begins(stage).await?;
        stage.cluster.psql("n1", "CREATE TABLE written AS SELECT 1 AS number").await?;
        is(&control.ask("anna", "PATCH", "/config").json("{\"loop_wait\": 10}").send().await?, 200, "loop_wait")?;
        is(
            &Curl::new("GET", &format!("{}/openapi.json", stage.node("n1")?.api_url())).send().await?,
            200,
            "\"3.1.0\"",
        )?;
        // Whoever may only look gets at every path, and is turned away from every verb.
        let (looks, does) = ((&*program, "gatekeeper"), (&*program, "anna"));
        made_up(stage, &control, looks, STRICT, &["--exclude-tag", "health"]).await.context("to look")?;
        made_up(stage, &control, looks, CHECKS, &["--include-tag", "health"]).await.context("of health")?;
        // What does something does it for good here: without restarts, of which each takes its time.
        made_up(stage, &control, does, STRICT, &["--include-path-regex", "^/v1/"]).await.context("to do")?;
        let verbs = ["--include-tag", "patroni", "--exclude-path", "/restart"];
        made_up(stage, &control, does, CHECKS, &verbs).await.context("in Patroni's words")?;
        nothing_has_come_of_it(stage, &control).await
    })
    .await;
}

async fn made_up(
    stage: &Stage,
    control: &Controlled,
    (program, name): (&Path, &str),
    checks: &str,
    which: &[&str],
) -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut command = tokio::process::Command::new(program);
    command.arg("run").arg(format!("http://{}/openapi.json", control.address("n1")));
    // It never ends, which no program that waits for an answer is made for.
    command.args(["--exclude-path", "/v1/events"]);
    command.args(["-H", &format!("Authorization: Bearer {}", token(name)), "--checks", checks]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "6", "--seed", "1"]);
    command.args(["--request-timeout", "30", "--continue-on-failure", "--no-shrink", "--generation-database", "none"]);
    command.args(which);
    command.current_dir(home.path()).env("HOME", home.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ENDS_WITHIN, command.output()).await.context("schemathesis does not end")??;
    let said = String::from_utf8_lossy(&output.stdout);
    stage
        .say(said.lines().rev().find(|line| line.contains("generated") || line.contains("passed")).unwrap_or_default());
    ensure!(output.status.success(), "{}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// It leads, takes writes, and nothing of it has failed.
async fn nothing_has_come_of_it(stage: &Stage, control: &Controlled) -> Result<()> {
    is(&control.ask("anna", "POST", "/v1/resume").json("{}").send().await?, 200, "\"paused\":false")?;
    ensure!(stage.leader().await? == "n1", "nobody leads");
    // A restart that was asked for may be under way.
    let written = async || {
        stage.cluster.psql("n1", "INSERT INTO written VALUES (2)").await?;
        Ok(stage.cluster.psql("n1", "SELECT min(number) + max(number) FROM written").await? == "3")
    };
    stage.eventually("what was written is not there, or nothing can be written", written).await?;
    let told = std::fs::read_to_string(stage.node("n1")?.agent().log())?;
    for fault in ["panicked", "a fault of the agent's own"] {
        ensure!(!told.contains(fault), "{fault}: {told}");
    }
    Ok(())
}
