//! `make bench`: the same faults on pgvigil and its peers, what they cost at rest, and many clusters on one etcd; all of it on this
//! machine, one after another. Every result is kept as soon as it is there, and the report is made from them at the end.

mod auto_failover;
mod costs;
mod crowd;
mod facts;
mod http;
mod matrix;
mod numbers;
mod patroni;
mod programs;
mod proxy;
mod report;
mod rest;
mod results;
mod routes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use chaos::fault::Fault;
use chaos::world::{self, Entered};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::matrix::{FAULTS, Name, Programs};
use crate::results::Results;

/// What to measure. Every option can be given in the environment as well, as `make bench RUNS=3` does.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", about = "pgvigil and its peers under the same faults", version)]
struct Options {
    /// Which systems, or nothing for all
    #[arg(long, env = "SYSTEMS", value_delimiter = ',', value_enum)]
    systems: Vec<Name>,
    /// Which faults: names, or nothing for all; "none" for none
    #[arg(long, env = "FAULTS", value_delimiter = ',')]
    faults: Vec<String>,
    /// How often each fault on pgvigil
    #[arg(long, env = "RUNS", default_value_t = 5)]
    runs: usize,
    /// How often each fault on a peer, which takes minutes for most
    #[arg(long, env = "PEER_RUNS", default_value_t = 2)]
    peer_runs: usize,
    /// How many clusters on one etcd; 0 for none
    #[arg(long, env = "CROWDS", value_delimiter = ',', default_value = "10,100,500")]
    crowds: Vec<usize>,
    /// How often each fault through HAProxy
    #[arg(long, env = "PROXY_RUNS", default_value_t = 3)]
    proxy_runs: usize,
    /// How often each fault with a client by each way to the primary
    #[arg(long, env = "ROUTE_RUNS", default_value_t = 5)]
    route_runs: usize,
    /// Measures the ways to the primary alone, and puts them into the report that is there
    #[arg(long, env = "ROUTES_ONLY", value_parser = clap::builder::FalseyValueParser::new())]
    routes_only: bool,
    /// Goes on where a run was broken off, instead of beginning anew
    #[arg(long, env = "RESUME")]
    resume: bool,
    /// Measures nothing and makes the report of what is there
    #[arg(long)]
    report_only: bool,
    /// Where results are kept
    #[arg(long, default_value = "target/bench")]
    results: PathBuf,
    /// Where the report goes, if not to docs/benchmarks.md, or beside the results where only a part was chosen
    #[arg(long, env = "REPORT")]
    report: Option<PathBuf>,
    /// The virtual environment of Patroni
    #[arg(long, default_value = "target/bench/venv")]
    venv: PathBuf,
    /// The program pgvigil
    #[arg(long, default_value = "target/release/pgvigil")]
    pgvigil: PathBuf,
}

impl Options {
    fn chosen_faults(&self) -> impl Iterator<Item = &String> {
        self.faults.iter().filter(|name| !name.is_empty())
    }

    fn command(&self) -> String {
        let mut command = format!("make bench RUNS={} PEER_RUNS={}", self.runs, self.peer_runs);
        if self.chosen_faults().next().is_some() {
            command += &format!(" FAULTS={}", self.faults.join(","));
        }
        if !self.systems.is_empty() {
            let words: Vec<&str> = self.systems.iter().map(|name| name.word()).collect();
            command += &format!(" SYSTEMS={}", words.join(","));
        }
        command
    }

    /// A part of the measurements does not take the place of the whole.
    fn report(&self) -> PathBuf {
        let all = self.systems.is_empty() && self.chosen_faults().next().is_none();
        let usual = if all { PathBuf::from("docs/benchmarks.md") } else { self.results.join("report.md") };
        self.report.clone().unwrap_or(usual)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.report_only { write_report(&options).map(|()| ExitCode::SUCCESS) } else { measure(&options) };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn measure(options: &Options) -> Result<ExitCode> {
    if let Entered::Over(code) = world::enter()? {
        return Ok(code);
    }
    // A crowd of agents has thousands of connections, and etcd their other ends.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting the runtime")?.block_on(until_told(options))
}

/// Dropping the work ends all that it has started.
async fn until_told(options: &Options) -> Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let code = tokio::select! {
        done = all(options) => return done.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => ExitCode::from(130),
        _ = terminate.recv() => ExitCode::from(143),
    };
    eprintln!("broken off; what was measured is in {}: go on with RESUME=true", options.results.display());
    Ok(code)
}

async fn all(options: &Options) -> Result<()> {
    if options.routes_only {
        return routes_alone(options).await;
    }
    let results = Results::open(&options.results, !options.resume)?;
    results.circumstances(|| facts::circumstances(options.command()))?;
    let every = FAULTS.map(str::to_owned).to_vec();
    let wanted = if options.chosen_faults().next().is_none() { &every } else { &options.faults };
    let wanted = wanted.iter().filter(|name| *name != "none" && !name.is_empty());
    let faults: Vec<Fault> = wanted.map(|name| matrix::fault(name)).collect::<Result<_>>()?;
    let every = [Name::Pgvigil, Name::PgvigilAsync, Name::Patroni, Name::Patroni20, Name::AutoFailover];
    let systems = if options.systems.is_empty() { every.to_vec() } else { options.systems.clone() };
    let programs =
        Programs { pgvigil: found(&options.pgvigil)?, packages: matrix::packages_of(&found(&options.venv)?)? };

    for name in systems {
        let runs = if name.is_ours() { options.runs } else { options.peer_runs };
        matrix::run(name, &faults, runs, &programs, &results).await?;
        write_report(options)?;
    }
    proxy::run(&programs.pgvigil, options.proxy_runs, &results).await?;
    routes::run(&programs.pgvigil, options.route_runs, &results).await?;
    for clusters in options.crowds.iter().copied().filter(|clusters| *clusters > 0) {
        for spread in [false, true] {
            let file = format!("{clusters:04}-{}", if spread { "spread" } else { "same" });
            if results.has("crowd", &file) {
                continue;
            }
            match crowd::measure(clusters, spread).await {
                Ok(crowd) => {
                    println!("{clusters} clusters, spread {spread}: {crowd:?}");
                    results.put("crowd", &file, &crowd)?;
                }
                Err(error) => println!("{clusters} clusters on one etcd: {error:#}"),
            }
        }
    }
    write_report(options)?;
    println!("the report is in {}", options.report().display());
    Ok(())
}

/// The rest of the report stays as it is.
async fn routes_alone(options: &Options) -> Result<()> {
    let results = Results::open_for(&options.results, if options.resume { &[] } else { &["routes"] })?;
    let begun = facts::begun();
    routes::run(&found(&options.pgvigil)?, options.route_runs, &results).await?;
    let command = format!("make bench ROUTES_ONLY=1 ROUTE_RUNS={}", options.route_runs);
    let section = report::routes::section(&results.all("routes")?, Some((&command, &begun)));
    let (to, text) = (options.report(), std::fs::read_to_string(options.report()).unwrap_or_default());
    std::fs::write(&to, report::routes::put_into(&text, &section))
        .with_context(|| format!("cannot write {}", to.display()))?;
    println!("the report is in {}", to.display());
    Ok(())
}

fn found(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("there is no {}: run `make bench`", path.display()))
}

fn write_report(options: &Options) -> Result<()> {
    let results = Results::open(&options.results, false)?;
    let circumstances = results.circumstances(|| facts::circumstances(options.command()))?;
    let text = report::report(&results, &circumstances)?;
    std::fs::write(options.report(), text).with_context(|| format!("cannot write {}", options.report().display()))
}
