//! `pgvigil validate FILE`: reads a file as the agent would, and asks the host whether it agrees.

use super::screen::answer;
use crate::cli::{Exit, ValidateArgs, usual_config};
use crate::config;

/// Prints what was found; mistakes in the file and disagreements of the world have exit codes of their own.
pub fn run(arguments: &ValidateArgs) -> Exit {
    let file = arguments.file.clone().or_else(|| arguments.config.clone()).unwrap_or_else(usual_config);
    let report = config::validate(&file, arguments.offline);
    answer(report.to_string().trim_end());
    match &report.mistakes {
        Some(_) => Exit::Usage,
        None if report.is_good() => Exit::Done,
        None => Exit::Failed,
    }
}
