//! Somebody deletes the agent's own directory while the agent runs. Whatever the next life of the agent needs of it is put back by this one,
//! and a change of leader goes on as if nothing had been deleted.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::stage::{Stage, on_stage, options};

/// Longer than a lease: a fencer that nobody tells of new deadlines has struck by then.
const PAST_ANY_DEADLINE: Duration = Duration::from_secs(7);
/// What must be as it was.
const KEPT: [&str; 4] = ["agent.json", "promise.key", "promises.json", "pgpass"];

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_directory_that_was_deleted_is_put_back_and_nothing_is_forgotten() {
    on_stage(&options(), async |stage| {
        let leader = stage.leader().await?;
        let standby = stage.standby().await?;
        for name in [&standby, &leader] {
            let before = contents(&state_dir(stage, name)?);
            delete(stage, name)?;
            is_put_back(stage, name, &before).await?;
        }
        is_told_where_it_cannot_be_put_back(stage, &standby).await?;
        switch_over(stage, &leader, &standby).await?;
        // Nobody waits for anything to be put back.
        delete(stage, &leader)?;
        delete(stage, &standby)?;
        switch_over(stage, &standby, &leader).await?;
        for name in [&standby, &leader] {
            the_next_life_adopts(stage, name).await?;
        }
        switch_over(stage, &leader, &standby).await
    })
    .await;
}

fn state_dir(stage: &Stage, name: &str) -> Result<PathBuf> {
    Ok(stage.node(name)?.postgres_log().parent().context("the log lies somewhere")?.to_owned())
}

fn contents(dir: &Path) -> BTreeMap<&'static str, Option<Vec<u8>>> {
    KEPT.iter().map(|name| (*name, std::fs::read(dir.join(name)).ok().map(|bytes| wherever(&bytes)))).collect()
}

/// Where the notes of the agent were written is another place in another directory of the same name.
fn wherever(bytes: &[u8]) -> Vec<u8> {
    let Ok(mut notes) = serde_json::from_slice::<serde_json::Value>(bytes) else { return bytes.to_vec() };
    let home = notes.as_object_mut().and_then(|notes| notes.remove("home"));
    home.map_or_else(|| bytes.to_vec(), |_| notes.to_string().into_bytes())
}

fn delete(stage: &Stage, name: &str) -> Result<()> {
    stage.say(&format!("the directory of the agent of {name} is deleted"));
    let dir = state_dir(stage, name)?;
    loop {
        match std::fs::remove_dir_all(&dir) {
            // The agent was quicker with some of it.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            deleted => return deleted.context("deleting the directory"),
        }
    }
}

/// The notes are as they were, and there is one fencer, which the next agent would find.
async fn is_put_back(stage: &Stage, name: &str, before: &BTreeMap<&str, Option<Vec<u8>>>) -> Result<()> {
    let dir = state_dir(stage, name)?;
    ensure!(before["promises.json"].is_some() && before["pgpass"].is_some(), "{before:?}");
    let as_before = async || Ok(contents(&dir) == *before);
    stage.eventually("what was deleted is not put back", as_before).await?;
    let guarded = async || Ok(has_a_socket(&dir) && fencers(&dir) == 1);
    stage.eventually("there is not one fencer that can be found", guarded).await?;
    let mode = std::fs::metadata(&dir)?.permissions().mode() & 0o777;
    ensure!(mode == 0o700, "the directory of {name} has mode {mode:o}");
    Ok(())
}

/// Where the directory cannot be made again, `status` and `why` name it with its mend, until it can.
async fn is_told_where_it_cannot_be_put_back(stage: &Stage, name: &str) -> Result<()> {
    let dir = state_dir(stage, name)?;
    let above = dir.parent().context("it is in a directory")?;
    let (before, mode) = (contents(&dir), std::fs::metadata(above)?.permissions());
    std::fs::set_permissions(above, PermissionsExt::from_mode(0o555))?;
    let emptied = std::fs::remove_dir_all(&dir).or_else(|_| {
        // Whoever is not root may not delete it then, either.
        std::fs::set_permissions(above, mode.clone())?;
        std::fs::remove_dir_all(&dir)?;
        std::fs::set_permissions(above, PermissionsExt::from_mode(0o555))
    });
    emptied.context("deleting the directory")?;
    let told = async || {
        let status = stage.pgvigil(name, &["status"]).await?;
        Ok(status.contains(&format!("{} is gone", dir.display())) && status.contains("install -d"))
    };
    stage.eventually("status does not tell what is missing", told).await?;
    let said = stage.pgvigil(name, &["why"]).await?;
    ensure!(said.contains("is gone"), "{said}");
    std::fs::set_permissions(above, mode)?;
    is_put_back(stage, name, &before).await
}

fn has_a_socket(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok());
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(".sock"))
}

/// How many fencers stand guard for this directory.
fn fencers(dir: &Path) -> usize {
    let ours = dir.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok());
    let told = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    told.filter(|words| words.contains("pgvigil-fencer") && words.split('\0').any(|word| word == ours)).count()
}

/// The agent is killed; the next one finds everything, and no fencer of the last one kills Postgres.
async fn the_next_life_adopts(stage: &Stage, name: &str) -> Result<()> {
    let dir = state_dir(stage, name)?;
    stage.eventually("the fencer cannot be found", async || Ok(has_a_socket(&dir) && fencers(&dir) == 1)).await?;
    let postmaster = stage.node(name)?.postmaster_pid();
    stage.node(name)?.agent().kill();
    stage.start(name)?;
    stage.whole().await?;
    tokio::time::sleep(PAST_ANY_DEADLINE).await;
    let now = stage.node(name)?.postmaster_pid();
    ensure!(postmaster.is_some() && now == postmaster, "the postmaster of {name} was {postmaster:?} and is {now:?}");
    stage.whole().await
}

async fn switch_over(stage: &Stage, from: &str, to: &str) -> Result<()> {
    stage.pgvigil(to, &["switchover", "--to", to, "--expect-leader", from, "--reason", "test", "-y"]).await?;
    ensure!(stage.leader().await? == to, "{to} does not lead");
    stage.writes_go_on().await?;
    stage.whole().await
}
