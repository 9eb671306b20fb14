//! What is asked for at a later time: when that is, and the answer that it is scheduled. Nobody waits for it here.

use jiff::Timestamp;

use super::operator::who;
use super::screen::{answer, tell};
use crate::cli::{Exit, Later};
use crate::operate::schedule::Plan;
use crate::operate::schedule::shown::Shown;
use crate::operate::schedule::when::{after, read, window};

/// When, by whom and why; what will not do is told.
pub fn plan(later: &Later, ignore_hold: bool, reason: Option<&str>, now: Timestamp) -> Result<Plan, Exit> {
    let wrong = |why: &str| {
        tell(&format!("error: {why}"));
        Exit::Usage
    };
    let at = match (&later.at, later.within) {
        (Some(text), _) => read(text, now).map_err(|mistake| wrong(&format!("--at {}", mistake.text())))?,
        (None, within) => after(now, within.unwrap_or_default()),
    };
    let window_s =
        window(later.window.map(|window| window.as_secs())).map_err(|why| wrong(&format!("--window: {why}")))?;
    Ok(Plan { at, window_s, ignore_hold, by: who(), reason: reason.map(str::to_owned) })
}

/// Says that it is scheduled, and how it is taken back.
pub fn scheduled(shown: &Shown, cancel: &str) -> Exit {
    answer(&format!("scheduled {}", shown.in_words()));
    tell(&format!("taken back by: pgvigil {cancel}; how it went: pgvigil transitions {}", shown.id));
    Exit::Done
}
