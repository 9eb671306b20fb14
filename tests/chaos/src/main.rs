//! `make chaos`: plays faults on clusters of pgvigil, again and again, prints the table and fails where anything happened that must not.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use chaos::campaign::{Campaign, Options};
use chaos::world::{self, Entered};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    // The programs of the run include this very one under another name, so that what is tested is what was built.
    if called_as("pgvigil") {
        return agent::commands::run(agent::cli::Cli::parse()).into();
    }
    let options = Options::parse();
    match world::enter().and_then(|entered| inside(entered, &options)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn called_as(name: &str) -> bool {
    let me = std::env::args_os().next().map(PathBuf::from);
    me.as_deref().and_then(Path::file_name).is_some_and(|file| file == name)
}

fn inside(entered: Entered, options: &Options) -> Result<ExitCode> {
    if let Entered::Over(code) = entered {
        return Ok(code);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting the runtime")?.block_on(until_told(options))
}

/// Dropping a campaign ends all that it has started.
async fn until_told(options: &Options) -> Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut campaign = Campaign::new(options)?;
    tokio::select! {
        good = campaign.run() => Ok(if good? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}
