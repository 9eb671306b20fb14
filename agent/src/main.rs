//! The binary `pgvigil`: reads the command line and hands over to the body.

use std::process::ExitCode;

use agent::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    agent::commands::run(Cli::parse()).into()
}
