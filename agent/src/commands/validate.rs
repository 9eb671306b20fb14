//! `pgvigil validate FILE`: reads a file as the agent would, and asks the host whether it agrees.

use super::screen::answer;
use crate::cli::{Exit, ValidateArgs};
use crate::config;

/// Prints what was found; mistakes in the file and disagreements of the world have exit codes of their own.
pub fn run(arguments: &ValidateArgs) -> Exit {
    let report = config::validate(&arguments.file, arguments.offline);
    answer(report.to_string().trim_end());
    match &report.mistakes {
        Some(_) => Exit::Usage,
        None if report.is_good() => Exit::Done,
        None => Exit::Failed,
    }
}
