//! `pgvigil status`: the members, their roles and lag, what is wrong and what to do about it, and one sentence on how things stand.
//! It works with what answers: a silent member is a row, a silent etcd is a line, and only silence from everybody is an error.

mod table;

use std::time::Duration;

use jiff::Timestamp;

pub use self::table::{HEADINGS, header, row};
use super::screen::{self, answer, tell};
use super::world::Reach;
use crate::cli::{Exit, Output, StatusArgs};
#[cfg(test)]
pub use crate::operate::status::facts::PauseStatus;
pub use crate::operate::status::facts::Status;
#[cfg(test)]
pub use crate::operate::status::member::BarStatus;
pub use crate::operate::status::member::MemberStatus;
pub use crate::operate::status::problems::Trouble;
pub use crate::operate::status::verdict::Word;

/// Prints once, or again and again.
pub async fn run(arguments: &StatusArgs) -> Exit {
    let reach = match Reach::new(&arguments.config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    match arguments.watch {
        None => once(&reach, arguments).await,
        Some(every) => watch(&reach, arguments, every).await,
    }
}

async fn once(reach: &Reach, arguments: &StatusArgs) -> Exit {
    let Some(status) = look(reach).await else { return reach.silence() };
    match arguments.output {
        Output::Json => answer(&serde_json::to_string_pretty(&status).unwrap_or_default()),
        Output::Table => answer(&table::render(&status, screen::has_colours())),
    };
    exit_of(&status, arguments)
}

/// What can be seen; `None`, and told why, where that is nothing.
async fn look(reach: &Reach) -> Option<Status> {
    let seen = seen(reach).await;
    seen.map_err(|why| tell(&format!("error: {why}\nHINT: pgvigil validate {}", reach.config.path.display()))).ok()
}

/// What can be seen.
///
/// # Errors
/// Nothing; why, in one sentence.
pub async fn seen(reach: &Reach) -> Result<Status, String> {
    let world = reach.look().await;
    if world.is_dark() {
        let why = world.etcd.as_ref().err().map_or("", String::as_str);
        return Err(format!("neither etcd nor the agent of this host ({}) answers: {why}", reach.own_api()));
    }
    Ok(Status::of(&world, &reach.config, Timestamp::now()))
}

/// Prints until interrupted, or until nobody reads any more: redrawn on a terminal, appended elsewhere.
async fn watch(reach: &Reach, arguments: &StatusArgs, every: Duration) -> Exit {
    let every = every.max(Duration::from_millis(100));
    let redraw = screen::is_terminal() && arguments.output == Output::Table;
    let mut exit = Exit::Done;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let seen = tokio::select! {
            seen = look(reach) => seen,
            _ = &mut interrupted => return exit,
        };
        exit = seen.as_ref().map_or(reach.silence(), |status| exit_of(status, arguments));
        if let Some(status) = seen {
            let text = match arguments.output {
                Output::Json => serde_json::to_string(&status).unwrap_or_default(),
                Output::Table if redraw => redrawn(&table::render(&status, screen::has_colours()), every),
                Output::Table => format!("{}\n{}\n", now(), table::render(&status, screen::has_colours())),
            };
            if !answer(&text) {
                return exit;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = &mut interrupted => return exit,
        }
    }
}

fn now() -> String {
    super::words::moment(&Timestamp::now().to_string())
}

/// From the top left corner, each line cleared to its end and the rest below: nothing flickers.
fn redrawn(text: &str, every: Duration) -> String {
    let heading = format!("{}, every {}; Ctrl-C ends", now(), humantime::format_duration(every));
    let lines: Vec<String> =
        [heading.as_str(), ""].into_iter().chain(text.lines()).map(|line| format!("{line}\x1b[K")).collect();
    format!("\x1b[H{}\x1b[J", lines.join("\n"))
}

fn exit_of(status: &Status, arguments: &StatusArgs) -> Exit {
    match status.verdict.word {
        _ if !arguments.exit_code => Exit::Done,
        Word::Ok => Exit::Done,
        Word::Degraded => Exit::Degraded,
        Word::NoPrimary => Exit::NoPrimary,
    }
}
