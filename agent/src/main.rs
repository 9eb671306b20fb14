//! The binary `pgvigil`: reads the command line and hands over to the body.

use std::process::ExitCode;

use agent::cli::Cli;

fn main() -> ExitCode {
    // A shell that asks what could come next gets its answer, and nothing else happens.
    agent::commands::complete();
    match Cli::read() {
        Ok(cli) => agent::commands::run(cli).into(),
        Err(exit) => exit,
    }
}
