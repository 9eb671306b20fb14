//! Agents outside the usual order: one with a configuration of its own, and one that dies by SIGKILL right before or after an action,
//! as debug builds can be told to: the crash at the worst possible moment. Its Postgres lives on, as it would.

use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agent::demo::cluster::LocalCluster;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};

use crate::stage::{SOON, Stage};

/// An agent with a configuration or a fate of its own.
pub struct LooseAgent {
    name: String,
    child: Child,
}

impl LooseAgent {
    /// Starts it with a configuration file; `crash_at` names the action at which it dies.
    pub fn start(cluster: &LocalCluster, config: &Path, log: &Path, crash_at: Option<&str>) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(cluster.directory().join("pgvigil"));
        command.arg("agent").arg("--config").arg(config).current_dir("/").process_group(0);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
        command.envs(crash_at.map(|at| ("PGVIGIL_CRASH_AT", at)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        if Uid::effective().is_root() {
            let postgres = User::from_name("postgres")?.context("there is a user postgres")?;
            command.uid(postgres.uid.as_raw()).gid(postgres.gid.as_raw());
        }
        let child = command.spawn().context("starting an agent")?;
        Ok(Self { name: format!("the agent with {} {}", config.display(), crash_at.unwrap_or_default()), child })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Whether it has died as it should.
    fn has_died(&mut self) -> Result<bool> {
        let Some(status) = self.ended()? else { return Ok(false) };
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        ensure!(killed, "{} was to die and ended with {status}", self.name);
        Ok(true)
    }
}

impl Drop for LooseAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets the agents of these nodes die at each of these points, one after another: when one has died, all are started again, doomed to
/// die at the next point. `trigger` brings the first action about. At the end they are started as usual.
pub async fn die_at_each(
    stage: &Stage,
    names: &[String],
    points: &[&str],
    trigger: impl AsyncFn() -> Result<()>,
) -> Result<()> {
    for (round, at) in points.iter().enumerate() {
        let doom = |name: &String| {
            let node = stage.node(name)?;
            node.agent().kill();
            LooseAgent::start(&stage.cluster, node.config(), node.agent().log(), Some(at))
        };
        let mut doomed = names.iter().map(doom).collect::<Result<Vec<_>>>()?;
        if round == 0 {
            tokio::select! {
                triggered = trigger() => triggered.with_context(|| format!("bringing {at} about"))?,
                // On a busy machine an agent may come there by itself.
                died = one_has_died(&mut doomed) => died?,
            }
        }
        let begin = Instant::now();
        while !any_has_died(&mut doomed)? {
            if begin.elapsed() > SOON {
                bail!("none of {names:?} has come to {at}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.say(&format!("died at {at}"));
    }
    names.iter().try_for_each(|name| stage.start(name))
}

async fn one_has_died(doomed: &mut [LooseAgent]) -> Result<()> {
    while !any_has_died(doomed)? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn any_has_died(doomed: &mut [LooseAgent]) -> Result<bool> {
    for agent in doomed {
        if agent.has_died()? {
            return Ok(true);
        }
    }
    Ok(false)
}
