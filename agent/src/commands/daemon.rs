//! `pgvigil agent`: loads the configuration, starts logging and the runtime, and runs until told to end.

use std::path::Path;

use crate::cli::Exit;
use crate::{config, logging, run};

/// Two threads carry everything that is not on a thread of its own (leases, fence, health API, beats).
const WORKER_THREADS: usize = 2;

/// Runs the agent that `file` describes.
pub fn run(file: &Path) -> Exit {
    let config = match config::load(file, std::env::vars()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Exit::Usage;
        }
    };
    if let Err(error) = logging::start(&config.log) {
        eprintln!("error: {error:#}");
        return Exit::Usage;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| {
        let ended = runtime.block_on(run::run(config));
        // Whatever hangs with its disk on a thread of its own must not hold up the end, nor find the runtime gone under it.
        std::mem::forget(runtime);
        ended
    });
    let exit = match ended {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{error:#}");
            Exit::Failed
        }
    };
    logging::finish();
    exit
}
