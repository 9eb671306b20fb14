//! `pgvigil demo`: a real cluster on this machine, broken under load, and what came of it. [`cluster::LocalCluster`] is the stage, which the
//! tests of whole agents use too; `play` is the piece. Whatever happens, nothing of it stays behind unless asked for.

pub mod account;
pub mod audit;
mod card;
pub mod cluster;
pub mod etcd;
mod keep;
pub mod lookout;
pub mod node;
mod play;
pub mod ports;
pub mod processes;
pub mod programs;
mod screen;
pub mod service;
pub mod session;
pub mod settings;
pub mod workdir;
pub mod writer;

use std::io::Write;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::cluster::{ClusterOptions, LocalCluster};
use self::screen::Screen;
use crate::cli::{DemoArgs, Exit, Fault};

/// Runs the demonstration.
pub fn run(arguments: &DemoArgs) -> Exit {
    if arguments.fault == Fault::Switchover && arguments.nodes < 2 {
        eprintln!("error: a switchover needs a node to go to: --nodes 2 or more");
        return Exit::Usage;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.context("starting the runtime").and_then(|runtime| runtime.block_on(until_told(arguments)));
    match ended {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failed
        }
    }
}

/// Runs the demonstration unless a signal ends it. What it has started is dropped, and so ended, either way.
async fn until_told(arguments: &DemoArgs) -> Result<Exit> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        exit = perform(arguments) => exit,
        _ = interrupt.recv() => bail!("interrupted; everything is stopped and removed"),
        _ = terminate.recv() => bail!("told to end; everything is stopped and removed"),
        _ = hangup.recv() => bail!("the terminal is gone; everything is stopped and removed"),
    }
}

async fn perform(arguments: &DemoArgs) -> Result<Exit> {
    let screen = Screen::new(arguments.json);
    let pgvigil = std::env::current_exe().context("finding this program")?;
    let cluster = LocalCluster::prepare(&ClusterOptions {
        nodes: arguments.nodes,
        ttl: arguments.ttl,
        bin_dir: arguments.bin_dir.clone(),
        base_port: arguments.base_port,
        ..ClusterOptions::new(pgvigil)
    })?;
    let performed = async {
        play::form(&cluster, &screen).await?;
        play::play(&cluster, arguments.fault, &screen).await
    };
    let logs = || format!("the logs stay in {} (*.log)", cluster.directory().display());
    let card = match performed.await {
        Ok(card) => card,
        Err(error) => {
            cluster.keep_directory();
            bail!("{error:#}\n{}", logs());
        }
    };
    card.lines().iter().for_each(|line| screen.print(line));
    let lost = card.audit.lost_rows;
    if arguments.keep {
        keep::leave(cluster, &screen)?;
    } else if lost > 0 {
        cluster.keep_directory();
        screen.print(&logs());
    }
    if arguments.json {
        // A reader that has gone is an error, and no panic.
        writeln!(std::io::stdout(), "{}", card.json())?;
    }
    if lost > 0 {
        bail!("{lost} acknowledged rows are missing");
    }
    Ok(Exit::Done)
}
