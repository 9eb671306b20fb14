//! The binary `pgvigil`: reads the command line and hands over to the body.

use std::process::ExitCode;

use agent::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    // A shell that asks what could come next gets its answer, and nothing else happens.
    agent::commands::complete();
    agent::commands::run(Cli::parse()).into()
}
