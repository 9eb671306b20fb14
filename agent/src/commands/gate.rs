//! `pgvigil gate migrate`: whether a planned change may begin, for people and for pipelines. It changes nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use super::screen::answer;
use super::transitions::exit_word;
use super::world::Reach;
use crate::cli::{Exit, GateCommand, MigrateArgs, Output};
use crate::operate::gate::{Verdict, Word, migrate};

const AGAIN_EVERY: Duration = Duration::from_secs(1);

/// Asks it.
pub async fn run(command: &GateCommand) -> Exit {
    let GateCommand::Migrate(arguments) = command;
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    let verdict = last(&reach, arguments).await;
    let exit = match verdict.word() {
        Word::Go => Exit::Done,
        Word::NoGo => Exit::Refused,
        Word::Unknown => Exit::Unreachable,
    };
    match arguments.output {
        Output::Json => {
            let mut body = verdict.to_json();
            body["exit"] = json!(exit_word(exit));
            answer(&body.to_string());
        }
        Output::Table => {
            verdict.checks.iter().for_each(|check| _ = answer(&check.line()));
            answer(&verdict.sentence());
        }
    }
    exit
}

/// The first go, or the last word within the time.
async fn last(reach: &Reach, arguments: &MigrateArgs) -> Verdict {
    let (begun, limits) = (Instant::now(), arguments.limits());
    loop {
        let verdict = migrate(reach, &limits).await;
        if verdict.word() == Word::Go || begun.elapsed() >= arguments.wait {
            return verdict;
        }
        tokio::time::sleep(AGAIN_EVERY.min(arguments.wait.saturating_sub(begun.elapsed()))).await;
    }
}
