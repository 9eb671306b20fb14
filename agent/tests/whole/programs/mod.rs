//! Programs that were made for Patroni, unchanged, against pgvigil: while all is well, in a pause, with something broken, and after a
//! switchover. Those that no package of Debian 12 brings come by `scripts/programs.sh`; where they are not, that is told and the rest is played.

mod address;
mod documented;
mod exposition;
mod nagios;
mod patronictl;
mod proxies;
mod templates;

use std::path::PathBuf;
use std::process::{Output, Stdio};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::stage::{Stage, on_stage, options};
use address::Addresses;
use nagios::Nagios;
use patronictl::Patronictl;
use proxies::Proxies;

/// What waits for a restart when it is changed, on all nodes at once.
const RESTARTS_FOR: &str = "postgres.parameters.max_files_per_process";

/// Where `scripts/programs.sh` puts them.
pub fn place() -> Option<PathBuf> {
    let told = std::env::var_os("PGVIGIL_TEST_PROGRAMS").map(PathBuf::from);
    let found = told.into_iter().chain(["/var/tmp/pgvigil-programs".into()]);
    let found = found.into_iter().find(|place: &PathBuf| place.join("venv/bin/check_patroni").is_file());
    if !found.as_ref().is_some_and(|place| place.join("vip-manager").is_file()) {
        eprintln!("SKIPPED: check_patroni, patronictl or vip-manager is not here; scripts/programs.sh brings them");
    }
    found
}

/// Runs a program to its end.
async fn run(program: &std::path::Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.with_context(|| format!("running {}", program.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_made_for_patroni_work_before_and_after_a_switchover() {
    on_stage(&options(), async |stage| {
        let programs = Programs::start(stage).await?;
        programs.all_is_well(stage).await.context("before the switchover")?;
        programs.all_there_is_to_ask(stage).await.context("of a healthy cluster")?;
        programs.a_change_waits_for_a_restart(stage).await.context("a change that waits for a restart")?;
        programs.the_leader_is_down_in_a_pause(stage).await.context("in a pause")?;
        programs.an_agent_is_away(stage).await.context("with an agent away")?;
        let (old, new) = (stage.leader().await?, stage.standby().await?);
        stage.pgvigil(&new, &["switchover", "--to", &new, "-y", "--reason", "test"]).await?;
        stage.leader_other_than(&old).await?;
        stage.whole().await?;
        programs.all_is_well(stage).await.context("after the switchover")?;
        programs.others_lead(stage, &old).await.context("after the switchover")?;
        programs.the_leaders_agent_is_dead(stage).await.context("with the leader's agent killed and left dead")
    })
    .await;
}

/// All that look at one cluster.
struct Programs {
    nagios: Option<Nagios>,
    patronictl: Option<Patronictl>,
    addresses: Option<Addresses>,
    proxies: Proxies,
}

impl Programs {
    async fn start(stage: &Stage) -> Result<Self> {
        let place = place();
        let with = |name: &str| place.as_ref().map(|place| place.join(name));
        Ok(Self {
            nagios: with("venv/bin/check_patroni").map(|program| Nagios::new(program, stage)).transpose()?,
            patronictl: with("venv/bin/patronictl").map(|program| Patronictl::new(program, stage)).transpose()?,
            addresses: match with("vip-manager").filter(|program| program.is_file()) {
                Some(program) => Addresses::start(&program, stage).await?,
                None => None,
            },
            proxies: Proxies::start(stage).await?,
        })
    }

    /// Everybody sees the same healthy cluster.
    async fn all_is_well(&self, stage: &Stage) -> Result<()> {
        let leader = stage.leader().await?;
        self.proxies.lead_where_they_should(stage, &leader).await.context("HAProxy")?;
        if let Some(addresses) = &self.addresses {
            addresses.are_with(stage, &leader).await.context("vip-manager")?;
        }
        documented::every_field_is_in_the_tables(stage).await.context("docs/compatibility.md")?;
        exposition::says_what_the_api_says(stage, place().as_deref()).await.context("metrics")?;
        templates::pgbouncer_is_led_to(stage, &leader).await.context("confd's template for PgBouncer")?;
        if let Some(patronictl) = &self.patronictl {
            patronictl.shows_a_healthy_cluster(stage, &leader).await.context("patronictl")?;
        }
        stage.say("every program sees who leads");
        Ok(())
    }

    async fn all_there_is_to_ask(&self, stage: &Stage) -> Result<()> {
        let leader = stage.leader().await?;
        if let Some(patronictl) = &self.patronictl {
            patronictl.voters_are_named_once_patroni_is_told_the_mode(stage).await?;
            patronictl.versions_are_told(stage).await?;
        }
        documented::every_path_is_served(stage).await?;
        match &self.nagios {
            Some(nagios) => {
                nagios.every_check_is_good(stage, &leader).await?;
                nagios.something_is_scheduled(stage).await
            }
            None => Ok(()),
        }
    }

    async fn a_change_waits_for_a_restart(&self, stage: &Stage) -> Result<()> {
        let leader = stage.leader().await?;
        stage.pgvigil(&leader, &["config", "set", "-y", &format!("{RESTARTS_FOR}=900")]).await?;
        if let Some(nagios) = &self.nagios {
            nagios.a_restart_is_pending(&leader).await?;
        }
        if let Some(patronictl) = &self.patronictl {
            patronictl.shows_what_waits_for_a_restart(stage).await?;
        }
        stage.pgvigil(&leader, &["config", "set", "-y", "--unset", RESTARTS_FOR]).await?;
        Ok(())
    }

    /// Nobody takes over in a pause, so that there is time to look at a cluster without a primary.
    async fn the_leader_is_down_in_a_pause(&self, stage: &Stage) -> Result<()> {
        let leader = stage.leader().await?;
        stage.pgvigil(&leader, &["pause", "--for", "10m", "--reason", "test"]).await?;
        stage.node(&leader)?.kill_postgres()?;
        if let Some(nagios) = &self.nagios {
            nagios.the_leader_is_down_in_a_pause(&leader).await?;
        }
        if let Some(patronictl) = &self.patronictl {
            patronictl.shows_a_pause(stage).await?;
        }
        stage.pgvigil(&leader, &["resume"]).await?;
        stage.writes_go_on().await?;
        stage.whole().await
    }

    async fn an_agent_is_away(&self, stage: &Stage) -> Result<()> {
        let away = stage.standby().await?;
        stage.stop(&away).await?;
        if let Some(nagios) = &self.nagios {
            nagios.an_agent_is_away(&away).await?;
        }
        stage.start(&away)?;
        stage.whole().await
    }

    /// Its fencer lives, and its vip-manager.
    async fn the_leaders_agent_is_dead(&self, stage: &Stage) -> Result<()> {
        let Some(addresses) = &self.addresses else { return Ok(()) };
        let old = stage.leader().await?;
        stage.node(&old)?.agent().kill();
        let new = stage.leader_other_than(&old).await?;
        addresses.as_shown_is_with(stage, &new).await?;
        stage.start(&old)?;
        stage.whole().await?;
        addresses.are_with(stage, &new).await
    }

    async fn others_lead(&self, stage: &Stage, old: &str) -> Result<()> {
        let Some(nagios) = &self.nagios else { return Ok(()) };
        nagios.the_timeline_has_changed(old).await?;
        nagios.the_roles_are_others(stage, &stage.leader().await?).await
    }
}
