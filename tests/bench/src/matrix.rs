//! The faults, played on each system: a cluster is used for as long as it becomes whole again, and what fails is told and does not stop
//! the rest.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use chaos::dice::Dice;
use chaos::fault::{self, Fault};
use chaos::pgvigil::{Pgvigil, Plan};
use chaos::round::{Outcome, play};
use chaos::site::{Layout, Site};
use chaos::stage::Stage;
use chaos::system::System;
use clap::ValueEnum;
use decision::settings::Mode;

use crate::auto_failover::AutoFailover;
use crate::patroni::{Flavour, Patroni};
use crate::rest;
use crate::results::{Measured, Played, Results};

/// No run of one fault takes longer.
const LONGEST: Duration = Duration::from_secs(420);
/// So often in a row a system may fail to come up or to become whole before it is left alone.
const FAILURES: usize = 3;

/// The systems by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// pgvigil with its defaults: commits wait for a quorum.
    Pgvigil,
    /// pgvigil where commits wait for nobody.
    PgvigilAsync,
    /// Patroni with its defaults: commits wait for nobody.
    Patroni,
    /// Patroni with ttl 20 and commits that wait for a quorum.
    #[value(name = "patroni-20")]
    Patroni20,
    /// pg_auto_failover, tuned; commits wait for a quorum.
    AutoFailover,
}

impl Name {
    /// The word on the command line and in the results.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pgvigil => "pgvigil",
            Self::PgvigilAsync => "pgvigil-async",
            Self::Patroni => "patroni",
            Self::Patroni20 => "patroni-20",
            Self::AutoFailover => "auto-failover",
        }
    }

    /// Whether it is ours.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Pgvigil | Self::PgvigilAsync)
    }

    /// What an acknowledgement promises.
    fn mode(self) -> Mode {
        match self {
            Self::PgvigilAsync | Self::Patroni => Mode::Async,
            _ => Mode::Quorum,
        }
    }

    /// pg_auto_failover has one monitor in place of etcd's members, so it has no leader among them to lose.
    pub fn knows(self, fault: &str) -> bool {
        self != Self::AutoFailover || fault != "etcd-leader-killed"
    }
}

/// The faults of the comparison, in the order of the report. Where a peer acts only after half a minute, the fault lasts as long for all.
pub const FAULTS: [&str; 10] = [
    "switchover",
    "postmaster-killed",
    "power-lost",
    "isolated",
    "postgres-frozen",
    "host-frozen",
    "agent-restarted",
    "agent-dead",
    "etcd-leader-killed",
    "etcd-lost",
];
const LONG: Duration = Duration::from_secs(45);
/// Faults that last so long are played so often at most.
const LONG_RUNS: usize = 2;

/// A fault by its name.
///
/// # Errors
/// There is none.
pub fn fault(name: &str) -> Result<Fault> {
    let known = FAULTS.contains(&name).then(|| fault::named(name)).flatten();
    let mut fault = known.with_context(|| format!("there is no fault {name}; there are {}", FAULTS.join(", ")))?;
    if ["agent-dead", "etcd-lost"].contains(&name) {
        fault.lasts = LONG;
    }
    Ok(fault)
}

/// What is needed to set systems up.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The program `pgvigil`.
    pub pgvigil: PathBuf,
    /// The Python packages of Patroni.
    pub packages: PathBuf,
}

/// Runs that are still to be played on one system.
struct Todo {
    name: Name,
    plays: VecDeque<(Fault, usize)>,
    rest: bool,
    failures: usize,
}

/// Plays these faults on a system, each `runs` times, and measures it at rest; what there are results of already is left out.
///
/// # Errors
/// The results cannot be kept.
pub async fn run(name: Name, faults: &[Fault], runs: usize, programs: &Programs, results: &Results) -> Result<()> {
    let mut plays = VecDeque::new();
    for fault in faults.iter().filter(|fault| name.knows(&fault.name)) {
        let runs = if fault.lasts == LONG { runs.min(LONG_RUNS) } else { runs };
        plays.extend((1..=runs).map(|run| (fault.clone(), run)));
    }
    plays.retain(|(fault, run)| !results.has("faults", &file(name, &fault.name, *run)));
    // At rest there is no difference between our modes.
    let rest = name != Name::PgvigilAsync && !results.has("rest", name.word());
    let mut todo = Todo { name, plays, rest, failures: 0 };
    while (todo.rest || !todo.plays.is_empty()) && todo.failures < FAILURES {
        if let Err(error) = on_new_ground(&mut todo, programs, results).await {
            todo.failures += 1;
            println!("{}: {error:#}", name.word());
        }
    }
    Ok(())
}

fn file(name: Name, fault: &str, run: usize) -> String {
    format!("{}.{fault}.{run}", name.word())
}

