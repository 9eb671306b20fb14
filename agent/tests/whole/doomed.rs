//! An agent that dies by SIGKILL right before or after an action of its choice, as debug builds can be told to: the power cut at the
//! worst possible moment. Its Postgres lives on, as it would.

use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use agent::demo::node::Node;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};

use crate::stage::Stage;

/// The agent of a node in place of its own.
pub struct Doomed {
    name: String,
    at: String,
    child: Child,
}

impl Doomed {
    /// Starts it; the node's own agent is killed first, if it runs.
    pub fn start(stage: &Stage, node: &Node, at: &str) -> Result<Self> {
        node.agent().kill();
        let log = OpenOptions::new().create(true).append(true).open(node.agent().log())?;
        let mut command = Command::new(stage.cluster.directory().join("pgvigil"));
        command.arg("agent").arg("--config").arg(node.config()).current_dir("/").process_group(0);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8").env("PGVIGIL_CRASH_AT", at);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if Uid::effective().is_root() {
            let postgres = User::from_name("postgres")?.context("there is a user postgres")?;
            command.uid(postgres.uid.as_raw()).gid(postgres.gid.as_raw());
        }
        let child = command.spawn().context("starting an agent")?;
        Ok(Self { name: node.name().to_owned(), at: at.to_owned(), child })
    }

    /// Whether it has died as it should.
    pub fn has_died(&mut self) -> Result<bool> {
        let Some(status) = self.child.try_wait()? else { return Ok(false) };
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        ensure!(killed, "the agent of {} was to die at {} and ended with {status}", self.name, self.at);
        Ok(true)
    }
}

impl Drop for Doomed {
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
        let start = |name: &String| Doomed::start(stage, stage.node(name)?, at);
        let mut doomed = names.iter().map(start).collect::<Result<Vec<_>>>()?;
        if round == 0 {
            trigger().await.with_context(|| format!("bringing {at} about"))?;
        }
        let begin = std::time::Instant::now();
        while !any_has_died(&mut doomed)? {
            if begin.elapsed() > crate::stage::SOON {
                bail!("none of {names:?} has come to {at}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        stage.say(&format!("died at {at}"));
    }
    names.iter().try_for_each(|name| stage.start(name))
}

fn any_has_died(doomed: &mut [Doomed]) -> Result<bool> {
    for agent in doomed {
        if agent.has_died()? {
            return Ok(true);
        }
    }
    Ok(false)
}
