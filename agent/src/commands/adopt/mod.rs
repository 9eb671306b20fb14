//! `pgvigil adopt`: a server that runs already becomes that of a cluster, without a restart. It says first what it would change. The primary is
//! written down in etcd as the node that led last, so that its agent takes the lead by the ordinary rules, and nobody else can.

mod patroni;
mod plan;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use consensus::{Adoption, Outcome, Snapshot};
use decision::durability::Quorum;
use decision::parameters::Parameters;
use decision::settings::Mode;
use decision::view::{Initialize, SyncRecord};
use pg_control::{Instance, Stranger};
use serde_json::{Map, Value, json};

use self::plan::Plan;
use super::operator::{agrees, must_be_able_to_ask};
use super::screen::{answer, tell};
use super::settings::change::change;
use super::world::Reach;
use crate::cli::{AdoptArgs, Exit};
use crate::operate::asks;
use crate::operate::proviso::Proviso;
use crate::passwords;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Takes the server of this node over, or says why not.
pub async fn run(arguments: &AdoptArgs) -> Exit {
    match steps(arguments).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn steps(arguments: &AdoptArgs) -> Result<Exit, Exit> {
    if !arguments.dry_run {
        must_be_able_to_ask(arguments.yes, "shall pgvigil keep this server?")?;
    }
    if let Some(file) = &arguments.from_patroni
        && !imported(arguments, file)?
    {
        return Ok(Exit::Done);
    }
    let reach = Reach::new(&arguments.config)?;
    let (instance, found) = look(&reach).await.map_err(|error| {
        tell(&format!("refused: {error:#}"));
        Exit::Refused
    })?;
    let seen = reach.store.read().await.map_err(|error| {
        tell(&format!("error: a cluster has its place in etcd, and it does not answer: {error}"));
        reach.silence()
    })?;
    let plan = Plan::of(&reach.config, &found, &seen, &instance.own_files(), arguments.from_patroni.is_some());
    report(&plan, &found, &reach);
    if !plan.refusals.is_empty() {
        return Ok(Exit::Refused);
    }
    if arguments.dry_run {
        return Ok(Exit::Done);
    }
    if !arguments.yes && !agrees("shall pgvigil keep this server?") {
        tell("nothing was changed");
        return Ok(Exit::Aborted);
    }
    if let Err(error) = take_over(&reach, arguments, &instance, &found, &seen, &plan).await {
        tell(&format!("error: {error:#}; mend that and adopt again, it begins where it ended"));
        return Ok(Exit::Failed);
    }
    if found.standby {
        answer(&format!(
            "done: its agent points it at the leader; start it (systemctl enable --now pgvigil@{})",
            reach.config.cluster
        ));
        return Ok(Exit::Done);
    }
    if seen.config.pause.is_some() {
        answer("done, and paused as it was: start the agents of all nodes, then pgvigil resume");
        return Ok(Exit::Done);
    }
    leads(&reach, arguments.wait).await
}

/// Makes a node file of Patroni's, where there is none yet; says whether there is one now.
fn imported(arguments: &AdoptArgs, from: &Path) -> Result<bool, Exit> {
    let to = &arguments.config.config;
    if to.exists() {
        return Ok(true);
    }
    let failed = |why: String| {
        tell(&format!("error: {why}"));
        Exit::Usage
    };
    let text =
        std::fs::read_to_string(from).map_err(|error| failed(format!("cannot read {}: {error}", from.display())))?;
    let imported = patroni::import(&text).map_err(|why| failed(format!("{}: {why}", from.display())))?;
    imported.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    if arguments.dry_run {
        answer(imported.toml().trim_end());
        tell(&format!("this would be {}; write it there to see what else would be done", to.display()));
        return Ok(false);
    }
    std::fs::write(to, imported.toml()).map_err(|error| {
        failed(format!(
            "cannot write {}: {error}; --config names another place, or print it with --dry-run",
            to.display()
        ))
    })?;
    answer(&format!("made {} from {}", to.display(), from.display()));
    Ok(true)
}

/// The server of this node, as whoever is to keep it.
async fn look(reach: &Reach) -> Result<(Instance, Stranger)> {
    let data_dir = &reach.config.postgres.data_dir;
    let owner = std::fs::metadata(data_dir).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    let owner = owner.with_context(|| format!("{} (postgres.data_dir) cannot be read", data_dir.display()))?;
    ensure!(
        owner == nix::unistd::geteuid().as_raw(),
        "{} belongs to another user: run this as that one (sudo -u postgres pgvigil adopt)",
        data_dir.display()
    );
    let instance = crate::run::instance(&reach.config)?;
    if instance.postmaster().is_none() {
        bail!("no server runs in {}: start it, it is taken over as it runs", data_dir.display());
    }
    let superuser = &instance.config().superuser;
    let found = instance.look_at_stranger().await.with_context(|| {
        format!(
            "the superuser {superuser} must be let in over the socket once: `local all {superuser} peer` as the first line of pg_hba.conf, then reload"
        )
    })?;
    Ok((instance, found))
}

/// Everything of a dry run is its answer; before the deed it is chatter.
fn report(plan: &Plan, found: &Stranger, reach: &Reach) {
    let kind = if found.standby { "standby" } else { "primary" };
    answer(&format!(
        "{} is a running {kind}, version {}, database system {}, timeline {}",
        reach.config.name,
        found.setting("server_version"),
        found.system_id,
        found.timeline
    ));
    for change in &plan.changes {
        answer(&format!("  changes  {change}"));
    }
    for warning in &plan.warnings {
        answer(&format!("  note     {warning}"));
    }
    for refusal in &plan.refusals {
        answer(&format!("  REFUSED  {refusal}"));
    }
    if plan.refusals.is_empty() {
        answer("nothing is restarted, and sessions stay");
    }
}

/// Whatever fails on the way leaves a server that runs as before; etcd is told last.
async fn take_over(
    reach: &Reach,
    arguments: &AdoptArgs,
    instance: &Instance,
    found: &Stranger,
    seen: &Snapshot,
    plan: &Plan,
) -> Result<()> {
    asks();
    if found.standby {
        instance.let_members_in(found).await.context("the rules for connections")?;
        return instance.prepare_to_follow(found).context("the configuration");
    }
    let postgres = &reach.config.postgres;
    passwords::make_up(&reach.store, postgres).await?;
    instance.set_secrets(passwords::read(&reach.store, postgres).await?)?;
    instance.let_members_in(found).await.context("the rules for connections")?;
    instance.become_equipped().await.context("the roles")?;
    if !plan.carried.is_empty() {
        keep(reach, arguments, &plan.carried).await?;
    }
    let mut parameters = plan.carried.clone();
    parameters.extend(postgres.parameters.clone());
    instance.take_configuration(found, &parameters).await.context("the configuration")?;
    match reach.store.adopt(&written_down(reach, found, seen, plan)).await? {
        Outcome::Applied { .. } => instance.let_commits_go().await.context("whom commits wait for"),
        Outcome::Refused => bail!("somebody else has made a cluster of this name meanwhile"),
    }
}

/// Nothing is known of any standby, so nobody but this node can prove that it has every commit.
fn written_down(reach: &Reach, found: &Stranger, seen: &Snapshot, plan: &Plan) -> Adoption {
    let sync = SyncRecord::of_reign(
        reach.config.member_name().clone(),
        plan.term,
        Mode::Quorum,
        vec![Quorum::none()],
        found.timeline,
    );
    Adoption {
        system_id: found.system_id,
        is_known: matches!(seen.cluster.initialize, Initialize::Done(_)),
        after: seen.cluster.term,
        sync,
        sync_revision: seen.sync_revision,
    }
}

/// Makes these parameters settings of the whole cluster, where nobody has set them yet.
async fn keep(reach: &Reach, arguments: &AdoptArgs, carried: &Parameters) -> Result<()> {
    let reason = arguments.reason.clone().unwrap_or_else(|| "as the adopted server had it".to_owned());
    let with_them = |before: &Map<String, Value>| {
        let mut after = before.clone();
        let postgres = after.entry("postgresql").or_insert_with(|| json!({}));
        if !postgres.is_object() {
            *postgres = json!({});
        }
        let parameters = &mut postgres["parameters"];
        if !parameters.is_object() {
            *parameters = json!({});
        }
        for (name, value) in carried {
            if parameters.get(name).is_none() {
                parameters[name] = json!(value);
            }
        }
        Ok((after != *before).then_some(Value::Object(after)))
    };
    match change(reach, Some(&reason), &Proviso { founds: true, ..Proviso::default() }, with_them).await {
        Ok(_) => Ok(()),
        Err(_) => bail!("the settings of the cluster could not be written"),
    }
}

/// Waits for the lead, where an agent is there to take it.
async fn leads(reach: &Reach, within: Duration) -> Result<Exit, Exit> {
    if reach.ask(&reach.own_api()).await.is_err() {
        answer(&format!(
            "done: its agent takes the lead as soon as it runs; start it (systemctl enable --now pgvigil@{})",
            reach.config.cluster
        ));
        return Ok(Exit::Done);
    }
    let begun = Instant::now();
    while begun.elapsed() < within {
        if let Ok(seen) = reach.store.read().await
            && seen.cluster.leader.as_ref() == Some(reach.config.member_name())
        {
            answer(&format!("done: {} leads term {}", reach.config.name, seen.cluster.term));
            return Ok(Exit::Done);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tell("adopted, but it does not lead yet: pgvigil why");
    Ok(Exit::StillRunning)
}