async fn on_new_ground(todo: &mut Todo, programs: &Programs, results: &Results) -> Result<()> {
    let mut site = Site::new()?;
    match todo.name {
        Name::Pgvigil | Name::PgvigilAsync => {
            let plan = Plan {
                nodes: 3,
                layout: Layout::Apart,
                mode: todo.name.mode(),
                volumes: false,
                settings: Vec::new(),
                program: programs.pgvigil.clone(),
            };
            let system = Pgvigil::prepare(&mut site, &plan)?;
            on_system(todo, &site, &system, results).await
        }
        Name::Patroni | Name::Patroni20 => {
            let flavour = if todo.name == Name::Patroni { Flavour::Default } else { Flavour::Quorum20 };
            let system = Patroni::prepare(&mut site, flavour, &programs.packages)?;
            on_system(todo, &site, &system, results).await
        }
        Name::AutoFailover => {
            let system = AutoFailover::prepare(&mut site)?;
            on_system(todo, &site, &system, results).await
        }
    }
}

/// Uses one cluster for as long as it becomes whole again.
async fn on_system<S: System>(todo: &mut Todo, site: &Site, system: &S, results: &Results) -> Result<()> {
    system.form().await.context("the cluster does not form")?;
    if todo.rest {
        let rest = rest::measure(todo.name, system).await.context("measuring at rest")?;
        results.put("rest", todo.name.word(), &rest)?;
        todo.rest = false;
    }
    if todo.plays.is_empty() {
        return Ok(());
    }
    let stage = Stage::begin(site, system, false).await?;
    while let Some((fault, run)) = todo.plays.pop_front() {
        let mut dice = Dice(u64::try_from(run)?);
        let playing = tokio::time::timeout(LONGEST, play(&stage, &fault, todo.name.mode(), &mut dice)).await;
        let played = playing.unwrap_or_else(|_| Err(anyhow!("not over within {LONGEST:?}")));
        let failed = played.as_ref().err().map(|error| anyhow!("{}, run {run}: {error:#}", fault.name));
        let played = Played {
            system: todo.name.word().to_owned(),
            fault: fault.name.clone(),
            run,
            outcome: played.map(measured).map_err(|error| format!("{error:#}")),
        };
        println!("{}", line(&played));
        results.put("faults", &file(todo.name, &fault.name, run), &played)?;
        match failed {
            Some(error) => {
                keep_logs(site, &file(todo.name, &fault.name, run), results);
                return Err(error);
            }
            None => todo.failures = 0,
        }
    }
    Ok(())
}

/// The logs of what failed, beside the results.
fn keep_logs(site: &Site, name: &str, results: &Results) {
    let to = results.directory().join("logs").join(name);
    let entries = std::fs::create_dir_all(&to).and_then(|()| std::fs::read_dir(site.workdir().path()));
    let logs = entries.into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    for log in logs.filter(|path| path.extension().is_some_and(|is| is == "log")) {
        // Without the logs the failure is still told.
        let _ = std::fs::copy(&log, to.join(log.file_name().unwrap_or_default()));
    }
}

fn measured(outcome: Outcome) -> Measured {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    Measured {
        outage_ms: ms(outcome.outage),
        lasted_ms: ms(outcome.lasted),
        back_by_itself: outcome.outage < outcome.lasted,
        acknowledged: outcome.acknowledged,
        lost: outcome.lost,
        split: outcome.splits.iter().map(|split| split.rows).sum(),
        redundancy_ms: outcome.redundancy.map(ms),
        phases: outcome.recorded.into_iter().next().map(|record| record.phases).unwrap_or_default(),
        violations: outcome.violations,
    }
}

fn line(played: &Played) -> String {
    let head = format!("{} {} run {}:", played.system, played.fault, played.run);
    match &played.outcome {
        Ok(measured) => format!(
            "{head} {:.0} ms, {} rows lost, {} split, lasted {:.1} s{}",
            measured.outage_ms,
            measured.lost,
            measured.split,
            measured.lasted_ms / 1000.0,
            measured.violations.iter().map(|violation| format!("; {violation}")).collect::<String>()
        ),
        Err(error) => format!("{head} {error}"),
    }
}

/// The directory in which a virtual environment keeps its packages.
///
/// # Errors
/// There is none.
pub fn packages_of(venv: &Path) -> Result<PathBuf> {
    let libraries = std::fs::read_dir(venv.join("lib"));
    let libraries = libraries.with_context(|| format!("{} is no virtual environment", venv.display()))?;
    let mut found = libraries.filter_map(Result::ok).map(|entry| entry.path().join("site-packages"));
    found.find(|path| path.is_dir()).with_context(|| format!("{} holds no packages", venv.display()))
}
