//! What each word of the command line does. Standard output carries the answer and nothing else; chatter and errors go to standard
//! error; the exit code says which way it ended.

mod daemon;

use crate::cli::{Cli, Command, Exit};

/// Carries out one command.
pub fn run(cli: Cli) -> Exit {
    match cli.command {
        Command::Agent(arguments) => daemon::run(&arguments.config),
        Command::Demo(arguments) => crate::demo::run(&arguments),
        _ => Exit::Usage,
    }
}
